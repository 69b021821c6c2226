"""What there is to look at: the scene of a simulation, and the scene as text. `picture.py` draws it.

The history comes from the kernel's event trace; without one (`Simulator(trace=True)`) there is only the present.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.kernel import state as layout
from cace_env.kernel.state import ACCELERATOR, COLUMN, MODEL, TRACE_KINDS
from cace_env.observation import SLOT
from cace_env.simulator import Simulator
from cace_env.tables import NONE, FleetTables

Int64Array = npt.NDArray[np.int64]

GB: Final = 1e-9
SECONDS: Final = 1e-6
PHASES: Final = {
    layout.ABSENT: "absent",
    layout.PLANNED: "planned",
    layout.LOADING: "loading",
    layout.RESIDENT: "resident",
    layout.DRAINING: "draining",
    layout.UNLOADING: "unloading",
}
BAR: Final = 48  # characters of an accelerator's memory


class Candidate(NamedTuple):
    """A legal victim, with the features that most rules look at."""

    slot: int
    model: int
    freed_gb: float
    reload_s: float
    since_use_s: float
    running: int
    rate_10m: float  # requests per minute


class Choice(NamedTuple):
    """A question to the policy, and its answer."""

    time_us: int
    target: int
    need_gb: float
    missing_gb: float  # on the accelerator that lacks least
    waiting: int  # requests for the target
    wait_s: float  # of the first of them
    candidates: tuple[Candidate, ...]
    picked: int  # slot, NONE while open


class Resident(NamedTuple):
    """A model that occupies memory."""

    slot: int
    model: int
    phase: str
    need_gb: float
    running: int
    waiting: int


class Site(NamedTuple):
    """An accelerator."""

    name: str
    memory_gb: float
    free_gb: float
    asleep_gb: float  # residuals of evicted models
    residents: tuple[Resident, ...]  # by slot


class Span(NamedTuple):
    """A model's stay in a slot. Times in us; what has not happened yet is None."""

    accelerator: int
    lane: int  # slot, counted on its accelerator
    model: int
    start_us: int
    loaded_us: int | None
    leaving_us: int | None
    end_us: int | None


@dataclass(frozen=True)
class Scene:
    """Everything that is shown. `M` models."""

    scenario: str
    now_us: int
    decisions: int
    cost: float
    names: tuple[str, ...]  # (M,)
    sites: tuple[Site, ...]
    phases: tuple[str, ...]  # (M,)
    waiting: tuple[int, ...]  # (M,) requests
    running: tuple[int, ...]  # (M,)
    question: Choice | None
    last: Choice | None
    spans: tuple[Span, ...]
    queue_events: Int64Array  # (E, 3) time_us, model, +1 or -1 waiting request

    def waiting_at(self, times_us: Int64Array) -> Int64Array:
        """Waiting requests per model at ascending times, `(M, len(times_us))`."""
        counts = np.zeros((len(self.names), len(times_us)), dtype=np.int64)
        for m in range(len(self.names)):
            events = self.queue_events[self.queue_events[:, 1] == m]
            total = np.concatenate([[0], np.cumsum(events[:, 2])])
            counts[m] = total[np.searchsorted(events[:, 0], times_us, side="right")]
        return counts


def open_choice(simulator: Simulator, picked: int = NONE) -> Choice:
    """The open question, with the answer that is about to be given."""
    s = simulator.state
    question = simulator.question
    features = simulator.features()
    target = question.target
    first = int(s.models[target, MODEL.queue_head])
    candidates = tuple(
        Candidate(
            slot=slot,
            model=int(question.slot_models[slot]),
            freed_gb=float(features[slot, SLOT.freed_gb]),
            reload_s=float(features[slot, SLOT.reload_s]),
            since_use_s=float(features[slot, SLOT.since_use_s]),
            running=int(features[slot, SLOT.running]),
            rate_10m=float(features[slot, SLOT.rate_10m]),
        )
        for slot in np.flatnonzero(question.legal).tolist()
    )
    return Choice(
        time_us=question.now_us,
        target=target,
        need_gb=float(simulator.tables.need_bytes[target] * GB),
        missing_gb=float(features[question.legal, SLOT.missing_gb].min()),
        waiting=int(s.models[target, MODEL.waiting]),
        wait_s=(question.now_us - int(s.requests[first, layout.REQUEST.arrival_us])) * SECONDS,
        candidates=candidates,
        picked=picked,
    )


