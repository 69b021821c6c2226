"""Agents found by evolution of weights, and tuned CACE, found in the same way."""
