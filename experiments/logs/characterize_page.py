"""What was found out about a log, as a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from cace_env.tables import TASKS
from experiments.logs.characteristics import LEVEL_NAMES, per_minute
from experiments.logs.characterize_summary import ENGINE_HEADER, engine_rows, forecast_table, in_short
from experiments.logs.characterized import Characterized
from experiments.logs.eviction import (
    FEW_DECISIONS,
    FEW_MINUTES,
    LITTLE_HEADROOM,
    LITTLE_SWAPPING,
    MUCH_HEADROOM,
    OVERLOADED_S,
)
from experiments.logs.forecasts import YARDSTICK
from experiments.logs.lookalike import COARSE, NOT_EXPRESSED, is_off
from experiments.reports.page import Cell, Figure, Page, Section, Table, plot

MEASURED: Final = {"ttft_s": "time to first token [s]", "e2e_s": "end to end [s]", "load_s": "load [s]"}
MOST_BARS: Final = 40  # of models: more names cannot be read
PERCENT: Final = {"tickformat": ".0%"}


def page_of(found: Characterized, command: str, scenario_file: str, version: str) -> Page:
    """The report.

    Args:
        found: what is reported.
        command: as it was typed.
        scenario_file: name of the scenario that imitates the log, beside the page.
        version: of cace-env.
    """
    return Page(
        title=f"What your log looks like: {found.scenario.name}",
        headline=found.verdict.sentence,
        subtitle=in_short(found)[0],
        boxes=found.warnings,
        sections=[
            _eviction(found),
            _arrivals(found),
            _models(found),
            _sessions(found),
            _tokens(found),
            *_measured(found),
            _forecasts(found),
            _lookalike(found, scenario_file),
            _meaning(command, version),
        ],
    )


def _eviction(found: Characterized) -> Section:
    table = Table(
        f"LRU on {found.fleet.rpartition(' (')[0]}, by engine",
        ENGINE_HEADER,
        engine_rows(found),
        note="Pressure: needs of all models over all memory. Working set: the same of the models asked for within an "
        "hour, median. Above 1 not all of them fit at once."
        + "".join(f" {engine.engine}: {engine.problem}" for engine in found.engines if engine.problem),
    )
    return Section("Does eviction matter here?", texts=found.verdict.reasons, tables=[table])


def _arrivals(found: Characterized) -> Section:
    counts, width_s = per_minute(found.workload.arrival_us)
    log, hours = found.numbers, np.arange(len(counts)) * width_s / 3600
    rate = Figure(
        "Requests over time",
        plot(
            [{"x": hours, "y": counts / width_s * 60, "type": "scatter", "fill": "tozeroy"}],
            "hours since the first request",
            "per minute",
        ),
        f"In steps of {width_s / 60:g} min.",
    )
    day = log["day"]
    curve = Figure(
        "The day",
        plot(
            [{"x": list(range(24)), "y": day["rate_by_hour"], "type": "bar"}],
            f"hour of the day ({day['clock']})",
            "rate over the mean",
        ),
        "Hours that the log never saw have no bar.",
    )
    of = log["arrivals"]
    rows: list[list[Cell]] = [
        ["requests per second", of["per_s"]],
        ["CV of the gaps (1: Poisson)", of["gap_cv"]],
        ["busiest minute over the mean", of["minute_peak_to_mean"]],
        ["busiest hour over the mean", of["hour_peak_to_mean"]],
        ["variance over mean of requests per minute (1: Poisson)", of["minute_dispersion"]],
        ["busiest hour of the day", day["peak_hour"]],
        ["busiest over quietest hour of the day", day["peak_to_trough"]],
        ["follow an earlier request (closed loop)", log["sessions"]["closed_loop"]],
    ]
    return Section("Arrivals", tables=[Table("Arrivals in numbers", ("what", "value"), rows)], figures=[rate, curve])


def _models(found: Characterized) -> Section:
    rows = [row for row in found.models if row.requests][:MOST_BARS]
    total = found.numbers["requests"]
    bars = Figure(
        "Popularity",
        plot(
            [{"x": [row.name for row in rows], "y": [row.requests / total for row in rows], "type": "bar"}],
            y="share of the requests",
            yaxis=PERCENT,
        ),
        f"The {len(rows)} most used.",
    )
    table = Table(
        "Models",
        ("model", "stands for it", "found", "need [GB]", "KV cache [tokens]", "requests", "refused", "share"),
        [[*row, row.requests / total] for row in found.models],
        note="Need: weights, KV cache and runtime. Refused: requests longer than the KV cache.",
    )
    return Section("Models", texts=[in_short(found)[1]], tables=[table], figures=[bars])


def _sessions(found: Characterized) -> Section:
    of = found.numbers["sessions"]
    if of["sessions"] is None:
        return Section("Sessions", texts=["The log has no sessions: every request is one of its own."])
    rows: list[list[Cell]] = [["requests of a session", *_quantile_cells(of["requests"])]]
    rows.append(["gap within a session [s]", *_quantile_cells(of["gap_s"])])
    return Section(
        "Sessions",
        texts=[f"{of['sessions']:,} sessions of {of['requests_mean']:.3g} requests on average."],
        tables=[Table("Sessions in numbers", ("what", *LEVEL_NAMES), rows)],
    )


def _quantile_cells(values: dict[str, float] | None) -> list[Cell]:
    return [None if values is None else values[level] for level in LEVEL_NAMES]


def _tokens(found: Characterized) -> Section:
    rows: list[list[Cell]] = []
    for row in found.numbers["tokens"]:
        for column in ("context", "new", "output"):
            cells = _quantile_cells(row[column])
            rows.append([row["task"], row["model"] or "all models", column, row["requests"], *cells])
    data = []
    workload = found.workload
    for code, task in enumerate(TASKS):
        mine = workload.task == code
        for column, values in (("prompt", workload.context_tokens), ("answer", workload.output_tokens)):
            if mine.any():
                levels = np.linspace(0.005, 0.995, 100)
                line = {"dash": "solid" if column == "prompt" else "dot"}
                curve = {"x": np.quantile(values[mine], levels), "y": levels, "line": line}
                data.append({**curve, "type": "scatter", "name": f"{task}: {column}"})
    figure = Figure(
        "Tokens", plot(data, "tokens", "share of requests with fewer", xaxis={"type": "log"}, yaxis=PERCENT)
    )
    table = Table(
        "Tokens by task and model",
        ("task", "model", "tokens", "requests", *LEVEL_NAMES),
        rows,
        note="context: the whole prompt; new: what the session's request before did not have.",
        filters=("task", "tokens"),
    )
    return Section("Tokens", tables=[table], figures=[figure])


def _measured(found: Characterized) -> list[Section]:
    tables = [
        Table(
            f"Measured by the gateway: {MEASURED[name]}",
            ("model", "requests", *LEVEL_NAMES),
            [[row["model"] or "all", row["requests"], *_quantile_cells(row)] for row in rows],
        )
        for name, rows in found.measured.items()
    ]
    return [Section("Measured", tables=tables)] if tables else []


def _forecasts(found: Characterized) -> Section:
    header, rows = forecast_table(found)
    noise: list[Cell] = [f"{YARDSTICK}, itself", *found.forecasts["noise"]]
    horizons = [name.removeprefix("next ") for name in header[1:]]
    figure = Figure(
        "Errors of forecasts",
        plot(
            [{"x": horizons, "y": row[1:], "name": row[0], "type": "bar"} for row in rows],
            "horizon",
            "error over that of the mean rate",
        ),
        "Below 1 a forecast knows more than how popular each model is.",
    )
    texts = [
        "Requests per model in the next minutes are forecast from the past alone. The error is a root mean square on "
        "the scale of square roots, where the noise of independent arrivals is the same for busy and rare models; it "
        "is divided by the error of the mean rate so far. The last row is that error itself: about 1 is the noise of "
        "independent arrivals of a known rate, much more is what a forecast could explain.",
    ]
    tables = [Table("Forecasts", header, [*rows, noise], note="-: the log is too short for it.")]
    return Section("How predictable is it?", texts=texts, tables=tables, figures=[figure])


def _lookalike(found: Characterized, scenario_file: str) -> Section:
    if found.made is None or found.imitated is None:
        return Section("A look-alike", texts=[f"No generated traffic looks like this log: {found.problem}"])
    table = Table(
        "Log and look-alike",
        ("what", "log", "look-alike", "off"),
        [
            [row["what"], row["log"], row["made"], None if row["off"] is None else f"{row['off']:+.0%}"]
            for row in found.rows
        ],
    )
    rates, ranks = [], []
    both = ("log", found.workload, found.numbers), ("look-alike", found.imitated, found.made)
    for name, workload, numbers in both:
        counts, width_s = per_minute(workload.arrival_us, 300)
        hours, shares = np.arange(len(counts)) * width_s / 3600, numbers["popularity"]["shares"]
        rates.append({"x": hours, "y": counts / width_s * 60, "name": name, "type": "scatter"})
        ranks.append({"x": list(range(1, len(shares) + 1)), "y": shares, "name": name, "type": "scatter"})
    figures = [
        Figure("Requests over time, log and look-alike", plot(rates, "hours", "requests per minute")),
        Figure("Popularity, log and look-alike", plot(ranks, "rank", "share of the requests", yaxis=PERCENT)),
    ]
    texts = [
        f"`{scenario_file}` generates traffic that looks like the log: for more requests than the log has, other "
        "seeds, and training without the log.",
        f"```\npython -m experiments.compare --scenarios {scenario_file} --policies lru,cace\n```",
        _off(found.rows),
        "What the generator cannot express, whatever the log is like:\n"
        + "\n".join(f"- {what}" for what in NOT_EXPRESSED),
    ]
    return Section("A look-alike", texts=texts, tables=[table], figures=figures)


def _off(rows: Sequence[dict[str, Any]]) -> str:
    """The numbers that differ, in a sentence."""
    off = [row for row in rows if is_off(row)]
    if not off:
        return f"No number is more than {COARSE:.0%} off."
    named = ", ".join(f"{row['what']} ({row['off']:+.0%})" for row in off)
    return f"**More than {COARSE:.0%} off:** {named}."


def _meaning(command: str, version: str) -> Section:
    texts = [
        f"The verdict is the first of these that holds. **More GPUs first**: a first token takes more than "
        f"{OVERLOADED_S:g} s on average under LRU. **Not worth it**: no policy is ever asked, as all fits; a model "
        f"has to leave less than {1000 * FEW_DECISIONS:g} times in 1,000 requests; models that come and go cause less "
        f"than {LITTLE_SWAPPING:.0%} of the waiting cost; a plan that knows the future saves less than "
        f"{LITTLE_HEADROOM:.0%} of LRU's cost; or it saves all users together less than {FEW_MINUTES:g} minutes of "
        f"waiting in 8 hours. **Worth it**: that plan saves at least {MUCH_HEADROOM:.0%}, and loads are not rare. "
        "**Perhaps**: anything between.",
        "Cost is the time that people wait, weighted by task. Pressure is what is deployed over what fits. A swap "
        "channel is busy while a model loads or leaves. The reference is a plan made with full knowledge of the "
        "future: no policy reaches it.",
        f"```\n{command}\n```",
        f"cace-env {version}",
    ]
    return Section("How to read this", texts=texts, folded=True)
