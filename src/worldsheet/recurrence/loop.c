/* Recurrent cells step by step: states forward, costates backward. Rows of W are padded to a multiple of LANES.
   What is independent of order (products with inputs, sums over time of efforts) is left to the caller's library. */
#include <math.h>
#include <string.h>

#define INT __typeof__(__builtin_choose_expr(sizeof(REAL) == 4, 0, 0ll))
typedef REAL vec __attribute__((vector_size(64), aligned(sizeof(REAL)), may_alias));
typedef INT bits __attribute__((vector_size(64), aligned(sizeof(REAL)), may_alias));
enum { LANES = 64 / sizeof(REAL), ROWS = 4 };
enum { TANH, RELU, GRU, LSTM };
#define INLINE static inline __attribute__((always_inline))

typedef struct {
  long steps, batch, size, cell; /* T, B, n, which */
  const REAL *weight;            /* forward: W' (n, padded G n); backward: W (G n, padded n) */
  const REAL *bias;              /* of the GRU's candidate, inside its reset (n) */
  const REAL *drive, *start;     /* (T, B, G n), (B, m) */
  REAL *states, *gates;          /* (T, B, m); (T, B, gates), null if nothing is pulled back */
  const REAL *credit;            /* (T, B, m) */
  REAL *to_drive, *to_hidden;    /* (T, B, G n); the GRU's second one differs in its candidate */
  REAL *to_start;                /* (B, m) */
  REAL *scratch;                 /* see loop.py */
} Task;

/* ---- exp(x) - 1 = 2^k (e^r - 1) + 2^k - 1 with |r| <= ln 2 / 2; k is read from the bits of a sum ---- */
#define SINGLE (sizeof(REAL) == 4)
#define C(number) ((REAL)(number))
INLINE vec power_of_two(vec shifted) { return (vec)(((bits)shifted << (SINGLE ? 23 : 52)) + (SINGLE ? (INT)0x3F800000 : (INT)0x3FF0000000000000)); }
INLINE vec exp_minus_one(vec x) {
  const REAL magic = SINGLE ? C(0x1.8p23) : C(0x1.8p52);
  vec shifted = x * C(1.4426950408889634074) + magic, k = shifted - magic;
  vec r = x - k * C(SINGLE ? 0.693145751953125 : 0x1.62e42fee00000p-1);
  r = r - k * C(SINGLE ? 1.42860682030941723212e-6 : 1.90821492927058770002e-10);
  vec p = r * C(SINGLE ? 1.0 / 5040 : 1.0 / 6227020800.0);
  if (SINGLE) p = p + C(1.0 / 720);
  else {
    p = p + C(1.0 / 479001600); p = p * r + C(1.0 / 39916800); p = p * r + C(1.0 / 3628800);
    p = p * r + C(1.0 / 362880); p = p * r + C(1.0 / 40320); p = p * r + C(1.0 / 5040); p = p * r + C(1.0 / 720);
  }
  p = p * r + C(1.0 / 120); p = p * r + C(1.0 / 24); p = p * r + C(1.0 / 6); p = p * r + C(0.5); p = p * r + C(1);
  vec two = power_of_two(shifted);
  return two * (p * r) + (two - C(1));
}
INLINE vec chosen(bits where, vec yes, vec no) { return (vec)(((bits)yes & where) | ((bits)no & ~where)); }
INLINE vec clamped(vec x, REAL most) { /* what is no number stays so */
  vec high = (vec){0} + most;
  x = chosen((bits)(x > high), high, x);
  return chosen((bits)(x < -high), -high, x);
}
INLINE vec tangent(vec x) { vec e = exp_minus_one(2 * clamped(x, SINGLE ? 15 : 25)); return e / (e + 2); }
INLINE vec logistic(vec x) { return 1 / (2 + exp_minus_one(-clamped(x, SINGLE ? 80 : 700))); }
INLINE vec get(const REAL *p, long i, long n) { /* lanes beyond n are zero */
  if (i + LANES <= n) return *(const vec *)(p + i);
  vec v = {0};
  memcpy(&v, p + i, (n - i) * sizeof(REAL));
  return v;
}
INLINE void put(REAL *p, long i, long n, vec v) {
  if (i + LANES <= n) *(vec *)(p + i) = v;
  else memcpy(p + i, &v, (n - i) * sizeof(REAL));
}

