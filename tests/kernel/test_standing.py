"""What the kernel keeps between events equals what a look at every accelerator and every model finds."""

from __future__ import annotations

import numpy as np
import pytest

from cace_env.kernel.run import read_models
from cace_env.kernel.standing import NEVER, NO_ROOM
from cace_env.kernel.state import (
    ABSENT,
    ACCELERATOR,
    AGENDA,
    CACHED_BYTES,
    IDLE,
    LINK,
    LOAD,
    MODEL,
    NONE,
    PENDING_MODELS,
    REQUEST,
    RESIDENT,
    State,
)
from cace_env.observation import PENDING
from cace_env.scenarios import load_scenario
from cace_env.simulation import Simulator
from cace_env.tables import FleetTables, Protocol
from cace_env.workload import COLUMNS, Workload

CASES = [
    (name, protocol)
    for name in ("mixed-gpus", "sleep-mode", "fleet-64")
    for protocol in (Protocol.EVICTION, Protocol.SWAP)
]


def ring(state: State, column: int) -> list[int]:
    """The models of a list in their order."""
    end = len(state.links) - 1
    found, at = [], int(state.links[end, column])
    while at != end:
        found.append(at)
        at = int(state.links[at, column])
    return found


def check_pending(state: State) -> None:
    models = state.models
    waiting = np.flatnonzero((models[:, MODEL.phase] == ABSENT) & (models[:, MODEL.waiting] > 0))
    heads = models[waiting, MODEL.queue_head]
    by_age = waiting[np.lexsort((heads, state.requests[heads, REQUEST.arrival_us]))].tolist()
    assert ring(state, LINK.after) == by_age == ring(state, LINK.before)[::-1]
    assert len(by_age) == state.scalars[PENDING_MODELS]


def check_cache(state: State, tables: FleetTables) -> None:
    touched = state.models[:, MODEL.touched]
    cached = np.flatnonzero(touched > 0)
    by_touch = cached[np.argsort(touched[cached])].tolist()
    assert ring(state, LINK.warmer) == by_touch == ring(state, LINK.colder)[::-1]
    assert tables.weights_bytes[by_touch].sum() == state.scalars[CACHED_BYTES]


def check_next_event(state: State) -> None:
    """The root of the agenda is the least of all next events."""
    accelerators = state.accelerators
    done = np.where(accelerators[:, ACCELERATOR.channel] == LOAD, 2, 1)
    keys = np.minimum(4 * accelerators[:, ACCELERATOR.token_due], 4 * accelerators[:, ACCELERATOR.channel_end] + done)
    key, first = state.agenda[1, AGENDA.key], state.agenda[1, AGENDA.accelerator]
    assert key == min(keys.min(), NEVER)
    assert key == NEVER or first == keys.argmin()


def check_rooms(simulator: Simulator, tables: FleetTables) -> None:
    read_models(*simulator.arguments[:4], np.zeros((tables.num_models, len(PENDING))))  # brings them up to date
    state, half = simulator.state, len(simulator.state.agenda) // 2
    freed = tables.need_bytes - tables.residual_bytes
    for a, accelerator in enumerate(state.accelerators):
        row = state.agenda[half + a]
        if accelerator[ACCELERATOR.swap_target] != NONE or accelerator[ACCELERATOR.channel] != IDLE:
            assert row[AGENDA.free] == row[AGENDA.idle] == row[AGENDA.busy] == NO_ROOM
            continue
        here = (state.models[:, MODEL.place] == a) & (state.models[:, MODEL.phase] == RESIDENT)
        here &= tables.pinned_on == NONE
        idle = here & (state.models[:, MODEL.running] == 0) & (state.models[:, MODEL.waiting] == 0)
        assert row[AGENDA.free] == accelerator[ACCELERATOR.free]
        assert row[AGENDA.idle] == accelerator[ACCELERATOR.free] + freed[idle].sum()
        assert row[AGENDA.busy] == accelerator[ACCELERATOR.free] + freed[here].sum()
    for column in (AGENDA.free, AGENDA.idle, AGENDA.busy):
        assert state.agenda[1, column] == state.agenda[half:, column].max()


@pytest.mark.parametrize(("name", "protocol"), CASES)
def test_lists_agenda_and_rooms_are_right_at_every_question(name: str, protocol: Protocol) -> None:
    scenario = load_scenario(name)
    scenario = scenario.replace(workload=scenario.workload_config.model_dump(mode="json") | {"requests": 3_000})
    whole = scenario.workload(2)
    workload = Workload.from_columns(**{column: getattr(whole, column) for column in COLUMNS})
    tables = scenario.tables().replace(protocol=protocol)
    simulator, draw, asked = Simulator(tables), np.random.default_rng(0), 0
    more = simulator.reset(workload)
    while more and asked < 300:
        check_pending(simulator.state)
        check_cache(simulator.state, tables)
        check_next_event(simulator.state)
        check_rooms(simulator, tables)
        asked += 1
        more = simulator.answer(int(draw.choice(np.flatnonzero(simulator.state.legal))))
    assert asked >= 20
