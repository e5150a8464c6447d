"""The Riccati recursion in C, for `Compiled()` on a processor: one problem after the other, a stage in the cache."""

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import torch
from torch import Tensor

from worldsheet.control.quadratic import Quadratic, Step
from worldsheet.core.errors import InputError

_TYPES = {torch.float64: "double", torch.float32: "float"}
_COMPILERS = ("cc", "gcc", "clang")
_GIVEN = ("hessian", "slope", "transition", "gap", "end_hessian", "end_slope", "costate", "wanted")
_MADE = ("shift", "states", "costates", "controls", "gains", "push", "fine")

_SOURCE = r"""
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int stages, batch, n, m, free, rungs;
    REAL first, ratio;
    const REAL *hessian, *slope, *transition, *gap, *end_hessian, *end_slope, *costate;
    const unsigned char *wanted;
    REAL *shift, *states, *costates, *controls, *gains, *push;
    unsigned char *fine;
} Task;

static int cholesky(REAL *R, int m, int row) {
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
static void solve(const REAL *L, int m, int row, REAL *X, int c) {
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
    const int n = t->n, m = t->m, d = n + m, c = n + 1, e = d + 1, B = t->batch;
    REAL *T = H + d * e, *X = T + n * e;
    REAL *end = V + (size_t)t->stages * n * c;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) end[i * c + j] = t->end_hessian[((size_t)b * n + i) * n + j] + (i == j) * shift;
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
            row[i] += shift;
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
    return !t->free || V[(n - 1) * c + n - 1] > 0;
}

/* The wave up. */
static int forward(const Task *t, int b, const REAL *V) {
    const int n = t->n, m = t->m, d = n + m, c = n + 1, B = t->batch;
    REAL *x = t->states + (size_t)b * n;
    REAL sum = 0;
    memset(x, 0, n * sizeof(REAL));
    if (t->free) x[n - 1] = -(V[(n - 1) * c + n] + t->costate[(size_t)b * n + n - 1]) / V[(n - 1) * c + n - 1];
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
    const int n = t->n, d = n + t->m;
    REAL *V = malloc(sizeof(REAL) * ((size_t)(t->stages + 1) * n * (n + 1) + (size_t)(2 * d + n) * (d + 2)));
    REAL *H = V + (size_t)(t->stages + 1) * n * (n + 1);
    for (int b = 0; b < t->batch; b++) {
        REAL last = t->shift[b], shift = last > 3 * t->first ? last / 3 : 0;
        int fine = backward(t, b, shift, V, H) && forward(t, b, V);
        if (last < t->first) last = t->first;
        for (int i = 0; i < t->rungs && !fine && t->wanted[b]; i++, last *= t->ratio) {
            shift = last;
            fine = backward(t, b, shift, V, H) && forward(t, b, V);
        }
        for (int k = 0; k <= t->stages && !fine; k++) {
            const size_t at = (size_t)k * t->batch + b;
            memset(t->states + at * n, 0, n * sizeof(REAL));
            memset(t->costates + at * n, 0, n * sizeof(REAL));
            if (k < t->stages) memset(t->controls + at * t->m, 0, t->m * sizeof(REAL));
        }
        t->shift[b] = shift;
        t->fine[b] = fine;
    }
    free(V);
}
"""


@final
@dataclass(frozen=True)
class Climb:
    """Which shifts of the Hessians are tried: none or a third of the last, then, if wanted, smallest · ratio^i.

    Attributes:
        first: λ_0, (B, n); its last entry is to vanish if the last of x_0 is free.
        shift: the last ones, (B,).
        wanted: who climbs, (B,).
        smallest: the lowest rung; the last shift, where that is larger.
        ratio: from rung to rung.
        rungs: how many.
    """

    first: Tensor
    shift: Tensor
    wanted: Tensor
    smallest: float
    ratio: float
    rungs: int


@final
class Recursion:
    """Machine code for (24), (23) and the ladder of shifts, made by the C compiler of this machine in about a second.

    Args:
        dtype: float64 or float32.

    Raises:
        InputError: another dtype, or no C compiler.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
        if dtype not in _TYPES or compiler is None:
            raise InputError(
                f"Compiled() with {dtype} and {compiler or 'no C compiler'}",
                "float64 or float32, and one of " + ", ".join(_COMPILERS),
                "install gcc, or leave Compiled() out",
            )
        self._real = ctypes.c_double if dtype is torch.float64 else ctypes.c_float
        self._code = _loaded(compiler, _TYPES[dtype])
        self._task = _task(self._real)

    def direction(self, local: Quadratic, climb: Climb, *, free: bool) -> tuple[Step, Tensor, Tensor]:
        """Solve (22): the step, its shift and whether it is fine; if `free`, the last entry of δx_0 is chosen too."""
        stages, batch, n = local.gap.shape
        m = local.slope.shape[-1] - n
        shift = climb.shift
        made = {
            "shift": shift.clone(),
            "states": shift.new_empty(stages + 1, batch, n),
            "costates": shift.new_empty(stages + 1, batch, n),
            "controls": shift.new_empty(stages, batch, m),
            "gains": shift.new_zeros(stages, batch, m, n),
            "push": shift.new_empty(stages, batch, m),
            "fine": torch.empty_like(climb.wanted),
        }
        given = (local.hessian, local.slope, local.transition, local.gap, local.end_hessian, local.end_slope)
        held = [part.contiguous() for part in (*given, climb.first, climb.wanted)]
        pointers = (part.data_ptr() for part in (*held, *made.values()))
        task = self._task(stages, batch, n, m, int(free), climb.rungs, climb.smallest, climb.ratio, *pointers)
        self._code.direction(ctypes.byref(task))
        step = Step(made["states"], made["costates"], made["controls"], made["gains"])
        return step, made["shift"], made["fine"]


def _task(real: Any) -> Any:
    """The C structure of that name."""
    numbers = [(name, ctypes.c_int) for name in ("stages", "batch", "n", "m", "free", "rungs")]
    reals = [(name, real) for name in ("first", "ratio")]
    pointers = [(name, ctypes.c_void_p) for name in (*_GIVEN, *_MADE)]
    return type("Task", (ctypes.Structure,), {"_fields_": numbers + reals + pointers})


def _loaded(compiler: str, real: str) -> Any:
    """The compiled source; its file goes, what is loaded stays."""
    with TemporaryDirectory() as folder:
        source, library = Path(folder) / "riccati.c", Path(folder) / "riccati.so"
        source.write_text(_SOURCE)
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared", f"-DREAL={real}"]
        done = subprocess.run(
            [compiler, *flags, str(source), "-o", str(library), "-lm"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise InputError(f"{compiler} fails: {done.stderr.strip()[:300]}", "a C compiler that works", "try gcc")
        return ctypes.CDLL(str(library))
