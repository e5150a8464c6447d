"""The commands as a terminal sees them: options and help, which wait for nothing heavy to be imported."""
