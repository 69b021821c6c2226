"""A log of one's own as a scenario: its models by name, a fleet on which they fit, its requests as the workload.

`open_log` reads, `match_models` finds out what its models are, `scenario_for` builds the fleet around them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError, parse
from cace_env.fleets import ENGINES, GPUS, MODELS
from cace_env.fleets.catalogue import RUNTIME_GB
from cace_env.fleets.tabulation import GB, default_kv_tokens
from cace_env.scenarios import Scenario, load_scenario
from cace_env.tables import NONE, TASKS
from cace_env.traces import Trace, TraceConfig, guess_format, read_trace
from cace_env.traces.guess import IMPORTED, log_file
from cace_env.traces.trace import without_models
from cace_env.workload import Workload
from experiments.logs.model_names import Match, listed, match_models, shown

# What `cace_env.traces.attach` calls what it adds, where readers would not know it.
ASSUMED: Final = {
    "tasks of the model": "tasks (completion, chat, ...), taken to be those that the model is made for",
    "models client-as-model": "models, one for each client",
    "models real (mapped)": "models of the catalogue, in place of those that the log names",
}
# A log does not say on which machine it ran.
GPU: Final = "h100"
LARGER_GPU: Final = "h200"  # where a model needs more
PRESSURE: Final = 2.7  # of the scenario `default`: the most that the default fleet has
HOST_RAM_GB: Final = 128.0  # per GPU; assumed: large servers have 140 to 250
KV_SHARE: Final = 0.99  # share of a model's requests that its KV cache holds at least, memory permitting


@dataclass(frozen=True)
class OwnLog:
    """A log as it was read, and how to read it again."""

    trace: Trace
    section: dict[str, Any]  # keys of `cace_env.traces.TraceConfig`

    @property
    def names(self) -> list[str]:
        """Its models, the most used first; none if it names none, or others are attached."""
        if self.trace.model is None or self.section.get("attach") not in (None, "real"):
            return []
        return list(uses(self.trace))


def uses(trace: Trace) -> dict[str, int]:
    """Requests by model of a log that names models, the most used first."""
    assert trace.model is not None
    counts = np.bincount(trace.model, minlength=len(trace.model_ids))
    return {trace.model_ids[code]: int(counts[code]) for code in np.argsort(-counts, kind="stable")}


class Room(NamedTuple):
    """The memory that one model of a log gets."""

    match: Match
    tasks: tuple[str, ...] | None  # of the log, the main one first; None: those of the catalogue
    kv_tokens: int
    refused: int  # requests of the log that are longer than that
    cut: bool  # whether it would hold more of them on a larger GPU

    @property
    def need_gb(self) -> float:
        """Weights, KV cache and runtime."""
        model = MODELS[str(self.match.model)]
        return model.weights_gb.value + RUNTIME_GB.value + self.kv_tokens * model.kv_bytes_per_token / GB


def open_log(path: str | Path, format: str | None = None, **options: Any) -> OwnLog:
    """Read a log.

    Args:
        path: the folder or file of an imported log, or any log that `cace_env.traces` reads.
        format: of `cace_env.traces.FORMAT_NAMES`; None: told by the columns.
        options: further keys of `cace_env.traces.TraceConfig`.

    Raises:
        TraceError: it cannot be read; ConfigError: an option is wrong.
    """
    file = log_file(path)
    format = format or guess_format(file)
    if options.get("mapping"):
        raise ConfigError("mapping: what the models of a log are stands in the file of --models; leave mapping out")
    section = {"path": str(file), "format": format, **options}
    parse(TraceConfig, section, str(path))
    reading = {key: value for key, value in section.items() if key not in ("path", "format")}
    return OwnLog(read_trace(file, format, **reading), section)


def made_up(workload: Workload) -> list[str]:
    """What of the requests of a log was not recorded so, as warnings on a page."""
    said = []
    if workload.label.startswith("composite"):
        attached = [ASSUMED.get(what, what) for what in workload.meta.get("attached", ())]
        said.append(
            f"**The log does not say everything.** Not in it, and so made up: {'; '.join(attached)}. No interval "
            "includes what could have been made up instead."
        )
    compression = workload.meta.get("time_compression", 1.0)
    if compression != 1.0:
        said.append(
            f"**Time is compressed by {compression:g}.** Rates, pauses and money are of that load, not of the log."
        )
    return said


def served(log: OwnLog, matches: Sequence[Match]) -> OwnLog:
    """The log without the requests of ignored models.

    Raises:
        TraceError: no request is left.
    """
    ignored = [match.name for match in matches if match.model is None]
    if not ignored:
        return log
    section = {**log.section, "ignore": [*log.section.get("ignore", []), *ignored]}
    return OwnLog(without_models(log.trace, ignored), section)


def rooms(log: OwnLog, matches: Sequence[Match], memory_gb: float, engine: str = "safetensors") -> list[Room]:
    """The memory of each model that is served: a KV cache for its tasks and for nearly all of its requests.

    A KV cache has the default size of its tasks (`cace_env.fleets.catalogue.KV_TOKENS`), more if the log has longer
    requests (`KV_SHARE` of them fit), but never more than the largest GPU can hold.

    Args:
        log: the log.
        matches: of its models.
        memory_gb: of the largest GPU.
        engine: what it leaves of other models in memory is not there for KV caches.

    Raises:
        ConfigError: the weights of a model do not fit.
    """
    hosted = [match for match in matches if match.model is not None]
    left_gb = memory_gb - ENGINES[engine].residual_gb.value * (len(hosted) - 1)
    return [_room(match, log, left_gb) for match in hosted]


def _room(match: Match, log: OwnLog, left_gb: float) -> Room:
    model = MODELS[str(match.model)]
    assert log.trace.model is not None  # there are matches
    mine = log.trace.model == log.trace.model_ids.index(match.name)
    tasks = _tasks(log, mine)
    most = int((left_gb - model.weights_gb.value - RUNTIME_GB.value) * GB / model.kv_bytes_per_token)
    if most < 1:
        raise ConfigError(
            f"model {shown(match.name)} ({model.name}) needs {model.weights_gb.value + RUNTIME_GB.value:g} GB and "
            f"more, but a GPU has {left_gb:g} GB for it; choose a larger --gpu ({', '.join(GPUS)}), or another model "
            "in --models"
        )
    kv_tokens = default_kv_tokens(tasks or model.tasks)
    tokens = np.zeros(1, np.int64)
    if log.trace.context_tokens is not None and log.trace.output_tokens is not None:
        tokens = (log.trace.context_tokens + log.trace.output_tokens)[mine]
    asked = math.ceil(np.quantile(tokens, KV_SHARE))
    kv_tokens = min(max(kv_tokens, asked), most)
    return Room(match, tasks, kv_tokens, int((tokens > kv_tokens).sum()), cut=kv_tokens < asked)


def _tasks(log: OwnLog, mine: npt.NDArray[np.bool_]) -> tuple[str, ...] | None:
    """Tasks that the log asks a model for, the most frequent first; None if it does not say."""
    chosen = log.section.get("tasks")
    if chosen is not None:
        return (chosen,) if isinstance(chosen, str) else tuple(chosen)
    if log.trace.task is None:
        return None
    asked = log.trace.task[mine]
    counts = np.bincount(asked[asked != NONE], minlength=len(TASKS))
    return tuple(TASKS[code] for code in np.argsort(-counts, kind="stable") if counts[code]) or None


def scenario_for(
    log: OwnLog,
    matches: Sequence[Match],
    gpus: Sequence[tuple[str, int]] | None = None,
    engine: str = "safetensors",
    *,
    host_ram_gb: float | None = None,
    reward: str = "balanced",
    name: str | None = None,
) -> Scenario:
    """The scenario of a log: each of its models hosted under its own name, with its requests as the workload.

    Args:
        log: the log; where it names no models, those of the scenario `default` are hosted and requests drawn to them.
        matches: of `match_models(log.names, ...)`.
        gpus: (name in the catalogue, how many); None: a fleet on which all fit, with a pressure of at most `PRESSURE`.
        engine: load regime; models of `sleep-mode` are asleep at time 0.
        host_ram_gb: host cache for weights; None: `HOST_RAM_GB` for each GPU.
        reward: a preset.
        name: of the scenario; None: after the file.

    Raises:
        ConfigError: an unknown GPU or engine, or a model that does not fit.
    """
    for what, known, given in (
        ("engine", ENGINES, [engine]),
        ("GPU", GPUS, [gpu for gpu, _ in gpus or ()]),
    ):
        for one in given:
            if one not in known:
                raise ConfigError(f"no {what} {one!r} in the catalogue; known are {', '.join(known)}")
    log = served(log, matches)
    fleet = _default_fleet(log, matches, engine) if gpus is None else list(gpus)
    hosted = {
        "name": name or _plain(Path(log.section["path"])),
        "description": "The requests of a log on a fleet of its own.",
        "fleet": [{"gpu": gpu, "count": count} for gpu, count in fleet],
        "engine": engine,
        "host_ram_gb": HOST_RAM_GB * sum(count for _, count in fleet) if host_ram_gb is None else host_ram_gb,
        "start": "asleep" if ENGINES[engine].residual_gb.value else "empty",
        "reward": reward,
        "trace": log.section,
    }
    if not any(match.model for match in matches):
        return parse(Scenario, {**hosted, "catalogue": load_scenario("default").catalogue}, "scenario of the log")
    largest_gb = max(GPUS[gpu].memory_gb.value for gpu, _ in fleet)
    counts = uses(log.trace)
    catalogue = [
        {
            "name": room.match.name,
            "model": room.match.model,
            "kv_tokens": room.kv_tokens,
            "popularity": float(counts[room.match.name]),
        }
        | ({} if room.tasks is None else {"tasks": list(room.tasks)})
        for room in rooms(log, matches, largest_gb, engine)
    ]
    hosted["trace"] = {**log.section, "attach": "real"}
    return parse(Scenario, {**hosted, "catalogue": catalogue}, "scenario of the log")


def on_scenario(log: OwnLog, scenario: Scenario, given: Mapping[str, str]) -> tuple[Scenario, list[Match]]:
    """A scenario of one's own with the requests of a log.

    A model of the log is the one that the scenario hosts under the same name, else the first that it hosts of the model
    of the catalogue that `match_models` finds.

    Args:
        log: the log.
        scenario: its catalogue has all models of the log.
        given: as for `match_models`.

    Raises:
        ConfigError: as `match_models`, or the scenario does not host a model.
    """
    hosted = {entry.name or entry.model: entry.model for entry in scenario.entries}
    same = {name: hosted[name] for name in log.names if name in hosted and name not in given}
    matches = match_models(log.names, {**given, **same})
    mapping: dict[str, str] = {}
    for match in matches:
        if match.name in same or match.model is None:
            continue
        place = next((name for name, model in hosted.items() if model == match.model), None)
        if place is None:
            raise ConfigError(
                f"model {shown(match.name)} of the log is {match.model}, which scenario {scenario.name!r} does not "
                f"host; it hosts {listed(list(hosted))}: add it, or choose one of their models in --models"
            )
        mapping[match.name] = place
    section = served(log, matches).section | ({"mapping": mapping} if mapping else {})
    return scenario.replace(trace=section | ({"attach": "real"} if matches else {})), matches


def _default_fleet(log: OwnLog, matches: Sequence[Match], engine: str) -> list[tuple[str, int]]:
    """GPUs of one kind on which every model fits, so many that the pressure is at most `PRESSURE`."""
    if not any(match.model for match in matches):
        return [(GPU, 2)]  # of the scenario `default`, whose models are hosted
    try:
        gpu, needs = GPU, rooms(log, matches, GPUS[GPU].memory_gb.value, engine)
        cut = any(room.cut for room in needs)
    except ConfigError:
        cut = True
    if cut:
        gpu, needs = LARGER_GPU, rooms(log, matches, GPUS[LARGER_GPU].memory_gb.value, engine)
    return [(gpu, max(1, math.ceil(sum(room.need_gb for room in needs) / GPUS[gpu].memory_gb.value / PRESSURE)))]


def _plain(path: Path) -> str:
    """A name for a scenario from a file's name, or its folder's for an imported log."""
    text = path.parent.name if path.name == IMPORTED else path.name.partition(".")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:60] or "own-log"
