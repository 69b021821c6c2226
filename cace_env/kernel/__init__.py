"""The compiled simulator: the only copy of its physics.

Read `state.py` (all arrays), then `events.py` (arrivals and serving), `swaps.py` (loads and evictions), `placement.py`
(what is loaded where, and which models may be evicted) and `run.py` (time, and whole episodes). `features.py` computes
what a policy may know, `rules.py` and `orders.py` are the built-in policies, `summary.py` adds up an episode.
The rules themselves are in `docs/design.md`; `tests/specification/reference.py` says the same again, slowly and
readably.
"""
