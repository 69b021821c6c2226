"""Whether it matters which model leaves: what loads cost on a fleet, and how much better than LRU it can be done.

Samples of a workload are played under LRU, for each engine; on shorter windows the clairvoyant reference is looked for.
`verdict` makes a sentence of it. Its thresholds are judgements; each says why it is where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.cases import Case, case_of
from cace_env.evaluation.episodes import in_order, run_seed
from cace_env.fleets import ENGINES
from cace_env.fleets.nothing_to_decide import nothing_to_decide
from cace_env.planning import find_reference
from cace_env.policies import POLICIES, Future, contestant_of
from cace_env.scenarios import Scenario
from cace_env.simulation import lower_bound
from cace_env.tables import FleetTables
from cace_env.traces import windows_of
from cace_env.workload import Workload

# LRU is played on the whole workload up to this length, on samples of a longer one: a second or two for each engine.
MOST_PLAYED: Final = 120_000
SAMPLES: Final = 4
# The reference is looked for on these; each begins with an empty fleet.
WINDOWS: Final = 5
WINDOW_REQUESTS: Final = 4_000
EFFORT: Final[dict[str, Any]] = {
    "max_rounds": 3,
    "max_replays": 3_000,
}  # of `find_reference`, whose defaults are 8 and 50,000

# The policy is asked less than once in a thousand requests: a choice would have to be worth minutes to be noticed.
FEW_DECISIONS: Final = 0.001
# Agents of this package reach 36 % of the way to the reference on the suite: of 5 % that is below 2 %, which no pilot
# of a few weeks can tell from chance.
LITTLE_HEADROOM: Final = 0.05
MUCH_HEADROOM: Final = 0.15  # the same share of it is 5 %, as much as tuned CACE is below LRU on the suite at best
LEARNED_SHARE: Final = 0.36  # docs/suite.md, Eviction-v0
# Minutes that everybody together could save in 8 hours; nobody maintains a policy for less.
FEW_MINUTES: Final = 5.0
IDLE_CHANNEL: Final = 0.02  # share of the time in which a model loads or leaves: loads are rare
# Without any swapping people would wait nearly as long: what could be saved is somewhere else.
LITTLE_SWAPPING: Final = 0.1
MOST_OF_IT: Final = 0.5
MORE_MEMORY: Final = 3.0  # memory for everything saves this many times as much as perfect eviction: say so
OVERLOADED_S: Final = 30.0  # a mean wait for the first token that nobody accepts: the fleet is too small

POOLED: Final = ("requests", "refused", "decisions", "loads", "cost", "waiting_s", "simulated_s")  # summed
SHARES: Final = ("channel_share", "compute_share", "memory_share")  # means over simulated time
OF_REQUESTS: Final = ("ttft_mean_s", "cold_share")  # means over requests
EIGHT_HOURS_S: Final = 8 * 3600


class Engine(NamedTuple):
    """A fleet under one load regime, with LRU; all numbers None where the models do not fit."""

    engine: str
    pressure: float | None  # needs of all models over all memory
    working_set: float | None  # the same of the models asked for within an hour, median
    numbers: dict[str, float]  # metrics of `cace_env.simulation.METRICS`, pooled over the samples
    problem: str = ""


@dataclass(frozen=True)
class Headroom:
    """LRU, and what can be done on windows of the workload, costs summed."""

    windows: int
    requests: int  # of a window
    decisions: int  # of LRU
    lru: float
    reference: float
    rule: str  # the cheapest deployable rule on these very windows
    rule_cost: float

    @property
    def share(self) -> float:
        """Share of LRU's cost that the reference saves."""
        return 1 - self.reference / self.lru if self.lru else 0.0

    @property
    def rule_share(self) -> float:
        """Share that the best rule saves, chosen in hindsight."""
        return 1 - self.rule_cost / self.lru if self.lru else 0.0


class Verdict(NamedTuple):
    """Whether another eviction policy is worth it."""

    worth: str  # "no", "perhaps", "yes", or "more GPUs first"
    sentence: str
    reasons: tuple[str, ...]


def with_engine(scenario: Scenario, engine: str) -> Scenario:
    """The same fleet under another load regime; where models can sleep they do at time 0.

    Raises:
        ConfigError: the models do not fit.
    """
    if engine == scenario.engine:
        return scenario
    sleeps = ENGINES[engine].residual_gb.value > 0
    start = "asleep" if sleeps else "empty" if scenario.start == "asleep" else scenario.start
    return scenario.replace(engine=engine, start=start)


