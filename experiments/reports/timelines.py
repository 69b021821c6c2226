"""Which model sat where: cut out of the event trace of one episode, and drawn."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch

from cace_env.evaluation import run_episode
from cace_env.policies.built_in import Policy
from cace_env.simulation.outcome import TraceRow
from cace_env.tables import NONE, FleetTables
from experiments.running.cases import PreparedCase
from experiments.running.run_folder import BASELINE, Run, Span

FILE: Final = "timelines.csv"
MOST_REQUESTS: Final = 50_000  # of an episode with a timeline: its event trace takes about 1 KB per request
LOADS_SHOWN: Final = 40  # of the baseline, in the part of the episode that is drawn
# Twelve colours that the colour-blind tell apart (after Tol); then again, hatched.
COLOURS: Final = (
    *("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499"),
    *("#4477AA", "#EE7733", "#BBBBBB"),
)
HATCHES: Final = ("", "///", "...", "xxx")


def timelines(prepared: PreparedCase) -> list[Span]:
    """Which model sat where on the first seed: the baseline, CACE, the first agent and the first Python policy."""
    workload = prepared.case.workload(prepared.seeds[0])
    if len(workload) > MOST_REQUESTS:
        return []
    learned = [c for c in prepared.contestants if c.built_in is not None and c.built_in.network is not None]
    python = [c for c in prepared.contestants if not isinstance(c.policy, Policy)]
    shown = [c for c in prepared.contestants if c.name in (BASELINE, "cace")] + learned[:1] + python[:1]
    shown = list({contestant.name: contestant for contestant in shown}.values())
    spans = []
    for contestant in shown:
        simulator, _ = run_episode(contestant, prepared.case, workload, prepared.seeds[0], trace=True)
        episode = simulator.episode()
        rows = spans_of(episode.trace, prepared.case.tables, episode.end_us)
        spans += [Span(prepared.name, contestant.name, prepared.seeds[0], *row) for row in rows]
    return spans


def timelines_csv(spans: Sequence[Span]) -> str:
    """The rows as a file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([Span._fields, *spans])
    return text.getvalue()


def spans_of(trace: Sequence[TraceRow], tables: FleetTables, end_us: int) -> list[tuple[str, str, str, float, float]]:
    """(accelerator, model, state, from, to) [s] of an event trace, in order of time."""
    state = {"LOAD_START": "loading", "LOAD_DONE": "resident", "UNLOAD_START": "unloading", "UNLOAD_DONE": ""}
    start = np.where(tables.pinned_on != NONE, tables.pinned_on, tables.resident_on)
    now = {m: ("resident", 0, int(a)) for m, a in enumerate(start) if a != NONE}  # model -> state, since, place
    spans = []

    def close(model: int, time_us: int) -> None:
        name, since_us, place = now.pop(model)
        if name and time_us > since_us:
            where = tables.accelerator_names[place], tables.model_names[model]
            spans.append((*where, name, since_us / 1e6, time_us / 1e6))

    place_of = {m: place for m, (_, _, place) in now.items()}
    for row in trace:
        if row.kind not in state:
            continue
        if row.subject in now:
            close(row.subject, row.time_us)
        if row.accelerator != NONE:
            place_of[row.subject] = row.accelerator
        now[row.subject] = state[row.kind], row.time_us, place_of[row.subject]
    for model in list(now):
        close(model, end_us)
    return sorted(spans, key=lambda span: span[3])


