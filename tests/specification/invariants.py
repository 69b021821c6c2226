"""What holds for every finished run of any simulator: checked from its arrays and its event trace alone.

`check_run` replays the trace as a book-keeper would: it knows the rules about memory, channels, queues and seats, but
nothing about how the simulator decides or computes its times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cace_env.tables import NONE, TASKS, FleetTables
from cace_env.workload import Workload

TOLERANCE_US = 2  # clocks are rounded to 2^-20 rounds and whole microseconds, once per prefill and once per decoding
PER_REQUEST = ("ARRIVAL", "REFUSED", "ADMITTED", "FIRST_TOKEN", "FINISH")
PER_MODEL = ("VICTIM", "UNLOAD_START", "UNLOAD_DONE", "LOAD_START", "LOAD_DONE")
PER_TASK = ("waiting_us", "system_us", "slo_missed")
COLUMNS = (
    *("arrival_us", "first_token_us", "finish_us", "refused"),
    *PER_TASK,
    *("busy_us", "channel_us", "model_loads"),
)
COUNTERS = (
    *("evictions", "forced_evictions", "drains", "keep_alive_evictions"),
    *("loads", "load_us_total", "loaded_bytes", "regret_loads", "cold_requests", "prefix_tokens_lost"),
    *("decisions", "waits", "prefetches", "truncated", "end_us"),
)


class Run(Protocol):
    """What `check_run` reads; `tests.specification.reference.ReferenceRun` has it. Per request -1 = never happened."""

    @property
    def arrival_us(self) -> Sequence[int]: ...
    @property
    def first_token_us(self) -> Sequence[int]: ...
    @property
    def finish_us(self) -> Sequence[int]: ...
    @property
    def refused(self) -> Sequence[bool]: ...
    @property
    def waiting_us(self) -> Sequence[int]: ...
    @property
    def system_us(self) -> Sequence[int]: ...
    @property
    def slo_missed(self) -> Sequence[int]: ...
    @property
    def busy_us(self) -> Sequence[int]: ...
    @property
    def channel_us(self) -> Sequence[int]: ...
    @property
    def model_loads(self) -> Sequence[int]: ...
    @property
    def evictions(self) -> int: ...
    @property
    def forced_evictions(self) -> int: ...
    @property
    def drains(self) -> int: ...
    @property
    def keep_alive_evictions(self) -> int: ...
    @property
    def loads(self) -> int: ...
    @property
    def load_us_total(self) -> int: ...
    @property
    def loaded_bytes(self) -> int: ...
    @property
    def regret_loads(self) -> int: ...
    @property
    def cold_requests(self) -> int: ...
    @property
    def prefix_tokens_lost(self) -> int: ...
    @property
    def memory_byte_us(self) -> float: ...
    @property
    def decisions(self) -> int: ...
    @property
    def waits(self) -> int: ...
    @property
    def prefetches(self) -> int: ...
    @property
    def truncated(self) -> bool: ...
    @property
    def end_us(self) -> int: ...
    @property
    def trace(self) -> Sequence[tuple[int, str, int, int]]: ...


def check_run(tables: FleetTables, workload: Workload, run: Run, *, max_resident: int | None = None) -> None:
    """Asserts every invariant of the rules.

    Raises:
        AssertionError: the first invariant that is broken, with request, model or accelerator and time.
    """
    check_conservation(workload, run)
    check_request_times(tables, workload, run)
    check_arrivals(tables, workload, run)
    check_costs(tables, workload, run)
    check_trace(tables, workload, run, max_resident=max_resident)


def assert_same_run(expected: Run, actual: Run) -> None:
    """Asserts that two simulators did the same: traces row by row, then every array and counter.

    Raises:
        AssertionError: the first row or column that differs, with what led up to it.
    """
    for i, (row, other) in enumerate(zip(expected.trace, actual.trace, strict=False)):
        before = "\n".join(f"  {earlier}" for earlier in expected.trace[max(0, i - 12) : i])
        assert tuple(row) == tuple(other), f"row {i} of the trace: {other}, expected {row}, after\n{before}"
    longer, shorter = sorted((expected.trace, actual.trace), key=len, reverse=True)
    assert len(longer) == len(shorter), f"one trace goes on with {longer[len(shorter)]} after {len(shorter)} rows"
    for name in COLUMNS:
        column, other_column = list(getattr(expected, name)), list(getattr(actual, name))
        assert column == other_column, f"{name}: {other_column}, expected {column}"
    for name in COUNTERS:
        count, other_count = getattr(expected, name), getattr(actual, name)
        assert count == other_count, f"{name}: {other_count}, expected {count}"
    area, other_area = expected.memory_byte_us, actual.memory_byte_us
    assert math.isclose(area, other_area, rel_tol=1e-9), f"memory_byte_us: {other_area}, expected {area}"


def check_conservation(workload: Workload, run: Run) -> None:
    """Requests in = finished + refused, and in a truncated run + running + waiting + not yet arrived."""
    for r in range(len(workload)):
        arrived, started, finished = (column[r] >= 0 for column in (run.arrival_us, run.first_token_us, run.finish_us))
        if run.refused[r]:
            assert arrived and not started and not finished, f"refused request {r} was served"
        elif not run.truncated:
            assert arrived and started and finished, f"request {r} was lost"
        assert started <= arrived and finished <= started, f"request {r} skipped a stage"


def check_request_times(tables: FleetTables, workload: Workload, run: Run) -> None:
    """arrival <= first token <= finish <= end, and none is served faster than alone on the fastest accelerator."""
    ends = [0]
    for r in range(len(workload)):
        arrival, first, finish = run.arrival_us[r], run.first_token_us[r], run.finish_us[r]
        least_ttft, least_e2e = alone_us(tables, workload, r)
        if first >= 0:
            assert arrival <= first <= run.end_us, f"request {r}: first token at {first}, arrival at {arrival}"
            assert first - arrival >= least_ttft - TOLERANCE_US, f"request {r}: TTFT {first - arrival} < {least_ttft}"
        if finish >= 0:
            assert first <= finish <= run.end_us, f"request {r}: finish at {finish}, first token at {first}"
            assert finish - arrival >= least_e2e - TOLERANCE_US, f"request {r}: E2E {finish - arrival} < {least_e2e}"
            assert (finish == first) == (workload.output_tokens[r] == 1), f"request {r}: tokens without time"
        ends.append(finish if finish >= 0 else arrival if run.refused[r] else 0)
    if not run.truncated:
        assert run.end_us == max(ends), f"the run ends at {run.end_us}, its last request at {max(ends)}"


def check_arrivals(tables: FleetTables, workload: Workload, run: Run) -> None:
    """Open loop: at the given time; closed loop: `think` after the other one was over; refused: the too long ones."""
    for r in range(len(workload)):
        before = int(workload.after[r])
        due: int | None
        if before == NONE:
            due = int(workload.arrival_us[r])
        else:
            over = run.arrival_us[before] if run.refused[before] else run.finish_us[before]
            due = over + int(workload.think_us[r]) if over >= 0 else None
        if run.arrival_us[r] >= 0:
            assert run.arrival_us[r] == due, f"request {r} arrived at {run.arrival_us[r]}, was due at {due}"
            tokens = int(workload.context_tokens[r]) + int(workload.output_tokens[r])
            room = int(tables.kv_tokens[workload.model[r]])
            assert run.refused[r] == (tokens > room), f"request {r} of {tokens} tokens, room for {room}"
        else:
            assert due is None or due > run.end_us or run.truncated, f"request {r} was due at {due}"


def check_costs(tables: FleetTables, workload: Workload, run: Run) -> None:
    """Request-microseconds per task are the sums of TTFT and E2E, of unfinished requests until the end."""
    waiting, system, missed = ([0] * len(TASKS) for _ in range(3))
    for r, task in enumerate(workload.task.tolist()):
        arrival, first, finish = run.arrival_us[r], run.first_token_us[r], run.finish_us[r]
        if arrival < 0 or run.refused[r]:
            continue
        waiting[task] += (first if first >= 0 else run.end_us) - arrival
        system[task] += (finish if finish >= 0 else run.end_us) - arrival
        judged = finish if tables.cost.slo_on_e2e[task] else first
        missed[task] += judged >= 0 and judged - arrival > tables.cost.slo_us[task]
    assert list(run.waiting_us) == waiting, f"waiting_us {list(run.waiting_us)}, sum of TTFT {waiting}"
    assert list(run.system_us) == system, f"system_us {list(run.system_us)}, sum of E2E {system}"
    assert list(run.slo_missed) == missed, f"slo_missed {list(run.slo_missed)}, counted {missed}"


def check_trace(tables: FleetTables, workload: Workload, run: Run, *, max_resident: int | None = None) -> None:
    """Replays the trace: clock, memory, channels, states, queues, seats, KV room; and the counters and arrays agree."""
    books = _Books(tables, workload, max_resident)
    targets = _targets(run.trace, set(range(tables.num_models)))
    for row, (time_us, kind, subject, accelerator) in enumerate(run.trace):
        if kind == "VICTIM":
            books.giving_up |= targets[row]
        books.enter(time_us, kind, subject, accelerator)
    for kind, column in (("ARRIVAL", run.arrival_us), ("FIRST_TOKEN", run.first_token_us), ("FINISH", run.finish_us)):
        for r in range(len(workload)):
            assert books.when.get((kind, r), -1) == column[r], f"request {r}: {kind} in the trace is not in the array"
    assert books.evictions == run.evictions, f"{run.evictions} evictions, {books.evictions} in the trace"
    assert books.loads == run.loads, f"{run.loads} loads, {books.loads} in the trace"
    least, most = books.load_us_least + sum(books.open_load_least), books.load_us_least + sum(books.open_load_most)
    assert least <= run.load_us_total <= most, f"load_us_total {run.load_us_total}, by the trace {least} to {most}"
    assert books.now <= run.end_us, f"the trace goes on to {books.now}, the run ends at {run.end_us}"


def alone_us(tables: FleetTables, workload: Workload, r: int) -> tuple[int, int]:
    """Least TTFT and E2E of a request: alone on the fastest accelerator, model resident, prefix cached.

    The provable lower bound of every policy, to within `TOLERANCE_US`.
    """
    m, context = int(workload.model[r]), int(workload.context_tokens[r])
    new, output = int(workload.new_tokens[r]), int(workload.output_tokens[r])
    chunks = -(-new // int(tables.chunk_tokens[m]))
    ttft, e2e = [], []
    for a in range(tables.num_accelerators):
        work_ns = int(tables.prefill_ns[a, m]) * new
        work_ns += int(tables.attention_ps[a, m]) * (context**2 - (context - new) ** 2) // 2000
        work_ns += int(tables.request_ns[a, m])
        batch_ns = tables.batch_ns[a, m].tolist()
        alone_ns = batch_ns[1] if len(batch_ns) > 1 else batch_ns[0] + int(tables.decode_ns[a, m])
        prefill_round_ns = max(1000, int(tables.round_ns[a, m]) + batch_ns[0] + work_ns // chunks)
        decode_round_ns = int(tables.round_ns[a, m]) + alone_ns
        decode_round_ns = max(1000, decode_round_ns + int(tables.kv_ps[a, m]) * (2 * context + output) // 2000)
        ttft.append(-(-chunks * prefill_round_ns // 1000))
        e2e.append(-(-(chunks * prefill_round_ns + (output - 1) * decode_round_ns) // 1000))
    return min(ttft), min(e2e)


def _targets(trace: Sequence[tuple[int, str, int, int]], unknown: set[int]) -> dict[int, set[int]]:
    """Which model each victim makes room for, by the row of the trace; `unknown` where that ends before its load."""
    coming: dict[int, set[int]] = {}
    found = {}
    for row in range(len(trace) - 1, -1, -1):
        _, kind, subject, accelerator = trace[row]
        if kind == "LOAD_START":
            coming[accelerator] = {subject}
        elif kind == "VICTIM":
            found[row] = coming.get(accelerator, unknown)
    return found


@dataclass
class _Channel:
    """What is known of a swap channel from the trace: victims of the swap under way, and what moves now."""

    victims: list[int] = field(default_factory=list)
    unloading: int = NONE
    loading: int = NONE
    since: int = 0


class _Books:
    """The state of the fleet as the trace tells it."""

    def __init__(self, tables: FleetTables, workload: Workload, max_resident: int | None) -> None:
        self.tables, self.workload = tables, workload
        self.max_resident = None if tables.unlimited_memory else max_resident
        models = range(tables.num_models)
        start = np.where(tables.pinned_on != NONE, tables.pinned_on, tables.resident_on).tolist()
        self.place = start  # per model: accelerator whose memory it occupies, or NONE
        self.state = ["resident" if place != NONE else "absent" for place in start]
        self.asleep = [int(a) if tables.residual_bytes[m] > 0 else NONE for m, a in enumerate(tables.asleep_on)]
        self.giving_up: set[int] = set()  # models that are planned: a residual of theirs elsewhere goes at some moment
        self.channels = [_Channel() for _ in range(tables.num_accelerators)]
        self.queues: list[list[int]] = [[] for _ in models]  # waiting
        self.running: list[list[int]] = [[] for _ in models]  # admitted
        self.when: dict[tuple[str, int], int] = {}
        self.now = self.evictions = self.loads = self.load_us_least = self.prefetches = 0
        self.most_prefetches = tables.prefetch_limit if tables.protocol == "swap" else 0
        # A load still open at the end is known only by its tiers: between the cheaper and the dearer one.
        self.open_load_least, self.open_load_most = [0] * tables.num_accelerators, [0] * tables.num_accelerators
        self._check_memory("at time 0")

    def enter(self, time_us: int, kind: str, subject: int, accelerator: int) -> None:
        """One row of the trace."""
        where = f"{kind} {subject} on {accelerator} at {time_us} us"
        assert kind in PER_REQUEST + PER_MODEL, f"{where}: unknown kind"
        assert time_us >= self.now, f"{where}: the clock went back from {self.now}"
        self.now = time_us
        if kind in PER_REQUEST:
            assert (kind, subject) not in self.when, f"{where}: happened before"
            self.when[kind, subject] = time_us
            m = int(self.workload.model[subject])
            assert accelerator == self.place[m], f"{where}: model {m} is on {self.place[m]}"
            self._request(kind, subject, m, where)
        else:
            self._model(kind, subject, accelerator, where)

    def _request(self, kind: str, r: int, m: int, where: str) -> None:
        if kind == "ARRIVAL":
            self.queues[m].append(r)
        elif kind == "REFUSED":
            assert self.queues[m].pop() == r, f"{where}: not refused on arrival"
        elif kind == "ADMITTED":
            assert self.state[m] == "resident", f"{where}: admitted by a model that is {self.state[m]}"
            assert self.queues[m] and self.queues[m].pop(0) == r, f"{where}: not first in, first out"
            self.running[m].append(r)
            tokens = sum(int(self.workload.context_tokens[q] + self.workload.output_tokens[q]) for q in self.running[m])
            assert len(self.running[m]) <= self.tables.max_num_seqs[m], f"{where}: more requests than seats"
            assert tokens <= self.tables.kv_tokens[m], f"{where}: {tokens} tokens, room for {self.tables.kv_tokens[m]}"
        else:
            assert r in self.running[m], f"{where}: not running"
            if kind == "FINISH":
                assert ("FIRST_TOKEN", r) in self.when, f"{where}: no first token"
                self.running[m].remove(r)

    def _model(self, kind: str, m: int, a: int, where: str) -> None:
        channel = self.channels[a]
        if kind == "VICTIM":
            assert self.state[m] == "resident" and self.place[m] == a, f"{where}: victim is {self.state[m]}"
            assert self.tables.pinned_on[m] == NONE, f"{where}: victim is pinned"
            assert channel.loading == NONE, f"{where}: a load is under way"
            assert channel.unloading in (NONE, *channel.victims), f"{where}: a lone unload is under way"
            self.state[m] = "draining"
            channel.victims.append(m)
        elif kind == "UNLOAD_START":
            self._start_unload(channel, m, a, where)
        elif kind == "UNLOAD_DONE":
            assert channel.unloading == m, f"{where}: it was not unloading"
            took = self.now - channel.since
            assert took == self.tables.unload_us[a, m], f"{where}: unloading took {took} us"
            channel.unloading = NONE
            if m in channel.victims:
                channel.victims.remove(m)
            self.state[m], self.place[m] = "absent", NONE
            self.asleep[m] = a if self.tables.residual_bytes[m] > 0 else NONE
            self._check_memory(where)
        elif kind == "LOAD_START":
            assert self.state[m] == "absent", f"{where}: it is {self.state[m]}"
            self.prefetches += not self.queues[m]
            assert self.prefetches <= self.most_prefetches, f"{where}: nobody waits for it"
            assert channel.loading == channel.unloading == NONE, f"{where}: the channel is taken"
            assert not channel.victims, f"{where}: victims {channel.victims} have not left"
            self.state[m], self.place[m], self.asleep[m] = "loading", a, NONE
            self.giving_up.discard(m)
            channel.loading, channel.since = m, self.now
            self.loads += 1
            self.open_load_least[a] = int(self.tables.load_us[a, m].min())
            self.open_load_most[a] = int(self.tables.load_us[a, m].max())
            self._check_memory(where)
            count = self.place.count(a)
            assert self.max_resident is None or count <= self.max_resident, f"{where}: {count} models"
        elif kind == "LOAD_DONE":
            assert channel.loading == m, f"{where}: it was not loading"
            took = self.now - channel.since
            assert took in self.tables.load_us[a, m], f"{where}: loading took {took} us"
            self.state[m], channel.loading = "resident", NONE
            self.load_us_least += took
            self.open_load_least[a] = self.open_load_most[a] = 0

    def _start_unload(self, channel: _Channel, m: int, a: int, where: str) -> None:
        """A victim, first chosen first among those that run nothing; or, unasked, an idle model on an idle channel."""
        assert not self.tables.unlimited_memory, f"{where}: nothing is evicted where memory is unlimited"
        assert self.place[m] == a and self.tables.pinned_on[m] == NONE, f"{where}: absent or pinned"
        assert not self.running[m], f"{where}: requests {self.running[m]} are running"
        assert channel.unloading == channel.loading == NONE, f"{where}: the channel is taken"
        if channel.victims:
            ready = [victim for victim in channel.victims if not self.running[victim]]
            assert ready[0] == m, f"{where}: the first victim ready to leave is {ready[0]}"
        else:
            assert self.state[m] == "resident" and not self.queues[m], f"{where}: not idle"
        self.state[m] = "unloading"
        channel.unloading, channel.since = m, self.now
        self.evictions += 1

    def _check_memory(self, where: str) -> None:
        """`used + free = total`, `free >= 0`, residuals counted."""
        if self.tables.unlimited_memory:
            return
        for a, memory in enumerate(self.tables.memory_bytes.tolist()):
            used = sum(int(self.tables.need_bytes[m]) for m, place in enumerate(self.place) if place == a)
            used += sum(
                int(self.tables.residual_bytes[m])
                for m, place in enumerate(self.asleep)
                if place == a and m not in self.giving_up
            )
            assert used <= memory, f"{where}: accelerator {a} holds {used} of {memory} bytes"
