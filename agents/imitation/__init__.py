"""Agents that imitate clairvoyant policies."""
