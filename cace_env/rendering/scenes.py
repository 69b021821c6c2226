"""The scene of a simulation, and the scene as text. `picture.py` draws it.

The history comes from the kernel's event trace; without one (`Simulator(trace=True)`) a scene has only the present.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.kernel import state as layout
from cace_env.kernel.state import ACCELERATOR, COLUMN, MODEL, TRACE_KINDS
from cace_env.observation import PENDING, SLOT
from cace_env.simulation import Question, Simulator
from cace_env.tables import NONE, FleetTables, Int64Array

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


RENDER_MODES: Final = {"ansi": (), "rgb_array": ("PIL",)}  # modules that each mode needs
HUMAN: Final = "human"  # mode of Gymnasium: `make` wraps "rgb_array" in its window, `HumanRendering`


def render_modes() -> list[str]:
    """The modes whose libraries are installed, so that every mode in an environment's metadata works."""
    return [mode for mode, needs in RENDER_MODES.items() if all(map(find_spec, needs))]


def check_render_mode(mode: str | None) -> None:
    """Check that a render mode is available.

    Raises:
        ValueError: there is no such mode.
        ImportError: a library that it needs is missing; the message names the extra.
    """
    if mode is None:
        return
    if mode in (HUMAN, "rgb_array") and "rgb_array" not in render_modes():
        extra = HUMAN if mode == HUMAN else "render"
        raise ImportError(f'render_mode={mode!r} needs Pillow; pip install "cace-env[{extra}]"')
    if mode == HUMAN:
        raise ValueError(
            'the environment itself does not open a window; use gymnasium.make(..., render_mode="human"), or '
            'gymnasium.wrappers.HumanRendering around an environment with render_mode="rgb_array"'
        )
    if mode not in RENDER_MODES:
        raise ValueError(f"render_mode is {mode!r}; it has to be None or one of {', '.join(RENDER_MODES)}")


VICTIM_COLUMNS: Final = ("frees GB", "reload s", "unused s", "/min")
LOAD_COLUMNS: Final = ("needs GB", "load s", "waiting", "for s")


class Candidate(NamedTuple):
    """A legal action, with the features that most rules use."""

    action: int
    model: int  # the model that would leave or be loaded; NONE = wait
    running: int
    values: tuple[str, ...]  # in the columns of the choice; "" if waiting has no value


class Choice(NamedTuple):
    """A question to the policy and its answer."""

    time_us: int
    target: int  # the model that needs room; NONE = asked which model to load
    why: str
    columns: tuple[str, ...]  # VICTIM_COLUMNS or LOAD_COLUMNS
    candidates: tuple[Candidate, ...]
    picked: int  # the chosen action, NONE while open


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
    """A model's stay in a slot. Times in us; None for events still to come."""

    accelerator: int
    lane: int  # number of the slot on its accelerator
    model: int
    start_us: int
    loaded_us: int | None
    leaving_us: int | None
    end_us: int | None


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn. `M` models."""

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
        """Count waiting requests per model at ascending times, `(M, len(times_us))`."""
        counts = np.zeros((len(self.names), len(times_us)), dtype=np.int64)
        for m in range(len(self.names)):
            events = self.queue_events[self.queue_events[:, 1] == m]
            total = np.concatenate([[0], np.cumsum(events[:, 2])])
            counts[m] = total[np.searchsorted(events[:, 0], times_us, side="right")]
        return counts


def open_choice(simulator: Simulator, picked: int = NONE) -> Choice:
    """The open question, with the answer about to be given, if any."""
    question = simulator.question
    legal = np.flatnonzero(question.legal).tolist()
    return (_load_choice if question.target == NONE else _victim_choice)(simulator, question, legal, picked)


def _victim_choice(simulator: Simulator, question: Question, legal: list[int], picked: int) -> Choice:
    """The choice of which model to evict."""
    s, target = simulator.state, question.target
    features = simulator.features()
    columns = [SLOT.freed_gb, SLOT.reload_s, SLOT.since_use_s, SLOT.rate_10m]
    waiting = int(s.models[target, MODEL.waiting])
    why = f"{features[legal, SLOT.missing_gb].min():.1f} of {simulator.tables.need_bytes[target] * GB:.1f} GB missing"
    if waiting:
        first = int(s.models[target, MODEL.queue_head])
        wait_s = (question.now_us - int(s.requests[first, layout.REQUEST.arrival_us])) * SECONDS
        why += f", {waiting} waiting for up to {wait_s:.1f} s"
    candidates = tuple(
        Candidate(
            action=slot,
            model=int(question.slot_models[slot]),
            running=int(features[slot, SLOT.running]),
            values=tuple(f"{value:.1f}" for value in features[slot, columns].tolist()),
        )
        for slot in legal
    )
    return Choice(question.now_us, target, why, VICTIM_COLUMNS, candidates, picked)


def _load_choice(simulator: Simulator, question: Question, legal: list[int], picked: int) -> Choice:
    """The choice of which model to load, or to wait."""
    features = simulator.model_features()
    models = [action - simulator.max_slots for action in legal if action < len(question.legal) - 1]
    candidates = []
    for m in models:
        need_gb, load_s, waiting, wait_s = features[
            m, [PENDING.need_gb, PENDING.load_s, PENDING.waiting, PENDING.oldest_wait_s]
        ].tolist()
        values = (f"{need_gb:.1f}", f"{load_s:.1f}", f"{waiting:.0f}", f"{wait_s:.1f}")
        candidates.append(Candidate(simulator.max_slots + m, m, 0, values))
    why = f"{int(features[models, PENDING.fits].sum())} of {len(models)} without an eviction"
    if len(models) < len(legal):
        why += ", or wait"
        candidates.append(Candidate(legal[-1], NONE, 0, ("",) * len(LOAD_COLUMNS)))
    return Choice(question.now_us, NONE, why, LOAD_COLUMNS, tuple(candidates), picked)


def scene(simulator: Simulator, last: Choice | None, scenario: str) -> Scene:
    """The scene of the current simulation; `last` is the decision that led here."""
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
    """Format a scene: clock, accelerators with their slots, waiting requests, the last decision and the next one."""
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
    lines += ["", f"waiting for an absent model: {', '.join(absent) or 'none'}"]
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
    """The question in words, and its background: memory missing and waiting requests, or what could be loaded."""
    return "which model to load" if choice.target == NONE else f"room for {names[choice.target]}", choice.why


def candidate_name(candidate: Candidate, names: tuple[str, ...]) -> str:
    """The candidate's model and its running requests, or waiting."""
    if candidate.model == NONE:
        return "wait"
    return names[candidate.model] + (f" ({candidate.running} running)" if candidate.running else "")


def _bar(site: Site) -> str:
    """Memory as characters: a letter per slot, z for residuals, a dot for free memory."""
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
    """Candidates with their key features; the chosen one is marked."""
    lines = [f"    {'action':<7}{'candidate':<40}" + "".join(f"{column:>10}" for column in choice.columns)]
    for candidate in choice.candidates:
        mark = ">" if candidate.action == choice.picked else " "
        values = "".join(f"{value:>10}" for value in candidate.values)
        lines.append(f"  {mark} {candidate.action:<7}{candidate_name(candidate, names):<40}{values}")
    return [line.rstrip() for line in lines]


def _site(simulator: Simulator, a: int) -> Site:
    """Accelerator `a` and its models."""
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
    """Stays of models in slots, replayed from the trace; the lowest free slot is taken, as in the kernel."""
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
