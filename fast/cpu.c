/* What lies between two convolutions of the synthesis network, in as few passes over memory as it
 * takes. synthesis.py says what each function computes, cpu.py compiles this file and calls it.
 *
 * Pictures are (rows, width, channels), channels last, one picture at a time. Everything but their
 * pixels is float32, and sums over more than a row are float64. Rows are shared out between threads
 * in pieces that do not depend on the number of threads, and sums are added up in the order of the
 * rows: so a result does not depend on it either.
 */
#include "pixels.h"

/* [1 2 1]/16 down three rows into `down`, which has a pixel of zeros on either side; NULL is a row
 * of zeros beyond the edge. Along the row, ACROSS is the rest of the blur. */
#define DEFINE_DOWN(name, type, value) \
    INLINE void name(const type *above, const type *here, const type *below, float *down, long n) \
    { \
        if (above && below) { \
            SIMD for (long i = 0; i < n; i++) \
                down[i] = (value(above[i]) + value(below[i])) * 0.0625f + value(here[i]) * 0.125f; \
        } else if (above || below) { \
            const type *other = above ? above : below; \
            SIMD for (long i = 0; i < n; i++) \
                down[i] = value(other[i]) * 0.0625f + value(here[i]) * 0.125f; \
        } else { \
            SIMD for (long i = 0; i < n; i++) down[i] = value(here[i]) * 0.125f; \
        } \
    }
DEFINE_DOWN(down_pixels, pixel, value)
DEFINE_DOWN(down_floats, float, )
#define ACROSS(down, i, C) ((down)[(i) - (C)] + (down)[(i) + (C)] + 2 * (down)[i])

/* Of K of the C channels: x = LeakyReLU(y + bias + weight * noise), y that of `down` where there is
 * one. To part[0 …] the sum of x is added, to part[C …] that of its square, both of a row taken
 * about its first pixel, so that little is lost where a channel is nearly constant. */
INLINE void leaky_row(const pixel *y, const float *down, pixel *x, const float *bias,
                      const float *weight, const float *noise, double *part, long width, long C,
                      const long K)
{
    float sum[K], square[K], first[K];
    for (long p = 0; p < width; p++, y += C, x += C) {
        const float n = noise ? noise[p] : 0;
        if (!p)
            for (long c = 0; c < K; c++) {
                const float u = (down ? ACROSS(down, c, C) : value(y[c])) + bias[c] + weight[c] * n;
                first[c] = u > 0 ? u : SLOPE * u;
                sum[c] = square[c] = 0;
            }
        SIMD for (long c = 0; c < K; c++) {
            float u = (down ? ACROSS(down, p * C + c, C) : value(y[c])) + bias[c] + weight[c] * n;
            x[c] = rounded(u > 0 ? u : SLOPE * u);
            u = value(x[c]) - first[c];
            sum[c] += u;
            square[c] += u * u;
        }
    }
    for (long c = 0; c < K; c++) {
        const double s = sum[c], k = first[c];
        part[c] += s + width * k;
        part[C + c] += square[c] + 2 * k * s + width * k * k;
    }
}

/* x = LeakyReLU(y + bias + weight * noise), y blurred before if `blur` (then x is not y); moments:
 * per channel the mean of x, then its biased variance. */
