"""How costs grow with the size of what is simulated."""
