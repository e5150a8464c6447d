/* The Riccati recursion (24), the step (23) and the ladder of shifts, one problem after another.
   REAL is double or float; SIZE and CONTROLS may be given as numbers, so that loops unroll. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef SIZE
#define SIZE t->n
#define CONTROLS t->m
#endif

typedef struct {
    int stages, batch, n, m, free, rungs;
    REAL first, ratio;
    const REAL *hessian, *slope, *transition, *gap, *end_hessian, *end_slope, *regularizer, *opening, *costate;
    const unsigned char *wanted;
    const REAL *last;
    REAL *shift, *states, *costates, *controls, *gains, *push;
    unsigned char *fine;
} Task;

static inline int cholesky(REAL *R, int m, int row) {
    for (int j = 0; j < m; j++) {
        for (int k = 0; k < j; k++)
            for (int i = j; i < m; i++) R[i * row + j] -= R[i * row + k] * R[j * row + k];
        if (!(R[j * row + j] > 0)) return 0;
        REAL root = sqrt(R[j * row + j]);
        for (int i = j; i < m; i++) R[i * row + j] /= root;
    }
    return 1;
}

/* X <- -(L L^T)^-1 X, X of m rows and c columns */
static inline void solve(const REAL *L, int m, int row, REAL *X, int c) {
    for (int i = 0; i < m; i++) {
        for (int k = 0; k < i; k++)
            for (int j = 0; j < c; j++) X[i * c + j] -= L[i * row + k] * X[k * c + j];
        for (int j = 0; j < c; j++) X[i * c + j] /= L[i * row + i];
    }
    for (int i = m - 1; i >= 0; i--) {
        for (int k = i + 1; k < m; k++)
            for (int j = 0; j < c; j++) X[i * c + j] -= L[k * row + i] * X[k * c + j];
        for (int j = 0; j < c; j++) X[i * c + j] /= L[i * row + i];
    }
    for (int i = 0; i < m * c; i++) X[i] = -X[i];
}

/* From the end to the start; 0 where there is no minimum. V holds [P p] of every stage, H is work space. */
static int backward(const Task *t, int b, REAL shift, REAL *V, REAL *H) {
    const int n = SIZE, m = CONTROLS, d = n + m, c = n + 1, e = d + 1, B = t->batch;
    REAL *T = H + d * e, *X = T + n * e;
    REAL *end = V + (size_t)t->stages * n * c;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) end[i * c + j] = t->end_hessian[((size_t)b * n + i) * n + j] + (i == j) * shift * t->regularizer[(size_t)b * d + i];
        end[i * c + n] = t->end_slope[(size_t)b * n + i];
    }
    for (int k = t->stages - 1; k >= 0; k--) {
        const size_t at = (size_t)k * B + b;
        const REAL *W = t->hessian + at * d * d, *w = t->slope + at * d;
        const REAL *A = t->transition + at * n * d, *r = t->gap + at * n;
        const REAL *P = V + (size_t)(k + 1) * n * c;
        for (int i = 0; i < n; i++) { /* T = P [A r] + [0 p] */
            REAL *row = T + i * e;
            for (int j = 0; j < d; j++) row[j] = 0;
            row[d] = P[i * c + n];
            for (int l = 0; l < n; l++) {
                const REAL p = P[i * c + l];
                for (int j = 0; j < d; j++) row[j] += p * A[l * d + j];
                row[d] += p * r[l];
            }
        }
        for (int i = 0; i < d; i++) { /* H = [W w] + A^T T */
            REAL *row = H + i * e;
            for (int j = 0; j < d; j++) row[j] = W[i * d + j];
            row[i] += shift * t->regularizer[(size_t)b * d + i];
            if (k == 0 && i < n && t->opening) row[i] += shift * t->opening[(size_t)b * n + i];
            row[d] = w[i];
            for (int l = 0; l < n; l++) {
                const REAL a = A[l * d + i];
                if (a != 0)
                    for (int j = 0; j < e; j++) row[j] += a * T[l * e + j];
            }
        }
        for (int i = 0; i < m; i++) {
            for (int j = 0; j < n; j++) X[i * c + j] = H[(n + i) * e + j];
            X[i * c + n] = H[(n + i) * e + d];
        }
        if (!cholesky(H + n * e + n, m, e)) return 0;
        solve(H + n * e + n, m, e, X, c);
        REAL *to = V + (size_t)k * n * c;
        for (int i = 0; i < n; i++) {
            for (int j = 0; j < n; j++) to[i * c + j] = H[i * e + j];
            to[i * c + n] = H[i * e + d];
            for (int l = 0; l < m; l++)
                for (int j = 0; j < c; j++) to[i * c + j] += H[i * e + n + l] * X[l * c + j];
        }
        for (int i = 0; i < n; i++)
            for (int j = 0; j < i; j++)
                to[i * c + j] = to[j * c + i] = (to[i * c + j] + to[j * c + i]) / 2;
        for (int i = 0; i < m; i++) {
            memcpy(t->gains + (at * m + i) * n, X + i * c, n * sizeof(REAL));
            t->push[at * m + i] = X[i * c + n];
        }
    }
    const int f = t->free, g = n - f; /* the free block of P_0, kept in H for the wave up */
    for (int i = 0; i < f; i++)
        for (int j = 0; j < f; j++) H[i * f + j] = V[(g + i) * c + g + j];
    return cholesky(H, f, f);
}

