"""Which model sat where, who was evicted for whom, and who waited: cut out of the event trace of one episode."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.evaluation import run_episode
from cace_env.kernel.state import TRACE_KINDS, TRACED
from cace_env.policies.explanations import quantity
from cace_env.tables import NONE, FleetTables
from experiments.reports.page import INK, PAPER, Figure
from experiments.running.cases import PreparedCase
from experiments.running.run_folder import BASELINE, Run
from experiments.running.timeline_rows import KEEP_ALIVE, Span, Waiting, read_spans, read_waiting

MOST_REQUESTS: Final = 50_000  # of an episode with a timeline: its event trace takes about 0.3 KB per request
MOST_CHANGES: Final = 4000  # of the number of waiting requests, of an episode
CHANGES_DRAWN: Final = 400  # of these on the page: no screen has more points side by side
MOST_SPANS: Final = 16_000  # on a page: each takes about 110 bytes
LOADS_SHOWN: Final = 30  # at first, of those that are there
LANE_PX: Final = 20
QUEUE_PX: Final = 90
BESIDE_PX: Final = 190  # axis, gap and legend
# Colours that can be told apart on white and on black; with more models again, hatched.
COLOURS: Final = (
    *("#5B6BD5", "#66B5E0", "#2FA58C", "#1F8A45", "#9BAA2E", "#CDB84F", "#E0762F", "#CC6677", "#B0467B", "#8A5AC2"),
    *("#4477AA", "#98A2AF", "#7A5C3E", "#E2A1B8", "#2E6E6A", "#A9D46E", "#C9473B", "#B79AE0"),
)
HATCHES: Final = ("", "/", ".", "x")
CAPTION: Final = """\
First seed, a busy part of it: a double-click shows all that is there, and dragging zooms. One row per place in memory,
full where a model is resident, pale while it loads or leaves. Point at a bar (or touch it): it says who waited for the
model, for whom it left, and how long it had not been used. The area below counts the requests that wait (where many
changes are close together: the most of them). A click in the legend hides a model. `timelines.csv` has the whole
episode."""

Lanes = list[tuple[Span, int]]  # spans with their rows
Row = tuple[int, str, int, int]  # time [us], kind, request or model, accelerator


class Timelines(NamedTuple):
    """What was seen of some episodes."""

    spans: list[Span]
    waiting: list[Waiting]


def timelines(prepared: PreparedCase, policies: Iterable[str]) -> Timelines:
    """Which model sat where on the first seed, and how many requests waited, under some of the policies."""
    workload, seed, tables = prepared.case.workload(prepared.seeds[0]), prepared.seeds[0], prepared.case.tables
    found = Timelines([], [])
    if len(workload) > MOST_REQUESTS:
        return found
    wanted, models = set(policies), workload.model.tolist()
    for contestant in prepared.contestants:
        if contestant.name not in wanted or not contestant.swaps:
            continue
        simulator, _ = run_episode(contestant, prepared.case, workload, seed, trace=True)
        rows = simulator.trace[: int(simulator.state.scalars[TRACED])].tolist()
        trace = [(time, TRACE_KINDS[kind], subject, place) for time, kind, subject, place in rows]
        spans = spans_of(trace, tables, models, simulator.totals().end_us)
        about: dict[str, Any] = {"scenario": prepared.name, "policy": contestant.name, "seed": seed}
        found.spans.extend(Span(**{**_to_the_ms(span), **about}) for span in spans)
        changes = thinned(waiting_of(trace))
        found.waiting.extend(Waiting(**about, time_s=round(at, 3), waiting=count) for at, count in changes)
    return found


def _to_the_ms(span: Span) -> dict[str, Any]:
    """The fields of a span, times in seconds to the millisecond."""
    return {name: round(cell, 3) if isinstance(cell, float) else cell for name, cell in span._asdict().items()}


def spans_of(trace: Sequence[Row], tables: FleetTables, models: Sequence[int], end_us: int) -> list[Span]:
    """Spans of an event trace in order of time, without scenario, policy and seed.

    Args:
        trace: from the beginning of the episode to its end.
        tables: the fleet.
        models: of every request.
        end_us: when the episode ended.
    """
    states = {"LOAD_START": "loading", "LOAD_DONE": "resident", "UNLOAD_START": "unloading", "UNLOAD_DONE": ""}
    start = np.where(tables.pinned_on != NONE, tables.pinned_on, tables.resident_on)
    now: dict[int, tuple[str, int, int, dict[str, Any]]]  # model -> state, since, place, more
    now = {m: ("resident", 0, int(a), {}) for m, a in enumerate(start) if a != NONE}
    place_of = {m: place for m, (_, _, place, _) in now.items()}
    waits: dict[int, dict[int, int]] = defaultdict(dict)  # model -> request -> since
    used_us: dict[int, int] = {}
    victims: dict[int, list[dict[str, Any]]] = defaultdict(list)  # accelerator -> of models that make room there
    unused: dict[int, dict[str, Any]] = {}  # victim -> what its span will say
    spans = []

    def close(model: int, time_us: int) -> None:
        state, since_us, place, more = now.pop(model)
        if state and time_us > since_us:
            names = tables.accelerator_names[place], tables.model_names[model]
            spans.append((Span("", "", 0, *names, state, since_us / 1e6, time_us / 1e6), more))

    for time_us, kind, subject, place in trace:
        if kind in ("ARRIVAL", "FINISH"):
            used_us[models[subject]] = time_us
        if kind == "ARRIVAL":
            waits[models[subject]][subject] = time_us
        elif kind in ("ADMITTED", "REFUSED"):
            waits[models[subject]].pop(subject, None)
        elif kind == "VICTIM":
            since = used_us.get(subject)
            unused[subject] = {} if since is None else {"unused_s": (time_us - since) / 1e6}
            victims[place].append(unused[subject])
        if kind not in states:
            continue
        waiting = waits[subject]
        if kind == "LOAD_DONE" and waiting:
            oldest_s = (time_us - next(iter(waiting.values()))) / 1e6
            now[subject][3].update(waiting=len(waiting), oldest_s=oldest_s)
        more: dict[str, Any] = {}
        if kind == "UNLOAD_START":  # its stay says the same of its going: one dict, which learns for whom below
            more = unused.pop(subject, {"target": KEEP_ALIVE})
            now[subject] = (*now[subject][:3], more)
        if subject in now:
            close(subject, time_us)
        if place != NONE:
            place_of[subject] = place
        if kind == "LOAD_START":
            for victim in victims.pop(place, []):
                victim["target"] = tables.model_names[subject]
        now[subject] = states[kind], time_us, place_of[subject], more
    for model in list(now):
        close(model, end_us)
    return sorted((span._replace(**more) for span, more in spans), key=lambda span: span.from_s)


def waiting_of(trace: Iterable[Row]) -> list[tuple[float, int]]:
    """When [s] the number of waiting requests changed, and to what; who is admitted at once never waited."""
    changes, waiting = [(0, 0)], 0
    for time_us, rows in groupby(trace, key=lambda row: row[0]):
        kinds = [kind for _, kind, _, _ in rows]
        waiting += kinds.count("ARRIVAL") - kinds.count("ADMITTED") - kinds.count("REFUSED")
        if waiting != changes[-1][1]:
            changes.append((time_us, waiting))
    return [(time_us / 1e6, count) for time_us, count in changes]


def thinned(changes: Sequence[tuple[float, int]], most: int = MOST_CHANGES) -> list[tuple[float, int]]:
    """About so many changes: within each of equal parts of the time the greatest number, and from its end on the last.

    Nothing is lost of how many waited at most, and when nobody did for longer than a part.
    """
    if len(changes) <= most:
        return list(changes)
    begin_s, parts = changes[0][0], most // 2
    part_s = (changes[-1][0] - begin_s) / parts
    greatest: dict[int, int] = {}
    last: dict[int, int] = {}
    for time_s, count in changes:
        part = min(int((time_s - begin_s) / part_s), parts - 1)
        greatest[part] = max(count, greatest.get(part, last.get(part - 1, 0)))
        last[part] = count
    ends = ((begin_s + (part + at) * part_s, of[part]) for part in greatest for at, of in enumerate((greatest, last)))
    return list({time_s: count for time_s, count in ends}.items())


# ---------------------------------------------------------------------------------------------------------------------
# On the page


def timeline_figure(run: Run) -> Figure | None:
    """Every timeline of a run, one at a time; None where none was kept."""
    kept: dict[tuple[str, str], list[Span]] = {}
    for span in read_spans(run):
        if span.scenario in run.scenarios:
            kept.setdefault((span.scenario, span.policy), []).append(span)
    if not kept:
        return None
    most = MOST_SPANS // len(kept)
    windows: dict[str, tuple[float, float]] = {}
    for (scenario, policy), spans in kept.items():
        if policy == BASELINE or scenario not in windows:
            windows[scenario] = _window(spans, most)
    waiting: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for change in read_waiting(run):
        waiting.setdefault((change.scenario, change.policy), []).append((change.time_s, change.waiting))
    figures = {}
    for key, spans in kept.items():
        window = windows[key[0]]
        shown = [_cut(span, *window) for span in _inside(spans, *window)][: 2 * most]
        figures[key] = _figure(run, key[0], shown, _changes(waiting.get(key, []), *window))
    return Figure("Who sat where", figures, CAPTION, by=("scenario", "policy"))


def _window(spans: Sequence[Span], most: int) -> tuple[float, float]:
    """The middle part of an episode in which so many spans begin; all of it where there are no more."""
    if len(spans) <= most:
        return 0.0, max(span.to_s for span in spans)
    first = (len(spans) - most) // 2
    return spans[first].from_s, spans[first + most - 1].from_s


def _inside(spans: Iterable[Span], begin_s: float, end_s: float) -> list[Span]:
    return [span for span in spans if span.from_s < end_s and span.to_s > begin_s]


def _cut(span: Span, begin_s: float, end_s: float) -> Span:
    return span._replace(from_s=max(span.from_s, begin_s), to_s=min(span.to_s, end_s))


def _changes(changes: Sequence[tuple[float, int]], begin_s: float, end_s: float) -> list[tuple[float, int]]:
    """Those in a part of the episode, and what was before it."""
    before = [count for time_s, count in changes if time_s < begin_s]
    inside = [(time_s, count) for time_s, count in changes if begin_s <= time_s <= end_s]
    return thinned([(begin_s, before[-1] if before else 0), *inside], CHANGES_DRAWN)


def _figure(run: Run, scenario: str, spans: Sequence[Span], waiting: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Bars by model, and below them how many requests wait."""
    about = run.about["scenarios"][scenario]
    lanes = lanes_of(spans, list(about["accelerators"]))
    heights = {name: 1 + max((lane for _, lane in placed), default=0) for name, placed in lanes.items()}
    bases = dict(zip(heights, np.cumsum([0, *heights.values()]).tolist(), strict=False))
    rows = {id(span): bases[name] + lane for name, placed in lanes.items() for span, lane in placed}
    texts = _texts(spans)
    data = []
    for at, model in enumerate(about["models"]):
        mine = [span for span in spans if span.model == model]
        colour, hatch = COLOURS[at % len(COLOURS)], HATCHES[at // len(COLOURS) % len(HATCHES)]
        data += (
            [
                _bars([s for s in mine if (s.state == "resident") == resident], rows, texts, model, colour, hatch)
                for resident in (True, False)
            ]
            if mine
            else []
        )
    data.append({
        "type": "scatter", "mode": "lines", "x": [_min(time_s) for time_s, _ in waiting], "yaxis": "y2",
        "y": [count for _, count in waiting], "fill": "tozeroy", "showlegend": False,
        "line": {"shape": "hv", "width": 1.2, "color": INK},
        "hovertemplate": "%{y} requests wait<br>%{x:.2f} min<extra></extra>",
    })  # fmt: skip
    total = sum(heights.values())
    height = LANE_PX * total + QUEUE_PX + BESIDE_PX
    share = QUEUE_PX / (LANE_PX * total + QUEUE_PX + 30)
    edges = [bases[name] - 0.5 for name in list(heights)[1:]]
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "line": {"width": 1, "color": INK}}
    layout = {
        "height": height, "barmode": "overlay", "dragmode": "zoom",
        "xaxis": {"title": {"text": "simulated time [min]"}, "anchor": "y2", "range": _busy(spans)},
        "yaxis": {
            "domain": [share + 0.04, 1], "range": [total - 0.4, -0.6], "fixedrange": True, "showgrid": False,
            "tickvals": [bases[name] + (heights[name] - 1) / 2 for name in heights], "ticktext": list(heights),
            "zeroline": False,
        },
        "yaxis2": {"domain": [0, share], "rangemode": "tozero", "fixedrange": True, "title": {"text": "waiting"},
                   "nticks": 4},
        "shapes": [{**line, "y0": edge, "y1": edge} for edge in edges],
    }  # fmt: skip
    return {"data": data, "layout": layout}


