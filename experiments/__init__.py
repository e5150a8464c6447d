"""The claims: a folder for each, with its script, what it expects and what was found."""
