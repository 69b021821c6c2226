"""Generated traffic that looks like a log: the keys of `WorkloadConfig` fitted to it, and what they cannot say.

The generator knows sessions of one model; here a session is a run of requests of one user and task whose gaps are
short. All but the bursts is read off the log directly; the size of bursts is searched for, because day curve, sessions
and bursts act together on how uneven arrivals are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError, parse
from cace_env.generator import ServedModel, WorkloadConfig, generate
from cace_env.scenarios import Scenario
from cace_env.tables import NONE, TASKS
from cace_env.workload import Workload
from experiments.logs.characteristics import LEVEL_NAMES, quantiles

SESSION_BREAK_S: Final = 1800.0  # a longer gap ends a session
EPISODE_REQUESTS: Final = 20_000  # of the scenario that is written, at most
FIT_REQUESTS: Final = 20_000  # generated to choose the bursts, at most
PER_USER_HOUR: Final = 40.0  # where the log has no users: the default of the generator
SPREADS: Final = (0.0, 0.4, 0.8, 1.2, 1.6, 2.0)  # of bursts, that are tried; above, few bursts make the rate
MINUTES: Final = (0.2, 1.0, 5.0, 30.0)  # that bursts hold, that are tried
UNEVEN_S: Final = (10, 60, 300, 3600)  # bins in which arrivals are counted to choose the bursts
FEWEST_BINS: Final = 12  # of fewer, the spread of counts says nothing
MOST_STEPS: Final = 2e7  # users x bursts of an episode that is tried: each user's breaks walk over all bursts
SURELY_NEW: Final = 5.0  # requests that a model would have had before its first one, if it had been there
FELL: Final = 0.7  # a context below this share of the one before was compacted
ENOUGH: Final = 30  # values for quantiles
BY_CHANCE: Final = 0.05  # of unevenness, on a logarithmic scale, added up
RATE_SEEDS: Final = 5  # runs whose mean rate corrects the rate
MOST_CORRECTED: Final = 1.25  # times the rate: what is off by more is no matter of chance
COARSE: Final = 0.25  # relative difference between log and look-alike that is pointed out
A_LITTLE: Final = 0.02  # unless it is less than this

# What no key of the generator says, whatever the log is like.
NOT_EXPRESSED: Final = (
    "weekdays: every day has the same curve",
    "tokens by model: a task has one distribution for all its models",
    "each user's own mix of tasks, joining and leaving",
    "bursts of one user or one model alone, such as a nightly job",
    "sub-agents, and failed or cancelled requests",
    "requests longer than their model's KV cache, which a fleet refuses: they are cut",
)
Array = npt.NDArray[Any]


class Runs(NamedTuple):
    """Sessions as the generator has them; `R` requests in order of user, session, task and time."""

    rows: Array  # (R,) of the workload
    first: Array  # (R,) whether a request opens its run
    gap_s: Array  # (R,) since the request before of the run; 0 for the first
    before: Array  # (R,) row of the user's request before for the same task, or NONE


def fitted(workload: Workload, models: Sequence[ServedModel], day: Mapping[str, Any]) -> WorkloadConfig:
    """A configuration of the generator whose traffic looks like a workload.

    Args:
        workload: of a log.
        models: of the scenario, in index order.
        day: of `characteristics.day`.

    Raises:
        ConfigError: the generator cannot do it, such as for a log without any duration.
    """
    hours = max(float(workload.arrival_us[-1]) / 3.6e9, 1e-3)
    users = len(np.unique(workload.user))
    shares = np.bincount(workload.task, minlength=len(TASKS)) / len(workload)
    if users == len(workload):  # the log has no users
        users = max(1, math.ceil(len(workload) / hours / PER_USER_HOUR))
    runs = runs_of(workload)
    content: dict[str, Any] = {
        "requests": len(workload),
        "users": min(users, 100_000),
        "activity_spread": _activity_spread(workload),
        "shares": {task: float(share) for task, share in zip(TASKS, shares, strict=True)},
        "roles": {"user": {"share": 1.0}},
        "languages": {"any": 1.0},
        "day": _day(day),
        "routing": _routing(workload, runs, len(models)),
    }
    for task, share in zip(TASKS, shares, strict=True):
        if share > 0:
            content[task] = _task(workload, runs, task)
    content["users"] = max(content["users"], _fewest_users(content, len(workload) / hours))
    content["requests_per_user_hour"] = max(0.001, len(workload) / hours / content["users"])
    return _with_bursts(content, workload, models)


def runs_of(workload: Workload) -> Runs:
    """Cuts a workload into runs: one user, session and task, short gaps, and but for agents one model."""
    order = np.lexsort((workload.arrival_us, workload.session, workload.task, workload.user))
    user, task, session, model = (
        column[order] for column in (workload.user, workload.task, workload.session, workload.model)
    )
    gap_s = np.diff(workload.arrival_us[order], prepend=0) / 1e6
    same = (np.diff(user, prepend=-1) == 0) & (np.diff(task, prepend=-1) == 0) & (np.diff(session, prepend=-1) == 0)
    agent = task == TASKS.index("agent")
    first = ~(same & (gap_s <= SESSION_BREAK_S) & (agent | (np.diff(model, prepend=-1) == 0)))
    by_user = np.lexsort((workload.arrival_us, workload.task, workload.user))
    known = (np.diff(workload.user[by_user]) == 0) & (np.diff(workload.task[by_user]) == 0)
    before = np.full(len(workload), NONE)
    before[by_user[1:][known]] = by_user[:-1][known]
    return Runs(order, first, np.where(first, 0.0, gap_s), before[order])


def lookalike(scenario: Scenario, config: WorkloadConfig) -> Scenario:
    """The scenario with generated requests in place of its log, at most `EPISODE_REQUESTS` in an episode.

    Raises:
        ConfigError: the scenario and the configuration do not fit each other.
    """
    requests = min(config.requests, EPISODE_REQUESTS)
    return scenario.replace(
        name=f"{scenario.name[:60]}-lookalike",
        description="Generated traffic that looks like a log; written by experiments.characterize.",
        trace=None,
        workload={**config.model_dump(mode="json"), "requests": requests},
    )


def compared(log: Mapping[str, Any], made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Numbers of a log and its look-alike side by side, as rows of `what`, `log`, `made` and `off`, relative.

    Args:
        log: of `characteristics`; `played`, where there, has metrics under LRU.
        made: of the look-alike, in the same form.
    """
    rows = []
    for what, *path in _NUMBERS:
        ours, theirs = _at(log, path), _at(made, path)
        if ours is not None or theirs is not None:
            off = None if ours in (None, 0) or theirs is None else theirs / ours - 1
            rows.append({"what": what, "log": ours, "made": theirs, "off": off})
    totals = [{row["task"]: row for row in one["tokens"] if row["model"] is None} for one in (log, made)]
    for task in TASKS:
        for column in ("context", "new", "output"):
            for level in ("p50", "p99"):
                ours, theirs = (of.get(task, {}).get(column, {}).get(level) for of in totals)
                if ours is not None:
                    off = None if theirs is None else theirs / ours - 1
                    rows.append({"what": f"{task}: {column} tokens {level}", "log": ours, "made": theirs, "off": off})
    return rows