def scene(simulator: Simulator, last: Choice | None, scenario: str) -> Scene:
    """The simulation as it stands; `last` is the decision that led here."""
    s, tables = simulator.state, simulator.tables
    scalars = s.scalars
    asked = int(scalars[layout.STATUS]) == layout.ASKED
    trace = simulator.trace[: scalars[layout.TRACED]]
    return Scene(
        scenario=scenario,
        now_us=int(scalars[layout.CLOCK]),
        decisions=int(scalars[layout.DECISIONS]),
        cost=simulator.cost(),
        names=tables.model_names,
        sites=tuple(_site(simulator, a) for a in range(tables.num_accelerators)),
        phases=tuple(PHASES[phase] for phase in s.models[:, MODEL.phase].tolist()),
        waiting=tuple(s.models[:, MODEL.waiting].tolist()),
        running=tuple(s.models[:, MODEL.running].tolist()),
        question=open_choice(simulator) if asked else None,
        last=last,
        spans=tuple(_spans(tables, trace)),
        queue_events=_queue_events(trace, simulator.arguments[4].columns[:, COLUMN.model]),
    )


def ansi(view: Scene) -> str:
    """The scene as text: clock, accelerators with their slots, waiting requests, the last decision and the next one."""
    lines = [
        f"{view.scenario}   {clock(view.now_us)}   decision {view.decisions}   cost {view.cost:.1f}   "
        f"{sum(view.waiting)} waiting   {sum(view.running)} running"
    ]
    for site in view.sites:
        used_gb = site.memory_gb - site.free_gb
        lines += ["", f"{site.name}  |{_bar(site)}|  {used_gb:.1f} of {site.memory_gb:.1f} GB"]
        for resident in site.residents:
            state = "idle" if resident.phase == "resident" and not resident.running else resident.phase
            lines.append(
                f"  {_letter(resident.slot)} slot {resident.slot:<3} {view.names[resident.model]:<26} "
                f"{resident.need_gb:6.1f} GB  {state:<9} {resident.running:3} running {resident.waiting:3} waiting"
            )
    absent = [
        f"{view.names[m]} {count}"
        for m, count in enumerate(view.waiting)
        if count and view.phases[m] in ("absent", "planned")
    ]
    lines += ["", f"waiting for an absent model: {', '.join(absent) or 'nobody'}"]
    if view.last is not None:
        lines += ["", f"last decision, {clock(view.last.time_us)}: {' - '.join(purpose(view.last, view.names))}"]
        lines += _table(view.last, view.names)
    if view.question is not None:
        lines += ["", f"asked now: {' - '.join(purpose(view.question, view.names))}"]
        lines += _table(view.question, view.names)
    return "\n".join(lines) + "\n"


def clock(time_us: int) -> str:
    """`1:02:03.4`."""
    tenths = time_us // 100_000
    return f"{tenths // 36000}:{tenths // 600 % 60:02}:{tenths // 10 % 60:02}.{tenths % 10}"


def purpose(choice: Choice, names: tuple[str, ...]) -> tuple[str, str]:
    """Why a victim is wanted: for whom, and how badly."""
    missing = f"{choice.missing_gb:.1f} of {choice.need_gb:.1f} GB missing"
    return f"room for {names[choice.target]}", f"{missing}, {choice.waiting} waiting for up to {choice.wait_s:.1f} s"


