"""A mirror of real servers sees what the simulator sees: the same events lead to the same questions, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cace_env.kernel.events import PAIR_AT
from cace_env.kernel.state import ACCELERATOR, CLOCK, HEAP, IDLE, MODEL, NONE, PAUSE, PAUSES, SPEC, TRACE_KINDS, TRACED
from cace_env.live import mirror
from cace_env.live.mirror import TOKEN, Arrival, Mirror, live_tables
from cace_env.observation import SLOT, ObservationLayout
from cace_env.policies import Player, policy
from cace_env.scenarios import load_scenario
from cace_env.simulation import NO_LIMITS, Simulator
from cace_env.simulation.outcome import TraceRow
from cace_env.tables import FleetTables, Protocol
from cace_env.workload import Workload
from tests.specification import strategies
from tests.specification.examples import fleet
from tests.support.small import SMALL

TOLD = ("ARRIVAL", "FIRST_TOKEN", "FINISH", "UNLOAD_DONE", "LOAD_DONE")  # the world; the rest follows from it


class Replay:
    """Plays an episode in the simulator and tells a mirror what happens, as real servers would."""

    def __init__(self, tables: FleetTables, workload: Workload, name: str) -> None:
        self.tables, self.workload = live_tables(tables), workload
        self.player = Player(name, policy(name), self.tables, workload, 0)
        self.simulator = Simulator(self.tables, self.player.limits, trace=True)
        self.mirror = Mirror(self.tables, self.player.limits)
        self.mirror.end_instant()
        self.rows: dict[int, int] = {}  # the mirror's number of each request
        self.numbers: dict[int, int] = {}  # and back
        self.units: dict[int, int] = {}
        self.seen = 0
        self.traced: list[TraceRow] = []

    def questions(self) -> Iterator[int]:
        """Every question, once the mirror stands at it, too; and the simulator's answer to it."""
        asked = self.simulator.reset(self.workload)
        while asked:
            self.tell()
            self.count_tokens()
            action, _ = self.player.answer(self.simulator)
            yield action
            asked = self.simulator.answer(action)
            self.mirror.answer(action)
            self.keep_trace()
        self.tell()

    def tell(self) -> None:
        """What the simulator has done since the last question."""
        rows = self.simulator.trace[self.seen : self.simulator.state.scalars[TRACED]].tolist()
        self.seen += len(rows)
        now = int(self.simulator.state.scalars[CLOCK])
        for at in sorted({row[0] for row in rows} | {now}):
            while self.mirror.alarm_us < at:
                self.mirror.alarm()
                assert not self.mirror.end_instant()
            told = [row for row in rows if row[0] == at and TRACE_KINDS[row[1]] in TOLD]
            for _, kind, subject, place in told:
                self.tell_one(at, TRACE_KINDS[kind], subject, place)
            if self.mirror.alarm_us == at:
                self.mirror.alarm()
            if not self.mirror.asked and (told or self.mirror.now_us == at):
                self.mirror.end_instant()
            self.keep_trace()

    def tell_one(self, at: int, kind: str, subject: int, place: int) -> None:
        mirror = self.mirror
        if kind == "ARRIVAL":
            self.rows[subject] = row = mirror.arrive(at, self.arrival(subject))
            self.numbers[row] = subject
        elif kind == "FIRST_TOKEN":
            mirror.first_token(at, self.rows[subject])
        elif kind == "FINISH":
            mirror.finish(at, self.rows[subject], int(self.workload.output_tokens[subject]))
        else:
            # An accelerator's channel; the trace of an unload's end has it, too.
            channels = mirror.state.accelerators
            (busy,) = np.flatnonzero(
                (channels[:, ACCELERATOR.channel_model] == subject) & (channels[:, ACCELERATOR.channel] != IDLE)
            )
            mirror.channel_done(at, int(busy))

    def arrival(self, r: int) -> Arrival:
        w = self.workload
        return Arrival(
            model=int(w.model[r]), task=int(w.task[r]), context_tokens=int(w.context_tokens[r]),
            output_tokens=int(w.output_tokens[r]), session=int(w.session[r]), user=int(w.user[r]),
            new_tokens=int(w.new_tokens[r]),
        )  # fmt: skip

    def count_tokens(self) -> None:
        """The tokens that clients of the simulated servers have received until now, in 2^-20 tokens."""
        s, at = self.simulator.state, self.simulator.fleet_at
        heaps = self.simulator.fleet[at[2] : at[3]].reshape(-1, len(SPEC))[:, SPEC.heap_start]
        for m, model in enumerate(s.models):
            length = int(model[MODEL.length_ns])
            if length == 0:
                continue
            elapsed = (int(s.scalars[CLOCK]) - int(model[MODEL.anchor_us])) * 1000
            rounds = int(model[MODEL.anchor_rounds]) + elapsed * TOKEN // length
            start = heaps[m]
            for target, r in s.tokens[start : start + model[MODEL.heap_size], [HEAP.key, HEAP.request]].tolist():
                if r != model[MODEL.prefill_head]:
                    received = rounds - (target - (int(self.workload.output_tokens[r]) - 1) * TOKEN)
                    self.mirror.received(self.rows[r], received - self.units.get(r, 0))
                    self.units[r] = received

    def keep_trace(self) -> None:
        for row in self.mirror.take_trace():
            ours = row.kind in ("ARRIVAL", "ADMITTED", "FIRST_TOKEN", "FINISH")
            self.traced.append(row._replace(subject=self.numbers[row.subject]) if ours else row)