def is_off(row: Mapping[str, Any]) -> bool:
    """Whether a row of `compared` differs by more than `COARSE`, and by more than `A_LITTLE`, but for what LRU does."""
    if row["off"] is None or abs(row["off"]) <= COARSE:
        return False
    return row["what"].startswith("LRU") or abs(row["made"] - row["log"]) > A_LITTLE


_NUMBERS: Final = (
    ("requests per second", "arrivals", "per_s"),
    ("CV of the gaps", "arrivals", "gap_cv"),
    ("busiest minute over the mean", "arrivals", "minute_peak_to_mean"),
    ("busiest hour over the mean", "arrivals", "hour_peak_to_mean"),
    ("users", "users"),
    ("models asked for", "popularity", "asked"),
    ("share of the most used model", "popularity", "top", "1"),
    ("share of the top 3", "popularity", "top", "3"),
    ("share of the top 10", "popularity", "top", "10"),
    ("drift between halves", "popularity", "drift"),
    ("a user repeats his model", "habits", "user_repeats_model"),
    ("consecutive requests of one model", "habits", "same_model_in_a_row"),
    ("requests per session", "sessions", "requests_mean"),
    ("closed loop", "sessions", "closed_loop"),
    ("LRU: decisions per request", "played", "decisions_per_request"),
    ("LRU: requests that find their model not loaded", "played", "cold_share"),
    ("LRU: busy share of the swap channels", "played", "channel_share"),
    ("LRU: compute share", "played", "compute_share"),
    ("LRU: cost per request", "played", "cost_per_request"),
)


def _at(numbers: Mapping[str, Any], path: Sequence[str]) -> Any:
    found: Any = numbers
    for key in path:
        found = None if found is None else found.get(key)
    return found


