"""A log of your own: what it is like, and which policy, how many accelerators, how much saved."""
