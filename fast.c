/* What lies between two convolutions of the synthesis network, in as few passes over memory as it
 * takes. fast.py says what each function computes, compiles this file and calls it.
 *
 * Pictures are (rows, width, channels) in float32, channels last; one picture at a time. Rows are
 * shared out between threads in pieces that do not depend on the number of threads, and sums are
 * added up in the order of the rows: so a result does not depend on it either.
 */
#include <stdlib.h>
#include <string.h>

#define SLOPE 0.2f
/* The iterations of the loop that follows do not depend on each other. */
#define SIMD _Pragma("omp simd")
#define INLINE static inline __attribute__((always_inline))

/* Runs body(C) with C a constant where it is a usual number, which lets the compiler unroll. */
#define FOR_CHANNELS(body) \
    switch (channels) { \
    case 16: body(16); break; \
    case 32: body(32); break; \
    case 64: body(64); break; \
    case 128: body(128); break; \
    default: body(channels); \
    }

static long pieces_of(long rows) { return rows < 64 ? rows : 64; }

/* [1 2 1]/4 down three rows, then along the row; NULL is a row of zeros beyond the edge. */
INLINE void blur_row(const float *above, const float *here, const float *below, float *down,
                     float *out, long width, const long C)
{
    const long n = width * C;
    float *d = down + C; /* one pixel of zeros on either side */
    if (above && below) {
        SIMD for (long i = 0; i < n; i++) d[i] = (above[i] + below[i]) * 0.0625f + here[i] * 0.125f;
    } else if (above || below) {
        const float *other = above ? above : below;
        SIMD for (long i = 0; i < n; i++) d[i] = other[i] * 0.0625f + here[i] * 0.125f;
    } else {
        SIMD for (long i = 0; i < n; i++) d[i] = here[i] * 0.125f;
    }
    SIMD for (long i = 0; i < n; i++) out[i] = d[i - C] + d[i + C] + 2 * d[i];
}

/* In place: x = LeakyReLU(x + bias + weight * noise); sums of x - k and of its square, where k is
 * the first pixel, so that little is lost where a channel is nearly constant. */
INLINE void leaky_row(float *x, const float *bias, const float *weight, const float *noise,
                      float *sum, float *square, float *k, long width, const long C)
{
    for (long c = 0; c < C; c++) {
        const float u = x[c] + bias[c] + weight[c] * (noise ? noise[0] : 0);
        k[c] = u > 0 ? u : SLOPE * u;
        sum[c] = square[c] = 0;
    }
    for (long p = 0; p < width; p++, x += C) {
        const float n = noise ? noise[p] : 0;
        SIMD for (long c = 0; c < C; c++) {
            float u = x[c] + bias[c] + weight[c] * n;
            u = u > 0 ? u : SLOPE * u;
            x[c] = u;
            u -= k[c];
            sum[c] += u;
            square[c] += u * u;
        }
    }
}

static void add_up(const double *parts, double *sums, long pieces, long n)
{
    for (long i = 0; i < n; i++) sums[i] = 0;
    for (long piece = 0; piece < pieces; piece++)
        for (long i = 0; i < n; i++) sums[i] += parts[piece * n + i];
}

/* x = LeakyReLU(y + bias + weight * noise), y blurred before if `blur`; moments: per channel the
 * mean of x, then its biased variance. */
int pulse_leaky(const float *y, float *x, const float *bias, const float *weight,
                const float *noise, double *moments, long rows, long width, long channels, int blur,
                int threads)
{
    const long n = width * channels, pieces = pieces_of(rows);
    double *parts = calloc(pieces * 2 * channels, sizeof(double));
    int failed = !parts;
    #pragma omp parallel num_threads(threads)
    {
        float *room = calloc(n + 5 * channels, sizeof(float));
        #pragma omp for schedule(static)
        for (long piece = 0; piece < pieces; piece++) {
            if (!room || !parts) { failed = 1; continue; }
            double *part = parts + piece * 2 * channels;
            float *sum = room + n + 2 * channels;
            const long last = (piece + 1) * rows / pieces;
            for (long r = piece * rows / pieces; r < last; r++) {
                const float *here = y + r * n;
                float *to = x + r * n, *nowhere = 0;
                const float *above = r > 0 ? here - n : nowhere;
                const float *below = r + 1 < rows ? here + n : nowhere;
                const float *maps = noise ? noise + r * width : nowhere;
#define BODY(C) \
    if (blur) blur_row(above, here, below, room, to, width, C); \
    else if (to != here) memcpy(to, here, n * sizeof(float)); \
    leaky_row(to, bias, weight, maps, sum, sum + (C), sum + 2 * (C), width, C)
                FOR_CHANNELS(BODY)
#undef BODY
                for (long c = 0; c < channels; c++) {
                    const double s = sum[c], k = sum[2 * channels + c];
                    part[c] += s + width * k;
                    part[channels + c] += sum[channels + c] + 2 * k * s + width * k * k;
                }
            }
        }
        free(room);
    }
    if (!failed) {
        add_up(parts, moments, pieces, 2 * channels);
        for (long c = 0; c < channels; c++) {
            const double mean = moments[c] / (rows * width);
            const double variance = moments[channels + c] / (rows * width) - mean * mean;
            moments[c] = mean;
            moments[channels + c] = variance > 0 ? variance : 0;
        }
    }
    free(parts);
    return failed;
}