def scenario(**changes: Any) -> tuple[FleetTables, Workload]:
    found = load_scenario(SMALL | changes)
    return found.tables(), found.workload(5)


def tight(**changes: Any) -> tuple[FleetTables, Workload]:
    """Two accelerators, models that sleep and stay cached, and requests that overlap."""
    tables = fleet(
        need=(6, 6, 5, 4, 3), memory=(11, 10), residual_bytes=(1, 1, 0, 1, 0), unload_us=7_000, decode_ns=100_000,
        host_cache_bytes=12, unload_copies=True, drain_after_us=400_000, **changes,
    )  # fmt: skip
    rng = np.random.default_rng(3)
    rows = 400
    columns = {
        "arrival_us": np.sort(rng.integers(0, 60_000_000, rows)),
        "model": rng.integers(0, 5, rows),
        "task": rng.integers(0, 4, rows),
        "context_tokens": rng.integers(20, 400, rows),
        "output_tokens": rng.integers(1, 200, rows),
        "session": rng.integers(0, 30, rows),
        "user": rng.integers(0, 9, rows),
    }
    return tables, Workload.from_columns(**columns, new_tokens=np.minimum(columns["context_tokens"], 50))


CASES = {
    "eviction": lambda: (scenario(), "cace"),
    "eviction, two accelerators, models asleep": lambda: (tight(), "lru"),
    "swap": lambda: (swap(scenario()), "wsjf+cace"),
    "swap, patient": lambda: (swap(tight()), "patient-fifo+lru"),
    "swap, prefetch": lambda: (swap(tight(prefetch_limit=40)), "lru"),
    "keep-alive": lambda: (tight(), "ollama"),
    "a trained agent": lambda: (scenario(), "agent:eviction"),
    "a trained agent, swap": lambda: (swap(scenario()), "agent:swap"),
}


def swap(case: tuple[FleetTables, Workload]) -> tuple[FleetTables, Workload]:
    return case[0].replace(protocol=Protocol.SWAP), case[1]


def check(replay: Replay, rule: str) -> int:
    """Asserts that both see the same at every question, and that all else follows; the number of questions."""
    ours, theirs = replay.mirror, replay.simulator
    player = Player(rule, policy(rule), replay.tables, replay.workload, 0)
    layout = ObservationLayout(ours.simulator.max_slots, replay.tables.num_models)
    count = 0
    for action in replay.questions():
        count += 1
        seen = ours.simulator
        assert ours.asked and ours.now_us == theirs.question.now_us
        assert seen.question.target == theirs.question.target
        np.testing.assert_array_equal(seen.question.slot_models, theirs.question.slot_models)
        np.testing.assert_array_equal(seen.question.legal, theirs.question.legal)
        np.testing.assert_array_equal(seen.features(), theirs.features())
        np.testing.assert_array_equal(seen.model_features(), theirs.model_features())
        np.testing.assert_array_equal(seen.observation(layout), theirs.observation(layout))
        assert player.answer(seen)[0] == action
    trace = theirs.episode().trace
    assert replay.traced[: len(trace)] == trace
    return count


@pytest.mark.parametrize("name", CASES)
def test_a_policy_sees_of_real_servers_what_it_would_see_in_the_simulator(name: str):
    (tables, workload), rule = CASES[name]()
    assert check(Replay(tables, workload, rule), rule) > 20


def test_rows_that_are_used_again_change_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mirror, "ROWS", 4)
    tables, workload = scenario()
    replay = Replay(tables, workload, "cace")
    assert check(replay, "cace") > 20
    assert len(replay.mirror.state.requests) < len(workload) / 2


