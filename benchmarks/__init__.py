"""What worldsheet costs and does beside autograd, beside torch's own schedules and beside other solvers."""
