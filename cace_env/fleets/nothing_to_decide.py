"""Detection of scenarios that never ask the policy, where all policies are equal and nothing can be learned."""

from __future__ import annotations

from typing import Final

from cace_env.tables import NONE, FleetTables, Protocol, pinned_bytes, slots_per_accelerator

MORE_PRESSURE: Final = (
    "raise `pressure`, take accelerators out of `fleet`, or add models to `catalogue` that are asked for"
)
MORE_VICTIMS: Final = "lower `pressure`, give it more memory or smaller models, or pin fewer of them (`pinned_on`)"


def nothing_to_decide(tables: FleetTables) -> tuple[str, str] | None:
    """Find out why no policy can ever be asked, and what to change; None if the fleet alone does not tell.

    It holds for any requests, for policies without a keep-alive, as in the environments. The rules are those of
    `docs/design.md`, section 5: the policy is asked if a model does not fit on an accelerator whose channel is idle,
    and at least two models could leave.
    """
    pinned = tables.pinned_on != NONE
    if (pinned | (tables.resident_on != NONE)).all():
        return "every model is in memory from the beginning, so no model ever has to leave", MORE_PRESSURE
    if tables.protocol != Protocol.EVICTION:
        return None  # the policy is asked which model to load first whenever two are pending
    if tables.unlimited_memory:
        return "memory is unlimited", "give every accelerator a limited memory"
    room_bytes = tables.memory_bytes - pinned_bytes(tables)
    if (room_bytes >= tables.need_bytes[~pinned].sum()).all():
        return "memory holds all models at once, so no model ever has to leave", MORE_PRESSURE
    if (~pinned).sum() <= 2:
        return (
            "there are only two unpinned models, so one has to leave for the other",
            "add models to `catalogue`, or pin fewer of them (`pinned_on`)",
        )
    if slots_per_accelerator(tables).sum() - pinned.sum() <= 1:
        return "memory holds one model at a time besides pinned ones, so that one has to leave", MORE_VICTIMS
    return None


def warning(name: str, tables: FleetTables, episodes: int = 0) -> str | None:
    """Make a warning for users of a scenario without decisions; None if there is something to decide.

    Args:
        name: name of the scenario.
        tables: the fleet.
        episodes: number of episodes played without a question; 0 = none was played, so only the fleet is checked.
    """
    known = nothing_to_decide(tables)
    if known is None and not episodes:
        return None
    because, change = known or (
        "memory held all requested models, or only one model at a time could leave",
        f"{MORE_PRESSURE}, or play more requests (`workload.requests`); if memory holds a single model at a time, "
        f"{MORE_VICTIMS}",
    )
    played = f" in {episodes} episode{'s' if episodes > 1 else ''}" if episodes else ""
    return (
        f"scenario {name!r}: no policy {'was' if episodes else 'is ever'} asked{played}: {because}. All "
        f"policies are equal there, and nothing can be learned; to change that, {change}"
    )
