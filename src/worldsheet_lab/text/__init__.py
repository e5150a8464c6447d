"""Language models of the characters of a text."""
