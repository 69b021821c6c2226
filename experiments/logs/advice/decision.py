"""Another GPU, another policy, or nothing: what each step saves a month, and which one is worth it.

A second of cost is a second of one developer, weighted by task as the scenario says, so it has a price. GPUs have one,
too. The best step is the one with most money left; a simpler one is preferred where it cannot be told from the best, or
differs by less than is worth the trouble. Doing nothing is the simplest, and a possible answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from cace_env.evaluation import Gain
from cace_env.evaluation.scores import Estimate
from cace_env.tables import FloatArray
from experiments.logs.advice.contenders import TUNED
from experiments.logs.advice.playing import Played, Promise
from experiments.logs.advice.prices import Fleet
from experiments.logs.advice.resampling import Draws

Grid = Mapping[tuple[Fleet, str], Played]
Kind = Literal["nothing", "policy", "fewer", "more", "both"]

SIMPLEST_FIRST: Final[tuple[Kind, ...]] = ("nothing", "policy", "fewer", "more", "both")
WORTHWHILE: Final = 0.01  # share of what is paid now, GPUs and waiting: less is not worth a change


class Economy(NamedTuple):
    """What an hour is worth, and how many there are."""

    developer_usd: float  # an hour
    hours_per_day: float  # of such load as the log's
    days_per_month: float
    gpu_hours: float  # a month, that GPUs are paid for

    @property
    def load_hours(self) -> float:
        """Hours a month of such load as the log's."""
        return self.hours_per_day * self.days_per_month

    @property
    def load_usd(self) -> float:
        """What one developer who always waits costs a month."""
        return self.load_hours * self.developer_usd


@dataclass(frozen=True)
class Step:
    """A fleet and a policy in place of those that there are now; sums are per month."""

    kind: Kind
    fleet: Fleet
    policy: str
    saved: Gain  # of the cost of waiting [%]
    hours: Estimate  # developer-hours saved, weighted by task as the cost is
    waited_hours: Estimate  # hours of waiting for first tokens saved, unweighted
    gpu_usd: float  # paid for GPUs more than now
    net_usd: Estimate  # saved in all
    saved_s: FloatArray  # (W,) cost saved in each window


@dataclass(frozen=True)
class Answer:
    """What to do, and what it was compared with."""

    step: Step
    steps: Mapping[Kind, Step]  # the next ones from where we are
    best_anywhere: Step  # of all fleets that keep promises as today, with the deployed policy or the one chosen there
    now: Played
    now_fleet: Fleet
    deployed: str
    paid_usd: float  # a month now: GPUs and waiting
    waiting_usd: float  # the part of it that is waiting
    uncertain: bool  # a step looks worthwhile, but its interval reaches 0

    @property
    def tried(self) -> Step:
        """The step whose policy is tried in other situations: the recommended one, or the best of today's fleet."""
        return self.step if self.step.policy != self.deployed else self.steps.get("policy", self.step)


def answer_of(
    grid: Grid,
    current: Fleet,
    deployed: str,
    eligible: Sequence[str],
    economy: Economy,
    draws: Draws,
    chosen: int,
    promises: Sequence[Promise],
) -> Answer:
    """The step to take from the current fleet and the deployed policy.

    Args:
        grid: what was played.
        current: fleet of today; has been played with the deployed policy.
        deployed: policy of today.
        eligible: policies that may take its place.
        economy: prices of hours.
        draws: of the windows that judge.
        chosen: windows before these that choose.
        promises: to users; GPUs are given back only where none is kept less than it has to be.
    """
    now = grid[current, deployed]
    fleets = sorted({fleet for fleet, policy in grid if policy == deployed}, key=lambda fleet: fleet.usd_per_hour)

    def step(kind: Kind, fleet: Fleet, policy: str) -> Step:
        return step_of(kind, now, grid[fleet, policy], current, fleet, policy, economy, draws)

    def best_policy(fleet: Fleet) -> str:
        names = [deployed, *(name for name in eligible if (fleet, name) in grid and name != deployed)]
        return best_before({name: grid[fleet, name].cost_before for name in names}, chosen)

    larger = next_fleet([fleet for fleet in fleets if fleet.usd_per_hour > current.usd_per_hour], current)
    smaller = next_fleet([fleet for fleet in fleets[::-1] if fleet.usd_per_hour < current.usd_per_hour], current)
    steps: dict[Kind, Step] = {"nothing": step("nothing", current, deployed)}
    if best_policy(current) != deployed:
        steps["policy"] = step("policy", current, best_policy(current))
    fewer = [step("fewer", smaller, name) for name in {deployed: 0, best_policy(smaller): 0}] if smaller else []
    fewer = [one for one in fewer if no_worse(grid[one.fleet, one.policy], now, promises)]
    if fewer:
        steps["fewer"] = max(fewer, key=lambda found: found.net_usd.value)
    if larger is not None:
        steps["more"] = step("more", larger, deployed)
        if best_policy(larger) != deployed:
            steps["both"] = step("both", larger, best_policy(larger))
    waiting_usd = float(now.cost.sum()) / now.span_s * economy.load_usd
    paid = waiting_usd + current.usd_per_hour * economy.gpu_hours
    taken, uncertain = _worth_it(steps, now, economy, draws, WORTHWHILE * paid)
    anywhere = [step("more", fleet, policy) for fleet in fleets for policy in {deployed: 0, best_policy(fleet): 0}]
    anywhere = [one for one in anywhere if no_worse(grid[one.fleet, one.policy], now, promises)]
    best = max(anywhere, key=lambda found: found.net_usd.value)
    return Answer(taken, steps, best, now, current, deployed, paid, waiting_usd, uncertain)


