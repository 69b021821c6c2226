"""The compiled simulator: the only copy of its physics.

Read `state.py` (all arrays), then `events.py` (arrivals and serving), `swaps.py` (loads and evictions), `placement.py`
(what is loaded where, and which models may be evicted) and `run.py` (time, whole episodes, and what they add up to).
`standing.py` keeps what would otherwise be looked for among all accelerators and models, `features.py` computes what a
policy may know, `rules.py` and `orders.py` are the built-in policies.
The rules themselves are in `docs/design.md`; `tests/specification/reference.py` says the same again, slowly and
readably.
"""