/* ---- out[r] (+)= sum_j x[r][j] W[j], tiles of `rows` by `tiles` vectors held in registers ---- */
INLINE void tile(const int rows, const int tiles, long inner, const REAL *w, long pitch, const REAL *x, long x_pitch, REAL *out, long out_pitch) {
  vec sum[4][8];
  for (int r = 0; r < rows; r++) for (int i = 0; i < tiles; i++) sum[r][i] = *(const vec *)(out + r * out_pitch + i * LANES);
  for (long j = 0; j < inner; j++)
    for (int i = 0; i < tiles; i++) {
      vec row = *(const vec *)(w + j * pitch + i * LANES);
      for (int r = 0; r < rows; r++) sum[r][i] += row * x[r * x_pitch + j];
    }
  for (int r = 0; r < rows; r++) for (int i = 0; i < tiles; i++) *(vec *)(out + r * out_pitch + i * LANES) = sum[r][i];
}
INLINE void rows_of(const int rows, long inner, const REAL *w, long pitch, const REAL *x, long x_pitch, REAL *out) {
  long i = 0, vectors = pitch / LANES;
  if (rows == 1) for (; i + 8 <= vectors; i += 8) tile(rows, 8, inner, w + i * LANES, pitch, x, x_pitch, out + i * LANES, pitch);
  for (; i + 4 <= vectors; i += 4) tile(rows, 4, inner, w + i * LANES, pitch, x, x_pitch, out + i * LANES, pitch);
  for (; i + 2 <= vectors; i += 2) tile(rows, 2, inner, w + i * LANES, pitch, x, x_pitch, out + i * LANES, pitch);
  for (; i < vectors; i++) tile(rows, 1, inner, w + i * LANES, pitch, x, x_pitch, out + i * LANES, pitch);
}
static void product(long rows, long inner, const REAL *w, long pitch, const REAL *x, long x_pitch, REAL *out) {
  long r = 0;
  for (; r + ROWS <= rows; r += ROWS) rows_of(ROWS, inner, w, pitch, x + r * x_pitch, x_pitch, out + r * pitch);
  for (; r < rows; r++) rows_of(1, inner, w, pitch, x + r * x_pitch, x_pitch, out + r * pitch);
}

/* ---- one row of one step: what comes in from outside and inside, its old and new state ---- */
#define EACH for (long i = 0; i < n; i += LANES)
#define GET(p, block) get((p) + (block) * n, i, n)
#define PUT(p, block, v) put((p) + (block) * n, i, n, v)
INLINE void row_forward(const int cell, long n, const REAL *u, const REAL *a, const REAL *bias, const REAL *old, REAL *state, REAL *gates) {
  if (cell == TANH) EACH PUT(state, 0, tangent(GET(u, 0) + GET(a, 0)));
  if (cell == RELU) EACH { vec z = GET(u, 0) + GET(a, 0); PUT(state, 0, chosen((bits)(z < 0), (vec){0}, z)); }
  if (cell == GRU) EACH {
    vec r = logistic(GET(u, 0) + GET(a, 0)), z = logistic(GET(u, 1) + GET(a, 1)), inner = GET(a, 2) + GET(bias, 0);
    vec m = tangent(GET(u, 2) + r * inner);
    PUT(state, 0, m + z * (GET(old, 0) - m));
    if (gates) { PUT(gates, 0, r); PUT(gates, 1, z); PUT(gates, 2, m); PUT(gates, 3, inner); }
  }
  if (cell == LSTM) EACH {
    vec in = logistic(GET(u, 0) + GET(a, 0)), f = logistic(GET(u, 1) + GET(a, 1)), g = tangent(GET(u, 2) + GET(a, 2));
    vec o = logistic(GET(u, 3) + GET(a, 3)), c = f * GET(old, 1) + in * g;
    PUT(state, 0, o * tangent(c)); PUT(state, 1, c);
    if (gates) { PUT(gates, 0, in); PUT(gates, 1, f); PUT(gates, 2, g); PUT(gates, 3, o); }
  }
}
/* l: costate of the new state; du, da: to what came in; on: what reaches the old state beside the product */
INLINE void row_backward(const int cell, long n, const REAL *l, const REAL *old, const REAL *state, const REAL *gates, REAL *du, REAL *da, REAL *on) {
  if (cell == TANH) EACH { vec y = GET(state, 0); PUT(du, 0, GET(l, 0) * (1 - y * y)); }
  if (cell == RELU) EACH PUT(du, 0, chosen((bits)(GET(state, 0) > 0), GET(l, 0), (vec){0}));
  if (cell == GRU) EACH {
    vec r = GET(gates, 0), z = GET(gates, 1), m = GET(gates, 2), given = GET(l, 0);
    vec dm = given * (1 - z) * (1 - m * m), dr = dm * GET(gates, 3) * r * (1 - r), dz = given * (GET(old, 0) - m) * z * (1 - z);
    PUT(du, 0, dr); PUT(da, 0, dr); PUT(du, 1, dz); PUT(da, 1, dz); PUT(du, 2, dm); PUT(da, 2, dm * r); PUT(on, 0, given * z);
  }
  if (cell == LSTM) EACH {
    vec in = GET(gates, 0), f = GET(gates, 1), g = GET(gates, 2), o = GET(gates, 3), y = tangent(GET(state, 1)), given = GET(l, 0);
    vec dc = GET(l, 1) + given * o * (1 - y * y);
    PUT(du, 0, dc * g * in * (1 - in)); PUT(du, 1, dc * GET(old, 1) * f * (1 - f)); PUT(du, 2, dc * in * (1 - g * g));
    PUT(du, 3, given * y * o * (1 - o)); PUT(on, 1, dc * f);
  }
}

