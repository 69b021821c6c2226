"""Who plays what, and the run folder that it leaves."""
