"""All that is found out about a log on a fleet, in the order of the report: the machinery of the command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.config import ConfigError
from cace_env.fleets.nothing_to_decide import nothing_to_decide
from cace_env.generator import generate
from cace_env.scenarios import Scenario
from cace_env.traces import part_of
from cace_env.traces.attach import attach
from cace_env.workload import Workload
from experiments.logs.characteristics import characteristics, measured
from experiments.logs.eviction import (
    MOST_PLAYED,
    OVERLOADED_S,
    WINDOWS,
    Engine,
    Headroom,
    Verdict,
    causes,
    headroom,
    under_lru,
    verdict,
)
from experiments.logs.forecasts import predictability
from experiments.logs.lookalike import NOT_EXPRESSED, compared, fitted, lookalike
from experiments.logs.model_names import Match
from experiments.logs.own_log import OwnLog, made_up, scenario_for, served

LOOKALIKE_REQUESTS: Final = 200_000  # generated for the comparison, at most
MOST_ASSUMED: Final = 32  # GPUs of a fleet that nobody named
STEPS: Final = WINDOWS + 8  # of the progress bar, about


class ModelRow(NamedTuple):
    """A hosted model: what stands for it and what is asked of it."""

    name: str
    model: str  # of the catalogue
    found: str  # how, and what was assumed
    need_gb: float
    kv_tokens: int
    requests: int
    refused: int  # longer than the KV cache


@dataclass(frozen=True)
class Characterized:
    """What `characterize` found out."""

    log: OwnLog
    scenario: Scenario  # with the log
    matches: Sequence[Match]
    workload: Workload
    numbers: dict[str, Any]  # of `characteristics`
    measured: dict[str, Any]
    forecasts: dict[str, Any]
    models: list[ModelRow]
    engines: list[Engine]
    headroom: Headroom | None
    verdict: Verdict
    imitation: Scenario | None  # with generated requests
    imitated: Workload | None
    made: dict[str, Any] | None  # `characteristics` of the look-alike
    rows: list[dict[str, Any]]  # log and look-alike side by side
    problem: str  # why there is no look-alike
    warnings: tuple[str, ...]

    @property
    def fleet(self) -> str:
        """The fleet in words."""
        return in_words(self.scenario)


def in_words(scenario: Scenario) -> str:
    """GPUs and engine of a scenario."""
    gpus = ", ".join(f"{group.count} x {group.gpu}" for group in scenario.fleet)
    return f"{gpus} ({scenario.engine})"


def workload_of(log: OwnLog, scenario: Scenario) -> Workload:
    """The requests of the scenario, or their part, from the log that was read already.

    Raises:
        TraceError: what the log lacks cannot be attached.
    """
    assert scenario.trace is not None
    workload = attach(log.trace, scenario.trace, scenario.workload_models())
    return part_of(workload, scenario.trace.part, scenario.trace.train_share)


def on_assumed_fleet(
    log: OwnLog,
    matches: Sequence[Match],
    engine: str,
    host_ram_gb: float | None,
    step: Callable[[str], None] = lambda what: None,
) -> Scenario:
    """The scenario of a log whose GPUs are not known: as few as keep the first token under `OVERLOADED_S` with LRU.

    It starts with the fleet of `scenario_for`, and ends at a GPU for each model, as none runs on two, or at
    `MOST_ASSUMED`.

    Args:
        log: with the requests of ignored models.
        matches: of its models.
        engine: load regime.
        host_ram_gb: as for `scenario_for`.
        step: called with what comes next.

    Raises:
        ConfigError, TraceError: as `scenario_for` and `workload_of`.
    """
    scenario = scenario_for(log, matches, None, engine, host_ram_gb=host_ram_gb)
    workload = workload_of(served(log, matches), scenario)
    most = min(MOST_ASSUMED, max(len(scenario.entries), sum(group.count for group in scenario.fleet)))
    while True:
        step("choosing a fleet")
        (group,) = scenario.fleet
        lru = under_lru(scenario, workload)
        if lru.numbers["ttft_mean_s"] <= OVERLOADED_S or group.count >= most:
            return scenario
        gpus = [(group.gpu, min(most, max(group.count + 1, group.count * 3 // 2)))]
        scenario = scenario_for(log, matches, gpus, engine, host_ram_gb=host_ram_gb)


def characterized(
    log: OwnLog,
    scenario: Scenario,
    matches: Sequence[Match],
    engines: Mapping[str, Callable[[], Scenario]],
    *,
    assumed: bool = False,
    zone: str = "UTC",
    seed: int = 0,
    workers: int = 1,
    step: Callable[[str], None] = lambda what: None,
) -> Characterized:
    """Find out everything about a log on a fleet.

    Args:
        log: without the requests of ignored models (`own_log.served`).
        scenario: of the log.
        matches: of its models.
        engines: what makes the scenario under other load regimes, to play LRU there, too.
        assumed: whether the fleet is a guess.
        zone: where its day is told.
        seed: of what is drawn here: the look-alike, the search for the reference.
        workers: threads.
        step: called with what comes next, about `STEPS` times.

    Raises:
        ConfigError, TraceError: the log does not fit the scenario, or there is no such zone.
    """
    step("attaching what the log lacks")
    workload = workload_of(log, scenario)
    tables = scenario.tables()
    names = tables.model_names
    step("measuring")
    numbers = characteristics(workload, names, log.trace.began_us, zone)
    step("forecasting")
    forecasts = predictability(workload)
    step(f"playing LRU with {scenario.engine}")
    mine, found = under_lru(scenario, workload), None
    played = [mine]
    for engine, make in engines.items():
        if engine != scenario.engine:
            step(f"playing LRU with {engine}")
            played.append(_under_another(engine, make, workload))
    mine.numbers.update(causes(scenario, workload, mine))
    if nothing_to_decide(tables) is None:
        step("looking for the reference")
        found = headroom(scenario, workload, seed, lambda: step("looking for the reference"), workers)
    numbers["played"] = mine.numbers
    users = numbers["users"] if numbers["users"] < len(workload) else None
    judged = verdict(tables, in_words(scenario), mine, found, users)
    step("imitating")
    imitation, imitated, made, problem = None, None, None, ""
    try:
        config = fitted(workload, scenario.workload_models(), numbers["day"])
        imitation = lookalike(scenario, config)
        shorter = config.model_copy(update={"requests": min(config.requests, LOOKALIKE_REQUESTS)})
        imitated = generate(shorter, scenario.workload_models(), seed)
        made = characteristics(imitated, names)
        made["played"] = under_lru(scenario, imitated).numbers
    except ConfigError as error:
        problem = str(error)
    return Characterized(
        log=log,
        scenario=scenario,
        matches=matches,
        workload=workload,
        numbers=numbers,
        measured=measured(log.trace),
        forecasts=forecasts,
        models=model_rows(scenario, matches, workload),
        engines=played,
        headroom=found,
        verdict=judged,
        imitation=imitation,
        imitated=imitated,
        made=made,
        rows=[] if made is None else compared(numbers, made),
        problem=problem,
        warnings=warnings_of(log, scenario, matches, workload, mine, assumed),
    )


def _under_another(engine: str, make: Callable[[], Scenario], workload: Workload) -> Engine:
    """LRU under another load regime, or why the models do not fit there."""
    try:
        return under_lru(make(), workload)
    except ConfigError as error:
        return Engine(engine, None, None, {}, str(error).splitlines()[0])


def model_rows(scenario: Scenario, matches: Sequence[Match], workload: Workload) -> list[ModelRow]:
    """The models of the scenario, the most used first."""
    tables = scenario.tables()
    counts = np.bincount(workload.model, minlength=tables.num_models)
    long = workload.context_tokens + workload.output_tokens.astype(np.int64) > tables.kv_tokens[workload.model]
    refused = np.bincount(workload.model, long, minlength=tables.num_models)
    mapping = {} if scenario.trace is None else scenario.trace.mapping
    how: dict[str, list[str]] = {}
    for match in matches:
        if match.model is not None:
            note = f"by {match.how}" + (f" ({match.note})" if match.note else "")
            how.setdefault(mapping.get(match.name, match.name), []).append(note)
    entries = scenario.entries
    return [
        ModelRow(
            name=tables.model_names[m],
            model=entries[m].model,
            found="; ".join(dict.fromkeys(how.get(tables.model_names[m], ["attached"]))),
            need_gb=float(tables.need_bytes[m] / 1e9),
            kv_tokens=int(tables.kv_tokens[m]),
            requests=int(counts[m]),
            refused=int(refused[m]),
        )
        for m in np.argsort(-counts, kind="stable")
    ]


def warnings_of(
    log: OwnLog, scenario: Scenario, matches: Sequence[Match], workload: Workload, lru: Engine, assumed: bool
) -> tuple[str, ...]:
    """What must not be overlooked."""
    said = []
    if not matches:
        said.append(
            "**The models are not those of the log.** It names none, or others were asked for: "
            f"{len(scenario.entries)} models of a scenario were attached. All that is said of models, memory and "
            "eviction is about these."
        )
    if assumed:
        said.append(
            f"**The fleet is assumed: {in_words(scenario)}.** The log does not say where it ran; these are about the "
            "fewest GPUs that serve it. Name yours with --gpu, --gpus and --engine."
        )
    rows = model_rows(scenario, matches, workload)
    refused = sum(row.refused for row in rows)
    if refused:
        said.append(
            f"**{_share(refused / len(workload))} of the requests are refused** ({refused:,}): longer than the "
            "KV cache of what stands for their model. They wait for nothing and count in no latency."
        )
    if lru.numbers["ttft_mean_s"] > OVERLOADED_S:
        said.append(
            "**The fleet is too small for this log.** Under LRU a first token takes "
            f"{lru.numbers['ttft_mean_s']:,.0f} s on average. Shares and savings of such a fleet say little: "
            "try more GPUs."
        )
    guessed = {match.name for match in matches if match.how == "size"}
    if guessed:
        asked = sum(row.requests for row in rows if row.name in guessed)
        said.append(
            f"**{len(guessed)} of {len(matches)} models are guessed by size**, {asked / len(workload):.1%} of the "
            "requests; name better ones with --models."
        )
    left_out = {reason: count for reason, count in log.trace.dropped.items() if count}
    if left_out:
        said.append(f"**Left out:** {', '.join(f'{count:,} rows ({reason})' for reason, count in left_out.items())}.")
    if len(workload) > MOST_PLAYED:
        said.append(
            f"**Sampled.** LRU was played on {MOST_PLAYED:,} of {len(workload):,} requests, in stretches that are "
            "spread evenly over the log, each from an empty fleet."
        )
    return (*said, *made_up(workload))


def _share(value: float) -> str:
    return f"{value:.1%}" if value >= 0.001 else "Less than 0.1%"


def as_json(found: Characterized, command: str, version: str) -> dict[str, Any]:
    """Everything as plain data; NaN never occurs."""
    scenario = found.scenario
    return {
        "command": command,
        "cace_env": version,
        "source": {key: found.log.section[key] for key in ("path", "format")},
        "rows_read": found.log.trace.rows_read,
        "left_out": dict(found.log.trace.dropped),
        "warnings": list(found.warnings),
        "fleet": {
            "gpus": [[group.gpu, group.count] for group in scenario.fleet],
            "engine": scenario.engine,
            "host_ram_gb": scenario.host_ram_gb,
        },
        "verdict": found.verdict._asdict(),
        "headroom": None
        if found.headroom is None
        else {
            **vars(found.headroom),
            "share": found.headroom.share,
            "rule_share": found.headroom.rule_share,
        },
        "engines": [engine._asdict() for engine in found.engines],
        "models": [row._asdict() for row in found.models],
        "log": found.numbers,
        "measured": found.measured,
        "forecasts": found.forecasts,
        "lookalike": found.made,
        "side_by_side": found.rows,
        "not_expressed": list(NOT_EXPRESSED),
        "problem": found.problem,
    }
