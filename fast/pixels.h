/* What the C files share: pixels, of float32, or with -DBFLOAT16 of bfloat16, in which they are only
 * stored; rows in pieces; sums of pieces.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SLOPE 0.2f
/* The iterations of the loop that follows do not depend on each other. */
#define SIMD _Pragma("omp simd")
#define INLINE static inline __attribute__((always_inline))

#define COLOURS 3
#define TILE 16 /* pixels */

/* Runs body(K, c) for the K channels from c on, K a constant where that is possible: sums and
 * coefficients of so few channels stay in registers. */
#define FOR_CHANNELS(body) \
    if (channels % 32 == 0) { \
        for (long c = 0; c < channels; c += 32) { body(32, c); } \
    } else if (channels % 16 == 0) { \
        for (long c = 0; c < channels; c += 16) { body(16, c); } \
    } else { \
        body(channels, 0); \
    }

#ifdef BFLOAT16
typedef uint16_t pixel; /* the upper half of a float32 */

INLINE float value(pixel x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* To the nearest, of two as near the even one; what is not a number stays so. */
INLINE pixel rounded(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    const uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return f == f ? nearest : 0x7fc0;
}
#else
typedef float pixel;
INLINE float value(pixel x) { return x; }
INLINE pixel rounded(float f) { return f; }
#endif

static long pieces_of(long rows) { return rows < 64 ? rows : 64; }

/* sums[i] = the sum over pieces of parts[piece][i], i < n, in their order. */
static void add_up(const double *parts, double *sums, long pieces, long n)
{
    for (long i = 0; i < n; i++) sums[i] = 0;
    for (long piece = 0; piece < pieces; piece++)
        for (long i = 0; i < n; i++) sums[i] += parts[piece * n + i];
}