def under_lru(scenario: Scenario, workload: Workload) -> Engine:
    """Play samples of the workload under LRU.

    Args:
        scenario: the fleet, its engine and its models.
        workload: its requests.
    """
    case = case_of(scenario)
    rows = [run_seed(_with(case, sample), [contestant_of("lru")], 0)[0].row for sample in samples(workload)]
    numbers = {name: float(sum(row[name] for row in rows)) for name in POOLED}
    for names, weight in ((SHARES, "simulated_s"), (OF_REQUESTS, "requests")):
        weights = [row[weight] for row in rows]
        for name in names:
            values = np.array([row[name] for row in rows])
            known = ~np.isnan(values)
            numbers[name] = float(np.average(values[known], weights=np.array(weights)[known])) if known.any() else 0.0
    numbers["decisions_per_request"] = numbers["decisions"] / numbers["requests"]
    numbers["refused_share"] = numbers["refused"] / numbers["requests"]
    numbers["cost_per_request"] = numbers["cost"] / numbers["requests"]
    numbers["waited_min_per_day"] = numbers["waiting_s"] / 60 * EIGHT_HOURS_S / max(numbers["simulated_s"], 1e-6)
    return Engine(scenario.engine, pressure(case.tables), working_set(case.tables, workload), numbers)


def causes(scenario: Scenario, workload: Workload, lru: Engine) -> dict[str, float]:
    """What LRU's cost consists of.

    Args:
        scenario: the fleet and its models.
        workload: the requests that LRU was played on.
        lru: what came of it.

    Returns:
        `swapping_share`, that is there because models share the memory: it would be none if all were in it all the
        time; and `work_share`, that a request would have alone on an idle accelerator.
    """
    case, cost = case_of(scenario), lru.numbers["cost"]
    if not cost:
        return {"swapping_share": 0.0, "work_share": 0.0}
    played = samples(workload)
    rooms = [run_seed(_with(case, one), [contestant_of("no-swapping")], 0)[0].row["cost"] for one in played]
    work = [lower_bound(case.tables, one).cost for one in played]
    return {"swapping_share": max(0.0, 1 - sum(rooms) / cost), "work_share": sum(work) / cost}


