"""Machine code for the functions of a tick."""