def _bar(site: Site) -> str:
    """Memory as characters: a letter per slot, z for what sleeps, a dot for what is free."""
    bar = ""
    for resident in site.residents:
        mark = _letter(resident.slot)
        bar += (mark.lower() if resident.phase in ("loading", "draining", "unloading") else mark) * round(
            resident.need_gb / site.memory_gb * BAR
        )
    bar += "z" * round(site.asleep_gb / site.memory_gb * BAR)
    return f"{bar[:BAR]:.<{BAR}}"


def _letter(slot: int) -> str:
    return chr(ord("A") + slot % 25)


def _table(choice: Choice, names: tuple[str, ...]) -> list[str]:
    """Candidates with their key features; the evicted one is marked."""
    lines = [
        f"    slot {'candidate':<26} {'frees GB':>8} {'reload s':>8} {'unused s':>8} {'running':>8} {'per min':>8}"
    ]
    for c in choice.candidates:
        mark = ">" if c.slot == choice.picked else " "
        lines.append(
            f"  {mark} {c.slot:<4} {names[c.model]:<26} {c.freed_gb:8.1f} {c.reload_s:8.1f} {c.since_use_s:8.1f} "
            f"{c.running:8} {c.rate_10m:8.2f}"
        )
    return lines


def _site(simulator: Simulator, a: int) -> Site:
    """Accelerator a and who is on it."""
    s, tables = simulator.state, simulator.tables
    residents = tuple(
        Resident(
            slot=slot,
            model=m,
            phase=PHASES[int(s.models[m, MODEL.phase])],
            need_gb=float(tables.need_bytes[m] * GB),
            running=int(s.models[m, MODEL.running]),
            waiting=int(s.models[m, MODEL.waiting]),
        )
        for slot, m in enumerate(s.slots.tolist())
        if m != NONE and s.models[m, MODEL.place] == a
    )
    free_gb = float(s.accelerators[a, ACCELERATOR.free] * GB)
    memory_gb = float(tables.memory_bytes[a] * GB)
    asleep_gb = float(tables.residual_bytes[s.models[:, MODEL.asleep] == a].sum() * GB)
    return Site(tables.accelerator_names[a], memory_gb, free_gb, asleep_gb, residents)


def _spans(tables: FleetTables, trace: Int64Array) -> Iterator[Span]:
    """Who sat where and when, replayed from the trace; the lowest free slot is taken, as in the kernel."""
    here: dict[int, Span] = {}
    taken: list[set[int]] = [set() for _ in range(tables.num_accelerators)]

    def enter(model: int, accelerator: int, time_us: int, loaded_us: int | None) -> None:
        lane = next(i for i in range(tables.num_models) if i not in taken[accelerator])
        taken[accelerator].add(lane)
        here[model] = Span(accelerator, lane, model, time_us, loaded_us, None, None)

    for places in (tables.pinned_on, tables.resident_on):
        for model in np.flatnonzero(places != NONE).tolist():
            enter(model, int(places[model]), 0, 0)
    swaps = trace[trace[:, 1] >= TRACE_KINDS.index("VICTIM")]
    for time_us, kind, model, accelerator in swaps.tolist():
        match TRACE_KINDS[kind]:
            case "LOAD_START":
                enter(model, accelerator, time_us, None)
            case "LOAD_DONE":
                here[model] = here[model]._replace(loaded_us=time_us)
            case "VICTIM":
                here[model] = here[model]._replace(leaving_us=time_us)
            case "UNLOAD_DONE":
                span = here.pop(model)
                taken[accelerator].remove(span.lane)
                yield span._replace(end_us=time_us)
    yield from here.values()


def _queue_events(trace: Int64Array, model: npt.NDArray[np.int32]) -> Int64Array:
    """Rows `time_us, model, change` of the waiting requests."""
    changes = np.zeros(len(TRACE_KINDS), dtype=np.int64)
    for kind, change in (("ARRIVAL", 1), ("REFUSED", -1), ("ADMITTED", -1)):
        changes[TRACE_KINDS.index(kind)] = change
    rows = trace[changes[trace[:, 1]] != 0]
    return np.stack([rows[:, 0], model[rows[:, 2]].astype(np.int64), changes[rows[:, 1]]], axis=1)
