"""What stands around the simulations of an environment: baselines of rewards, several objectives, limits on waiting."""
