"""Training in stages: a process for each, and what they leave in the run folder."""
