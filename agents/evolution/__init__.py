"""Agents found by evolution of weights, and tuned CACE, which is found in the same way."""
