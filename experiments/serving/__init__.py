"""What `experiments.live` needs to serve a fleet, and to watch one."""
