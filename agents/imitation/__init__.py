"""Agents that imitate those who know the future."""