def _day(day: Mapping[str, Any]) -> dict[str, Any]:
    """The day curve; flat for a log of less than a day, which cannot tell it."""
    if day["peak_to_mean"] is None:
        return {"start_hour": day["start_hour"], "peak_to_mean": 1.0}
    peak = min(max(day["peak_to_mean"], 1.0), 6.0)
    trough = day["peak_to_trough"]
    deepest = max(50.0 if trough is None else min(trough, 50.0), 1.01 * peak)
    curve = {"start_hour": day["start_hour"], "peak_hour": (day["peak_hour"] + 0.5) % 24, "peak_to_mean": peak}
    return {**curve, "peak_to_trough": deepest} if peak > 1 else curve


def _activity_spread(workload: Workload) -> float:
    """Standard deviation of the logarithm of requests per user; what chance alone adds is taken off."""
    counts = np.unique(workload.user, return_counts=True)[1]
    if len(counts) < 2 or len(counts) == len(workload):
        return 0.0
    by_chance = (1 / counts).mean()  # variance of the logarithm of a Poisson number, about
    return min(3.0, math.sqrt(max(0.0, float(np.log(counts).var() - by_chance))))


def _routing(workload: Workload, runs: Runs, num_models: int) -> dict[str, Any]:
    counts = np.bincount(workload.model, minlength=num_models)
    exponent, cutoff = popularity_law_of(np.sort(counts)[::-1])
    late = workload.arrival_us > workload.arrival_us[-1] / 2
    halves = [np.bincount(workload.model[half], minlength=num_models) / max(half.sum(), 1) for half in (~late, late)]
    opens = runs.first & (runs.before != NONE)
    new, last = workload.model[runs.rows[opens]], workload.model[runs.before[opens]]
    by_chance = float(((counts / len(workload)) ** 2).sum())
    repeats = float((new == last).mean()) if len(new) else by_chance
    agent = workload.task[runs.rows] == TASKS.index("agent")
    steps = agent & ~runs.first
    moved = np.diff(workload.model[runs.rows], prepend=-1) != 0
    return {
        "popularity_exponent": exponent,
        "popularity_cutoff": cutoff,
        "drift": float(min(0.45, np.abs(halves[0] - halves[1]).sum() / 2)),
        "new_models": _new_models(workload, counts),
        "stickiness": min(1.0, max(0.0, (repeats - by_chance) / max(1 - by_chance, 1e-9))),
        "agent_switch": float(moved[steps].mean()) if steps.any() else 0.0,
        "home_language": 1.0,
        "language_spread": 0.0,
    }


def popularity_law_of(counts: Array) -> tuple[float, float]:
    """Exponent and cut-off of the law rank^-exponent exp(-rank / cutoff) closest to requests by rank."""
    shares = counts / counts.sum()
    ranks = np.arange(1, len(shares) + 1)
    exponents, cutoffs = np.linspace(0, 4, 81), np.geomspace(0.3, 3000, 61)
    laws = ranks ** -exponents[:, None, None] * np.exp(-ranks / cutoffs[:, None])
    laws /= laws.sum(axis=2, keepdims=True)
    off = np.abs(laws - shares).sum(axis=2)
    best = np.unravel_index(np.argmin(off), off.shape)
    return float(exponents[best[0]]), float(cutoffs[best[1]])


def _new_models(workload: Workload, counts: Array) -> int:
    """Models first asked for in the middle half of the log, that would have been before if they had been there."""
    first = np.full(len(counts), len(workload))
    np.minimum.at(first, workload.model, np.arange(len(workload)))
    place = first / len(workload)
    after = np.maximum(1 - place, 1e-9)
    expected = counts / after * place  # at its rate since then
    return int(((place >= 0.25) & (place <= 0.75) & (expected >= SURELY_NEW)).sum())


def _task(workload: Workload, runs: Runs, task: str) -> dict[str, Any]:
    """Gaps, tokens and length of sessions of one task."""
    mine = workload.task[runs.rows] == TASKS.index(task)
    rows, first = runs.rows[mine], runs.first[mine]
    gap_s, lengths = runs.gap_s[mine][~first], np.diff(np.append(np.flatnonzero(first), len(first)))
    context, new = workload.context_tokens[rows], workload.new_tokens[rows]
    found: dict[str, Any] = {"output_tokens": _positive(workload.output_tokens[rows])}
    if len(gap_s) >= ENOUGH:
        found["gap_s"] = _positive(gap_s, 0.001)
    if task != "agent":
        found |= {"prompt_tokens": _positive(context), "session_requests": float(lengths.mean())}
    if task == "completion":
        kept = (~first) & (new < context)
        found["stay"] = float(kept.sum() / max((~first).sum(), 1))
        found["kept_prefix"] = float((1 - new[kept] / context[kept]).mean()) if kept.any() else 0.0
    if task == "agent":
        found |= {"first_tokens": _positive(context[first]), "session_requests": _positive(lengths)}
        grows = ~first & (context >= np.roll(context, 1))
        if grows.sum() >= ENOUGH:
            found["new_tokens"] = _positive(np.maximum(context - np.roll(context, 1), 1)[grows])
        found |= {"compact_tokens": _compacted(context, first), "subagent": {"chance": 0.0}}
    return found


