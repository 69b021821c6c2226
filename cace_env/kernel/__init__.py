"""THE simulator: one copy of the physics, compiled.

Read `state.py` (what there is), then `events.py` (what happens: arrivals, serving, time), `swaps.py` (loads, evictions,
who is placed) and `run.py` (whole episodes). `features.py` is what a policy may know, `rules.py` the built-in policies,
`summary.py` an episode in sums.
The rules themselves are in `docs/design.md`; `tests/specification/reference.py` says the same again, slowly and
readably.
"""
