"""Tables for the compiled parts of the generator: what does not depend on the seed, once per configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.config import ConfigError
from cace_env.generator.quantiles import POINTS, FloatArray, geometric_table, quantile_table, size_biased
from cace_env.tables import TASKS

if TYPE_CHECKING:
    from cace_env.generator.config import ServedModel, WorkloadConfig

KINDS = (*TASKS, "sub-agent")
COMPLETION, AGENT, SUBAGENT = TASKS.index("completion"), TASKS.index("agent"), len(TASKS)
# what is tabulated per kind; "seen" = met at a random moment, when what is long is met more often
GAP_S, GAP_S_SEEN, FIRST_TOKENS, NEW_TOKENS, OUTPUT_TOKENS, STEPS, STEPS_SEEN, COMPACT_TOKENS = range(8)
FIELDS = 8
DAY_BINS = 288  # of 5 minutes


class Knobs(NamedTuple):
    """Single numbers of a `WorkloadConfig`."""

    activity_spread: float
    burst_spread: float
    burst_s: float
    drift: float
    new_models: int
    stickiness: float
    agent_switch: float
    home_language: float
    language_spread: float
    stay: float
    kept_prefix: float
    compact_to: float
    compact_kept: float
    subagent_chance: float


class GeneratorTables(NamedTuple):
    """`K` kinds (tasks and the sub-agent), `T` tasks, `U` users, `L` languages, `M` models."""

    knobs: Knobs
    quantiles: npt.NDArray[np.float32]  # (K, FIELDS, POINTS)
    mean_gap_s: FloatArray  # (K,)
    mean_steps: FloatArray  # (K,)
    task_rate: FloatArray  # (T,) requests per second of the whole company, mean over the day
    role_factor: FloatArray  # (U, T)
    language_cumulative: FloatArray  # (L,)
    row_shares: FloatArray  # (T * L,) of all requests, by task * L + language
    day: FloatArray  # (DAY_BINS,) factor on the rate, mean 1; bin 0 begins at the start hour
    serves: npt.NDArray[np.bool_]  # (T, M)
    speaks: npt.NDArray[np.bool_]  # (L, M)
    popularity_hint: FloatArray  # (M,)
    popularity_law: FloatArray  # (M,) share by rank
    longest_request: npt.NDArray[np.int64]  # (M,) context + output
    weights_gb: FloatArray  # (M,)
    prefill_us: FloatArray  # (M,) per token
    decode_us: FloatArray  # (M,) per token
    length_s: float  # expected length of the episode


def day_curve(start_hour: float, peak_hour: float, peak_to_mean: float, peak_to_trough: float) -> FloatArray:
    """Factor on the rate in bins from the start hour: trough + (peak - trough) * raised cosine ^ power, mean 1."""
    if peak_to_mean <= 1:
        return np.ones(DAY_BINS)
    hours = start_hour + (np.arange(DAY_BINS) + 0.5) * 24 / DAY_BINS
    hill = 0.5 + 0.5 * np.cos((hours - peak_hour) * math.pi / 12)
    trough = peak_to_mean / peak_to_trough
    wanted = (1 - trough) / (peak_to_mean - trough)  # mean of the hill to its power
    low, high = 0.0, 1000.0
    for _ in range(60):
        power = (low + high) / 2
        low, high = (power, high) if np.mean(hill**power) > wanted else (low, power)
    curve: FloatArray = trough + (peak_to_mean - trough) * hill**power
    return curve


def _length_s(day: FloatArray, requests: int, rate: float) -> float:
    """Seconds until `requests` are expected, at `rate` requests per second on average over the day."""
    bin_s = 86_400 / DAY_BINS
    days, rest = divmod(requests, rate * 86_400)
    return float(
        days * 86_400 + np.interp(rest, np.append(0, np.cumsum(day)) * rate * bin_s, np.arange(DAY_BINS + 1) * bin_s)
    )


def popularity_law(models: int, exponent: float, cutoff: float) -> FloatArray:
    """Share by rank (1 = most popular), sum 1: Zipf with an exponential cut-off."""
    rank = np.arange(1, models + 1, dtype=np.float64)
    weights = rank**-exponent * np.exp(-rank / cutoff)
    shares: FloatArray = weights / weights.sum()
    return shares


_CACHE: dict[tuple[str, tuple[ServedModel, ...]], GeneratorTables] = {}


def tabulate(config: WorkloadConfig, models: tuple[ServedModel, ...]) -> GeneratorTables:
    """Tables of a configuration and a catalogue, kept for the next seed.

    Raises:
        ConfigError: no models, an unknown task or language, or a task that no model serves in some language.
    """
    key = (config.model_dump_json(), models)
    if key not in _CACHE:
        if len(_CACHE) >= 64:
            _CACHE.clear()
        _CACHE[key] = _tabulate(config, models)
    return _CACHE[key]


def _tabulate(config: WorkloadConfig, models: tuple[ServedModel, ...]) -> GeneratorTables:
    _check(config, models)
    quantiles, mean_gap_s, mean_steps = _distributions(config)
    languages = np.array(list(config.languages.values()))
    shares = np.array(config.shares.normalised())
    day = config.day
    routing, agent = config.routing, config.agent
    knobs = Knobs(
        activity_spread=config.activity_spread,
        burst_spread=config.bursts.spread,
        burst_s=config.bursts.minutes * 60,
        drift=routing.drift,
        new_models=routing.new_models,
        stickiness=routing.stickiness,
        agent_switch=routing.agent_switch,
        home_language=routing.home_language,
        language_spread=routing.language_spread,
        stay=config.completion.stay,
        kept_prefix=config.completion.kept_prefix,
        compact_to=agent.compact_to,
        compact_kept=agent.compact_kept,
        subagent_chance=agent.subagent.chance,
    )
    curve = day_curve(day.start_hour, day.peak_hour, day.peak_to_mean, day.peak_to_trough)
    return GeneratorTables(
        knobs=knobs,
        quantiles=quantiles,
        mean_gap_s=mean_gap_s,
        mean_steps=mean_steps,
        task_rate=shares * config.users * config.requests_per_user_hour / 3600,
        role_factor=_role_factors(config),
        language_cumulative=np.cumsum(languages / languages.sum()),
        row_shares=np.outer(shares, languages / languages.sum()).ravel(),
        day=curve,
        serves=np.array([[task in model.tasks for model in models] for task in TASKS]),
        speaks=np.array(
            [[not model.languages or name in model.languages for model in models] for name in config.languages]
        ),
        popularity_hint=np.array([model.popularity for model in models], dtype=np.float64),
        popularity_law=popularity_law(
            len(models), config.routing.popularity_exponent, config.routing.popularity_cutoff
        ),
        longest_request=np.array([model.longest_request for model in models], dtype=np.int64),
        weights_gb=np.array([model.weights_gb for model in models], dtype=np.float64),
        prefill_us=np.array([model.prefill_us_per_token for model in models], dtype=np.float64),
        decode_us=np.array([model.decode_us_per_token for model in models], dtype=np.float64),
        length_s=_length_s(curve, config.requests, config.users * config.requests_per_user_hour / 3600),
    )


def _distributions(config: WorkloadConfig) -> tuple[npt.NDArray[np.float32], FloatArray, FloatArray]:
    """Quantile tables of all kinds, and the means of gaps and session lengths."""
    quantiles = np.ones((len(KINDS), FIELDS, POINTS))
    agent, subagent = config.agent, config.agent.subagent
    sections: tuple[Any, ...] = (config.completion, config.chat, config.reasoning, agent, subagent)
    for kind, section in enumerate(sections):
        rows: dict[int, Any] = {GAP_S: section.gap_s, OUTPUT_TOKENS: section.output_tokens}
        if section in (agent, subagent):
            rows |= {FIRST_TOKENS: section.first_tokens, NEW_TOKENS: section.new_tokens}
            rows |= {STEPS: section.session_requests, COMPACT_TOKENS: agent.compact_tokens}
        else:
            rows |= {FIRST_TOKENS: section.prompt_tokens}
            quantiles[kind, STEPS] = geometric_table(section.session_requests)
        for row, values in rows.items():
            quantiles[kind, row] = quantile_table((values.p10, values.p50, values.p90, values.p99))
        quantiles[kind, STEPS] = np.maximum(np.rint(quantiles[kind, STEPS]), 1)
        quantiles[kind, STEPS_SEEN] = size_biased(quantiles[kind, STEPS])
        quantiles[kind, GAP_S_SEEN] = size_biased(quantiles[kind, GAP_S])
    return quantiles.astype(np.float32), quantiles[:, GAP_S].mean(axis=1), quantiles[:, STEPS].mean(axis=1)


def _role_factors(config: WorkloadConfig) -> FloatArray:
    """(users, tasks): roles take consecutive users in proportion to their shares."""
    roles = list(config.roles.values())
    shares = np.array([role.share for role in roles])
    role = np.searchsorted(np.cumsum(shares / shares.sum())[:-1], (np.arange(config.users) + 0.5) / config.users)
    factors = np.array([[getattr(one, task) for task in TASKS] for one in roles])[role]
    for task, share in enumerate(config.shares.normalised()):
        if share > 0 and not factors[:, task].any():
            factors[:, task] = 1.0  # too few users to have the role that does it
    return factors


def _check(config: WorkloadConfig, models: Sequence[ServedModel]) -> None:
    """Refuses catalogues that leave a task without a model."""
    if not models:
        raise ConfigError("a workload needs at least one model; the catalogue is empty")
    for model in models:
        unknown = sorted(set(model.tasks) - set(TASKS))
        if unknown:
            raise ConfigError(
                f"model {model.name!r} serves unknown task {unknown[0]!r}; the tasks are {', '.join(TASKS)}"
            )
        if model.longest_request < 2:
            raise ConfigError(
                f"model {model.name!r} has room for {model.longest_request} tokens; a request needs at least 2"
            )
    for task, share in zip(TASKS, config.shares.normalised(), strict=True):
        serving = [model for model in models if task in model.tasks]
        for language in config.languages:
            if share > 0 and not any(not model.languages or language in model.languages for model in serving):
                detail = f"in {language!r} " if serving else ""
                raise ConfigError(
                    f"task {task!r} has a share of {share:.2f} of the requests, but no model serves it {detail}"
                    f"(models: {', '.join(model.name for model in models)}); set shares.{task}: 0 or add a model"
                )
