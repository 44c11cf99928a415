/* StyleGAN3's activation: a filter up to a higher rate, LeakyReLU, a filter down, in one pass over
 * memory; and the gradient, which is the same with the filters exchanged. stylegan3_kernels.py
 * says what is computed, cpu.py compiles this file and calls it.
 *
 * Pictures are (size, size, channels), channels last, as in cpu.c. What lies between the filters
 * has four to sixteen times as many samples: it exists only in buffers of a few rows of a tile.
 * A tile is some rows and columns of LANES channels of the output. Tiles do not depend on the number
 * of threads, and sums are added up in their order: so a result does not depend on it either.
 */
#include "pixels.h"

#define LANES 16   /* channels that are computed together */
#define TAPS 6     /* of each phase of a filter: of a filter up by p, p * TAPS in all */
#define BLOCK 4    /* neighbours along a row that are computed together */
#define ROWS 128   /* of a tile of the output */
#define COLUMNS 64 /* of it */
#define RING 8     /* rows of the input that are kept, TAPS or more */
#define GAIN 1.41421356f

/* The loop that follows has so few iterations that what it indexes stays in registers. */
#define UNROLL _Pragma("GCC unroll 16")

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(LANES)));

/* Bits of the byte that is kept of a value between the filters. */
#define POSITIVE 1
#define CLAMPED 2

/* cpu.py passes these as an array of longs. A filter up by p with `before` zeros before: sample m
 * between the filters is the sum over i of in[i] * up[i * p + before - m]. A filter down by q:
 * out[o] is the sum over j of mid[o * q + offset + j] * down[j]. */
struct layout {
    long channels, in_size, mid_size, out_size;
    long p, before, q, offset;
    long up_radial, down_radial; /* one filter of two dimensions instead of one for each axis */
    long backward;
};

