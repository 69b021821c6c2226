"""The report of a validation: measured beside simulated, errors with bands, orders, what each part is worth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from cace_env.tables import FloatArray
from experiments.reports.page import Cell, Figure, Page, Section, Table, plot
from experiments.validation.evaluating import Validation, mean_errors
from experiments.validation.judging import FIGURES, percent, prefixes_kept

REAL, SIMULATED = "#2E86D1", "#E2622A"
COLOURS: Final = (REAL, SIMULATED, "#2E9E6B", "#C9549B")
DASHES: Final = ("dot", "solid", "dash")
READ: Final = """\
**Error**: simulated over measured, less one. **Spread**: highest less lowest repeat over their mean: what the same
policy differs from itself on this machine. **Band**: 5th to 95th percentile of the simulations with jitter: what the
uncertainty of the coefficients, and of the clients' pauses, does to the prediction. Requests come in closed loop: one
other moment, and other models are evicted from there on."""


def page_of(found: Validation) -> Page:
    """The report."""
    plan, problems, misses = found.plan, found.problems, found.misses
    worst = max((row for row in found.rows if row.figure.endswith("mean")), key=lambda row: abs(row.error_percent))
    headline = (
        f"Mean latencies are predicted to {abs(worst.error_percent):.0f} % or better "
        f"({worst.figure} of {worst.policy}, {worst.workload})."
    )
    if problems:
        headline = "These numbers do not count: " + problems[0]
    boxes = [*problems, *([listed("Outside the limits:", misses)] if misses else [])]
    compared = Section(
        "Measured beside simulated", [READ], tables=[_rows(found)], figures=[_curves(found), _errors(found)]
    )
    sections = [
        compared,
        Section("Which policy is better", tables=[_orders(found)]),
        Section("One policy predicted from the other's runs", _crossed_texts(found), tables=[_crossed(found)]),
        Section("What each coefficient is worth", [VARIANTS], tables=[_variants(found)]),
        Section("The machine", [machine(found)], tables=[_runs(found)]),
    ]
    subtitle = f"{plan['command']}, {plan['measured']}, {len(found.runs)} runs of {plan['requests']} requests"
    return Page("The simulator beside a real server", headline, boxes, sections, subtitle)


VARIANTS: Final = """\
Mean over workloads and policies of the error without its sign, in percent: as fitted, with the coefficients of one
calibration alone, and without each part of the rules that only measurements fill. What does not lower the errors is not
worth its place."""


def listed(title: str, lines: Sequence[str]) -> str:
    """A title and items."""
    return "\n".join([title, "", *(f"- {line}." for line in lines)])


def _rows(found: Validation) -> Table:
    header = (
        "workload", "policy", "figure", "real", "simulated", "error [%]", "limit [%]", "spread [%]", "band low",
        "band high",
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (
            row.workload, row.policy, row.figure, row.real, row.simulated, row.error_percent, row.limit_percent,
            row.spread_percent, row.low, row.high,
        )
        for row in found.rows
    ]  # fmt: skip
    note = "Times in seconds, means over the repeats; cost by the weights of the tasks, without loads."
    return Table("Every figure", header, rows, note, filters=("workload", "policy"))


def _curves(found: Validation) -> Figure:
    drawn = {}
    for (name, policy), one in found.simulated.items():
        runs = [run for run in found.runs if (run.workload, run.policy) == (name, policy)]
        for at, what in enumerate(("TTFT", "E2E")):
            lines = [
                _curve(f"real {run.repeat}", (run.ttft_s(), run.e2e_s())[at], REAL, DASHES[run.repeat % len(DASHES)])
                for run in runs
            ]
            lines.append(_curve("simulated", (one.ttft_s, one.e2e_s)[at], SIMULATED, "solid"))
            drawn[name, policy, what] = plot(lines, f"{what} [s]", "share of the requests", xaxis={"type": "log"})
    caption = "How many requests took at most so long. Blue: the real server, each repeat; orange: the simulator."
    return Figure("Latencies", drawn, caption, by=("workload", "policy", "latency"))


def _curve(name: str, values: Sequence[float], colour: str, dash: str) -> dict[str, Any]:
    x, y = cdf(values)
    line = {"color": colour, "dash": dash, "shape": "hv"}
    return {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "line": line}


def cdf(values: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    """Sorted values, and the share of all that is at most as large, each."""
    x = np.sort(np.asarray(values, dtype=np.float64))
    return x, np.arange(1, len(x) + 1) / len(x)


def _errors(found: Validation) -> Figure:
    drawn = {}
    for name in found.workloads:
        lines = []
        for policy, colour in zip(found.plan["policies"], itertools.cycle(COLOURS), strict=False):
            rows = [row for row in found.rows if (row.workload, row.policy) == (name, policy) and row.real]
            errors = [row.error_percent for row in rows]
            above = [percent(row.high, row.real) - row.error_percent for row in rows]
            below = [row.error_percent - percent(row.low, row.real) for row in rows]
            lines.append(
                {
                    "type": "scatter", "mode": "markers", "name": policy,
                    "x": [row.figure for row in rows], "y": errors, "marker": {"size": 9, "color": colour},
                    "error_y": {
                        "type": "data", "symmetric": False, "color": colour,
                        "array": np.maximum(0, above).tolist(), "arrayminus": np.maximum(0, below).tolist(),
                    },
                }
            )  # fmt: skip
        drawn[name] = plot(lines, "", "error [%]", yaxis={"zeroline": True})
    caption = "Dots: errors; lines: the same over the band of the simulations with jitter."
    return Figure("Errors", drawn, caption, by=("workload",))


def _orders(found: Validation) -> Table:
    header = (
        "workload", "better", "worse", "costs more, simulated [%]", "measured [%]", "of simulations", "of real pairs",
        "same order",
    )  # fmt: skip
    words = {True: "yes", False: "**no**", None: "too close to say"}
    rows: list[tuple[Cell, ...]] = [
        (
            one.workload, one.better, one.worse, one.simulated_percent, one.real_percent,
            f"{one.simulated_share:.0%}", f"{one.real_share:.0%}", words[one.holds],
        )
        for one in found.orders
    ]  # fmt: skip
    note = "Shares: how many simulations with jitter, and pairs of real repeats, have this order."
    return Table("Orders", header, rows, note)


def _crossed_texts(found: Validation) -> list[str]:
    texts = [
        "Coefficients from the router's records of one policy's runs (clean moments alone), held against the other "
        "policy's runs."
    ]
    if found.missing:
        runs: dict[str, list[str]] = {}
        for line in dict.fromkeys(found.missing):
            run, _, what = line.partition(": ")
            runs.setdefault(run, []).append(what)
        lines = [f"**{run}**: {'; '.join(what)}" for run, what in runs.items()]
        texts.append(listed("Too little was seen of these, and the calibration stands in, moved as the rest:", lines))
    return texts


def _crossed(found: Validation) -> Table:
    header = ("workload", "fitted on", "predicted", "figure", "real", "simulated", "error [%]")
    rows: list[tuple[Cell, ...]] = [(*one, one.error_percent) for one in found.crossed]
    return Table("Predicted from the other's runs", header, rows, filters=("workload", "fitted on"))


def _variants(found: Validation) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (name, *(errors[figure] for figure in FIGURES)) for name, errors in mean_errors(found.variants)
    ]
    return Table("Mean errors without sign [%]", ("variant", *FIGURES), rows)


def machine(found: Validation) -> str:
    """Drift and jitter, in words."""
    drifts = ", ".join(f"{part} {value:+.1f} %" for part, value in found.drift.items())
    text = f"Drift: {drifts}."
    if found.changed:
        kinds = ", ".join(f"{kind} {value:+.1f} %" for kind, value in found.changed.items())
        text += f" From the first to the second calibration: {kinds}."
    if found.jitter is not None:
        loads, serving, loads_own, serving_own, late_us = found.jitter
        text += (
            f" Jitter: loads {loads:.1%} together and {loads_own:.1%} of each model, serving {serving:.1%} and "
            f"{serving_own:.1%}; clients asked {np.median(late_us) / 1e3:.1f} ms late in the median."
        )
    return text


def _runs(found: Validation) -> Table:
    header = (
        "workload", "policy", "repeat", "requests", "minutes", "loads", "evictions", "TTFT mean [s]", "E2E mean [s]",
        "prefixes as in the rules",
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (
            run.workload, run.policy, run.repeat, len(run.asked), run.end_s / 60, run.count("load"),
            run.count("unload"), float(np.mean(run.ttft_s())), float(np.mean(run.e2e_s())),
            f"{prefixes_kept(run, found.workloads[run.workload]):.0%}",
        )
        for run in found.runs
    ]  # fmt: skip
    return Table("Real runs", header, rows)
