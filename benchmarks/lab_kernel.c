/* The limit for `lab_kernel.py`: the same rounds of IST in C, as fast as we can write them.
 *
 *     cc -O3 -march=native -shared -fPIC lab_kernel.c -o lab_kernel.so
 *
 * Perm-q in the update form (2) with one local step, C_i = n P_i, nothing else: no other deal, merge,
 * scale or number of steps is provided for, so what the package pays for being general shows.
 * Deals are those of `subnetwork.deals.Perm` for hands of equal size, to the bit, so the benchmark
 * can check that both did the same work. All m seeds of a call advance in lockstep.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t u64;
typedef uint16_t u16;
#define GOLDEN 0x9E3779B97F4A7C15ull

static inline u64 mix(u64 z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static inline u64 fold(u64 folded, u64 step) { return mix(folded + GOLDEN + mix(step)); }

/* Word by word, where one may be rejected (Lemire): d^2 / 2^33 of all deals. */
static void draw_slowly(u64 state, uint32_t *restrict swaps, long d) {
    for (long i = d - 1; i > 0; i--) {
        u64 m = i + 1, product = (mix(state += GOLDEN) >> 32) * m;
        if ((product & 0xFFFFFFFF) < m)
            for (u64 least = (1ull << 32) % m; (product & 0xFFFFFFFF) < least;)
                product = (mix(state += GOLDEN) >> 32) * m;
        swaps[i - 1] = product >> 32;
    }
}

/* own[j]: who holds j. Fisher-Yates on owners, swaps in the opposite order (see draws.py). */
static void deal(u64 start, const u16 *restrict positions, uint32_t *restrict swaps,
                 u16 *restrict own, long d) {
    u64 refused = 0;
    for (long i = 1; i < d; i++) {
        u64 m = i + 1, product = (mix(start + (u64)(d - i) * GOLDEN) >> 32) * m;
        refused |= (product & 0xFFFFFFFF) < m;
        swaps[i - 1] = product >> 32;
    }
    if (refused) draw_slowly(start, swaps, d);
    own[0] = positions[0];
    for (long i = 1; i < d; i++) {
        uint32_t j = swaps[i - 1];
        own[i] = own[j];
        own[j] = positions[i];
    }
}

typedef struct {
    u16 *own, *positions;
    uint32_t *swaps;
} deck;

static deck new_deck(long m, long d, long n) {
    deck new = {malloc(2 * m * d), malloc(2 * d), aligned_alloc(64, (4 * d + 63) / 64 * 64)};
    for (long p = 0; p < d; p++) new.positions[p] = p / (d / n);
    return new;
}

static void deal_all(deck on, const u64 *keys, long k, long m, long d) {
    for (long s = 0; s < m; s++)
        deal(fold(fold(keys[s], k), 0), on.positions, on.swaps, on.own + s * d, d);
}

static void free_deck(deck old) {
    free(old.own);
    free(old.positions);
    free(old.swaps);
}

/* Rows u.. of one hand that lie before `last`: acc = L_i z by halves, four rows at a time. */
static inline long rows(const double *restrict L, long d, const u16 *restrict hand, long q, long u,
                        long last, const double *restrict z, double *restrict acc) {
    for (; u + 4 <= q && hand[u + 3] < last; u += 4) {
        long j0 = hand[u], j1 = hand[u + 1], j2 = hand[u + 2], j3 = hand[u + 3];
        const double *r0 = L + j0 * d, *r1 = L + j1 * d, *r2 = L + j2 * d, *r3 = L + j3 * d;
        double z0 = z[u], z1 = z[u + 1], z2 = z[u + 2], z3 = z[u + 3];
        double m10 = r1[j0], m20 = r2[j0], m21 = r2[j1], m30 = r3[j0], m31 = r3[j1], m32 = r3[j2];
        double a0 = r0[j0] * z0 + m10 * z1 + m20 * z2 + m30 * z3;
        double a1 = m10 * z0 + r1[j1] * z1 + m21 * z2 + m31 * z3;
        double a2 = m20 * z0 + m21 * z1 + r2[j2] * z2 + m32 * z3;
        double a3 = m30 * z0 + m31 * z1 + m32 * z2 + r3[j3] * z3;
        for (long v = 0; v < u; v++) {
            long c = hand[v];
            double y = z[v], c0 = r0[c], c1 = r1[c], c2 = r2[c], c3 = r3[c];
            a0 += c0 * y;
            a1 += c1 * y;
            a2 += c2 * y;
            a3 += c3 * y;
            acc[v] += c0 * z0 + c1 * z1 + c2 * z2 + c3 * z3;
        }
        acc[u] = a0;
        acc[u + 1] = a1;
        acc[u + 2] = a2;
        acc[u + 3] = a3;
    }
    if (q - u < 4 && (u == q || hand[q - 1] < last))
        for (; u < q; u++) {
            const double *row = L + (long)hand[u] * d;
            double y = z[u], a = row[hand[u]] * y;
            for (long v = 0; v < u; v++) {
                double c = row[hand[v]];
                a += c * z[v];
                acc[v] += c * y;
            }
            acc[u] = a;
        }
    return u;
}

