"""Which policy, how many accelerators, how much saved: what a log of your own says, and what a pilot changed."""
