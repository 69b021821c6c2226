"""Learned eviction policies on top of `cace_env`, outside its wheel."""
