/* What loops over arrays ask for; REAL is double or float. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
static inline REAL r_max(REAL a, REAL b) { return a > b || a != a ? a : b; }
static inline REAL r_min(REAL a, REAL b) { return a < b || a != a ? a : b; }
static inline REAL r_square(REAL a) { return a * a; }
static inline REAL r_cube(REAL a) { return a * a * a; }
static inline REAL r_tame(REAL a, REAL nan, REAL most, REAL least) {
    return a != a ? nan : a == INFINITY ? most : a == -INFINITY ? least : a; }
static void r_sort(const REAL *from, long by, REAL *to, long next, long count) { /* NaN last, as torch has it */
    REAL *a = malloc(sizeof(REAL) * count);
    for (long i = 0; i < count; i++) a[i] = from[i * by];
    for (int g = 0; g < 10; g++) {
        static const long gaps[] = {270189, 70636, 18466, 4827, 1262, 330, 86, 22, 5, 1};
        const long gap = gaps[g];
        for (long i = gap; i < count; i++) {
            const REAL x = a[i];
            long j = i;
            for (; j >= gap && (a[j - gap] > x || (a[j - gap] != a[j - gap] && x == x)); j -= gap) a[j] = a[j - gap];
            a[j] = x;
        }
    }
    for (long i = 0; i < count; i++) to[i * next] = a[i];
    free(a);
}
