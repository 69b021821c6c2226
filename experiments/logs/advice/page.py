"""The page of a recommendation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cace_env.files import csv_text, json_text, replace_file
from cace_env.policies.contestants import NO_SWAPPING
from experiments.logs.advice.answering import Results
from experiments.logs.advice.contenders import TUNED
from experiments.logs.advice.decision import Answer, attained, waited_minutes_per_day
from experiments.logs.advice.measured import Measured
from experiments.logs.advice.outputs import (
    STEP_HEADER,
    Told,
    as_json,
    capacity,
    score_header,
    scoreboard,
    step_rows,
)
from experiments.logs.advice.prices import Fleet
from experiments.logs.advice.robustness import Held
from experiments.logs.advice.wording import BOUND_NOTE, longer_waits, name_of, share
from experiments.reports.page import Cell, Figure, Page, Section, Table, plot, write_page

DRAWN: Final = 6  # policies that a curve shows at first
CURVES: Final = 10  # policies in the legend: a telephone has room for no more
WORST: Final = -100.0  # saved [%]: beyond, a bar is cut off, or nobody could read the others
BARS: Final = "Thin lines: 95 % intervals. A triangle at the edge: far worse; point at it for its value."
SYMBOLS: Final = ("circle", "square", "diamond", "cross")  # by kind of GPU
COLOURS: Final = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def write_all(told: Told, results: Results) -> Path:
    """capacity.csv, recommendation.json and the page; returns the page."""
    folder = told.question.folder
    replace_file(folder / "capacity.csv", csv_text(*capacity(told, results)))
    replace_file(folder / "recommendation.json", json_text(as_json(told, results)))
    return write_page(page_of(told, results), folder / "report.html")


def page_of(told: Told, results: Results) -> Page:
    """The sentence, what must not be overlooked, and the evidence."""
    answer = results.answer
    assert answer is not None
    boxes = told.warnings(results)
    if results.interrupted:
        boxes.insert(0, "This run was interrupted: it is the answer of what had finished.")
    if told.assumed_fleet:
        boxes.append(f"Nobody said which GPUs there are today: {answer.now_fleet.name} is assumed (--gpu, --gpus).")
    return Page(
        title="Which policy, how many GPUs, how much saved",
        headline=told.sentence(answer),
        boxes=boxes,
        sections=[
            _next_step(told, results, answer),
            _capacity(told, results),
            _policies(told, results, answer),
            *([_elsewhere(results.held, answer)] if results.held else []),
            *([measured_section(told.measured)] if told.measured is not None else []),
            Section("What to do now", texts=["\n".join(f"- {step}" for step in told.next_steps(results))]),
            _how(told, results),
        ],
        subtitle=told.introduction(),
    )


def _next_step(told: Told, results: Results, answer: Answer) -> Section:
    return Section(
        "The next step",
        texts=told.further(results),
        tables=[
            Table(
                "steps",
                STEP_HEADER,
                step_rows(answer),
                "Against today, per month; intervals are 95 %. Left is what is saved of developers' time, less what "
                f"GPUs cost more. Bold: the answer. {told.weighted()}",
            )
        ],
    )


def _capacity(told: Told, results: Results) -> Section:
    """Curves against money, and the table of all."""
    header, rows = capacity(told, results)
    figures = [
        Figure(
            "Waiting and money", _curves(told, results, "waited"), "Minutes that developers wait a day, all together."
        ),
        Figure(
            "TTFT p95", _curves(told, results, "p95"), "The slowest twentieth of the requests begins to answer later."
        ),
    ]
    figures += [
        Figure(
            f"Kept: {promise}",
            _curves(told, results, f"slo{at}", 100 * promise.share),
            "Share of its requests in time.",
        )
        for at, promise in enumerate(told.question.promises)
    ]
    return Section(
        "Capacity",
        texts=[f"Left out: {'; '.join(results.left_out)}."] if results.left_out else [],
        figures=figures,
        tables=[Table("capacity", header, rows, BOUND_NOTE, filters=("fleet", "policy"), folded=True)],
    )


def _curves(told: Told, results: Results, what: str, line: float | None = None) -> dict[str, Any]:
    """A number against the money for GPUs, a line for each policy."""
    answer, question = results.answer, told.question
    assert answer is not None
    by_policy: dict[str, list[Fleet]] = {}
    for fleet, policy in results.grid:
        by_policy.setdefault(policy, []).append(fleet)
    first = [answer.deployed, answer.step.policy, answer.best_anywhere.policy, TUNED, "cace", NO_SWAPPING]
    there = results.on(answer.now_fleet)
    others = sorted(there, key=lambda policy: there[policy].cost.sum())
    ordered = list(dict.fromkeys(name for name in (*first, *others) if name in by_policy))[:CURVES]
    data: list[dict[str, Any]] = []
    for at, policy in enumerate(ordered):
        by_kind: dict[tuple[str, ...], list[Fleet]] = {}
        for fleet in sorted(by_policy[policy], key=lambda fleet: fleet.usd_per_hour):
            by_kind.setdefault(fleet.kinds, []).append(fleet)
        # A line for each kind of GPU: None leaves a gap.
        points = [fleet for fleets in by_kind.values() for fleet in (*fleets, None)]
        symbols = dict(zip(by_kind, itertools.cycle(SYMBOLS), strict=False))
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": name_of(policy),
            "x": [fleet and fleet.usd_per_hour * question.economy.gpu_hours for fleet in points],
            "y": [fleet and _value(told, results, fleet, policy, what) for fleet in points],
            "text": [fleet.name if fleet else "" for fleet in points], "hovertemplate": "%{text}: %{y:.4g}",
            "line": {"color": COLOURS[at % len(COLOURS)]}, "visible": True if at < DRAWN else "legendonly",
            "marker": {"symbol": [symbols[fleet.kinds] if fleet else "x" for fleet in points]},
        })  # fmt: skip
    titles = {"waited": "minutes waited a day", "p95": "TTFT p95 [s]"}
    # Waiting falls by orders of magnitude from fleet to fleet; shares do not.
    scale = log_axis([value for one in data for value in one["y"]]) if what in titles else {"rangemode": "tozero"}
    level = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": line, "y1": line, "line": {"dash": "dot"}}
    shapes = [] if line is None else [level]
    y = titles.get(what, "kept [%]")
    return plot(data, "USD a month for GPUs", y, xaxis={"rangemode": "tozero"}, yaxis=scale, shapes=shapes)


def log_axis(values: Sequence[float | None]) -> dict[str, Any]:
    """An axis on a scale of logarithms, with few ticks, all of them in full: 1, 2, 5, 10, or powers of ten alone."""
    shown = [value for value in values if value is not None and value > 0]
    if not shown:
        return {"type": "log"}
    low, high = math.floor(math.log10(min(shown))), math.ceil(math.log10(max(shown)))
    steps = (1, 2, 5) if high - low <= 2 else (1, 3) if high - low <= 4 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return {"type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:,.10g}" for tick in ticks]}


def _value(told: Told, results: Results, fleet: Fleet, policy: str, what: str) -> float:
    played = results.grid[fleet, policy]
    if what == "waited":
        return waited_minutes_per_day(played, told.question.economy, results.draws).value
    if what == "p95":
        return played.ttft_p95_s
    return 100 * attained(played, results.draws)[int(what.removeprefix("slo"))].value


def _policies(told: Told, results: Results, answer: Answer) -> Section:
    """Scoreboards of today's fleet and the recommended one."""
    fleets = dict.fromkeys([answer.now_fleet, answer.step.fleet])
    return Section(
        "Policies",
        figures=[Figure(f"Cost saved on {answer.now_fleet.name}", bars(results, answer), BARS)],
        tables=[
            Table(
                f"policies on {fleet.name}",
                score_header(told),
                scoreboard(told, results, fleet),
                f"Against {answer.deployed} on the same fleet. The policy was chosen by earlier requests than these. "
                f"{BOUND_NOTE} {longer_waits(results.on(fleet), answer.deployed)}".strip(),
            )
            for fleet in fleets
        ],
    )