def _compacted(context: Array, first: Array) -> dict[str, float]:
    """Contexts at which sessions of agents are compacted; where none are, the longest one there is."""
    fell = np.flatnonzero(~first & (context < FELL * np.roll(context, 1)))
    if len(fell) >= ENOUGH:
        return _positive(context[fell - 1])
    return dict.fromkeys(LEVEL_NAMES, float(context.max()))


def _positive(values: Array, least: float = 1.0) -> dict[str, float]:
    return {name: max(least, value) for name, value in quantiles(values).items()}


def _fewest_users(content: Mapping[str, Any], per_hour: float) -> int:
    """Users that can type all completions, one in flight each."""
    share = content["shares"]["completion"]
    if share == 0:
        return 1
    given = content["completion"].get("gap_s")
    defaults = WorkloadConfig().completion.gap_s
    mean_s = (defaults if given is None else type(defaults)(**given)).mean
    return math.ceil(share * per_hour / (0.69 * 3600 / mean_s))


def _with_bursts(content: dict[str, Any], workload: Workload, models: Sequence[ServedModel]) -> WorkloadConfig:
    """The configuration whose arrivals are as uneven as the log's on all time scales, and as many per hour.

    First the size of the bursts is searched for, then how long they hold, then their size again.
    """
    wanted = uneven(workload.arrival_us)
    given = {**content, "requests": min(len(workload), FIT_REQUESTS)}
    known: dict[tuple[float, float], float] = {}

    def off(spread: float, minutes: float) -> float:
        if (spread, minutes) not in known:
            made = generate(_parsed({**given, "bursts": {"spread": spread, "minutes": minutes}}), tuple(models), seed=0)
            found = uneven(made.arrival_us)
            known[spread, minutes] = sum(
                abs(math.log1p(found[width]) - math.log1p(wanted[width])) for width in wanted if width in found
            )
        return known[spread, minutes]

    spread, minutes = 0.0, 5.0
    if wanted:
        span_min = given["requests"] / len(workload) * float(workload.arrival_us[-1]) / 6e7
        tried = [m for m in MINUTES if given["users"] * span_min / m <= MOST_STEPS and m <= span_min / FEWEST_BINS]
        tried = tried or [max(MINUTES)]
        spread = _least(SPREADS, lambda spread: off(spread, tried[-1]))
        minutes = _least(tried, lambda minutes: off(max(spread, 0.8), minutes))
        spread = _least(SPREADS, lambda spread: off(spread, minutes))
    bursts = {"spread": spread, "minutes": minutes}
    # Sessions and bursts leave the rate of a run off by some percent.
    config = _parsed({**given, "bursts": bursts})
    ends_us = [int(generate(config, tuple(models), seed).arrival_us[-1]) for seed in range(RATE_SEEDS)]
    rate = given["requests"] / max(float(np.mean(ends_us)), 1.0) * max(int(workload.arrival_us[-1]), 1) / len(workload)
    per_hour = given["requests_per_user_hour"] / min(max(rate, 1 / MOST_CORRECTED), MOST_CORRECTED)
    try:
        return _parsed({**content, "bursts": bursts, "requests_per_user_hour": per_hour})
    except ConfigError:  # users cannot type so fast
        return _parsed({**content, "bursts": bursts})


def _least(values: Sequence[float], error: Callable[[float], float]) -> float:
    """The first of the values whose error is as small as that of any, but for what one seed leaves to chance."""
    errors = [error(value) for value in values]
    return next(value for value, one in zip(values, errors, strict=True) if one <= min(errors) + BY_CHANCE)


def _parsed(content: dict[str, Any]) -> WorkloadConfig:
    return parse(WorkloadConfig, content, "look-alike of the log")


def uneven(arrival_us: Array) -> dict[int, float]:
    """Standard deviation over mean of requests per bin, by the width of the bins [s] of which there are enough."""
    found = {}
    for width_s in UNEVEN_S:
        counts = np.bincount(arrival_us // (width_s * 1_000_000))[:-1]
        if len(counts) >= FEWEST_BINS:
            found[width_s] = float(counts.std() / counts.mean())
    return found
