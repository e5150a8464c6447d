/* Several points at once, one per lane, for straight-line code. REAL is double or float. */
#include <math.h>
#include <stddef.h>

#define LANES (32 / (int)sizeof(REAL))
typedef REAL V __attribute__((vector_size(32)));

#define ONE(name, value) \
    static inline V name(V x) { V r; for (int i = 0; i < LANES; i++) { const REAL a = x[i]; r[i] = value; } return r; }
#define TWO(name, value) \
    static inline V name(V x, V y) { \
        V r; for (int i = 0; i < LANES; i++) { const REAL a = x[i], b = y[i]; r[i] = value; } return r; }

ONE(l_sin, sin(a)) ONE(l_cos, cos(a)) ONE(l_tan, tan(a)) ONE(l_exp, exp(a)) ONE(l_log, log(a)) ONE(l_sqrt, sqrt(a))
ONE(l_tanh, tanh(a)) ONE(l_sinh, sinh(a)) ONE(l_cosh, cosh(a)) ONE(l_atan, atan(a)) ONE(l_abs, fabs(a))
ONE(l_sign, (a > 0) - (a < 0)) ONE(l_sigmoid, 1 / (1 + exp(-a)))
TWO(l_pow, pow(a, b)) TWO(l_atan2, atan2(a, b))
TWO(l_max, a > b || a != a ? a : b) TWO(l_min, a < b || a != a ? a : b)
TWO(l_lt, a < b) TWO(l_le, a <= b) TWO(l_gt, a > b) TWO(l_ge, a >= b) TWO(l_eq, a == b) TWO(l_ne, a != b)

static inline V l_where(V c, V x, V y) { V r; for (int i = 0; i < LANES; i++) r[i] = c[i] != 0 ? x[i] : y[i]; return r; }

typedef struct { const REAL *at; ptrdiff_t problem, stage; } Field;

static inline V load(const Field *field, int entry, const ptrdiff_t *b, const ptrdiff_t *k) {
    V r; for (int i = 0; i < LANES; i++) r[i] = field->at[b[i] * field->problem + k[i] * field->stage + entry];
    return r;
}
#define LOAD(number, entry) load(given + number, entry, b, k)
