"""Logs of real requests as workloads.

`load_trace` reads a log (`formats.py`, one loader per format), attaches what the log lacks (`attach.py`) and labels the
result: "trace ..." if nothing was attached, "composite ..." if anything was. `docs/traces.md` describes formats,
licences and how to bring your own log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cace_env.config import ConfigError, parse
from cace_env.traces.attach import ServedModel, attach
from cace_env.traces.config import FORMAT_NAMES, Attach, TraceConfig
from cace_env.traces.formats import FORMATS, Format
from cace_env.traces.reading import TraceError
from cace_env.traces.schema import write_cace
from cace_env.traces.trace import Trace, without_models
from cace_env.workload import Workload

__all__ = [
    "FORMATS",
    "FORMAT_NAMES",
    "Attach",
    "Format",
    "ServedModel",
    "Trace",
    "TraceConfig",
    "TraceError",
    "load_config",
    "load_trace",
    "read_trace",
    "write_cace",
]


def load_trace(
    path: str | Path,
    format: str,
    *,
    models: Sequence[ServedModel] | None = None,
    tasks: str | Mapping[str, float] | None = None,
    attach: Attach | None = None,
    time_compression: float = 1.0,
    limit: int | None = None,
    seed: int = 0,
    **more: Any,
) -> Workload:
    """Load a log as a workload.

    Args:
        path: CSV, JSON lines or Parquet, gzipped or not (told apart by content).
        format: a key of `FORMATS`.
        models: the catalogue in index order, objects with `.name` and `.tasks`; None: the log's own models, most used
            first, listed in `meta["model_names"]`.
        tasks: one task for all, or shares of tasks; None: the log's own, else the main task of the attached model.
        attach: "real", "client-as-model" or "drawn"; None: real if the log names models, else drawn.
        time_compression: divisor of all times.
        limit: most rows to read.
        seed: seed of all random draws.
        more: other fields of `TraceConfig`, which explains all of them.

    Returns:
        The workload. `label` says what was attached; `meta` has source, format, rows read and dropped (by reason),
        span, time compression, how models, tasks and tokens were attached, model names, licence and attribution.

    Raises:
        TraceError: the log or the options cannot be used; the message names file, row, column and remedy.
    """
    options: dict[str, Any] = {"tasks": dict(tasks) if isinstance(tasks, Mapping) else tasks, "attach": attach}
    options |= {"time_compression": time_compression, "limit": limit, "seed": seed, **more}
    return load_config(_config(path, format, options), models)


def load_config(config: TraceConfig, models: Sequence[ServedModel] | None = None, seed: int | None = None) -> Workload:
    """`load_trace` from a section of a scenario; `seed` replaces the section's.

    Raises:
        TraceError: as `load_trace`.
    """
    if seed is not None:
        config = config.model_copy(update={"seed": seed})
    trace_format = FORMATS[config.format]
    workload = attach(_read(config), config, models)
    workload.meta.update(
        format=config.format,
        source=Path(config.path).name,
        licence=trace_format.licence,
        attribution=trace_format.attribution,
    )
    return workload


def read_trace(path: str | Path, format: str, **options: Any) -> Trace:
    """Read a log with nothing attached; `options` are the fields of `TraceConfig` about reading.

    Raises:
        TraceError: as `load_trace`.
    """
    return _read(_config(path, format, options))


def _read(config: TraceConfig) -> Trace:
    trace = FORMATS[config.format].read(Path(config.path), config)
    return without_models(trace, config.ignore) if config.ignore else trace


def _config(path: str | Path, format: str, options: Mapping[str, Any]) -> TraceConfig:
    try:
        return parse(TraceConfig, {"path": str(path), "format": format, **options}, str(path))
    except ConfigError as error:
        raise TraceError(str(error)) from error
