"""What stands around the simulations of an environment: for now, the baseline that rewards are measured against."""