def draw_timeline(run: Run, scenario: str) -> Any:
    """A part of the first seed's episode, policy by policy; None where no timeline was kept."""
    spans = [span for span in run.spans if span.scenario == scenario]
    if not spans:
        return None
    begin_s, end_s = _window([span for span in spans if span.policy == BASELINE] or spans)
    spans = [
        span._replace(from_s=max(span.from_s, begin_s), to_s=min(span.to_s, end_s))
        for span in spans
        if span.from_s < end_s and span.to_s > begin_s
    ]
    policies = list(dict.fromkeys(span.policy for span in spans))
    accelerators = list(run.about["scenarios"][scenario]["accelerators"])
    seen = {span.model for span in spans}
    models = [model for model in run.about["scenarios"][scenario]["models"] if model in seen]
    styles = {m: (COLOURS[i % len(COLOURS)], HATCHES[i // len(COLOURS) % len(HATCHES)]) for i, m in enumerate(models)}
    lanes = {policy: _lanes([s for s in spans if s.policy == policy], accelerators) for policy in policies}
    heights = [sum(1 + max(lane.values(), default=0) for lane in lanes[policy].values()) for policy in policies]
    figure, panels = plt.subplots(
        len(policies),
        1,
        figsize=(10, 1.4 + 0.45 * len(policies) + 0.24 * sum(heights) + 0.16 * (len(models) // 4)),
        layout="constrained",
        sharex=True,
        squeeze=False,
        height_ratios=heights,
    )
    for axes, policy in zip(panels[:, 0], policies, strict=True):
        base, ticks = 0, []
        for accelerator in accelerators:
            placed = lanes[policy][accelerator]
            for span, lane in placed.items():
                colour, hatch = styles[span.model]
                bar: dict[str, Any] = {"facecolor": colour, "edgecolor": "white", "linewidth": 0.4, "hatch": hatch}
                if span.state != "resident":
                    bar = {"facecolor": "white", "edgecolor": colour, "linewidth": 1.2}
                axes.barh(base + lane, (span.to_s - span.from_s) / 60, left=span.from_s / 60, height=0.84, **bar)
            rows = 1 + max(placed.values(), default=0)
            ticks.append((base + (rows - 1) / 2, accelerator))
            base += rows
            if accelerator != accelerators[-1]:
                axes.axhline(base - 0.5, color="#555555", linewidth=0.6)
        axes.set_yticks([tick for tick, _ in ticks], [name for _, name in ticks])
        axes.tick_params(axis="y", length=0)
        axes.set(ylim=(base - 0.5, -0.5), xlim=(begin_s / 60, end_s / 60))
        axes.set_title(f"{scenario}: {policy}, seed {spans[0].seed}", loc="left")
    panels[-1, 0].set_xlabel("simulated time [min]")
    handles = [Patch(facecolor=styles[m][0], hatch=styles[m][1], edgecolor="white", label=m) for m in models]
    handles.append(Patch(facecolor="white", edgecolor="#555555", label="outlined: loading or unloading"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _window(spans: Sequence[Span]) -> tuple[float, float]:
    """A part of the episode in which LOADS_SHOWN loads begin, from its middle."""
    loads = sorted(span.from_s for span in spans if span.state == "loading")
    if len(loads) <= LOADS_SHOWN:
        return 0.0, max(span.to_s for span in spans)
    first = (len(loads) - LOADS_SHOWN) // 2
    return loads[first], loads[first + LOADS_SHOWN]


def _lanes(spans: Sequence[Span], accelerators: Sequence[str]) -> dict[str, dict[Span, int]]:
    """A row for every span: the one in which its model already is, else the lowest that is free."""
    lanes: dict[str, dict[Span, int]] = {accelerator: {} for accelerator in accelerators}
    held: dict[str, dict[int, Span]] = {accelerator: {} for accelerator in accelerators}
    # A load may begin in the instant in which another ends: who is there already keeps its row.
    for span in sorted(spans, key=lambda span: (span.from_s, span.state == "loading")):
        rows = held[span.accelerator]
        same = [row for row, last in rows.items() if last.model == span.model and last.to_s == span.from_s]
        free = same or [row for row in range(len(rows) + 1) if row not in rows or rows[row].to_s <= span.from_s]
        rows[free[0]] = span
        lanes[span.accelerator][span] = free[0]
    return lanes