/* The wave up. H holds the factor of the free block of P_0. */
static int forward(const Task *t, int b, const REAL *V, const REAL *H) {
    const int n = SIZE, m = CONTROLS, d = n + m, c = n + 1, B = t->batch;
    REAL *x = t->states + (size_t)b * n;
    REAL sum = 0;
    memset(x, 0, n * sizeof(REAL));
    for (int i = n - t->free; i < n; i++) x[i] = V[i * c + n] + t->costate[(size_t)b * n + i];
    solve(H, t->free, t->free, x + n - t->free, 1);
    for (int k = 0; k <= t->stages; k++) {
        const size_t at = (size_t)k * B + b;
        x = t->states + at * n;
        for (int i = 0; i < n; i++) {
            const REAL *row = V + ((size_t)k * n + i) * c;
            REAL value = row[n];
            for (int j = 0; j < n; j++) value += row[j] * x[j];
            t->costates[at * n + i] = value;
            sum += fabs(value) + fabs(x[i]);
        }
        if (k == t->stages) break;
        REAL *u = t->controls + at * m, *next = t->states + (at + B) * n;
        for (int i = 0; i < m; i++) {
            u[i] = t->push[at * m + i];
            for (int j = 0; j < n; j++) u[i] += t->gains[(at * m + i) * n + j] * x[j];
        }
        for (int i = 0; i < n; i++) {
            const REAL *row = t->transition + (at * n + i) * d;
            REAL value = t->gap[at * n + i];
            for (int j = 0; j < n; j++) value += row[j] * x[j];
            for (int j = 0; j < m; j++) value += row[n + j] * u[j];
            next[i] = value;
        }
    }
    return isfinite(sum);
}

void direction(const Task *t) {
    const int n = SIZE, d = n + CONTROLS;
    REAL *V = malloc(sizeof(REAL) * ((size_t)(t->stages + 1) * n * (n + 1) + (size_t)(2 * d + n) * (d + 2)));
    REAL *H = V + (size_t)(t->stages + 1) * n * (n + 1);
    for (int b = 0; b < t->batch; b++) {
        REAL last = t->last[b], shift = last > 3 * t->first ? last / 3 : 0;
        int fine = backward(t, b, shift, V, H) && forward(t, b, V, H);
        if (last < t->first) last = t->first;
        for (int i = 0; i < t->rungs && !fine && t->wanted[b]; i++, last *= t->ratio) {
            shift = last;
            fine = backward(t, b, shift, V, H) && forward(t, b, V, H);
        }
        for (int k = 0; k <= t->stages && !fine; k++) {
            const size_t at = (size_t)k * t->batch + b;
            memset(t->states + at * n, 0, n * sizeof(REAL));
            memset(t->costates + at * n, 0, n * sizeof(REAL));
            if (k == t->stages) break;
            memset(t->controls + at * t->m, 0, t->m * sizeof(REAL));
            memset(t->gains + at * t->m * n, 0, t->m * n * sizeof(REAL));
        }
        t->shift[b] = shift;
        t->fine[b] = fine;
    }
    free(V);
}
