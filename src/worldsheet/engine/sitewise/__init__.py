"""Sites that move one by one."""
