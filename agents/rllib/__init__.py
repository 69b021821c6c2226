"""Agents trained by RLlib, by env runners on one machine or on many."""
