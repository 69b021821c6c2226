"""How fast the simulator and the environments are."""
