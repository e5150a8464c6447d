"""How states and credits get from stage to stage."""