int pulse_leaky(const pixel *y, pixel *x, const float *bias, const float *weight,
                const float *noise, double *moments, long rows, long width, long channels, int blur,
                int threads)
{
    const long n = width * channels, pieces = pieces_of(rows);
    double *parts = calloc(pieces * 2 * channels, sizeof(double));
    int failed = !parts;
    #pragma omp parallel num_threads(threads)
    {
        float *room = calloc(blur ? n + 2 * channels : 1, sizeof(float));
        #pragma omp for schedule(static)
        for (long piece = 0; piece < pieces; piece++) {
            if (!room || !parts) { failed = 1; continue; }
            double *part = parts + piece * 2 * channels;
            float *down = room + channels;
            const long last = (piece + 1) * rows / pieces;
            for (long r = piece * rows / pieces; r < last; r++) {
                const pixel *here = y + r * n, *edge = 0;
                const float *maps = noise ? noise + r * width : 0;
                if (blur) {
                    down_pixels(r > 0 ? here - n : edge, here, r + 1 < rows ? here + n : edge,
                                down, n);
#define BODY(K, c) \
    leaky_row(here + c, down + c, x + r * n + c, bias + c, weight + c, maps, part + c, width, \
              channels, K)
                    FOR_CHANNELS(BODY)
#undef BODY
                } else {
#define BODY(K, c) \
    leaky_row(here + c, 0, x + r * n + c, bias + c, weight + c, maps, part + c, width, channels, K)
                    FOR_CHANNELS(BODY)
#undef BODY
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
int pulse_affine(const pixel *x, pixel *out, const float *mean, const float *a, const float *b,
                 long pixels, long channels, int threads)
{
    const long pieces = pieces_of(pixels);
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long piece = 0; piece < pieces; piece++) {
        const long first = piece * pixels / pieces, last = (piece + 1) * pixels / pieces;
#define BODY(K, c) \
    for (long p = first; p < last; p++) \
        SIMD for (long i = c; i < c + K; i++) \
            out[p * channels + i] = rounded(a[i] * (value(x[p * channels + i]) - mean[i]) + b[i])
        FOR_CHANNELS(BODY)
#undef BODY
    }
    return 0;
}

/* out (COLOURS, pixels), float32: a * (x - mean) + b; a (COLOURS, channels), b (COLOURS). */
int pulse_picture(const pixel *x, float *out, const float *mean, const float *a, const float *b,
                  long pixels, long channels, int threads)
{
    const long pieces = (pixels + TILE - 1) / TILE;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long piece = 0; piece < pieces; piece++) {
        const long first = piece * TILE, some = pixels - first < TILE ? pixels - first : TILE;
        float sums[COLOURS][TILE];
        for (long k = 0; k < COLOURS; k++)
            for (long p = 0; p < TILE; p++) sums[k][p] = b[k];
#define BODY(K, c) \
    float turned[K][TILE]; /* the pixels of a channel beside each other */ \
    for (long p = 0; p < some; p++) \
        for (long i = 0; i < K; i++) \
            turned[i][p] = value(x[(first + p) * channels + c + i]) - mean[c + i]; \
    for (long i = 0; i < K; i++) \
        SIMD for (long p = 0; p < TILE; p++) \
            for (long k = 0; k < COLOURS; k++) \
                sums[k][p] += a[k * channels + c + i] * turned[i][p]
        FOR_CHANNELS(BODY)
#undef BODY
        for (long k = 0; k < COLOURS; k++)
            memcpy(out + k * pixels + first, sums[k], some * sizeof(float));
    }
    return 0;
}

/* A row of the gradient for x, of that for a picture, `grad` (COLOURS, pixels): its products with
 * weight (COLOURS, C). */
INLINE void colours_row(const float *grad, const float *weight, pixel *g, long width, long pixels,
                        long C, const long K)
{
    const float *grad1 = grad + pixels, *grad2 = grad + 2 * pixels;
    const float *weight1 = weight + C, *weight2 = weight + 2 * C;
    for (long p = 0; p < width; p++, g += C)
        SIMD for (long c = 0; c < K; c++)
            g[c] = rounded(weight[c] * grad[p] + weight1[c] * grad1[p] + weight2[c] * grad2[p]);
}

/* Of K of the C channels, added to part[0 …] and part[C …]: g, and g * (x - mean). */
INLINE void sums_row(const pixel *g, const pixel *x, const float *mean, double *part, long width,
                     long C, const long K)
{
    float sum[K], product[K];
    for (long c = 0; c < K; c++) sum[c] = product[c] = 0;
    for (long p = 0; p < width; p++, g += C, x += C)
        SIMD for (long c = 0; c < K; c++) {
            sum[c] += value(g[c]);
            product[c] += value(g[c]) * (value(x[c]) - mean[c]);
        }
    for (long c = 0; c < K; c++) {
        part[c] += sum[c];
        part[C + c] += product[c];
    }
}

/* Per channel: sum of g, then sum of g * (x - mean). Where `grad` is not NULL, g is that of
 * colours_row. */
int pulse_sums(const pixel *g, const float *grad, const float *weight, const pixel *x,
               const float *mean, double *sums, long rows, long width, long channels, int threads)
{
    const long n = width * channels, pieces = pieces_of(rows);
    double *parts = calloc(pieces * 2 * channels, sizeof(double));
    int failed = !parts;
    #pragma omp parallel num_threads(threads)
    {
        pixel *own = malloc(grad ? n * sizeof(pixel) : 1);
        #pragma omp for schedule(static)
        for (long piece = 0; piece < pieces; piece++) {
            if (!own || !parts) { failed = 1; continue; }
            double *part = parts + piece * 2 * channels;
            const long last = (piece + 1) * rows / pieces;
            for (long r = piece * rows / pieces; r < last; r++) {
                const pixel *gr = grad ? own : g + r * n;
#define BODY(K, c) \
    if (grad) \
        colours_row(grad + r * width, weight + c, own + c, width, rows * width, channels, K); \
    sums_row(gr + c, x + r * n + c, mean + c, part + c, width, channels, K)
                FOR_CHANNELS(BODY)
#undef BODY
            }
        }
        free(own);
    }
    if (!failed) add_up(parts, sums, pieces, 2 * channels);
    free(parts);
    return failed;
}

/* Of K of the C channels: du = (a * g + q * (x - mean) + p) * (x > 0 ? 1 : 0.2). It goes to `exact`
 * where there is one, else, rounded, to du. */
INLINE void leaky_grad_row(const pixel *g, const pixel *x, pixel *du, float *exact,
                           const float *mean, const float *a, const float *q, const float *p,
                           long width, long C, const long K)
{
    for (long i = 0; i < width; i++, g += C, x += C, du += C)
        SIMD for (long c = 0; c < K; c++) {
            const float u = value(x[c]);
            float d = a[c] * value(g[c]) + q[c] * (u - mean[c]) + p[c];
            d = u > 0 ? d : SLOPE * d;
            if (exact) exact[i * C + c] = d;
            else du[c] = rounded(d);
        }
}

/* out = du of leaky_grad_row, blurred if `blur` (then out is not g). Where `grad` is not NULL, g is
 * that of colours_row. */
int pulse_leaky_grad(const pixel *g, const float *grad, const float *weight, const pixel *x,
                     pixel *out, const float *mean, const float *a, const float *q, const float *p,
                     long rows, long width, long channels, int blur, int threads)
{
    const long n = width * channels, pieces = pieces_of(rows);
    int failed = 0;
    #pragma omp parallel num_threads(threads)
    {
        /* du of three rows, one after the other, and room for the blur */
        float *room = calloc(blur ? 4 * n + 2 * channels : 1, sizeof(float));
        pixel *own = malloc(grad ? n * sizeof(pixel) : 1);
        #pragma omp for schedule(static)
        for (long piece = 0; piece < pieces; piece++) {
            if (!room || !own) { failed = 1; continue; }
            const long first = piece * rows / pieces, last = (piece + 1) * rows / pieces;
            float *down = room + 3 * n + channels, *edge = 0;
            for (long r = first - blur; r < last + blur; r++) {
                if (r >= 0 && r < rows) {
                    const pixel *gr = grad ? own : g + r * n;
                    float *exact = blur ? room + r % 3 * n : edge;
#define BODY(K, c) \
    if (grad) \
        colours_row(grad + r * width, weight + c, own + c, width, rows * width, channels, K); \
    if (exact) \
        leaky_grad_row(gr + c, x + r * n + c, 0, exact + c, mean + c, a + c, q + c, p + c, width, \
                       channels, K); \
    else \
        leaky_grad_row(gr + c, x + r * n + c, out + r * n + c, 0, mean + c, a + c, q + c, p + c, \
                       width, channels, K)
                    FOR_CHANNELS(BODY)
#undef BODY
                }
                const long done = r - 1;
                if (!blur || done < first) continue;
                down_floats(done > 0 ? room + (done + 2) % 3 * n : edge, room + done % 3 * n,
                            r < rows ? room + r % 3 * n : edge, down, n);
                pixel *to = out + done * n;
                SIMD for (long i = 0; i < n; i++) to[i] = rounded(ACROSS(down, i, channels));
            }
        }
        free(room);
        free(own);
    }
    return failed;
}