INLINE long least(long a, long b) { return a < b ? a : b; }
INLINE long most(long a, long b) { return a > b ? a : b; }
/* a / b rounded up, b > 0 */
INLINE long ceiling(long a, long b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
INLINE vec all(float f) { return (vec){} + f; }

/* `count` channels of a pixel; the other lanes are 0. */
INLINE vec loaded(const pixel *from, long count)
{
    float lanes[LANES];
    if (count == LANES)
        for (long c = 0; c < LANES; c++) lanes[c] = value(from[c]);
    else
        for (long c = 0; c < LANES; c++) lanes[c] = c < count ? value(from[c]) : 0;
    vec found;
    memcpy(&found, lanes, sizeof found);
    return found;
}

INLINE void stored(vec v, pixel *to, long count)
{
    pixel lanes[LANES];
    for (long c = 0; c < LANES; c++) lanes[c] = rounded(v[c]);
    if (count == LANES) memcpy(to, lanes, sizeof lanes);
    else memcpy(to, lanes, count * sizeof(pixel));
}

/* One row of the input, columns first to first + n, scale * in + bias, beyond the edges 0. */
static void load_row(const struct layout *s, const pixel *in, long row, long first, long n,
                     long count, vec scale, vec bias, vec *to)
{
    if (row < 0 || row >= s->in_size) {
        memset(to, 0, n * sizeof *to);
        return;
    }
    const long left = least(most(-first, 0), n), right = most(least(n, s->in_size - first), left);
    const long next = row + 1 < s->in_size ? s->in_size * s->channels : 0;
    const pixel *from = in + (row * s->in_size + first + left) * s->channels;
    for (long j = 0; j < left; j++) to[j] = all(0);
    for (long j = right; j < n; j++) to[j] = all(0);
    for (long j = left; j < right; j++, from += s->channels) {
        __builtin_prefetch(from + next); /* of which the cache knows no pattern */
        to[j] = scale * (count == LANES ? loaded(from, LANES) : loaded(from, count)) + bias;
    }
}

/* The phase of the filter up, down a column: to[j] = sum of f[t * p] * rows[t][j]. */
static void up_column(const float *f, long p, vec *const *rows, vec *to, long n)
{
    for (long j = 0; j < n; j++) {
        vec sum = f[0] * rows[0][j];
        UNROLL for (long t = 1; t < TAPS; t++) sum += f[t * p] * rows[t][j];
        to[j] = sum;
    }
}

/* All p phases along a row: to[e * p + p - 1 - phase] = sum of f[t * p + phase] * from[e + t]. */
INLINE void up_row(const float *f, const long p, const vec *from, vec *to, long n)
{
    for (long e = 0; e < n; e += BLOCK) {
        vec near[BLOCK + TAPS - 1];
        UNROLL for (long k = 0; k < BLOCK + TAPS - 1; k++) near[k] = from[e + k];
        for (long phase = 0; phase < p; phase++)
            UNROLL for (long k = 0; k < BLOCK; k++) {
                vec sum = f[phase] * near[k];
                UNROLL for (long t = 1; t < TAPS; t++) sum += f[t * p + phase] * near[k + t];
                to[(e + k) * p + p - 1 - phase] = sum;
            }
    }
}

/* The same of a filter f (TAPS * p, TAPS * p), whose rows of this phase begin at f. */
INLINE void up_radial(const float *f, const long p, vec *const *rows, vec *to, long n)
{
    for (long e = 0; e < n; e += BLOCK)
        for (long phase = 0; phase < p; phase++) {
            vec sum[BLOCK];
            UNROLL for (long k = 0; k < BLOCK; k++) sum[k] = all(0);
            for (long u = 0; u < TAPS; u++) {
                const float *g = f + u * p * TAPS * p + phase;
                const vec *from = rows[u] + e;
                UNROLL for (long t = 0; t < TAPS; t++)
                    UNROLL for (long k = 0; k < BLOCK; k++) sum[k] += g[t * p] * from[k + t];
            }
            UNROLL for (long k = 0; k < BLOCK; k++) to[(e + k) * p + p - 1 - phase] = sum[k];
        }
}

/* to[c] = sum over the q * TAPS taps of f[j] * from[c * q + j]. */
INLINE void down_row(const float *f, const long q, const vec *from, vec *to, long n)
{
    for (long c = 0; c < n; c += BLOCK) {
        vec sum[BLOCK];
        UNROLL for (long k = 0; k < BLOCK; k++) sum[k] = all(0);
        for (long j = 0; j < TAPS * q; j++)
            UNROLL for (long k = 0; k < BLOCK; k++) sum[k] += f[j] * from[(c + k) * q + j];
        UNROLL for (long k = 0; k < BLOCK; k++) to[c + k] = sum[k];
    }
}

INLINE vec pick(ints where, vec yes, vec no)
{
    return (vec)((where & (ints)yes) | (~where & (ints)no));
}

/* √2 LeakyReLU of n values, cut to ±clamp, and what is kept of them for the gradient. */
static void activate(vec *row, uint8_t *signs, long n, float clamp)
{
    ints beyond = {};
    for (long m = 0; m < n; m++) {
        const vec z = row[m];
        const ints positive = z > all(0);
        const vec a = pick(positive, GAIN * z, GAIN * SLOPE * z);
        beyond |= (vec)((ints)a & 0x7fffffff) > all(clamp);
        row[m] = a;
        if (signs) {
            const bytes small = __builtin_convertvector(positive & POSITIVE, bytes);
            memcpy(signs + m * LANES, &small, sizeof small);
        }
    }
    int any = 0;
    for (long c = 0; c < LANES; c++) any |= beyond[c];
    for (long m = 0; any && m < n; m++) { /* hardly ever */
        const vec a = row[m];
        const ints over = a > all(clamp), under = a < all(-clamp);
        row[m] = pick(over, all(clamp), pick(under, all(-clamp), a));
        for (long c = 0; signs && c < LANES; c++)
            if (over[c] | under[c]) signs[m * LANES + c] |= CLAMPED;
    }
}

INLINE ints loaded_bits(const uint8_t *from)
{
    bytes small;
    memcpy(&small, from, sizeof small);
    return __builtin_convertvector(small, ints);
}

/* The gradient of `activate`. Returns the sum of row * a / clamp over the clamped values. */
static vec activate_grad(vec *row, const uint8_t *signs, long n)
{
    uint8_t any = 0;
    for (long i = 0; i < n * LANES; i++) any |= signs[i];
    vec sum = all(0);
    if (!(any & CLAMPED)) { /* nearly always; the bit is the number 1 */
        for (long m = 0; m < n; m++) {
            const vec positive = __builtin_convertvector(loaded_bits(signs + m * LANES), vec);
            row[m] *= positive * (GAIN - GAIN * SLOPE) + GAIN * SLOPE;
        }
        return sum;
    }
    for (long m = 0; m < n; m++) {
        const ints kept = loaded_bits(signs + m * LANES);
        const ints positive = (kept & POSITIVE) != 0, clamped = (kept & CLAMPED) != 0;
        const vec g = row[m];
        sum += pick(clamped, pick(positive, g, -g), all(0));
        row[m] = pick(clamped, all(0), pick(positive, GAIN * g, GAIN * SLOPE * g));
    }
    return sum;
}

/* What a tile needs beside its rows and columns: rows of the input and, beneath each other, of what
 * is between the filters. */
struct room {
    vec *input, *column, *row, *ring;
};

/* The tile of rows o0 to o1 and columns c0 to c1, `count` channels of it. sums: to the first LANES
 * are added the outputs before out_scale, to the others those of activate_grad. */
INLINE void tile(const struct layout *s, const pixel *in, pixel *out, uint8_t *signs,
                 const vec in_scale, const vec in_bias, const vec out_scale, const float *up,
                 const float *down, float clamp, long o0, long o1, long c0, long c1, long count,
                 struct room room, double *sums, const long p, const long q)
{
    const long taps = TAPS * q, mid = s->mid_size, n = c1 - c0;
    /* columns between the filters, and of the input: sample before + e * p - phase is made of the
     * inputs from e on, where up's phase is 0 to p - 1 */
    const long m0 = q * c0 + s->offset, wide = q * (n - 1) + taps;
    const long e0 = ceiling(m0 - s->before, p), e1 = ceiling(m0 + wide - 1 - s->before, p) + 1;
    const long near = e1 - e0 + TAPS - 1;
    const long skip = m0 - (s->before + e0 * p - p + 1);
    const long stride = (e1 - e0 + BLOCK) * p; /* of a row in the ring, where it is kept whole */
    /* of these columns and rows, those that no other tile counts */
    const long own = c0 ? m0 : most(m0, 0), own_end = c1 < s->out_size ? q * c1 + s->offset : mid;
    const long r0 = q * o0 + s->offset, r1 = q * (o1 - 1) + s->offset + taps;
    const long own_row = o0 ? r0 : 0, own_rows = o1 < s->out_size ? q * o1 + s->offset : mid;
    long last = -(1L << 30); /* the last row of the input that was loaded */
    vec clamped = all(0), total = all(0);
    for (long r = r0; r < r1; r++) {
        vec *wanted = room.ring + (r - r0) % taps * (s->down_radial ? stride : n + BLOCK);
        vec *row = s->down_radial ? wanted : room.row;
        if (r < 0 || r >= mid) {
            memset(wanted, 0, (s->down_radial ? stride : n + BLOCK) * sizeof *wanted);
        } else {
            const long i = ceiling(r - s->before, p), phase = i * p + s->before - r;
            vec *rows[TAPS];
            for (long k = most(last + 1, i); k < i + TAPS; k++)
                load_row(s, in, k, e0, near, count, in_scale, in_bias,
                         room.input + (k % RING + RING) % RING * (near + BLOCK));
            last = i + TAPS - 1;
            for (long t = 0; t < TAPS; t++)
                rows[t] = room.input + ((i + t) % RING + RING) % RING * (near + BLOCK);
            if (s->up_radial) {
                up_radial(up + phase * TAPS * p, p, rows, row, e1 - e0);
            } else {
                up_column(up + phase, p, rows, room.column, near);
                up_row(up, p, room.column, row, e1 - e0);
            }
            /* columns m0 to m0 + wide, of which those beyond the edges are 0 */
            vec *at = row + skip;
            const long first = most(-m0, 0), end = least(mid - m0, wide);
            for (long m = 0; m < first; m++) at[m] = all(0);
            for (long m = end; m < wide; m++) at[m] = all(0);
            uint8_t *kept = signs ? signs + (r * mid + m0) * LANES : 0;
            if (!s->backward) {
                activate(at + first, kept ? kept + first * LANES : 0, end - first, clamp);
            } else {
                const long a = least(most(own - m0, first), end);
                const long b = least(most(own_end - m0, a), end);
                activate_grad(at + first, kept + first * LANES, a - first);
                const vec some = activate_grad(at + a, kept + a * LANES, b - a);
                activate_grad(at + b, kept + b * LANES, end - b);
                if (r >= own_row && r < own_rows) clamped += some;
            }
            if (!s->down_radial) down_row(down, q, at, wanted, n);
        }
        const long o = o0 + (r - r0 - taps + 1) / q;
        if (r - r0 < taps - 1 || (r - r0 - taps + 1) % q) continue;
        const long oldest = q * (o - o0); /* of the rows of this output, counted from r0 */
        pixel *to = out + (o * s->out_size + c0) * s->channels;
        for (long c = 0; c < n; c += BLOCK) {
            vec sum[BLOCK];
            UNROLL for (long k = 0; k < BLOCK; k++) sum[k] = all(0);
            long at = oldest % taps; /* in the ring */
            if (s->down_radial)
                for (long j = 0; j < taps; j++, at = at + 1 < taps ? at + 1 : 0) {
                    const vec *from = room.ring + at * stride + skip + c * q;
                    for (long l = 0; l < taps; l++)
                        UNROLL for (long k = 0; k < BLOCK; k++)
                            sum[k] += down[j * taps + l] * from[k * q + l];
                }
            else
                for (long j = 0; j < taps; j++, at = at + 1 < taps ? at + 1 : 0) {
                    const vec *from = room.ring + at * (n + BLOCK) + c;
                    UNROLL for (long k = 0; k < BLOCK; k++) sum[k] += down[j] * from[k];
                }
            for (long k = 0; k < least(BLOCK, n - c); k++) {
                total += sum[k];
                stored(out_scale * sum[k], to + (c + k) * s->channels, count);
            }
        }
    }
    for (long c = 0; c < LANES; c++) {
        sums[c] += total[c];
        sums[LANES + c] += clamped[c];
    }
}

INLINE vec of_channels(const float *from, long count, float others)
{
    vec found = all(others);
    if (from)
        for (long c = 0; c < count; c++) found[c] = from[c];
    return found;
}

/* out = out_scale * filter_down(activate(filter_up(in_scale * in + in_bias))) with signs kept where
 * there is room for them, (groups of LANES channels, mid_size, mid_size, LANES) bytes. Backward,
 * the gradient of `activate` stands between, and signs are read. sums, per channel: of what is
 * filtered down, before out_scale; then of activate_grad, times clamp. */
int pulse_filtered(const pixel *in, pixel *out, uint8_t *signs, const float *in_scale,
                   const float *in_bias, const float *out_scale, const float *up,
                   const float *down, double *sums, const long *numbers, float clamp,
                   int threads)
{
    struct layout s;
    memcpy(&s, numbers, sizeof s);
    const long groups = (s.channels + LANES - 1) / LANES;
    const long across = (s.out_size + COLUMNS - 1) / COLUMNS;
    const long tiles = (s.out_size + ROWS - 1) / ROWS * across, items = tiles * groups;
    const long wide = s.q * COLUMNS + s.q * TAPS; /* between the filters, and more than enough */
    const long near = wide / s.p + 2 * TAPS + 2 * BLOCK;
    const long row = wide + (2 * BLOCK + 2) * (s.p + s.q);
    const long ring = TAPS * s.q * (s.down_radial ? row : COLUMNS + 2 * BLOCK);
    double *parts = calloc(items * 2 * LANES, sizeof(double));
    int failed = !parts;
    #pragma omp parallel num_threads(threads)
    {
        struct room room;
        const long all_rows = RING * near + near + row + ring;
        vec *memory = aligned_alloc(sizeof(vec), all_rows * sizeof(vec));
        if (memory) memset(memory, 0, all_rows * sizeof(vec));
        room.input = memory;
        room.column = room.input + RING * near;
        room.row = room.column + near;
        room.ring = room.row + row;
        #pragma omp for schedule(dynamic)
        for (long item = 0; item < items; item++) {
            if (!memory || !parts) { failed = 1; continue; }
            const long group = item % groups, at = item / groups, c = group * LANES;
            const long o0 = at / across * ROWS, o1 = least(o0 + ROWS, s.out_size);
            const long c0 = at % across * COLUMNS, c1 = least(c0 + COLUMNS, s.out_size);
            const long count = least(LANES, s.channels - c);
            uint8_t *own = signs ? signs + group * s.mid_size * s.mid_size * LANES : 0;
            const vec scale = of_channels(in_scale + c, count, 1);
            const vec bias = of_channels(in_bias ? in_bias + c : 0, count, 0);
            const vec scale_out = of_channels(out_scale + c, count, 1);
            double *part = parts + item * 2 * LANES;
#define RUN(P, Q) \
    tile(&s, in + c, out + c, own, scale, bias, scale_out, up, down, clamp, o0, o1, c0, c1, \
         count, room, part, P, Q)
            if (s.p == 2 && s.q == 2) RUN(2, 2);
            else if (s.p == 4 && s.q == 2) RUN(4, 2);
            else if (s.p == 2 && s.q == 4) RUN(2, 4);
            else RUN(s.p, s.q);
#undef RUN
        }
        free(memory);
    }
    if (!failed)
        for (long c = 0; c < s.channels; c++) {
            const long group = c / LANES, lane = c % LANES;
            sums[c] = sums[s.channels + c] = 0;
            for (long at = 0; at < tiles; at++) {
                const double *part = parts + (at * groups + group) * 2 * LANES;
                sums[c] += part[lane];
                if (part[LANES + lane] != 0) /* clamp may be infinite */
                    sums[s.channels + c] += clamp * part[LANES + lane];
            }
        }
    free(parts);
    return failed;
}

/* Per channel, the sum over the pixels of g * x. */
int pulse_products(const pixel *g, const pixel *x, double *sums, long rows, long width,
                   long channels, int threads)
{
    const long n = width * channels, pieces = least(rows, 64);
    double *parts = calloc(pieces * channels, sizeof(double));
    int failed = !parts;
    #pragma omp parallel num_threads(threads)
    {
        float *row = malloc(channels * sizeof(float));
        #pragma omp for schedule(static)
        for (long piece = 0; piece < pieces; piece++) {
            if (!row || !parts) { failed = 1; continue; }
            double *part = parts + piece * channels;
            for (long r = piece * rows / pieces; r < (piece + 1) * rows / pieces; r++) {
                memset(row, 0, channels * sizeof(float));
                for (long i = 0; i < n; i += channels) {
                    const pixel *from = g + r * n + i, *other = x + r * n + i;
                    _Pragma("omp simd") for (long c = 0; c < channels; c++)
                        row[c] += value(from[c]) * value(other[c]);
                }
                for (long c = 0; c < channels; c++) part[c] += row[c];
            }
        }
        free(row);
    }
    if (!failed)
        for (long c = 0; c < channels; c++) {
            sums[c] = 0;
            for (long piece = 0; piece < pieces; piece++) sums[c] += parts[piece * channels + c];
        }
    free(parts);
    return failed;
}
