"""How well shadow mode does where the truth is known: `python -m tests.live.trust.against_simulator`.

The simulator plays LRU; shadow mode is told what a gateway would see of it, and says what another policy would have
evicted. The simulator plays that policy, too.
"""

from __future__ import annotations

from cace_env.live.mirror import live_tables
from cace_env.live.shadow.report import evictions_saved
from cace_env.scenarios import load_scenario
from tests.live.trust.test_shadow import evictions, played, watch, watcher


def main(scenario_name: str = "default", policies: tuple[str, ...] = ("gdsf", "agent:eviction")) -> None:
    """Prints a line for each seed and policy."""
    scenario = load_scenario(scenario_name)
    tables = live_tables(scenario.tables())
    for seed in (0, 1):
        workload = scenario.workload(seed)
        rows = played(tables, workload, "lru")
        for name in policies:
            watched = watcher(tables, name)
            watch(rows, workload, watched)
            lru, alone = evictions(rows), evictions(played(tables, workload, name))
            tally = watched.tally
            print(
                f"seed {seed}: LRU evicts {lru}, in the mirror {watched.server.evicted}; {name} {alone}, in its mirror "
                f"{watched.own.evicted}; it saves {100 * (1 - alone / lru):.1f} %, by the mirrors "
                f"{evictions_saved(watched)}; alike {tally.agreed} of {tally.asked}, right {tally.sooner}, wrong "
                f"{tally.later}"
            )


if __name__ == "__main__":
    main()
