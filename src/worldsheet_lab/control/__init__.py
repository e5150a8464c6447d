"""Known optimal control problems, solved, shown and compared."""
