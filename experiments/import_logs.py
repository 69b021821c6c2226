"""Any log format as a file in our own schema, with a summary of what was found.

    python -m experiments.import_logs FILE --format azure --out mylog.parquet

The schema is documented in `docs/traces.md`; nothing is attached here: what the log does not say stays empty. Load the
result with `cace_env.traces.load_trace(OUT, "cace", models=...)`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cace_env.tables import NONE, TASKS
from cace_env.traces import FORMATS, Trace, TraceError, read_trace, write_cace

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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.import_logs", description="Convert a log to our schema."
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--format", required=True, help=f"one of {', '.join(FORMATS)}")
    parser.add_argument(
        "--out", type=Path, help=".csv, .csv.gz, .jsonl, .jsonl.gz or .parquet; without it: the summary only"
    )
    parser.add_argument("--limit", type=int, help="at most this many rows")
    parser.add_argument("--skip", type=int, default=0, help="rows passed over at the start")
    parser.add_argument("--sort", action="store_true", help="sort by time instead of refusing rows out of order")
    parser.add_argument(
        "--seed", type=int, default=0, help="of what the loader draws: session starts, ServeGen arrivals"
    )
    parser.add_argument("--tokens", help="ServeGen: the table of token quantiles per client")
    options = parser.parse_args(arguments)
    try:
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
    except TraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lines = summary(trace)
    width = max(len(what) for what, _ in lines)
    for what, how_much in lines:
        print(f"{what:<{width}}  {how_much}")
    known = FORMATS[options.format]
    print(f"\nlicence: {known.licence}. Name: {known.attribution}")
    if options.out is not None:
        print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