def bars(results: Results, answer: Answer) -> dict[str, Any]:
    """What policies save on today's fleet; the bound, which nobody can deploy, is in the tables alone."""
    here = {policy: played for policy, played in results.on(answer.now_fleet).items() if policy != NO_SWAPPING}
    rows = [(policy, results.draws.gain(answer.now.cost, played.cost)) for policy, played in here.items()]
    rows = sorted((row for row in rows if row[1].percent == row[1].percent), key=lambda row: row[1].percent)
    inside = [gain.percent >= WORST for _, gain in rows]
    bars = {
        "type": "bar", "orientation": "h", "y": [name_of(policy) for policy, _ in rows],
        "x": [max(gain.percent, WORST) for _, gain in rows], "marker": {"color": COLOURS[1]}, "showlegend": False,
        "error_x": {
            "type": "data", "symmetric": False,
            "array": [gain.high - gain.percent if ok else 0.0 for (_, gain), ok in zip(rows, inside, strict=True)],
            "arrayminus": [
                gain.percent - max(gain.low, WORST) if ok else 0.0 for (_, gain), ok in zip(rows, inside, strict=True)
            ],
        },
        "customdata": [share(gain) for _, gain in rows], "hovertemplate": "%{y}: %{customdata}<extra></extra>",
    }  # fmt: skip
    cut = [(name_of(policy), share(gain)) for (policy, gain), ok in zip(rows, inside, strict=True) if not ok]
    triangles = {
        "type": "scatter", "mode": "markers", "y": [name for name, _ in cut], "x": [WORST] * len(cut),
        "marker": {"symbol": "triangle-left", "size": 13, "color": COLOURS[0]}, "showlegend": False,
        "customdata": [text for _, text in cut], "hovertemplate": "%{y}: %{customdata}<extra></extra>",
    }  # fmt: skip
    height = 120 + 26 * len(rows)
    return plot(
        [bars, triangles] if cut else [bars], "cost of waiting saved [%]", height=height, yaxis={"automargin": True}
    )


