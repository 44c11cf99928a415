/* What lies between two convolutions of StyleGAN2, in one pass over memory forward and one backward.
 * stylegan2_kernels.py says what each function computes, stylegan2_cpu.py compiles this file and
 * calls it. Pictures, rows, pieces and sums are as in cpu.c.
 */
#include <math.h>

#include "pixels.h"

/* Along a row of floats with zeros beyond its ends. */
#define BLUR(x, i, C) ((x)[(i) - (C)] + (x)[(i) + 2 * (C)] + 3 * ((x)[i] + (x)[(i) + (C)]))
#define BLUR_BACK(x, i, C) ((x)[(i) - 2 * (C)] + (x)[(i) + (C)] + 3 * ((x)[(i) - (C)] + (x)[i]))

/* Where a picture of 2 * n + 1 rows and columns lies: phases[0] those of even rows and even columns,
 * (n + 1, n + 1, channels), phases[1] even and odd, phases[2] odd and even, phases[3] odd and odd. */
typedef const pixel *const *phases_of;

/* Row r, those of its even columns or of its odd ones; `zeros` beyond the edge. */
INLINE const pixel *phase_row(phases_of y, long r, long odd, long n, long channels,
                              const pixel *zeros)
{
    if (r < 0 || r > 2 * n) return zeros;
    return y[r % 2 * 2 + odd] + r / 2 * (n + 1 - odd) * channels;
}

/* Rows r - 1 to r + 2, blurred downwards: 2 * n + 1 pixels. */
static void down_phases(phases_of y, long r, float *down, long n, long channels,
                        const pixel *zeros)
{
    for (long odd = 0; odd < 2; odd++) {
        const pixel *row[4];
        for (long i = 0; i < 4; i++) row[i] = phase_row(y, r - 1 + i, odd, n, channels, zeros);
        for (long j = 0; j < n + 1 - odd; j++) {
            float *to = down + (2 * j + odd) * channels;
            const long at = j * channels;
            SIMD for (long c = at; c < at + channels; c++)
                to[c - at] = value(row[0][c]) + value(row[3][c])
                             + 3 * (value(row[1][c]) + value(row[2][c]));
        }
    }
}

/* Of K of the C channels: x = s * t, t = LeakyReLU(d * y + bias + noise) within limit, y that of
 * `down` where there is one. */
INLINE void activate_row(const pixel *y, const float *down, pixel *x, const float *d,
                         const float *bias, const float *noise, const float *s, float limit,
                         long width, long C, const long K)
{
    for (long p = 0; p < width; p++, y += C, x += C) {
        const float n = noise ? noise[p] : 0;
        SIMD for (long c = 0; c < K; c++) {
            float t = d[c] * (down ? BLUR(down, p * C + c, C) : value(y[c])) + (bias[c] + n);
            t = t > 0 ? t : SLOPE * t;
            t = t > limit ? limit : t;
            t = t < -limit ? -limit : t;
            x[c] = rounded(s[c] * t);
        }
    }
}

/* rgb (COLOURS, width), its rows `pixels` apart: weight (COLOURS, channels) * x + bias. */
static void colours_of(const pixel *x, const float *weight, const float *bias, float *rgb,
                       long width, long pixels, long channels)
{
    for (long first = 0; first < width; first += TILE) {
        const long some = width - first < TILE ? width - first : TILE;
        float sums[COLOURS][TILE];
        for (long k = 0; k < COLOURS; k++)
            for (long p = 0; p < TILE; p++) sums[k][p] = bias[k];
#define BODY(K, c) \
    float turned[K][TILE]; /* the pixels of a channel beside each other */ \
    for (long p = 0; p < some; p++) \
        for (long i = 0; i < K; i++) turned[i][p] = value(x[(first + p) * channels + c + i]); \
    for (long i = 0; i < K; i++) \
        SIMD for (long p = 0; p < TILE; p++) \
            for (long k = 0; k < COLOURS; k++) \
                sums[k][p] += weight[k * channels + c + i] * turned[i][p]
        FOR_CHANNELS(BODY)
#undef BODY
        for (long k = 0; k < COLOURS; k++)
            memcpy(rgb + k * pixels + first, sums[k], some * sizeof(float));
    }
}

/* x of activate_row for every row; y is a picture, or with `up` four phases, which are blurred.
 * Where `weight` is not NULL, rgb (COLOURS, rows, width) is that of colours_of. */
