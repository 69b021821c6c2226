"""Runs of policies on scenarios: with the same seed every policy serves the same requests.

`evaluate` runs one policy; `run_seed` runs several on one draw of the requests; `Evaluation.gain_over` compares two
policies, with an interval. Built-in policies run compiled, Python policies question by question.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, SupportsIndex, TypeVar, cast, get_args

import gymnasium
import numpy as np
import numpy.typing as npt

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError, shown
from cace_env.decision_log import DecisionLog, Recorder
from cace_env.evaluation import short_form
from cace_env.evaluation.intervals import Gain, block_of, mean, paired_gain
from cace_env.fleets import nothing_to_decide as undecided
from cace_env.policies import Agent, Contestant, Future, Guarded, Planner, Player, PythonPolicy, contestant_of
from cace_env.policies import PolicyError as PolicyError
from cace_env.policies.built_in import Policy, rule_of
from cace_env.policies.clairvoyant import without_swapping
from cace_env.policies.contestants import unanswered
from cace_env.policies.python import Illegal
from cace_env.scenarios import Scenario, Split, seeds
from cace_env.simulation import METRICS, Simulator, episode_metrics, lower_bound, ttft_histogram
from cace_env.simulation.windows import WINDOWED, window_metrics
from cace_env.tables import FloatArray
from cace_env.workload import Workload

Job = TypeVar("Job")
Result = TypeVar("Result")

SPLIT_SEEDS: Final = 100  # seeds of a split by name: all of "test" and "validation", the first of "train"
MOST_WORKLOAD_SEED: Final = (1 << 63) - 1


class SeedResult(NamedTuple):
    """Results of one policy on the requests of one seed."""

    # policy, scenario, label, seed, decision_us, lower_bound, every name of METRICS; for a guard `fallback_...`; if
    # actions may be replaced, `illegal_actions`.
    row: dict[str, Any]
    ttft_counts: npt.NDArray[np.int64]  # (T, bins of TTFT_EDGES_S)
    windows: Mapping[str, FloatArray] | None = None  # of a log: metrics of `WINDOWED`, (windows,) each

    @property
    def whole_ttft_counts(self) -> npt.NDArray[np.int64]:
        """`ttft_counts`, or zeros if the episode was cut short, because scores leave it out."""
        return self.ttft_counts * int(not self.row["truncated"])


@dataclass(frozen=True)
class Evaluation:
    """Results of one policy on one scenario. `print` shows the main ones, `summary` and `column` have everything."""

    policy: str
    scenario: str
    label: str  # of the workload: "generated", "trace ..." or "composite ..."
    rows: tuple[dict[str, Any], ...]  # one per seed, as in SeedResult
    ttft_counts: npt.NDArray[np.int64]  # (T, bins of cace_env.simulation.metrics.TTFT_EDGES_S), all whole episodes
    windows: tuple[Mapping[str, FloatArray], ...] = ()  # of a log: by seed, what each window had, as in SeedResult

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(row["seed"] for row in self.rows)

    def column(self, metric: str) -> FloatArray:
        """One metric of every seed, `(seeds,)`.

        `column("truncated")` tells which episodes were cut short, `column("lower_bound")` the least cost of any policy.

        Raises:
            ConfigError: there is no such metric.
        """
        if metric not in self.rows[0]:
            raise ConfigError(f"no metric called {metric!r}; cace_env.simulation.METRICS lists them")
        return np.array([row[metric] for row in self.rows], dtype=np.float64)

    def summary(self) -> dict[str, float]:
        """Every metric's mean over the seeds that have it (for a quantile, the mean of the seeds' quantiles).

        A metric that no seed has is left out, such as the latencies of a task without requests. Truncated episodes
        count only in `truncated`, their share.
        """
        names = [name for name, value in self.rows[0].items() if isinstance(value, float)]
        cut = self.column("truncated")
        means = {name: mean(self.column(name)[cut == 0]) for name in names} | {"truncated": mean(cut)}
        return {name: value for name, value in means.items() if not np.isnan(value)}

    def __str__(self) -> str:
        return short_form.table(self.policy, self.scenario, self.label, self.seeds, self.summary())

    def __repr__(self) -> str:
        return short_form.line(self.policy, self.scenario, self.seeds, self.summary())

    def gain_over(self, baseline: Evaluation, metric: str = "cost") -> Gain:
        """Compute the gain of this policy over another one on the same scenario and seeds [%].

        Above 0 is better, whether less (`paired_gain`) or more of the metric is better. Truncated episodes are left
        out. On a log the interval is over windows of its `trace` section, in blocks, and over seeds, which draw again
        what is attached. A log in fewer than `FEWEST_WINDOWS` windows has no interval, and neither has a metric that
        windows do not have (`cace_env.simulation.windows.WINDOWED`): other seeds are no other time.

        Raises:
            ConfigError: the two did not run on the same requests, or neither less nor more of the metric is better.
        """
        for what, mine, theirs in (
            ("scenario", self.scenario, baseline.scenario),
            ("workload", self.label, baseline.label),
            ("seeds", self.seeds, baseline.seeds),
        ):
            if mine != theirs:
                raise ConfigError(
                    f"{self.policy!r} and {baseline.policy!r} were not run on the same {what}: {mine} and {theirs}"
                )
        whole = (self.column("truncated") == 0) & (baseline.column("truncated") == 0)
        gain = metric_gain(metric, baseline.column(metric)[whole], self.column(metric)[whole])
        if not self.windows:
            return gain
        if metric not in WINDOWED or not whole.any():
            return gain._replace(low=np.nan, high=np.nan)
        by_draw = [
            np.array([by_metric[metric] for by_metric, kept in zip(each.windows, whole, strict=True) if kept])
            for each in (baseline, self)
        ]
        return metric_gain(metric, by_draw[0], by_draw[1], block_of(by_draw[0].shape[1]))


def metric_gain(metric: str, baseline: FloatArray, policy: FloatArray, block: int | None = None) -> Gain:
    """`paired_gain` of values of a metric by seed, with the sign chosen so that above 0 is better.

    With `block` the values are those of windows of a log, in order of time.

    Raises:
        ConfigError: there is no such metric, or neither less nor more of it is better.
    """
    if metric not in METRICS:
        raise ConfigError(f"no metric called {metric!r}; cace_env.simulation.METRICS lists them")
    better = METRICS[metric].better
    if not better:
        raise ConfigError(f"neither less nor more {metric!r} is better, so it has no gain; compare the columns")
    gain = paired_gain(baseline, policy, block=block)
    return gain if better == "less" else Gain(0.0 - gain.percent, 0.0 - gain.high, 0.0 - gain.low)


def evaluate(
    policy: str | Policy | Agent | PythonPolicy | Guarded | Planner,
    scenario: str | Path | Mapping[str, Any] | Scenario | Case = "default",
    seeds: str | Iterable[int] = "test",
    *,
    protocol: str | None = None,
    illegal: Illegal = "error",
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    decision_log: DecisionLog | None = None,
) -> Evaluation:
    """Run a policy on a scenario, once per seed.

    Args:
        policy: a name of `cace_env.policies.POLICIES` or `READINGS`, or "no-swapping", "cace:FILE.yaml" (CACE with
            other weights), "cace-quoted:FILE.yaml" (the quoted formula with other options), "agent:FOLDER" (a trained
            agent), a `Policy`, "package.module:object", or a callable
            `f(features (S, F), legal (S,)) -> keep-scores (S,)`: the legal slot with the lowest score is evicted, ties
            go to the least recently used, then to the lowest slot. If it has a method `reset(seed)`, that is called
            before every episode. `cace_env.observation.SLOT` finds the features' columns by name. Or an object with a
            method `act(observation (layout.size,), action_mask (actions,)) -> action`, which gets what an agent sees in
            the environment of the scenario (`cace_env.policies.python.Acting`). "guarded:NAME" puts any of them under
            the guard of `cace_env.policies.guard`, "planner:NAME" has a built-in one plan by sampled futures.
        scenario: anything `load_scenario` takes, or a `Case`.
        seeds: seeds, or the name of a split: "train" (its first 100), "validation", "test".
        protocol: "eviction" or "swap", as for `case_of`. In Swap-v0 a built-in policy goes with an order ("wsjf+cace";
            "cace" is "fifo+cace"), and so does a callable ("wsjf+package.module:object"), unless it has a method
            `order(features (M, F), legal (M + 1,)) -> scores (M + 1,)`: the legal model with the highest score is
            loaded, and the last stands for waiting (`cace_env.observation.PENDING` finds the columns).
        illegal: handling of illegal actions of a policy with a method `act`. "error" stops with a PolicyError.
            "replace" is for policies that do not use masks: as in the environments, the legal action of lowest index
            takes its place; `illegal_actions` counts them, a column of the rows and a key of `summary`. A guard treats
            such an action as an error in both cases.
        workers: threads; compiled code runs in parallel, a Python policy one episode at a time.
        progress: called with (seeds done, all seeds).
        decision_log: where each decision is written, with its candidates and reasons. Policies are then asked question
            by question, which gives the same results and takes longer.

    Raises:
        ConfigError: the policy or scenario is unknown, the policy cannot run on this fleet or has no answer to what the
            protocol asks (an agent of Eviction-v0 needs an order in Swap-v0), there are no seeds, or `illegal` has
            another value.
        PolicyError: the Python policy failed, or its answer is neither keep-scores nor an action that is legal or may
            be replaced.

    Warns:
        UserWarning: the policy was never asked; the warning says what to change.
    """
    contestant, case, numbers = contestant_of(policy), case_of(scenario, protocol), seed_list(seeds)
    if illegal not in get_args(Illegal):
        raise ConfigError(f"illegal is {illegal!r}; it has to be one of {', '.join(get_args(Illegal))}")
    if illegal != contestant.illegal:
        contestant = replace(contestant, illegal=illegal)
    problem = unanswered(contestant, case.tables.protocol)
    if problem is not None:
        raise ConfigError(problem)
    results: list[SeedResult] = []
    for (result,) in in_order(lambda seed: run_seed(case, [contestant], seed, decision_log), numbers, workers):
        results.append(result)
        if progress is not None:
            progress(len(results), len(numbers))
    built_in = contestant.built_in
    asked = any(result.row["decisions"] for result in results)
    # A keep-alive or count limit can leave a policy without choices that others have.
    if not asked and contestant.swaps and (built_in is None or not built_in.unloads_by_itself):
        gymnasium.logger.warn("%s", undecided.warning(case.name, case.tables, len(results)), stacklevel=2)
    return collect(results)


def collect(results: Sequence[SeedResult]) -> Evaluation:
    """Collect the results of one policy on one scenario, seed by seed, as an `Evaluation`."""
    first = results[0].row
    counts = np.sum([result.whole_ttft_counts for result in results], axis=0)
    rows, windows = tuple(r.row for r in results), tuple(r.windows for r in results if r.windows is not None)
    return Evaluation(first["policy"], first["scenario"], first["label"], rows, counts, windows)


def seed_list(which: str | Iterable[int]) -> list[int]:
    """Convert a split or seeds to a list.

    Raises:
        ConfigError: there is no such split, no seed is given, or one is no whole number, out of range or given twice.
    """
    if isinstance(which, str):
        return list(seeds(cast(Split, which), SPLIT_SEEDS))
    if not isinstance(which, Iterable):
        raise ConfigError(
            f"seeds is {which!r}; give the name of a split or seeds, such as range({which!r}) or [{which!r}]"
        )
    wanted = f"give at least one whole number from 0 to {MOST_WORKLOAD_SEED}, and none twice"
    try:
        numbers = [operator.index(cast(SupportsIndex, seed)) for seed in which]
    except TypeError as error:
        raise ConfigError(f"seeds are {shown(which)}; {wanted}") from error
    if not numbers or min(numbers) < 0 or max(numbers) > MOST_WORKLOAD_SEED or len(set(numbers)) < len(numbers):
        raise ConfigError(f"seeds are {shown(numbers)}; {wanted}")
    return numbers


def in_order(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """Run `work` on every job with `workers` threads, in order; an error drops jobs that have not begun."""
    if workers <= 1:
        yield from map(work, jobs)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(work, jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def run_seed(
    case: Case, contestants: Iterable[Contestant], seed: int, decision_log: DecisionLog | None = None
) -> list[SeedResult]:
    """Run every contestant on the requests of one seed, which are drawn once; one result each, in their order."""
    workload = case.workload(seed)
    bound = lower_bound(case.tables, workload).cost
    future: Future | None = None
    loaded: dict[bool, Simulator] = {}
    results = []
    for contestant in contestants:
        if future is None and isinstance(contestant.policy, Policy) and contestant.policy.clairvoyant:
            future = Future.of(case.tables, workload)
        simulator, thought_s, columns = _play(contestant, case, workload, seed, future, False, decision_log, loaded)
        result = seed_result(contestant.name, case, workload, seed, simulator, bound, thought_s=thought_s)
        result.row.update(columns)
        results.append(result)
    return results


def seed_result(
    name: str, case: Case, workload: Workload, seed: int, simulator: Simulator, bound: float, *, thought_s: float = 0.0
) -> SeedResult:
    """Collect the result of an episode that has been played, under the name of its policy.

    Args:
        name: name of the policy.
        case: the fleet it ran on.
        workload: its requests.
        seed: seed of the requests.
        simulator: at the end of the episode.
        bound: least cost of any policy on these requests (`cace_env.simulation.bounds`).
        thought_s: time that a Python policy took to decide [s].
    """
    summary = simulator.summary()
    decisions = summary.totals.decisions
    row: dict[str, Any] = {
        "policy": name,
        "scenario": case.name,
        "label": workload.label,
        "seed": seed,
        "decision_us": thought_s * 1e6 / decisions if decisions and thought_s else np.nan,
        "lower_bound": bound,
    }
    row |= episode_metrics(summary, case.tables)
    episode, edges = simulator.episode(), workload.meta.get("window_edges")
    by_window = None if edges is None else window_metrics(episode, case.tables.cost, edges)
    return SeedResult(row, ttft_histogram(episode), by_window)


def run_episode(
    contestant: Contestant,
    case: Case,
    workload: Workload,
    seed: int,
    *,
    future: Future | None = None,
    trace: bool = False,
    decision_log: DecisionLog | None = None,
) -> tuple[Simulator, float]:
    """Play an episode; returns the simulator, and the seconds that a Python policy took to decide.

    For a built-in policy, which is compiled, this is 0.

    Args:
        contestant: the policy.
        case: the fleet; `static-best` draws its training requests from it, and cannot run without them.
        workload: the requests.
        seed: seed of the policy's own random draws.
        future: for clairvoyant policies; made here if it is needed and not given.
        trace: keep the event trace.
        decision_log: as for `evaluate`.

    Raises:
        ConfigError, PolicyError: as for `evaluate`.
    """
    simulator, thought_s, _ = _play(contestant, case, workload, seed, future, trace, decision_log, {})
    return simulator, thought_s


def _play(
    contestant: Contestant, case: Case, workload: Workload, seed: int, future: Future | None, trace: bool,
    decision_log: DecisionLog | None, loaded: dict[bool, Simulator],
) -> tuple[Simulator, float, dict[str, float]]:  # fmt: skip
    """`run_episode`, and columns of a guard or a player; built-in policies play in `loaded`, by whether they swap."""
    policy = contestant.policy
    tables = case.tables if contestant.swaps else without_swapping(case.tables)
    if isinstance(policy, Policy) and decision_log is None:
        if policy.clairvoyant and future is None:
            future = Future.of(tables, workload)
        rule = rule_of(policy, tables, seed=seed, workload=workload, future=future, training=case.training)
        if contestant.swaps not in loaded:
            loaded[contestant.swaps] = Simulator(tables, trace=trace)
            loaded[contestant.swaps].load(workload)
        simulator = loaded[contestant.swaps]
        simulator.play(rule)
        return simulator, 0.0, {}
    recorder = None
    if decision_log is not None:
        recorder = Recorder(decision_log, contestant.name, policy, scenario=case.name, seed=seed)
        trace = True  # evictions in which nobody chose are in there
    with contestant.lock:
        if isinstance(policy, Guarded | Planner):
            limits = policy.begin(tables, workload, seed, future=future, training=case.training)
            simulator, thought_s = _asked(policy, Simulator(tables, limits, trace), workload, recorder)
            return simulator, thought_s, policy.columns()
        player = Player(
            contestant.name,
            policy,
            tables,
            workload,
            seed,
            order=contestant.order,
            future=future,
            training=case.training,
            illegal=contestant.illegal,
        )
        simulator, thought_s = _asked(player, Simulator(tables, player.limits, trace), workload, recorder)
        return simulator, thought_s, player.columns()


def _asked(
    player: Player | Guarded | Planner, simulator: Simulator, workload: Workload, recorder: Recorder | None
) -> tuple[Simulator, float]:
    """Play an episode question by question."""
    thought_s = 0.0
    asked = simulator.reset(workload)
    if recorder is not None:
        recorder.begin(simulator)
    while asked:
        action, seconds = player.answer(simulator) if recorder is None else recorder.answer(player, simulator)
        thought_s += seconds
        asked = simulator.answer(action)
        if recorder is not None:
            recorder.settle(simulator)
    return simulator, thought_s
