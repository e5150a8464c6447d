"""Learning dynamics side by side: one model, one data set, several seeds."""
