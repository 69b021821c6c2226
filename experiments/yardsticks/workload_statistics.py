"""Statistics of workloads, and the generator held against the published figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cace_env.fleets import GPUS, MODELS
from cace_env.fleets.tabulation import decode_ns, prefill_ns, round_ns
from cace_env.generator import ServedModel, WorkloadConfig, generate
from cace_env.generator.config import Bursts, DayCurve, Routing
from cace_env.tables import TASKS
from cace_env.workload import Workload

LEVELS = (0.1, 0.5, 0.9, 0.99)
ROOMY = 1 << 21  # tokens: longer than any request
# contexts of all steps [tokens]; no figure for p99
AGENT_CONTEXT = {0.1: 42_000, 0.5: 104_000, 0.9: 234_000, 0.99: None}
Array = npt.NDArray[np.float64]


# --- measures of a workload -------------------------------------------------------------------------------------------


def same_as_before(values: npt.NDArray[np.int32], group: npt.NDArray[np.int32] | None = None) -> float:
    """Share of requests with the same value as the request before (of the same group); NaN without any pair."""
    if group is not None:
        order = np.argsort(group, kind="stable")
        values, group = values[order], group[order]
    same = values[1:] == values[:-1]
    if group is not None:
        same = same[group[1:] == group[:-1]]
    return float(same.mean()) if len(same) else float("nan")


def gap_cv(arrival_us: npt.NDArray[np.int64]) -> float:
    """Coefficient of variation of the gaps between nominal arrivals; NaN for fewer than three requests."""
    gaps = np.diff(arrival_us)
    return float(gaps.std() / gaps.mean()) if len(gaps) > 1 and gaps.any() else float("nan")


def gap_cv_by(workload: Workload, column: npt.NDArray[np.integer]) -> Array:
    """`gap_cv` of every value of a column that has at least 30 requests."""
    cvs = [
        gap_cv(workload.arrival_us[column == value])
        for value in np.unique(column)[:200]
        if (column == value).sum() >= 30
    ]
    return np.array(cvs)


def followers(workload: Workload) -> npt.NDArray[np.int64]:
    """Rows that follow another request of their own session."""
    rows = np.flatnonzero(workload.after >= 0)
    return rows[workload.session[rows] == workload.session[workload.after[rows]]]


def session_gaps_s(workload: Workload, task: int) -> Array:
    """Seconds from arrival to arrival within the sessions of a task."""
    rows = followers(workload)
    rows = rows[workload.task[rows] == task]
    return (workload.arrival_us[rows] - workload.arrival_us[workload.after[rows]]) / 1e6


def model_shares(workload: Workload, num_models: int) -> Array:
    """Share of the requests by model, largest first."""
    return np.sort(np.bincount(workload.model, minlength=num_models) / len(workload))[::-1]


def slope(shares: Array, ranks: int) -> float:
    """Log-log slope of share over rank, among the first `ranks`."""
    shares = shares[:ranks][shares[:ranks] > 0]
    return float(np.polyfit(np.log(np.arange(1, len(shares) + 1)), np.log(shares), 1)[0])


def drift(workload: Workload, num_models: int) -> float:
    """Total variation between the model shares of both halves (by time); NaN if one has no request."""
    late = workload.arrival_us > workload.arrival_us[-1] / 2
    if late.all() or not late.any():
        return float("nan")
    halves = [np.bincount(workload.model[half], minlength=num_models) / half.sum() for half in (~late, late)]
    return float(np.abs(halves[0] - halves[1]).sum() / 2)


def hourly_rates(workload: Workload, start_hour: float) -> Array:
    """(24,) requests per hour of the day over their mean, whole days only."""
    hours = (workload.arrival_us / 3.6e9).astype(np.int64)
    days = (int(hours[-1]) + 1) // 24
    counts = np.bincount((hours[hours < 24 * days] + int(start_hour)) % 24, minlength=24)
    return np.asarray(counts / counts.mean())


# --- the generator against published figures --------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One published figure and what the generator makes of it; `tolerance` is relative, None = reported only."""

    what: str
    target: float
    value: float
    source: str
    tolerance: float | None = None

    @property
    def error(self) -> float:
        """Relative error."""
        return self.value / self.target - 1

    @property
    def holds(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.tolerance is None or abs(self.error) <= self.tolerance


def calibration_models() -> tuple[ServedModel, ...]:
    """Every model of the catalogue at its speed on an H100, with room for any prompt: no published length is cut."""
    gpu = GPUS["h100"]
    return tuple(
        ServedModel(
            name=model.name,
            tasks=model.tasks,
            kv_tokens=ROOMY,
            context_window=ROOMY,
            weights_gb=model.weights_gb.value,
            prefill_us_per_token=prefill_ns(model, gpu) / 1e3,
            decode_us_per_token=(round_ns(model, gpu) + decode_ns(model, gpu)) / 1e3,
        )
        for model in MODELS.values()
    )


def token_and_gap_checks() -> list[Check]:
    """Marginals by task, from 400,000 requests of 100 users over some four days."""
    config = WorkloadConfig(requests=400_000, users=100, bursts=Bursts(spread=0.0))
    workload = generate(config, calibration_models(), seed=1)
    inside = followers(workload)
    checks = []
    agent = config.agent
    published = (
        ("completion", "gap [s]", config.completion.gap_s, "CUPS", 0.10),
        ("completion", "prompt [tokens]", config.completion.prompt_tokens, "Azure 2023 code", 0.10),
        ("completion", "output [tokens]", config.completion.output_tokens, "CUPS", 0.10),
        ("chat", "gap [s]", config.chat.gap_s, "RealHumanEval", 0.10),
        ("chat", "prompt [tokens]", config.chat.prompt_tokens, "Azure 2023 conversation", 0.10),
        ("chat", "output [tokens]", config.chat.output_tokens, "Azure 2023 conversation", 0.10),
        ("reasoning", "prompt [tokens]", config.reasoning.prompt_tokens, "ServeGen deepseek-r1", 0.30),
        ("reasoning", "output [tokens]", config.reasoning.output_tokens, "ServeGen deepseek-r1", 0.10),
        ("agent", "gap [s]", agent.gap_s, "Claude Code", 0.20),
        ("agent", "context [tokens]", AGENT_CONTEXT, "Claude Code", 0.20),
        ("agent", "new [tokens]", agent.new_tokens, "Claude Code", 0.15),
        ("agent", "output [tokens]", agent.output_tokens, "Claude Code", 0.10),
    )
    for task, what, target, source, tolerance in published:
        of_task = workload.task == TASKS.index(task)
        if what.startswith("gap"):
            values = session_gaps_s(workload, TASKS.index(task))
        elif what.startswith("new"):
            values = workload.new_tokens[inside[of_task[inside]]]
        else:
            values = (workload.output_tokens if what.startswith("output") else workload.context_tokens)[of_task]
        for level, value in zip(LEVELS, np.quantile(values, LEVELS), strict=True):
            goal = target[level] if isinstance(target, dict) else getattr(target, f"p{level * 100:.0f}")
            judged = None if goal is None or (what, level) == ("new [tokens]", 0.99) else tolerance
            if goal is not None:
                checks.append(Check(f"{task} {what} p{level * 100:.0f}", goal, float(value), source, judged))
    return checks


def habit_checks(seeds: Iterable[int] = range(100)) -> list[Check]:
    """Stickiness, mixture and burstiness of the default configuration, means over its episodes of 2,000 requests."""
    models = calibration_models()
    runs = [generate(WorkloadConfig(), models, seed) for seed in seeds]
    bursty = [generate(WorkloadConfig(bursts=Bursts(spread=2.5)), models, seed) for seed in seeds]

    def mean(measure: Iterable[float]) -> float:
        return float(np.nanmean(list(measure)))

    completion, chat = TASKS.index("completion"), TASKS.index("chat")
    return [
        Check(
            "same user repeats his model", 0.72, mean(same_as_before(w.model, w.user) for w in runs), "GenTD26", 0.07
        ),
        Check(
            "consecutive requests differ in model",
            0.75,
            mean(1 - same_as_before(w.model) for w in runs),
            "GenTD26",
            0.07,
        ),
        Check("consecutive requests of one user", 0.19, mean(same_as_before(w.user) for w in runs), "GenTD26 file"),
        Check(
            "gap CV of completions",
            13.2,
            mean(gap_cv(w.arrival_us[w.task == completion]) for w in runs),
            "Azure 2023 code",
        ),
        Check(
            "the same at bursts.spread 2.5",
            13.2,
            mean(gap_cv(w.arrival_us[w.task == completion]) for w in bursty),
            "Azure 2023 code",
        ),
        Check(
            "gap CV of chat",
            1.09,
            mean(gap_cv(w.arrival_us[w.task == chat]) for w in runs),
            "Azure 2023 conversation",
            0.15,
        ),
        Check("gap CV by model (median)", 4.0, mean(float(np.median(gap_cv_by(w, w.model))) for w in runs), "GenTD26"),
    ]


def popularity_checks(seeds: Sequence[int] = (0, 1, 2, 3, 4)) -> list[Check]:
    """Shares of 86 models that all serve everything, none of them new, 300,000 requests of 3,000 users."""
    models = tuple(
        replace(model, name=f"{model.name}-{copy}", tasks=TASKS) for copy in range(3) for model in calibration_models()
    )[:86]
    config = WorkloadConfig(requests=300_000, users=3_000, routing=Routing(new_models=0))
    runs = [generate(config, models, seed) for seed in seeds]
    shares = [model_shares(run, len(models)) for run in runs]
    checks = [
        Check(f"share of the top {top}", target, float(np.mean([s[:top].sum() for s in shares])), "GenTD26", 0.10)
        for top, target in ((1, 0.31), (3, 0.55), (5, 0.70), (10, 0.87), (20, 0.94))
    ]
    checks.append(
        Check("log-log slope, top 10", -0.87, float(np.mean([slope(s, 10) for s in shares])), "Chutes, whole list")
    )
    drifts = float(np.mean([drift(run, len(models)) for run in runs]))
    checks.append(Check("drift between halves", 0.10, drifts, "GenTD26", 0.30))
    return checks


def day_checks() -> list[Check]:
    """Hourly rates of 300,000 requests of 40 users, some eight days."""
    day = DayCurve(start_hour=0.0)
    config = WorkloadConfig(requests=300_000, day=day, bursts=Bursts(spread=0.0), requests_per_user_hour=24.0)
    rates = hourly_rates(generate(config, calibration_models(), seed=2), day.start_hour)
    return [
        Check("busiest hour over the mean", day.peak_to_mean, float(rates.max()), "Copilot", 0.15),
        Check("busiest over quietest hour", day.peak_to_trough, float(rates.max() / rates.min()), "ServeGen", 0.30),
    ]


def all_checks() -> list[Check]:
    """Every comparison, in the order of the page."""
    return token_and_gap_checks() + habit_checks() + popularity_checks() + day_checks()