def _elsewhere(rows: list[Held], answer: Answer) -> Section:
    step = answer.tried
    return Section(
        "If the world is another one",
        texts=[
            f"{name_of(step.policy)} against {name_of(answer.deployed)} on {step.fleet.name}, both in the same changed "
            "world; weights and choice are those from before the change."
        ],
        tables=[
            Table(
                "robustness",
                ("situation", "what changes", "cost saved", "cost of today's policy, times", "longest wait, times"),
                [[*row.situation[:2], share(row.gain), row.deployed_cost, row.longest_wait] for row in rows],
                "Times: of today's policy there, over the log as it is; of the recommended policy, over today's there.",
            )
        ],
    )


def measured_section(found: Measured) -> Section:
    """Simulated against measured times of a log."""
    rows: list[list[Cell]] = [
        [row.name, f"p{100 * level:.0f}", measured_s, simulated_s, simulated_s / measured_s if measured_s else None]
        for row in found.latencies
        for level, measured_s, simulated_s in row.quantiles
    ]
    texts = [
        f"**{row.name}**: the simulated mean is {row.simulated_mean_s:.3g} s, the measured one "
        f"{row.measured_mean_s:.3g} s ({100 * row.bias:+.0f} %), over {row.requests:,} requests; half of them are at "
        f"most {row.typical_error_s:.3g} s off."
        for row in found.latencies
    ]
    return Section(
        f"Simulated and measured, {found.fleet} with {found.policy}",
        texts=[
            f"The log's own times against a simulation of {found.fleet} with {found.policy}, on the same requests. "
            "Where they differ, so may the savings; relative ones less than absolute ones.",
            *(texts or ["The log has too few measured times."]),
        ],
        tables=[Table("measured", ("latency", "quantile", "measured s", "simulated s", "ratio"), rows)] if rows else [],
    )


def _how(told: Told, results: Results) -> Section:
    prices: list[list[Cell]] = [
        [gpu, price.usd_per_hour, price.source, price.read or "-"] for gpu, price in sorted(told.prices.items())
    ]
    return Section(
        "How this was reached",
        texts=[*told.reached(results), f"```\n{told.command}\n```"],
        tables=[Table("prices", ("GPU", "USD an hour", "source", "read"), prices, "List prices, on demand.")],
        folded=True,
    )