def test_a_session_that_is_forgotten_pauses_no_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mirror, "ROWS", 4)
    seen = two_models()
    hour_us = 3_600_000_000
    for at in range(9):
        row = ask(seen, 1 + at * hour_us, 0, session=at)
        if at == 0:
            seen.channel_done(2, 0)
            seen.end_instant()
        seen.first_token(3 + at * hour_us, row)
        seen.finish(4 + at * hour_us, row, 1)
    assert len(seen.state.pairs) == 4
    pauses = seen.state.pauses[: seen.state.scalars[PAUSES]]
    pauses = pauses[pauses[:, PAUSE.who] != NONE]
    assert pauses[-1, PAUSE.began_us] == 4 + 8 * hour_us
    assert set((pauses[:, PAUSE.who] >> PAIR_AT).tolist()) <= set(seen._sessions.values())
    assert len(seen._sessions) <= 4


@settings(max_examples=30, deadline=None)
@given(data=st.data(), rule=st.sampled_from(["lru", "cace", "ollama"]), protocol=st.sampled_from(Protocol))
def test_any_small_fleet_looks_the_same(data: st.DataObject, rule: str, protocol: Protocol):
    tables = live_tables(data.draw(strategies.fleets()))
    workload = data.draw(strategies.workloads(tables))
    tables = tables.replace(protocol=protocol, unlimited_memory=False)
    tokens = workload.context_tokens.astype(np.int64) + workload.output_tokens
    assume((tokens <= tables.kv_tokens[workload.model]).all())
    check(Replay(tables, workload, rule), rule)


def two_models() -> Mirror:
    """One accelerator with room for one of two models."""
    return Mirror(live_tables(fleet(unload_us=1)), NO_LIMITS)


def ask(mirror: Mirror, now_us: int, model: int, **changes: Any) -> int:
    row = mirror.arrive(now_us, Arrival(model, 0, 10, 10, "s", "u")._replace(**changes))
    mirror.end_instant()
    return row


def kinds(mirror: Mirror) -> list[tuple[str, int]]:
    return [(row.kind, row.subject) for row in mirror.take_trace()]


def test_a_victim_leaves_only_after_its_last_request_even_if_that_is_given_up():
    mirror = Mirror(live_tables(fleet(unload_us=1, drain_after_us=1000)), NO_LIMITS)
    first = ask(mirror, 1, 0)
    mirror.channel_done(5, 0)
    mirror.end_instant()
    ask(mirror, 6, 1)
    while mirror.alarm_us <= 1006:
        mirror.alarm()
        mirror.end_instant()
    assert ("VICTIM", 0) in kinds(mirror)
    mirror.give_up(2000, first)
    mirror.end_instant()
    assert kinds(mirror) == [("FINISH", first), ("UNLOAD_START", 0)]
    mirror.channel_done(2001, 0)
    mirror.end_instant()
    assert kinds(mirror) == [("UNLOAD_DONE", 0), ("LOAD_START", 1)]


def test_a_waiting_request_that_is_given_up_leaves_the_queue():
    mirror = two_models()
    rows = [ask(mirror, now, 0) for now in (1, 2, 3)]
    mirror.give_up(4, rows[1])
    mirror.channel_done(5, 0)
    mirror.end_instant()
    assert [subject for kind, subject in kinds(mirror) if kind == "ADMITTED"] == [rows[0], rows[2]]
    assert mirror.simulator.features()[0, SLOT.waiting] == 0


def test_a_model_that_nobody_waits_for_any_more_is_not_loaded():
    mirror = two_models()
    ask(mirror, 1, 0)
    waiting = ask(mirror, 2, 1)  # the channel is busy
    mirror.give_up(3, waiting)
    mirror.channel_done(4, 0)
    mirror.end_instant()
    assert ("VICTIM", 0) not in kinds(mirror) and mirror.alarm_us > 4


def test_a_failed_load_gives_its_memory_back():
    mirror = two_models()
    row = ask(mirror, 1, 0)
    mirror.give_up(2, row)
    mirror.load_failed(2, 0)
    mirror.end_instant()
    assert mirror.state.accelerators[0, ACCELERATOR.free] == 10
    ask(mirror, 3, 1)
    assert ("LOAD_START", 1) in kinds(mirror)


def test_an_answer_that_is_given_up_teaches_nothing_about_lengths():
    mirror = two_models()
    one, other = ask(mirror, 1, 0), ask(mirror, 1, 0)
    mirror.channel_done(2, 0)
    for row in (one, other):
        mirror.first_token(3, row)
        mirror.received(row, 4 * TOKEN)
    assert mirror.simulator.features()[0, SLOT.emitted_tokens] == 10
    mirror.finish(4, one, 20)
    mirror.give_up(5, other)
    assert mirror.simulator.features()[0, SLOT.expected_output_tokens] == 20
    assert mirror.simulator.features()[0, SLOT.emitted_tokens] == 0
    assert mirror.state.models[0, MODEL.kv_used] == 0