static inline void take(const double *restrict x, const u16 *restrict hand, long q,
                        double *restrict z) {
    for (long u = 0; u < q; u++) z[u] = x[hand[u]];
}

static inline void step(double *restrict x, const double *restrict b, const u16 *restrict hand,
                        long q, const double *restrict z, const double *restrict acc, double gamma,
                        double n) {
    for (long u = 0; u < q; u++) x[hand[u]] = z[u] - gamma * (n * acc[u] - b[hand[u]]);
}

/* x_S -= gamma (n L_i[S,S] x_S - b_i[S]) for every worker's S; q = d / n. */
void dense_rounds(const double *L, const double *b, double gamma, double *X, const u64 *keys,
                  long m, long d, long n, long k0, long k1, long tile) {
    long q = d / n, *at = malloc(8 * n);
    deck on = new_deck(m, d, n);
    u16 *hands = malloc(2 * m * d);
    double *z = malloc(8 * m * q), *acc = malloc(8 * m * q);
    long *done = malloc(8 * m);
    for (long k = k0; k < k1; k++) {
        deal_all(on, keys, k, m, d);
        for (long s = 0; s < m; s++) {
            for (long i = 0; i < n; i++) at[i] = i * q;
            for (long j = 0; j < d; j++) hands[s * d + at[on.own[s * d + j]]++] = j;
        }
        for (long i = 0; i < n; i++) {
            const double *Li = L + i * d * d, *bi = b + i * d;
            if (tile >= d) { /* L_i is in cache anyway: a seed at a time */
                for (long s = 0; s < m; s++) {
                    const u16 *hand = hands + s * d + i * q;
                    take(X + s * d, hand, q, z);
                    rows(Li, d, hand, q, 0, d, z, acc);
                    step(X + s * d, bi, hand, q, z, acc, gamma, n);
                }
                continue;
            }
            for (long s = 0; s < m; s++) {
                take(X + s * d, hands + s * d + i * q, q, z + s * q);
                done[s] = 0;
            }
            for (long first = 0; first < d; first += tile) {
                long last = first + tile < d ? first + tile : d;
                for (long s = 0; s < m; s++)
                    done[s] = rows(Li, d, hands + s * d + i * q, q, done[s], last, z + s * q,
                                   acc + s * q);
            }
            for (long s = 0; s < m; s++)
                step(X + s * d, bi, hands + s * d + i * q, q, z + s * q, acc + s * q, gamma, n);
        }
    }
    free_deck(on);
    free(at);
    free(hands);
    free(z);
    free(acc);
    free(done);
}

/* Perm-1: x_j <- a x_j + c with (a, c) of the worker of j, in the row of j, which begins at rows[j]. */
void single_rounds(const double *restrict table, const long *restrict rows, double *restrict X,
                   const u64 *keys, long m, long d, long k0, long k1, long tile) {
    deck on = new_deck(m, d, d);
    for (long k = k0; k < k1; k++) {
        deal_all(on, keys, k, m, d);
        for (long first = 0; first < d; first += tile) {
            long last = first + tile < d ? first + tile : d;
            for (long s = 0; s < m; s++) {
                double *restrict x = X + s * d;
                const u16 *restrict own = on.own + s * d;
                for (long j = first; j < last; j++) {
                    const double *line = table + rows[j] + 2 * own[j];
                    x[j] = line[0] * x[j] + line[1];
                }
            }
        }
    }
    free_deck(on);
}

/* Tridiagonal L_i: ([L_i]_jj, [b_i]_j) likewise, and off[i][j]. */
void bands_rounds(const double *restrict table, const long *restrict rows,
                  const double *restrict off, double gamma, double *restrict X, const u64 *keys, long m, long d, long n, long k0, long k1,
                  long tile) {
    deck on = new_deck(m, d, n);
    double *left = malloc(8 * m); /* x_{j-1} before this round, for every seed */
    for (long k = k0; k < k1; k++) {
        deal_all(on, keys, k, m, d);
        for (long first = 0; first < d; first += tile) {
            long last = first + tile < d ? first + tile : d;
            for (long s = 0; s < m; s++) {
                double *restrict x = X + s * d, before = left[s];
                const u16 *restrict own = on.own + s * d;
                for (long j = first; j < last; j++) {
                    long i = own[j];
                    const double *entry = table + rows[j] + 2 * i;
                    double a = entry[0] * x[j];
                    if (j > 0 && own[j - 1] == i) a += off[i * (d - 1) + j - 1] * before;
                    if (j + 1 < d && own[j + 1] == i) a += off[i * (d - 1) + j] * x[j + 1];
                    before = x[j];
                    x[j] -= gamma * (n * a - entry[1]);
                }
                left[s] = before;
            }
        }
    }
    free_deck(on);
    free(left);
}
