"""Logs of real requests as workloads.

`load_trace` reads a log (`formats.py`, one loader per format; `gateways/` for those of gateways), attaches what the log
lacks (`attach.py`) and labels the result: "trace ..." if nothing was attached, "composite ..." if anything was.
`windows.py` cuts it. `docs/traces.md` describes formats, licences and how to bring your own log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from cace_env.config import ConfigError, parse
from cace_env.traces.attach import ServedModel, attach
from cace_env.traces.config import FORMAT_NAMES, Attach, Part, TraceConfig
from cace_env.traces.formats import FORMATS, Format
from cace_env.traces.guess import guess_format, log_file
from cace_env.traces.limits import TraceError
from cace_env.traces.schema import write_cace
from cace_env.traces.trace import Trace, without_models
from cace_env.traces.windows import edges_of, part_of, windows_of
from cace_env.workload import Workload, WorkloadError

__all__ = [
    "FORMATS",
    "FORMAT_NAMES",
    "Attach",
    "Format",
    "Part",
    "ServedModel",
    "Trace",
    "TraceConfig",
    "TraceError",
    "guess_format",
    "load_config",
    "load_trace",
    "part_of",
    "read_trace",
    "windows_of",
    "write_cace",
]


def load_trace(
    path: str | Path,
    format: str | None = None,
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
        path: a log (told apart by content), or the folder that `experiments.import_logs` wrote.
        format: a key of `FORMATS`; None: guessed from the names of the columns.
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
    """`load_trace` from a section of a scenario, or with a seed the requests of an episode.

    Args:
        config: the log, and its part.
        models: as for `load_trace`.
        seed: of an episode: of what is attached; None: the section's own. What is drawn while reading (the arrivals of
            ServeGen, the order of sessions) comes from the section's own seed in both cases.

    Returns:
        The workload, as of `load_trace`; `meta` has also `window_edges` (`edges_of`), which tell its results apart.

    Raises:
        TraceError: as `load_trace`.
        WorkloadError: the log is too short for its part or its windows.
    """
    config = _settled(config)
    if seed is None:
        return _workload(_read(config), config, models)
    path = Path(config.path)
    stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None
    served = None if models is None else tuple(_Served.of(model) for model in models)
    return _drawn(config.model_dump_json(), stamp, served, seed)


class _Served(NamedTuple):
    """What attaching needs of a model, as a key of a cache."""

    name: str
    tasks: Sequence[str]
    popularity: float

    @classmethod
    def of(cls, model: ServedModel) -> _Served:
        return cls(model.name, tuple(model.tasks), float(getattr(model, "popularity", 1.0)))


@lru_cache(maxsize=2)
def _drawn(config_json: str, stamp: object, models: Sequence[_Served] | None, seed: int) -> Workload:
    """A log with all that is attached, kept: several fleets and policies play it."""
    config = TraceConfig.model_validate_json(config_json)
    return _workload(_trace(config_json, stamp), config.model_copy(update={"seed": seed}), models)


@lru_cache(maxsize=1)
def _trace(config_json: str, stamp: object) -> Trace:
    """The data of a log, kept as long as its file is the same."""
    del stamp
    return _read(TraceConfig.model_validate_json(config_json))


def _workload(trace: Trace, config: TraceConfig, models: Sequence[ServedModel] | None) -> Workload:
    """The part of a log that is asked for, with what it lacks, and where it is from."""
    workload, trace_format = attach(trace, config, models), _format(config)
    workload.meta.update(
        format=config.format,
        source=Path(config.path).name,
        licence=trace_format.licence,
        attribution=trace_format.attribution,
    )
    part, windows = part_of(workload, config.part, config.train_share), config.windows or 1
    if windows > len(part):
        raise WorkloadError(f"{windows} windows of {len(part)} requests; ask for fewer")
    part.meta["window_edges"] = edges_of(len(part), windows)
    return part


def read_trace(path: str | Path, format: str | None = None, **options: Any) -> Trace:
    """Read a log with nothing attached; `options` are the fields of `TraceConfig` about reading.

    Raises:
        TraceError: as `load_trace`.
    """
    return _read(_settled(_config(path, format, options)))


def _read(config: TraceConfig) -> Trace:
    trace = _format(config).read(Path(config.path), config)
    return without_models(trace, config.ignore) if config.ignore else trace


def _settled(config: TraceConfig) -> TraceConfig:
    """The configuration with the file of a folder, and the format if it has to be guessed."""
    path = log_file(config.path)
    return config.model_copy(update={"path": str(path), "format": config.format or guess_format(path)})


def _format(config: TraceConfig) -> Format:
    """The loader of a settled configuration."""
    return FORMATS[str(config.format)]


def _config(path: str | Path, format: str | None, options: Mapping[str, Any]) -> TraceConfig:
    try:
        return parse(TraceConfig, {"path": str(path), "format": format, **options}, str(path))
    except ConfigError as error:
        raise TraceError(str(error)) from error