int pulse_activate(const pixel *y, const pixel *y1, const pixel *y2, const pixel *y3, pixel *x,
                   const float *d, const float *bias, const float *noise, const float *s,
                   const float *weight, const float *rgb_bias, float *rgb, float limit, long rows,
                   long width, long channels, int up, int threads)
{
    const long n = width * channels, pieces = pieces_of(rows);
    const pixel *const phases[4] = {y, y1, y2, y3};
    int failed = 0;
    #pragma omp parallel num_threads(threads)
    {
        float *room = calloc(up ? n + 3 * channels : 1, sizeof(float));
        pixel *zeros = calloc(up ? n / 2 + channels : 1, sizeof(pixel));
        #pragma omp for schedule(static)
        for (long piece = 0; piece < pieces; piece++) {
            if (!room || !zeros) { failed = 1; continue; }
            float *down = room + channels;
            const long last = (piece + 1) * rows / pieces;
            for (long r = piece * rows / pieces; r < last; r++) {
                const float *maps = noise ? noise + r * width : 0;
                pixel *to = x + r * n;
                if (up) {
                    down_phases(phases, r, down, width / 2, channels, zeros);
#define BODY(K, c) \
    activate_row(0, down + c, to + c, d + c, bias + c, maps, s + c, limit, width, channels, K)
                    FOR_CHANNELS(BODY)
#undef BODY
                } else {
#define BODY(K, c) \
    activate_row(y + r * n + c, 0, to + c, d + c, bias + c, maps, s + c, limit, width, channels, K)
                    FOR_CHANNELS(BODY)
#undef BODY
                }
                if (weight)
                    colours_of(to, weight, rgb_bias, rgb + r * width, width, rows * width,
                               channels);
            }
        }
        free(room);
        free(zeros);
    }
    return failed;
}

#define SUMS (2 + COLOURS) /* of a channel: du * d * y, h * x, and grad_rgb * x */

/* What a row of the gradient is made of; addresses of K of the C channels. */
typedef struct {
    const float *d, *bias, *s, *edge, *weight;
} coefficients;

/* Of K of the C channels, g = h + weight * grad, the gradient for x; du that for LeakyReLU's input.
 * d * du goes to `exact` where there is one, else, rounded, to `out`. Σ du over the channels is
 * added to of_noise, where there is one, and to part, where there is one, the sums. `has_h` and
 * `has_rgb` are constants. */
INLINE void activate_grad_row(const pixel *h, const pixel *x, pixel *out, float *exact,
                              coefficients of, const float *noise, const float *grad,
                              float *of_noise, double *part, long width, long pixels, long C,
                              const long K, const int has_h, const int has_rgb)
{
    float of_y[K], of_h[K], of_rgb[COLOURS][K];
    for (long c = 0; c < K; c++) of_y[c] = of_h[c] = 0;
    for (long k = 0; k < COLOURS; k++)
        for (long c = 0; c < K; c++) of_rgb[k][c] = 0;
    for (long p = 0; p < width; p++, h += C, x += C) {
        const float n = noise ? noise[p] : 0;
        float colours[COLOURS], du[K];
        for (long k = 0; k < COLOURS; k++) colours[k] = has_rgb ? grad[k * pixels + p] : 0;
        SIMD for (long c = 0; c < K; c++) {
            const float u = value(x[c]);
            float g = has_h ? value(h[c]) : 0;
            if (has_h) of_h[c] += g * u;
            if (has_rgb)
                for (long k = 0; k < COLOURS; k++) {
                    g += of.weight[k * C + c] * colours[k];
                    of_rgb[k][c] += colours[k] * u;
                }
            g = fabsf(u) >= of.edge[c] ? 0 : g;
            const float v = of.s[c] * g;
            du[c] = of.s[c] * u > 0 ? v : SLOPE * v;
            of_y[c] += g * u - du[c] * (of.bias[c] + n);
            if (exact) exact[p * C + c] = of.d[c] * du[c];
            else out[p * C + c] = rounded(of.d[c] * du[c]);
        }
        if (of_noise) {
            float sum = 0;
            #pragma omp simd reduction(+ : sum)
            for (long c = 0; c < K; c++) sum += du[c];
            of_noise[p] += sum;
        }
    }
    if (part)
        for (long c = 0; c < K; c++) {
            part[c] += of_y[c];
            part[C + c] += of_h[c];
            for (long k = 0; k < COLOURS; k++) part[(2 + k) * C + c] += of_rgb[k][c];
        }
}

