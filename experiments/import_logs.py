"""Any log format as a file in our own schema, with a summary of what was found.

    python -m experiments.import_logs FILE --format azure --out mylog.parquet

The schema is documented in `docs/traces.md`; nothing is attached here: what the log does not say stays empty. Load the
result with `cace_env.traces.load_trace(OUT, "cace", models=...)`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from pydantic import Field

from cace_env.config import Frozen
from cace_env.tables import NONE, TASKS
from cace_env.traces import FORMATS, Trace, read_trace, write_cace
from experiments.running.command_line import Session, metavar, run_command

QUANTILES = (10, 50, 90, 99)


def summary(trace: Trace) -> list[tuple[str, str]]:
    """What a log holds, as rows of (what, how much)."""
    span_s = float(trace.time_us[-1]) / 1e6
    lines = [
        ("rows read", f"{trace.rows_read:,}"),
        ("requests", f"{len(trace):,}"),
        *((f"left out: {reason}", f"{count:,}") for reason, count in trace.dropped.items()),
        ("span", f"{span_s:,.1f} s ({span_s / 3600:.2f} h)"),
    ]
    if span_s > 0:
        lines.append(("requests per second", f"{len(trace) / span_s:.3g}"))
    if len(trace) > 2 and span_s > 0:
        gaps_s = np.diff(trace.time_us) / 1e6
        lines.append(("CV of the gaps", f"{gaps_s.std() / gaps_s.mean():.2f}"))
    if trace.model is None:
        lines.append(("models", "none named"))
    else:
        uses = np.bincount(trace.model, minlength=len(trace.model_ids))
        for code in np.argsort(-uses, kind="stable")[:10]:
            lines.append((f"model {trace.model_ids[code]}", f"{uses[code]:,} ({uses[code] / len(trace):.1%})"))
        if len(uses) > 10:
            lines.append(("further models", f"{len(uses) - 10}"))
    if trace.task is None:
        lines.append(("tasks", "none named"))
    else:
        for code in np.unique(trace.task):
            name = "task unknown" if code == NONE else f"task {TASKS[code]}"
            lines.append((name, f"{int((trace.task == code).sum()):,}"))
    for what, column in (("users", trace.user), ("sessions", trace.session)):
        lines.append((what, "none named" if column is None else f"{len(np.unique(column)):,}"))
    if trace.after is not None:
        lines.append(("closed loop", f"{float((trace.after != NONE).mean()):.1%} of the requests"))
    columns = (("prompt", trace.context_tokens), ("new", trace.new_tokens), ("output", trace.output_tokens))
    for what, column in columns:
        if column is not None:
            shown = " / ".join(f"{value:,.0f}" for value in np.percentile(column, QUANTILES))
            lines.append((f"{what} tokens p{'/'.join(map(str, QUANTILES))}", shown))
    lines += [("made up", what) for what in trace.altered]
    lines += [("note", note) for note in trace.notes]
    return lines


class Options(Frozen):
    """Which log is read, how, and where it is written."""

    file: tyro.conf.Positional[Path] = Field(description="the log")
    format: Annotated[str, tyro.conf.arg(metavar="NAME")] = Field(description=f"one of {', '.join(FORMATS)}")
    out: Annotated[Path | None, metavar("FILE")] = Field(
        default=None, description=".csv, .csv.gz, .jsonl, .jsonl.gz or .parquet; without it: the summary only"
    )
    limit: Annotated[int | None, metavar("N")] = Field(
        default=None, description="at most this many rows; all by default"
    )
    skip: int = Field(default=0, description="rows passed over at the start")
    sort: bool = Field(default=False, description="sort by time instead of refusing rows out of order")
    seed: int = Field(default=0, description="of what the loader draws: session starts, ServeGen arrivals")
    tokens: Annotated[str | None, metavar("FILE")] = Field(
        default=None, description="ServeGen: the table of token quantiles per client"
    )


def import_log(options: Options, session: Session) -> None:
    """Reads a log, writes it in our schema, and prints what it holds.

    Raises:
        TraceError: a log that cannot be read, or a file that cannot be written.
    """
    trace = read_trace(
        options.file,
        options.format,
        limit=options.limit,
        skip=options.skip,
        sort=options.sort,
        seed=options.seed,
        tokens_path=options.tokens,
    )
    if options.out is not None:
        write_cace(trace, options.out, origin=options.format)
    lines = summary(trace)
    width = max(len(what) for what, _ in lines)
    known = FORMATS[options.format]
    shown = [f"{what:<{width}}  {how_much}" for what, how_much in lines]
    shown += ["", f"licence: {known.licence}. Name: {known.attribution}"]
    shown += [f"written: {options.out}"] if options.out is not None else []
    session.console.print("\n".join(shown), markup=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("import_logs", Options, import_log, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
