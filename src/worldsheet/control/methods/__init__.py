"""Relaxations of an optimal control problem, from an initial guess to a result."""