def samples(workload: Workload) -> list[Workload]:
    """The whole of a workload, or some stretches of a long one, evenly spread."""
    if len(workload) <= MOST_PLAYED:
        return [workload]
    return spread(workload, SAMPLES, MOST_PLAYED // SAMPLES)


def spread(workload: Workload, count: int, requests: int) -> list[Workload]:
    """At most `count` windows of about so many requests, evenly spread over the workload."""
    requests = min(requests, -(-len(workload) // count))
    windows = windows_of(workload, max(1, len(workload) // requests))
    if len(windows) <= count:
        return windows
    return [windows[at] for at in ((np.arange(count) + 0.5) / count * len(windows)).astype(int)]


def pressure(tables: FleetTables) -> float:
    """Needs of all models over the memory of all accelerators."""
    return float(tables.need_bytes.sum() / tables.memory_bytes.sum())


def working_set(tables: FleetTables, workload: Workload) -> float:
    """Median over hours with requests: needs of the models asked for in that hour over the memory."""
    hour = workload.arrival_us // 3_600_000_000
    pairs = np.unique(hour * tables.num_models + workload.model)
    needs = np.bincount(pairs // tables.num_models, tables.need_bytes[pairs % tables.num_models])
    return float(np.median(needs[needs > 0]) / tables.memory_bytes.sum())


def headroom(
    scenario: Scenario, workload: Workload, seed: int = 0, done: Callable[[], None] = lambda: None, workers: int = 1
) -> Headroom:
    """Look for the reference on windows of the workload, with little effort (`EFFORT`): the true headroom is larger.

    Args:
        scenario: the fleet, its models and engine.
        workload: its requests.
        seed: of the search.
        done: called after each window.
        workers: threads; a window each.
    """
    case = case_of(scenario)
    chosen = spread(workload, WINDOWS, WINDOW_REQUESTS)

    def look(window: Workload) -> Any:
        reference = find_reference(_with(case, window), window, Future.of(case.tables, window), seed, **EFFORT)
        lru = run_seed(_with(case, window), [contestant_of("lru")], seed)[0].row
        done()
        return reference, lru["decisions"]

    found = list(in_order(look, chosen, workers))
    rules = {
        name: sum(reference.costs[name] for reference, _ in found)
        for name in found[0][0].costs
        if name in POLICIES and not POLICIES[name].clairvoyant
    }
    rule = min(rules, key=lambda name: (rules[name], name != "lru"))
    return Headroom(
        windows=len(chosen),
        requests=len(chosen[0]),
        decisions=int(sum(decisions for _, decisions in found)),
        lru=float(sum(reference.costs["lru"] for reference, _ in found)),
        reference=float(sum(reference.cost for reference, _ in found)),
        rule=rule,
        rule_cost=float(rules[rule]),
    )


def verdict(tables: FleetTables, fleet: str, lru: Engine, found: Headroom | None, users: int | None) -> Verdict:
    """One sentence: is another eviction policy worth it on this fleet?

    Args:
        tables: the fleet.
        fleet: in words.
        lru: of the engine that is asked about, its numbers with those of `causes`.
        found: None where nothing can be decided.
        users: different users of the log, if it says.
    """
    nothing = nothing_to_decide(tables)
    if nothing is not None or found is None:
        because, change = nothing or ("no policy is ever asked", "raise the pressure")
        return Verdict("no", f"Not worth it: on {fleet} {because}.", (f"To change that, {change}.",))
    numbers, saved = lru.numbers, found.share
    asked, swapping, minutes = (
        numbers[name] for name in ("decisions_per_request", "swapping_share", "waited_min_per_day")
    )
    reasons = _reasons(numbers, found, users)
    at_most = f"choosing perfectly which model leaves would cut the cost of waiting by {saved:.0%} against LRU"
    if numbers["ttft_mean_s"] > OVERLOADED_S:
        waits = f"on {fleet} a first token takes {_whole(numbers['ttft_mean_s'])} s on average under LRU"
        instead = f"accelerators compute {numbers['compute_share']:.0%} of the time"
        if swapping >= MOST_OF_IT:
            instead = f"memory for all models would save {swapping:.0%} of that, perfect eviction {saved:.0%}"
        return Verdict("more GPUs first", f"More GPUs first: {waits}; {instead}.", reasons)
    if asked < FEW_DECISIONS:
        often = "asked which model should leave"
        often = f"{often} only {1000 * asked:.2g} times in 1,000 requests" if asked else f"never {often}"
        because = f"LRU is {often}"
    elif swapping < LITTLE_SWAPPING:
        because = f"models that come and go cause only {swapping:.0%} of the waiting cost"
    elif saved < LITTLE_HEADROOM:
        because = f"even {at_most}, and nobody can choose perfectly without knowing the future"
    elif minutes * saved < FEW_MINUTES:
        because = f"perfect eviction would spare all users together {minutes * saved:.2g} minutes in 8 hours"
    else:
        can = f"{at_most}; a learned policy gets about a third of that, some {saved * LEARNED_SHARE:.0%}"
        if saved >= MUCH_HEADROOM and numbers["channel_share"] >= IDLE_CHANNEL:
            return Verdict("yes", f"Worth it: on {fleet}, {can}{_instead(numbers, saved)}.", reasons)
        return Verdict("perhaps", f"Perhaps worth it: on {fleet}, {can}{_instead(numbers, saved)}.", reasons)
    return Verdict("no", f"Not worth it: on {fleet} {because}{_instead(numbers, saved)}.", reasons)


def _reasons(numbers: dict[str, float], found: Headroom, users: int | None) -> tuple[str, ...]:
    """What the verdict rests on, a sentence each."""
    together = "" if users is None else f", {users:,} users together"
    return (
        f"LRU is asked for a victim {1000 * numbers['decisions_per_request']:.3g} times in 1,000 requests; "
        f"{numbers['cold_share']:.1%} of the requests find their model not loaded.",
        f"Swap channels are busy {numbers['channel_share']:.1%} of the time, accelerators compute "
        f"{numbers['compute_share']:.1%} of it. With all models in memory at once the waiting cost would be "
        f"{numbers['swapping_share']:.0%} lower: more than that no eviction can save.",
        f"Under LRU people wait {_whole(numbers['waited_min_per_day'])} minutes for first tokens in 8 hours{together}.",
        f"A plan that knows the future costs {found.share:.1%} less than LRU, on {found.windows} windows of "
        f"{found.requests:,} requests (a short search: somewhat more may be possible). The best rule in hindsight, "
        f"{found.rule}, saves {found.rule_share:.1%}.",
    )


def _whole(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _instead(numbers: dict[str, float], saved: float) -> str:
    """What would help more than eviction, if people wait much."""
    swapping = numbers["swapping_share"]
    if numbers["waited_min_per_day"] < FEW_MINUTES:
        return ""
    if swapping >= MUCH_HEADROOM and swapping >= MORE_MEMORY * saved:
        return f"; memory for all models at once would save {swapping:.0%}, so more or larger GPUs help more"
    if numbers["work_share"] >= MOST_OF_IT:
        return "; most of the waiting is the work itself, so only faster GPUs or shorter prompts help"
    if swapping < MOST_OF_IT:
        busy = f"accelerators compute {numbers['compute_share']:.0%} of the time"
        return f"; people wait for each other more than for models ({busy}), so faster or more GPUs help more"
    return ""


def _with(case: Case, workload: Workload) -> Case:
    return Case(case.name, case.tables, lambda seed: workload)
