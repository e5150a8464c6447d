"""Linear-quadratic subproblems over a horizon, by recursion or by a scan."""
