"""Pages of the docs that come from code and runs."""
