"""What Swap-v0 asks (docs/design.md, section 12), as plainly as the rest of the reference simulator.

Which model to load, or to wait; then which victims. Everything that happens in between is in
`tests/specification/reference.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cace_env.tables import NONE

if TYPE_CHECKING:
    from tests.specification.reference import Model, Simulation


def place(simulation: Simulation) -> None:
    """(12.2) Asks which model to load until no model can be loaded, or until the policy waits."""
    while simulation.news and (models := candidates(simulation)):
        slots = len(simulation.slot_models)
        wait = slots + len(simulation.models)
        legal = {slots + model.index for model in models}
        if _may_wait(simulation, models):
            legal.add(wait)
        action = simulation.ask(NONE, legal) if len(legal) > 1 else min(legal)
        if action == wait:
            simulation.result.waits += 1
            simulation.news = False
        else:
            _load(simulation, simulation.models[action - slots])


def candidates(simulation: Simulation) -> list[Model]:
    """(12.1, 12.7) Whom the policy may choose to load, by index: pending models, and absent ones by prefetch."""
    prefetch = _may_prefetch(simulation)
    wanted = [model for model in simulation.models if model.pending or (prefetch and model.state == "absent")]
    return [model for model in wanted if _placeable(simulation, model)]


def _placeable(simulation: Simulation, model: Model) -> bool:
    """(12.1) On some accelerator with an idle channel it fits, were all who are not pinned to leave."""
    places = simulation.idle_channels()
    return any(simulation.suffices(place, model, simulation.evictable(place, busy_too=True)) for place in places)


def _may_prefetch(simulation: Simulation) -> bool:
    """Not above the limit, nor while a request has waited too long for a model that is not there."""
    tables, result = simulation.tables, simulation.result
    waits_us = [simulation.now - result.arrival_us[model.waiting[0]] for model in simulation.pending_models()]
    return result.prefetches < tables.prefetch_limit and max(waits_us, default=-1) < tables.prefetch_max_wait_us


def _may_wait(simulation: Simulation, models: list[Model]) -> bool:
    """(12.3) Something is under way that will ask again, or no request waits for what could be loaded."""
    runs = any(model.admitted for model in simulation.models)
    swaps = not all(channel.idle for channel in simulation.channels)
    return runs or swaps or not any(model.pending for model in models)


def _load(simulation: Simulation, model: Model) -> None:
    """(12.4) Starts its load where it fits; else makes room for it."""
    if not simulation.load_where_it_fits(model):
        simulation.swap(model, simulation.victims(model, simulation.idle_channels(), busy_too=True))
