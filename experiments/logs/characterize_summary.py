"""What was found out about a log in lines and tables, on one screen of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console

from experiments.logs.characterized import Characterized
from experiments.logs.lookalike import COARSE, is_off
from experiments.reading.markdown import number
from experiments.reports.page import Cell
from experiments.running.command_line import screen_table

ENGINE_HEADER: Final = (
    "engine", "pressure", "working set", "channels busy", "compute", "victims per 1,000", "not loaded",
    "TTFT mean [s]", "waited [min/8 h]",
)  # fmt: skip


def print_summary(found: Characterized, console: Console) -> None:
    """The main numbers, on one screen."""
    console.print(found.verdict.sentence, style="bold", soft_wrap=True)
    for text in found.warnings:
        console.print(text.replace("**", ""), style="yellow", soft_wrap=True)
    for line in in_short(found):
        console.print(line, soft_wrap=True)
    console.print(screen_table(ENGINE_HEADER, _texts(engine_rows(found)), f"LRU on {found.fleet.rpartition(' (')[0]}"))
    for engine in found.engines:
        if engine.problem:
            console.print(f"{engine.engine}: {engine.problem}", soft_wrap=True)
    console.print(_imitation_in_short(found), soft_wrap=True)


def _texts(rows: Sequence[Sequence[Cell]]) -> list[list[str]]:
    return [[cell if isinstance(cell, str) else number(cell) for cell in row] for row in rows]


def in_short(found: Characterized) -> list[str]:
    """Arrivals, models and tokens, a line each."""
    log = found.numbers
    rate, of_models, habits = log["arrivals"], log["popularity"], log["habits"]
    began = log["day"]["began"]
    people = "" if log["users"] == log["requests"] else f" of {log['users']:,} users"
    per_s, cv = number(rate["per_s"]), number(rate["gap_cv"])
    peaks = [
        f"busiest {width} {number(peak)} x the mean"
        for width in ("minute", "hour")
        if (peak := rate[f"{width}_peak_to_mean"]) is not None
    ]
    lines = [
        f"{log['requests']:,} requests{people} in {log['span_s'] / 3600:,.1f} h{f' from {began}' if began else ''}: "
        f"{', '.join([f'{per_s} per s', f'CV of the gaps {cv}', *peaks])}.",
        f"{of_models['asked']} of {of_models['hosted']} models are asked for: the first has "
        f"{of_models['top']['1']:.0%} of the requests, the first 3 {of_models['top']['3']:.0%}, the first 10 "
        f"{of_models['top']['10']:.0%}; drift between halves {number(of_models['drift'])}. A user repeats his model in "
        f"{_share(habits['user_repeats_model'])}, the next request is for the same one in "
        f"{_share(habits['same_model_in_a_row'])} ({_share(habits['user_repeats_model_by_chance'])} by chance).",
    ]
    for row in log["tokens"]:
        if row["model"] is None:
            context, output = row["context"], row["output"]
            lines.append(
                f"{row['task']} ({log['tasks'][row['task']]:.0%}): prompts of {number(context['p50'])} tokens "
                f"(p99 {number(context['p99'])}), answers of {number(output['p50'])} (p99 {number(output['p99'])})."
            )
    return lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def engine_rows(found: Characterized) -> list[list[Cell]]:
    """What LRU does under each engine, in the columns of `ENGINE_HEADER`."""
    rows: list[list[Cell]] = []
    for engine in found.engines:
        of = engine.numbers
        cells: list[Cell] = [None] * 6
        if of:
            cells = [
                _share(of["channel_share"]) if of["channel_share"] >= 0.1 else f"{of['channel_share']:.1%}",
                f"{of['compute_share']:.0%}" if of["compute_share"] >= 0.1 else f"{of['compute_share']:.1%}",
                1000 * of["decisions_per_request"],
                f"{of['cold_share']:.1%}",
                of["ttft_mean_s"],
                of["waited_min_per_day"],
            ]
        rows.append([engine.engine, engine.pressure, engine.working_set, *cells])
    return rows


def forecast_table(found: Characterized) -> tuple[tuple[str, ...], list[list[Cell]]]:
    """Header and rows: the error of each forecast at each horizon over that of the mean rate."""
    of = found.forecasts
    header = ("forecast", *(f"next {horizon / 60:g} min" for horizon in of["horizons_s"]))
    return header, [[name, *scores] for name, scores in of["scores"].items()]


def _imitation_in_short(found: Characterized) -> str:
    if found.made is None:
        return f"No look-alike: {found.problem}"
    off = sum(map(is_off, found.rows))
    return f"Look-alike: {len(found.rows) - off} of {len(found.rows)} numbers within {COARSE:.0%} of the log's."
