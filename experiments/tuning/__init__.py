"""Searches for weights of CACE and for the numbers of a training."""
