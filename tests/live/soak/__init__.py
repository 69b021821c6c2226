"""Many clients for many minutes while everything goes wrong: `python -m tests.live.soak`."""