def best_before(costs: Mapping[str, FloatArray], chosen: int) -> str:
    """The policy that did best before the windows that judge; the first in a tie.

    CACE tuned to the log has seen what it was tuned on. It takes the place of the cheapest other one if it beats that
    on the windows for choosing, which it has not seen, beyond chance.

    Args:
        costs: of each policy by window, in order of time, before those that judge.
        chosen: the last of these, which nothing was tuned on.
    """
    others = {name: float(cost.sum()) for name, cost in costs.items() if name != TUNED}
    best = min(others, key=lambda name: others[name])
    if TUNED not in costs or not chosen:
        return best
    tuned, other = (costs[name][-chosen:] for name in (TUNED, best))
    return TUNED if Draws.of(chosen).gain(other, tuned).low > 0 else best


def _worth_it(
    steps: Mapping[Kind, Step], now: Played, economy: Economy, draws: Draws, worthwhile_usd: float
) -> tuple[Step, bool]:
    """The simplest step that cannot be told from the best, and whether a better one was passed over as uncertain."""
    best = max(steps.values(), key=lambda step: step.net_usd.value)
    for step in (steps[kind] for kind in SIMPLEST_FIRST if kind in steps):
        behind_usd = best.net_usd.value - step.net_usd.value
        gpu_usd = best.gpu_usd - step.gpu_usd
        developers = now.requests_per_s * draws.drawn_ratio(best.saved_s - step.saved_s, now.requests)
        drawn = developers * economy.load_usd - gpu_usd
        if behind_usd < worthwhile_usd:
            return step, False
        if not draws.interval(behind_usd, drawn).low > 0:
            return step, True
    return best, False


def next_fleet(fleets: Sequence[Fleet], current: Fleet) -> Fleet | None:
    """The first of these that has GPUs of the same kinds as today's, or else the first."""
    same = [fleet for fleet in fleets if fleet.kinds == current.kinds]
    return next(iter([*same, *fleets]), None)


def step_of(
    kind: Kind,
    now: Played,
    then: Played,
    current: Fleet,
    fleet: Fleet,
    policy: str,
    economy: Economy,
    draws: Draws,
) -> Step:
    """What a fleet and a policy save against today's, on the same windows."""
    gpu_usd = (fleet.usd_per_hour - current.usd_per_hour) * economy.gpu_hours
    saved_s, per_s = now.cost - then.cost, now.requests_per_s
    rate = per_s * float(saved_s.sum() / now.requests.sum())  # of developers' time, as developers
    rates = per_s * draws.drawn_ratio(saved_s, now.requests)
    hours = draws.interval(rate * economy.load_hours, rates * economy.load_hours)
    net_usd = draws.interval(rate * economy.load_usd - gpu_usd, rates * economy.load_usd - gpu_usd)
    waited = draws.ratio(now.waiting_s - then.waiting_s, now.requests)
    waited_hours = Estimate(*(value * per_s * economy.load_hours for value in waited))
    gain = draws.gain(now.cost, then.cost)
    return Step(kind, fleet, policy, gain, hours, waited_hours, gpu_usd, net_usd, saved_s)


def waited_minutes_per_day(played: Played, economy: Economy, draws: Draws) -> Estimate:
    """Minutes that developers together wait for first tokens in a day."""
    found = draws.ratio(played.waiting_s, played.requests)
    return Estimate(*(value * played.requests_per_s * economy.hours_per_day * 60 for value in found))


def attained(played: Played, draws: Draws) -> list[Estimate]:
    """The share of requests that kept each promise."""
    return [draws.ratio(played.met[:, at], played.limited[:, at]) for at in range(played.met.shape[1])]


def kept(played: Played) -> list[float]:
    """The share of requests that kept each promise; 1 where it speaks of none."""
    limited, met = played.limited.sum(axis=0).tolist(), played.met.sum(axis=0).tolist()
    return [there / asked if asked else 1.0 for there, asked in zip(met, limited, strict=True)]


def no_worse(then: Played, now: Played, promises: Sequence[Promise]) -> bool:
    """Whether each promise is kept as it has to be, or as often as today."""
    shares = zip(promises, kept(then), kept(now), strict=True)
    return all(after >= min(promise.share, before) for promise, after, before in shares)


def meets(played: Played, promises: Sequence[Promise]) -> bool:
    """Whether all promises are kept."""
    return all(value >= promise.share for promise, value in zip(promises, kept(played), strict=True))


def smallest_fleets(grid: Grid, promises: Sequence[Promise]) -> dict[str, Fleet | None]:
    """For each policy, the cheapest fleet on which all promises are kept; None where none of those tried is."""
    found: dict[str, Fleet | None] = {}
    for fleet, policy in sorted(grid, key=lambda key: key[0].usd_per_hour):
        if found.setdefault(policy, None) is None and meets(grid[fleet, policy], promises):
            found[policy] = fleet
    return found
