"""A log of your own as requests that hold nothing but metadata, with an audit record of what became of every row.

    python -m experiments.import_logs spend_logs.jsonl --key-file import.key --out mylog
    python -m experiments.import_logs --delete-expired mylog other

The first command writes mylog/requests.parquet and mylog/audit.json. Every command that takes a log takes `mylog`
then. Users and sessions leave the log as keyed hashes only, texts not at all, and no value of a cell is ever shown. The
format is guessed where it can be; `docs/traces.md` lists those known and says how to describe another one with
--columns. Without --out it prints what the log holds and writes nothing. The second one deletes the requests of imports
whose day of --retention is past.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from pydantic import Field

from cace_env.config import Frozen
from cace_env.tables import NONE, TASKS
from cace_env.traces import FORMAT_NAMES, FORMATS, Trace, TraceError, guess_format, read_trace
from cace_env.traces.gateways import require
from cace_env.traces.gateways.columns import ColumnMap, load_map
from cace_env.traces.gateways.known import GATEWAYS, PLAIN
from cace_env.traces.guess import log_file, look
from cace_env.traces.limits import Limits
from experiments.running.command_line import Session, metavar, run_command
from experiments.running.progress import progress_bar

QUANTILES = (10, 50, 90, 99)
MOST_SUMMARISED = 200_000  # requests; a summary holds all of them in memory
CLOSED_LOOP = {"after", "think_s", "origin"}  # columns of our schema that rows one by one cannot keep


class Public(Frozen):
    """Formats of public traces."""

    skip: int = Field(default=0, ge=0, description="rows passed over at the start")
    sort: bool = Field(default=False, description="sort by time instead of refusing rows out of order")
    seed: int = Field(default=0, ge=0, description="of what the loader draws: session starts, ServeGen arrivals")
    tokens: Annotated[str | None, metavar("FILE")] = Field(
        default=None, description="ServeGen: the table of token quantiles per client"
    )


class Options(Frozen):
    """Which log is read, how, and where it is written."""

    file: tyro.conf.Positional[Annotated[Path | None, metavar("LOG")]] = Field(default=None, description="the log")
    format: Annotated[str | None, metavar("NAME")] = Field(
        default=None, description=f"guessed by default; one of {', '.join(FORMAT_NAMES)}"
    )
    columns: Annotated[Path | None, metavar("MAP.yaml")] = Field(
        default=None, description="for any other format: which of its columns is what, see docs/traces.md"
    )
    out: Annotated[Path | None, metavar("DIR")] = Field(
        default=None, description="new or empty folder; without it: what the log holds, and nothing is written"
    )
    key_file: Annotated[Path | None, metavar("FILE")] = Field(
        default=None, description="key of the hashes of users and sessions, at least 16 bytes; never written anywhere"
    )
    key_env: Annotated[str | None, metavar("NAME")] = Field(
        default=None, description="the same from a variable of the environment"
    )
    round_times: Annotated[float, metavar("SECONDS")] = Field(
        default=0.0, ge=0.0, description="cut times to whole multiples of this; by default they stay as they are"
    )
    min_requests_per_user: Annotated[int, metavar("K")] = Field(
        default=1, ge=1, description="leave out users with fewer requests; by default none"
    )
    retention: Annotated[int | None, metavar("DAYS")] = Field(
        default=None, ge=1, description="write the date after which the result has to be deleted into the audit"
    )
    delete_expired: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR ...", help_behavior_hint="")] = Field(
        default=(), description="delete the requests in these folders of imports whose date is past, and nothing else"
    )
    max_rejects: Annotated[float, metavar("SHARE")] = Field(
        default=0.05, ge=0.0, le=1.0, description="fail if more of the rows than this cannot be used (0.05)"
    )
    max_span_days: Annotated[float, metavar("DAYS")] = Field(
        default=100.0, gt=0.0, description="fail if the log spans more days than this (100): some times may be wrong"
    )
    row_mb: Annotated[float, metavar("MB")] = Field(
        default=16.0, gt=0.0, description="a longer row cannot be used (16 megabytes)"
    )
    seconds: Annotated[float, metavar("S")] = Field(
        default=3600.0, gt=0.0, description="fail if reading takes longer than this (an hour)"
    )
    limit: Annotated[int | None, metavar("N")] = Field(
        default=None, ge=1, description="at most this many rows; all by default"
    )
    public: Annotated[Public, tyro.conf.OmitArgPrefixes] = Public()

    def audited(self) -> dict[str, Any]:
        """The options that say what became of the rows; where the key lies stays out."""
        kept = self.model_dump(
            mode="json", exclude={"file", "out", "key_file", "key_env", "columns", "delete_expired", "public"}
        )
        return (
            kept | self.public.model_dump(mode="json") | {"key": self.key_file is not None or self.key_env is not None}
        )


def import_log(options: Options, session: Session) -> None:
    """Reads a log, writes its requests and the audit, and prints what it holds; or deletes what is past its date.

    Raises:
        TraceError: a log that cannot be read, or a folder that cannot be written.
    """
    if options.delete_expired:
        delete(options, session)
        return
    if options.file is None:
        raise TraceError("name a log: python -m experiments.import_logs LOG; see --help")
    path = log_file(options.file)
    if options.format is not None and options.columns is not None:
        raise TraceError("--format and --columns say the same; give one of them")
    name = "columns" if options.columns is not None else options.format or guess_format(path)
    said = "" if options.format or options.columns else " (guessed from the names of its columns)"
    say(session, [f"format: {name}{said}"])
    if name != "columns" and name not in FORMATS:
        raise TraceError(f"--format: unknown format; the formats are {', '.join(FORMAT_NAMES)}")
    if options.out is None:
        say(session, mapped(path, options) if options.columns is not None else held(read(path, name, options)))
        return
    audit = write(path, name, options, session)
    say(session, told(audit, options.out))
    if audit["rows"]["out"] <= MOST_SUMMARISED:
        say(session, ["", *summary(read_trace(options.out))])
    if name in FORMATS and FORMATS[name].licence != "yours":
        say(session, ["", f"licence: {FORMATS[name].licence}. Name: {FORMATS[name].attribution}"])


def delete(options: Options, session: Session) -> None:
    """Delete what is past its date.

    Raises:
        TraceError: a folder that is none of an import; those before it are done.
    """
    from cace_env.traces.gateways.importing import delete_expired

    require(options.delete_expired[0])
    if options.file is not None:
        raise TraceError("--delete-expired takes folders of imports and reads no log; give them in two commands")
    for folder in options.delete_expired:
        say(session, [f"{folder}: {delete_expired(folder, datetime.now(UTC).date())}"])


def mapped(path: Path, options: Options) -> list[str]:
    """What a log holds by a map of columns, which one may still be writing, in lines."""
    require(path)
    from cace_env.traces.gateways.reader import read_mapped

    assert options.columns is not None
    trace, tally = read_mapped(
        path,
        load_map(options.columns),
        Limits(row_mb=options.row_mb, seconds=options.seconds),
        max_rejects=options.max_rejects,
        max_span_days=options.max_span_days,
        limit=options.limit,
    )
    times = aligned([(f"times in {column}", clock.told()) for column, clock in tally.clocks.items()])
    return [*times, *held(trace)]


def held(trace: Trace) -> list[str]:
    """What a log in memory holds, in lines, with warnings."""
    found = summary(trace)
    if trace.ttft_us is not None or trace.e2e_us is not None:
        require(Path())
        from cace_env.traces.gateways.durations import durations_of, unlikely_times

        found += warned(unlikely_times(durations_of(trace), float(trace.time_us[-1]) / 1e6))
    return found


def warned(warnings: Sequence[str]) -> list[str]:
    """Warnings, a line each."""
    return [f"warning: {warning}" for warning in warnings]


def read(path: Path, name: str, options: Options) -> Trace:
    """The log in memory."""
    return read_trace(
        path,
        name,
        limit=options.limit,
        skip=options.public.skip,
        sort=options.public.sort,
        seed=options.public.seed,
        tokens_path=options.public.tokens,
        max_rejects=options.max_rejects,
        max_span_days=options.max_span_days,
    )


def write(path: Path, name: str, options: Options, session: Session) -> dict[str, Any]:
    """Import the log into --out; returns the audit."""
    require(path)
    from cace_env.traces.gateways.importing import Privacy, import_gateway, import_trace
    from cace_env.traces.gateways.privacy import read_key

    assert options.out is not None
    privacy = Privacy(
        read_key(options.key_file, options.key_env),
        options.round_times,
        options.min_requests_per_user,
        options.retention,
    )
    columns = map_of(path, name, options)
    if columns is None:
        trace = read(path, name, options)
        return import_trace(trace, path, name, options.out, privacy, options.audited()).audit
    if options.public.skip:
        raise TraceError("--skip is not for this format; cut the file, or use --limit")
    with progress_bar(session.console) as progress:
        rows = progress.add_task("rows", total=None)
        return import_gateway(
            path,
            name,
            columns,
            options.out,
            privacy,
            Limits(row_mb=options.row_mb, seconds=options.seconds),
            max_rejects=options.max_rejects,
            max_span_days=options.max_span_days,
            options=options.audited(),
            limit=options.limit,
            watch=lambda done: progress.update(rows, completed=done),
        ).audit


def map_of(path: Path, name: str, options: Options) -> ColumnMap | None:
    """Where the columns stand, for a log that is read row by row; None: a loader reads all of it."""
    if options.columns is not None:
        return load_map(options.columns)
    if name in GATEWAYS:
        return GATEWAYS[name].columns
    return None if name == "cace" and look(path).names & CLOSED_LOOP else PLAIN.get(name)


def say(session: Session, lines: Sequence[str]) -> None:
    """Prints lines as they are."""
    session.console.print("\n".join(lines), soft_wrap=True)


def aligned(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Rows of (what, how much) as lines."""
    width = max(len(what) for what, _ in rows)
    return [f"{what:<{width}}  {how_much}" for what, how_much in rows]