def _min(seconds: float) -> float:
    return round(seconds / 60, 3)


def _busy(spans: Sequence[Span]) -> list[float]:
    """The shortest time [min] in which `LOADS_SHOWN` loads begin; all of it where there are no more."""
    loads = [span.from_s for span in spans if span.state == "loading"]
    if len(loads) <= LOADS_SHOWN:
        return [_min(min(span.from_s for span in spans)), _min(max(span.to_s for span in spans))]
    begin, end = min(zip(loads, loads[LOADS_SHOWN:], strict=False), key=lambda part: part[1] - part[0])
    return [_min(begin - 5), _min(end + 5)]


def _bars(
    spans: Sequence[Span], rows: Mapping[int, int], texts: Mapping[int, str], model: str, colour: str, hatch: str
) -> dict[str, Any]:
    """The bars of a model: where it is resident, or where it moves."""
    resident = all(span.state == "resident" for span in spans)
    bars: dict[str, Any] = {
        "type": "bar", "orientation": "h", "width": 0.84, "name": model, "legendgroup": model, "showlegend": resident,
        "base": [_min(span.from_s) for span in spans], "x": [_min(span.to_s - span.from_s) for span in spans],
        "y": [rows[id(span)] for span in spans], "customdata": [texts[id(span)] for span in spans],
        "marker": {"color": colour, "line": {"color": PAPER, "width": 0.5}},
        "hovertemplate": f"<b>{model}</b>, %{{base:.2f}} to %{{x:.2f}} min<br>%{{customdata}}<extra></extra>",
    }  # fmt: skip
    if hatch:
        bars["marker"]["pattern"] = {"shape": hatch, "size": 6, "solidity": 0.35}
    if not resident:
        bars["marker"] |= {"opacity": 0.4, "line": {"color": colour, "width": 1.2}}
    return bars


