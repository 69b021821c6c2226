"""Sampled futures: fits habits, and holds the sampler and the planner that decides by it against what happened."""