def told(audit: dict[str, Any], out: Path) -> list[str]:
    """What became of the rows, and where the result is."""
    rows = audit["rows"]
    lines = [("rows read", f"{rows['in']:,}"), ("requests", f"{rows['out']:,}")]
    lines += [(f"no request: {reason}", f"{count:,}") for reason, count in audit["rejected"]["no_request"].items()]
    lines += [(f"cannot be used: {reason}", f"{count:,}") for reason, count in audit["rejected"]["bad"].items()]
    lines += [(f"times in {column}", found) for column, found in audit.get("times", {}).items()]
    if audit.get("times_without_zone_read_as_utc"):
        lines.append(("times without a zone", f"{audit['times_without_zone_read_as_utc']:,}, read as UTC"))
    lines += [(f"measured {name}", f"{count:,}") for name, count in audit.get("measured", {}).items()]
    if audit["delete_after"]:
        lines.append(("to be deleted after", audit["delete_after"]))
    written = f"written: {out}/requests.parquet and {out}/audit.json"
    return [*aligned(lines), *warned(audit.get("warnings", ())), written]


def summary(trace: Trace) -> list[str]:
    """What a log holds, in lines."""
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
            name = "".join(letter if letter.isprintable() else "?" for letter in trace.model_ids[code])
            lines.append((f"model {name}", f"{uses[code]:,} ({uses[code] / len(trace):.1%})"))
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
    tokens = (("prompt", trace.context_tokens), ("new", trace.new_tokens), ("output", trace.output_tokens))
    lines += [
        (f"{what} tokens p{'/'.join(map(str, QUANTILES))}", quantiles(column, 1.0, "{:,.0f}"))
        for what, column in tokens
        if column is not None
    ]
    times = (("first token", trace.ttft_us), ("last token", trace.e2e_us), ("load", trace.load_us))
    lines += [
        (f"s to {what} p{'/'.join(map(str, QUANTILES))}", quantiles(column[column != NONE], 1e6, "{:,.2f}"))
        for what, column in times
        if column is not None and (column != NONE).any()
    ]
    lines += [("made up", what) for what in trace.altered]
    lines += [("note", note) for note in trace.notes]
    return aligned(lines)


def quantiles(values: Any, per: float, shown: str) -> str:
    """The quantiles of a column."""
    return " / ".join(shown.format(value / per) for value in np.percentile(values, QUANTILES))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("import_logs", Options, import_log, arguments, __doc__, private=True)


if __name__ == "__main__":
    sys.exit(main())
