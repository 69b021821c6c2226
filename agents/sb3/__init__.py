"""Agents trained by the algorithms of Stable-Baselines3."""