/* out = a * (x - mean) + b; a, mean and b per channel. */
int pulse_affine(const float *x, float *out, const float *mean, const float *a, const float *b,
                 long pixels, long channels, int threads)
{
    const long pieces = pieces_of(pixels);
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long piece = 0; piece < pieces; piece++) {
        const long last = (piece + 1) * pixels / pieces;
        for (long p = piece * pixels / pieces; p < last; p++) {
            const float *from = x + p * channels;
            float *to = out + p * channels;
#define BODY(C) SIMD for (long c = 0; c < (C); c++) to[c] = a[c] * (from[c] - mean[c]) + b[c]
            FOR_CHANNELS(BODY)
#undef BODY
        }
    }
    return 0;
}

/* Per channel: sum of g, then sum of g * (x - mean). */
int pulse_sums(const float *g, const float *x, const float *mean, double *sums, long rows,
               long width, long channels, int threads)
{
    const long n = width * channels, pieces = pieces_of(rows);
    double *parts = calloc(pieces * 2 * channels, sizeof(double));
    int failed = !parts;
    #pragma omp parallel num_threads(threads)
    {
        float *sum = malloc(2 * channels * sizeof(float));
        #pragma omp for schedule(static)
        for (long piece = 0; piece < pieces; piece++) {
            if (!sum || !parts) { failed = 1; continue; }
            double *part = parts + piece * 2 * channels;
            const long last = (piece + 1) * rows / pieces;
            for (long r = piece * rows / pieces; r < last; r++) {
                const float *gr = g + r * n, *xr = x + r * n;
                memset(sum, 0, 2 * channels * sizeof(float));
#define BODY(C) \
    for (long p = 0; p < width; p++, gr += (C), xr += (C)) \
        SIMD for (long c = 0; c < (C); c++) { \
            sum[c] += gr[c]; \
            sum[(C) + c] += gr[c] * (xr[c] - mean[c]); \
        }
                FOR_CHANNELS(BODY)
#undef BODY
                for (long c = 0; c < 2 * channels; c++) part[c] += sum[c];
            }
        }
        free(sum);
    }
    if (!failed) add_up(parts, sums, pieces, 2 * channels);
    free(parts);
    return failed;
}

/* du = (a * g + q * (x - mean) + p) * (x > 0 ? 1 : 0.2); a, q, p and mean per channel. */
INLINE void leaky_grad_row(const float *g, const float *x, float *du, const float *mean,
                           const float *a, const float *q, const float *p, long width,
                           const long C)
{
    for (long i = 0; i < width; i++, g += C, x += C, du += C)
        SIMD for (long c = 0; c < C; c++) {
            const float d = a[c] * g[c] + q[c] * (x[c] - mean[c]) + p[c];
            du[c] = x[c] > 0 ? d : SLOPE * d;
        }
}

/* out = du of leaky_grad_row, blurred if `blur` (then out is not g). */
int pulse_leaky_grad(const float *g, const float *x, float *out, const float *mean, const float *a,
                     const float *q, const float *p, long rows, long width, long channels, int blur, int threads)
{
    const long n = width * channels, pieces = pieces_of(rows);
    int failed = 0;
    #pragma omp parallel num_threads(threads)
    {
        /* du of three rows, one after the other, and room for the blur */
        float *room = blur ? calloc(4 * n + 2 * channels, sizeof(float)) : 0;
        #pragma omp for schedule(static)
        for (long piece = 0; piece < pieces; piece++) {
            if (blur && !room) { failed = 1; continue; }
            const long first = piece * rows / pieces, last = (piece + 1) * rows / pieces;
            float *down = room + 3 * n, *nowhere = 0;
#define BODY(C) \
    if (!blur) { \
        leaky_grad_row(g + first * n, x + first * n, out + first * n, mean, a, q, p, \
                       (last - first) * width, C); \
    } else { \
        for (long r = first - 1; r <= last; r++) { \
            if (r >= 0 && r < rows) \
                leaky_grad_row(g + r * n, x + r * n, room + r % 3 * n, mean, a, q, p, width, C); \
            const long done = r - 1; \
            if (done >= first) \
                blur_row(done > 0 ? room + (done + 2) % 3 * n : nowhere, room + done % 3 * n, \
                         r < rows ? room + r % 3 * n : nowhere, down, out + done * n, width, C); \
        } \
    }
            FOR_CHANNELS(BODY)
#undef BODY
        }
        free(room);
    }
    return failed;
}
