"""Tests read like claims about the world; `reference.py` is the plain simulator that the kernel is held against."""