/* A row as activate_grad_row has it, of all channels. */
static void activate_grad_channels(const pixel *h, const pixel *x, pixel *out, float *exact,
                                   coefficients of, const float *noise, const float *grad,
                                   float *of_noise, double *part, long width, long pixels,
                                   long channels)
{
#define BODY(K, c, has_h, has_rgb) \
    const coefficients own = {of.d + c, of.bias + c, of.s + c, of.edge + c, of.weight + c}; \
    double *sums = part ? part + c : 0; \
    if (exact) \
        activate_grad_row(h + c, x + c, 0, exact + c, own, noise, grad, of_noise, sums, width, \
                          pixels, channels, K, has_h, has_rgb); \
    else \
        activate_grad_row(h + c, x + c, out + c, 0, own, noise, grad, of_noise, sums, width, \
                          pixels, channels, K, has_h, has_rgb)
#define BOTH(K, c) BODY(K, c, 1, 1)
#define ONLY_H(K, c) BODY(K, c, 1, 0)
#define ONLY_RGB(K, c) BODY(K, c, 0, 1)
    if (h && grad) {
        FOR_CHANNELS(BOTH)
    } else if (h) {
        FOR_CHANNELS(ONLY_H)
    } else {
        FOR_CHANNELS(ONLY_RGB)
    }
#undef BODY
}

/* out = d * du of activate_grad_row, with `up` of 2 * rows' + 1 rows and columns, blurred back, rows
 * = 2 * rows' those of x. h, or grad_rgb (COLOURS, rows, width) and weight, may be NULL; of_noise
 * (rows, width) where it is not, set to 0 before; sums (SUMS, channels). */
int pulse_activate_grad(const pixel *h, const pixel *x, pixel *out, const float *d,
                        const float *bias, const float *noise, const float *s, const float *edge,
                        const float *weight, const float *grad_rgb, float *of_noise, double *sums,
                        long rows, long width, long channels, int up, int threads)
{
    /* with `up` three rows of each piece are computed again for the next one: larger pieces */
    const long n = width * channels, pieces = up && rows > 32 ? 32 : pieces_of(rows);
    const coefficients of = {d, bias, s, edge, weight};
    double *parts = calloc(pieces * SUMS * channels, sizeof(double));
    int failed = !parts;
    #pragma omp parallel num_threads(threads)
    {
        /* d * du of four rows, a row of zeros, and room for the blur */
        float *room = calloc(up ? 6 * n + 4 * channels : 1, sizeof(float));
        #pragma omp for schedule(static)
        for (long piece = 0; piece < pieces; piece++) {
            if (!room || !parts) { failed = 1; continue; }
            const long first = piece * rows / pieces, last = (piece + 1) * rows / pieces;
            const float *zeros = room + 4 * n;
            float *down = room + 5 * n + 2 * channels;
            double *part = parts + piece * SUMS * channels;
            /* row i of the result is of rows i - 2 to i + 1; the last piece has one more */
            for (long r = up ? first - 2 : first; r < last + (up ? 1 + (last == rows) : 0); r++) {
                const int own = r >= first && r < last;
                if (r >= 0 && r < rows)
                    activate_grad_channels(h ? h + r * n : 0, x + r * n, up ? 0 : out + r * n,
                                           up ? room + r % 4 * n : 0, of,
                                           noise ? noise + r * width : 0,
                                           grad_rgb ? grad_rgb + r * width : 0,
                                           own && of_noise ? of_noise + r * width : 0,
                                           own ? part : 0, width, rows * width, channels);
                const long done = r - 1;
                if (!up || done < first) continue;
                const float *row[4];
                for (long i = 0; i < 4; i++) {
                    const long at = done - 2 + i;
                    row[i] = at < 0 || at >= rows ? zeros : room + at % 4 * n;
                }
                SIMD for (long i = 0; i < n; i++)
                    down[i] = row[0][i] + row[3][i] + 3 * (row[1][i] + row[2][i]);
                pixel *to = out + done * (n + channels);
                SIMD for (long i = 0; i < n + channels; i++)
                    to[i] = rounded(BLUR_BACK(down, i, channels));
            }
        }
        free(room);
    }
    if (!failed) add_up(parts, sums, pieces, SUMS * channels);
    free(parts);
    return failed;
}
