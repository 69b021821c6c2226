"""Scenarios in which no policy is ever asked anything: all are equal there, and nothing can be learned."""

from __future__ import annotations

from typing import Final

from cace_env.tables import NONE, FleetTables, Protocol, pinned_bytes, slots_per_accelerator

MORE_PRESSURE: Final = (
    "raise `pressure`, take accelerators out of `fleet`, or add models to `catalogue` that are asked for"
)
MORE_VICTIMS: Final = "lower `pressure`, give it more memory or smaller models, or pin fewer of them (`pinned_on`)"


def nothing_to_decide(tables: FleetTables) -> tuple[str, str] | None:
    """Why no policy can ever be asked anything, and what to change; None where the fleet alone does not tell.

    It holds whatever the requests are, for policies without a keep-alive, as in the environments. The rules are those
    of `docs/design.md`, section 5: the policy is asked where a model does not fit on an accelerator whose channel is
    idle, and two models or more could leave.
    """
    pinned = tables.pinned_on != NONE
    if (pinned | (tables.resident_on != NONE)).all():
        return "every model is in memory from the beginning, and none ever has to leave", MORE_PRESSURE
    if tables.protocol != Protocol.EVICTION:
        return None  # which model to load first is asked wherever two are waited for
    if tables.unlimited_memory:
        return "memory is unlimited", "give every accelerator a memory of its own"
    room_bytes = tables.memory_bytes - pinned_bytes(tables)
    if (room_bytes >= tables.need_bytes[~pinned].sum()).all():
        return "memory holds all models at once, so none ever has to leave", MORE_PRESSURE
    if (~pinned).sum() <= 2:
        return (
            "besides pinned models there are only two, and one of them has to leave for the other",
            "add models to `catalogue`, or pin fewer of them (`pinned_on`)",
        )
    if slots_per_accelerator(tables).sum() - pinned.sum() <= 1:
        return "memory holds one model at a time besides pinned ones, so that one has to leave", MORE_VICTIMS
    return None


def warning(name: str, tables: FleetTables, episodes: int = 0) -> str | None:
    """What a user who makes or runs such a scenario has to be told; None if there is something to decide.

    Args:
        name: of the scenario.
        tables: its fleet.
        episodes: that were played without a question; 0: none has been played, and the fleet alone has to tell.
    """
    known = nothing_to_decide(tables)
    if known is None and not episodes:
        return None
    because, change = known or (
        "memory held all that was asked for, or only ever one model could leave",
        f"{MORE_PRESSURE}, or play more requests (`workload.requests`); if memory holds a single model at a time, "
        f"{MORE_VICTIMS}",
    )
    played = f" in {episodes} episode{'s' if episodes > 1 else ''}" if episodes else ""
    return (
        f"scenario {name!r}: no policy {'was' if episodes else 'is ever'} asked anything{played}: {because}. All "
        f"policies are equal there, and nothing can be learned; to change that, {change}"
    )