def _texts(spans: Sequence[Span]) -> dict[int, str]:
    """What a bar says of each span; those of a stay in memory say how it came and how it went."""
    loaded = {(span.model, span.to_s): _loaded(span) for span in spans if span.state == "loading"}
    texts = {}
    for span in spans:
        if span.state == "resident":
            there = loaded.get((span.model, span.from_s)), _left(span) if span.target else None
            texts[id(span)] = "\n".join(text for text in there if text) or "resident"
        else:
            texts[id(span)] = _loaded(span) if span.state == "loading" else _left(span)
    return texts


def _loaded(span: Span) -> str:
    """Who waited for a model that is loaded."""
    if not span.waiting:
        return "loaded for nobody"
    if span.waiting == 1:
        return f"loaded for 1 request, which waited {quantity(span.oldest_s, 's')}"
    return f"loaded for {span.waiting} requests, the first waited {quantity(span.oldest_s, 's')}"


def _left(span: Span) -> str:
    """For whom a model leaves."""
    if span.target == KEEP_ALIVE:
        return "leaves: its keep-alive ran out"
    if not span.target:  # the episode ended before anything was loaded in its place
        return "leaves"
    unused = "never used" if np.isnan(span.unused_s) else f"unused for {quantity(span.unused_s, 's')}"
    return f"leaves for {span.target}, {unused}"


def lanes_of(spans: Sequence[Span], accelerators: Sequence[str]) -> dict[str, Lanes]:
    """A row for every span: the one in which its model already is, else the lowest that is free."""
    lanes: dict[str, Lanes] = {accelerator: [] for accelerator in accelerators}
    held: dict[str, dict[int, Span]] = {accelerator: {} for accelerator in accelerators}
    # A load may begin in the instant in which another ends: who is there already keeps its row.
    for span in sorted(spans, key=lambda span: (span.from_s, span.state == "loading")):
        rows = held[span.accelerator]
        same = [row for row, last in rows.items() if last.model == span.model and last.to_s == span.from_s]
        free = same or [row for row in range(len(rows) + 1) if row not in rows or rows[row].to_s <= span.from_s]
        rows[free[0]] = span
        lanes[span.accelerator].append((span, free[0]))
    return lanes
