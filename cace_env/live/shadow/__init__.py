"""Shadow mode: watch a system that decides for itself, ask a policy what it would have done, write it down, do nothing.

`following.py` keeps a fleet in a mirror from what requests are seen to do; `deciding.py` asks and compares;
`forwarding.py` is a pass-through before a server. A log is replayed by `experiments.live shadow`.
"""