INLINE void ahead(const int cell, long n, long batch, const Task *k) {
  const long blocks = cell == LSTM ? 4 : cell == GRU ? 3 : 1, m = cell == LSTM ? 2 * n : n, G = blocks * n;
  const long pitch = (G + LANES - 1) / LANES * LANES, kept = cell == GRU || cell == LSTM ? 4 * n : 0;
  for (long t = 0; t < k->steps; t++) {
    const REAL *old = t ? k->states + (t - 1) * batch * m : k->start;
    memset(k->scratch, 0, sizeof(REAL) * batch * pitch);
    product(batch, n, k->weight, pitch, old, m, k->scratch);
    for (long b = 0; b < batch; b++) {
      long at = t * batch + b;
      row_forward(cell, n, k->drive + at * G, k->scratch + b * pitch, k->bias, old + b * m, k->states + at * m, k->gates && kept ? k->gates + at * kept : 0);
    }
  }
}
INLINE void back(const int cell, long n, long batch, const Task *k) {
  const long blocks = cell == LSTM ? 4 : cell == GRU ? 3 : 1, m = cell == LSTM ? 2 * n : n, G = blocks * n;
  const long pitch = (n + LANES - 1) / LANES * LANES, kept = cell == GRU || cell == LSTM ? 4 * n : 0;
  REAL *l = k->scratch, *on = l + batch * m, *sums = on + batch * m; /* (B, m), (B, m), (B, pitch) */
  memset(on, 0, sizeof(REAL) * batch * m);
  for (long t = k->steps; t-- > 0;) {
    const REAL *old = t ? k->states + (t - 1) * batch * m : k->start, *given = k->credit + t * batch * m;
    for (long i = 0; i < batch * m; i++) { l[i] = given[i] + on[i]; on[i] = 0; }
    for (long b = 0; b < batch; b++) {
      long at = t * batch + b;
      row_backward(cell, n, l + b * m, old + b * m, k->states + at * m, k->gates + at * kept, k->to_drive + at * G, k->to_hidden + at * G, on + b * m);
    }
    memset(sums, 0, sizeof(REAL) * batch * pitch);
    product(batch, G, k->weight, pitch, k->to_hidden + t * batch * G, G, sums);
    for (long b = 0; b < batch; b++) for (long i = 0; i < n; i++) on[b * m + i] += sums[b * pitch + i];
  }
  memcpy(k->to_start, on, sizeof(REAL) * batch * m);
}

/* common sizes are constants for the compiler */
#define SIZED(way, cell) \
  switch (k->size) { \
    case 4: way(cell, 4, k->batch, k); break; case 8: way(cell, 8, k->batch, k); break; \
    case 16: way(cell, 16, k->batch, k); break; case 32: way(cell, 32, k->batch, k); break; \
    case 64: way(cell, 64, k->batch, k); break; case 128: way(cell, 128, k->batch, k); break; \
    default: way(cell, k->size, k->batch, k); }
#define BY_CELL(way) \
  switch (k->cell) { case TANH: SIZED(way, TANH) break; case RELU: SIZED(way, RELU) break; case GRU: SIZED(way, GRU) break; default: SIZED(way, LSTM) }
void forward(const Task *k) { BY_CELL(ahead) }
void backward(const Task *k) { BY_CELL(back) }
