"""The clairvoyant reference: the least cost found for an episode with full knowledge of its future.

Its *bases* are all built-in rules, clairvoyant or not, in Swap-v0 each with every order. Plans start from the cheapest
of them: record the decisions of an episode, replace one, replay the rest with the true future, and keep what lowers the
cost of the whole episode (a rollout, Bertsekas and Castanon 1999, whose base policies are the rules and the plan
itself). Where models may be prefetched, which no base does by what is to come, plans of a look ahead
(`cace_env.planning.horizon`) are tried besides. The reference is the cheapest of all plans and bases: never worse than
any base by construction, but no proof that nothing is better (`cace_env.planning.optimum` proves that for tiny
episodes).

Like every other clairvoyant policy it reads the future through `cace_env.policies.Future` alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cace_env.cases import Case
from cace_env.config import ConfigError
from cace_env.kernel import plan as kernel
from cace_env.kernel import run
from cace_env.kernel import state as layout
from cace_env.kernel.orders import ORDER
from cace_env.kernel.plan import RULES, Game, Plan, Search
from cace_env.kernel.rules import Rule
from cace_env.kernel.state import Int64Array
from cace_env.planning.horizon import check_future, play_knowing
from cace_env.policies import ORDERS, POLICIES, Future, policy
from cace_env.policies.built_in import rule_of
from cace_env.policies.orders import JOINT
from cace_env.simulation import Simulator, new_scratch
from cace_env.simulation.scratch import largest
from cace_env.tables import NONE, FleetTables, Protocol
from cace_env.workload import Workload

# Chosen by cost against time on training seeds, `python -m experiments.reference curve`.
GAIN: Final = 0.01  # share of the cost; a round that saves less is the last
MAX_ROUNDS: Final = 8
STARTS: Final = 1  # number of plans that are improved, starting from the cheapest bases
MAX_REPLAYS: Final = 50_000
RANDOM: Final = (1, 2, 4)  # some replays draw this many random decisions after the change
SLACK_REQUESTS: Final = 20.0  # a replay is stopped when it costs more than the plan by the cost of this many requests
CALM: Final = 4  # or when it repeats the plan this often in a row and is not cheaper
DRAWS: Final = 65_521  # prime, so that repetitions do not line up
DRAWS_STREAM: Final = 8  # spawn key of the draws
LOOKING_AHEAD: Final = "patient-wsjf+belady-cost"  # around it the look ahead is, where models may be prefetched
HORIZONS_S: Final = (60.0, 300.0)  # of the look ahead
ROOM: Final = 4  # plans may have this many times the decisions of the longest base


@dataclass(frozen=True)
class Reference:
    """The cheapest plan or base found for an episode."""

    cost: float  # cost of the cheapest plan or base
    base: str  # name of the cheapest base
    base_cost: float
    costs: Mapping[str, float]  # cost of every base; inf if its episode was truncated
    rounds: tuple[float, ...]  # least cost after each round of improvement, and after each look ahead
    replays: int
    plan: Int64Array  # (decisions,) evict model m: `m`; load model m: `M + m`; wait: `2 M`
    start: str  # the base from, or around which the plan was found: its keep-alives and count limits apply
    wall_s: float


def find_reference(
    case: Case,
    workload: Workload,
    future: Future | None,
    seed: int,
    *,
    gain: float = GAIN,
    max_rounds: int = MAX_ROUNDS,
    max_replays: int | None = MAX_REPLAYS,
    starts: int = STARTS,
    bases: Sequence[str] | None = None,
    threads: int = 1,
) -> Reference:
    """Search for the least cost of an episode, knowing all its requests.

    The result does not depend on the number of threads, nor on their speed.

    Args:
        case: the fleet; `static-best` draws its training requests from it.
        workload: the requests.
        future: `Future.of(case.tables, workload)`.
        seed: seed of the random draws of `random` and of the search.
        gain: stop after a round that lowers the cost by less than this share.
        max_rounds: most rounds; 0 = only the cheapest base.
        max_replays: most replays in total, shared evenly among the starts; None = no limit.
        starts: number of plans that are improved, each from another one of the cheapest bases.
        bases: policies by name; None = all that can run on this fleet, in Swap-v0 each with every order.
        threads: number of threads for the bases and the starts.

    Raises:
        ConfigError: the future is missing or belongs to another workload, no base can run, or an option is out of
            range.
    """
    began = time.perf_counter()
    known = check_future(case, workload, future)
    _check_options(
        gain=(gain, 0),
        max_rounds=(max_rounds, 0),
        max_replays=(max_replays, 0),
        starts=(starts, 1),
        threads=(threads, 1),
    )
    rules = _rules_of(case, workload, known, seed, bases)
    costs, decisions = _run_bases(case.tables, workload, rules, threads)
    cheapest = _cheapest(costs)
    base = cheapest[0]
    if not np.isfinite(costs[base]):
        raise ConfigError(f"every base is truncated at {case.tables.max_decisions} decisions; raise max_decisions")
    room = min(ROOM * max(decisions.values()) + 1, case.tables.max_decisions)
    draws = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(DRAWS_STREAM,))).random(DRAWS)
    chains = [
        _Chain(case.tables, workload, _variety(rules, cheapest, start), room, draws) for start in cheapest[:starts]
    ]
    quota = 1 << 60 if max_replays is None else max_replays // len(chains)

    def improve(chain: _Chain) -> list[float]:
        return list(chain.rounds(gain, max_rounds, quota))

    histories = _parallel(improve, chains, threads)
    best = min(chains, key=lambda chain: chain.cost)
    cost, plan, start = best.cost, best.codes(), cheapest[chains.index(best)]
    longest = max(len(history) for history in histories)
    padded = [
        history + [chain.cost] * (longest - len(history)) for chain, history in zip(chains, histories, strict=True)
    ]
    rounds = [min(each) for each in zip(*padded, strict=True)]
    for horizon_s in HORIZONS_S if case.tables.prefetch_limit and bases is None else ():
        ahead = play_knowing(case, workload, known, seed, horizon_s=horizon_s, base=policy(LOOKING_AHEAD))
        if ahead.simulator.cost() < cost:
            cost, plan, start = ahead.simulator.cost(), ahead.plan, LOOKING_AHEAD
        rounds.append(cost)
    return Reference(
        cost=cost,
        base=base,
        base_cost=costs[base],
        costs=costs,
        rounds=tuple(rounds),
        replays=sum(chain.replays for chain in chains),
        plan=plan,
        start=start,
        wall_s=time.perf_counter() - began,
    )


def replay(case: Case, workload: Workload, reference: Reference, *, trace: bool = False) -> Simulator:
    """Play the plan of a reference and return the simulator, for metrics, timelines and reports.

    Raises:
        ConfigError: the plan belongs to another episode: it has an illegal decision, or too few.
    """
    limits = policy(reference.start).limits(case.tables)
    simulator = Simulator(case.tables, limits, trace=trace)
    asked = simulator.reset(workload)
    for number, code in enumerate(reference.plan.tolist()):
        action = plan_action(simulator, code) if asked else NONE
        if action == NONE or not simulator.state.legal[action]:
            raise ConfigError(f"decision {number} of the plan, {code}, is not legal: this plan is for another episode")
        asked = simulator.answer(action)
    if asked:
        raise ConfigError(f"the plan ends after {len(reference.plan)} decisions: it is for another episode")
    return simulator


def plan_action(simulator: Simulator, code: int) -> int:
    """The action with this code, or NONE if the model to evict is in no slot."""
    models = simulator.tables.num_models
    if code < models:
        return int(simulator.state.models[code, layout.MODEL.slot])
    actions = len(simulator.state.legal)
    if actions == simulator.max_slots:
        return NONE
    return simulator.max_slots + code - models if code < 2 * models else actions - 1


def base_names(tables: FleetTables) -> list[str]:
    """Names of all built-in policies that can run on a fleet; in Swap-v0 each with every order."""
    names = []
    for name in POLICIES:
        try:
            POLICIES[name].limits(tables)
        except ConfigError:
            continue
        names += [f"{order}{JOINT}{name}" for order in ORDERS] if tables.protocol == Protocol.SWAP else [name]
    return names


# ---------------------------------------------------------------------------------------------------------------------
# Bases


def _check_options(**given: tuple[float | None, int]) -> None:
    """Check options, given as (value, least)."""
    for name, (value, least) in given.items():
        if value is not None and not value >= least:
            raise ConfigError(f"{name} is {value}; it has to be at least {least}")


def _rules_of(
    case: Case, workload: Workload, future: Future, seed: int, bases: Sequence[str] | None
) -> dict[str, Rule]:
    """The bases as the kernel runs them; all reserve room for the Belady of their replays."""
    rules = {}
    for name in base_names(case.tables) if bases is None else bases:
        chosen = policy(name)
        if chosen.trained and case.training is None:
            if bases is not None:
                raise ConfigError(f"base {name!r} learns from training seeds, but this case has none")
            continue
        rules[name] = rule_of(chosen, case.tables, seed=seed, workload=workload, future=future, training=case.training)
    if not rules:
        raise ConfigError("there is no base to start from; name at least one")
    return {
        name: rule._replace(future_order=future.order, future_start=future.start, nominal_us=future.nominal_us)
        for name, rule in rules.items()
    }


def _run_bases(
    tables: FleetTables, workload: Workload, rules: Mapping[str, Rule], threads: int
) -> tuple[dict[str, float], dict[str, int]]:
    """Cost of each base, inf if it was truncated, and its number of decisions."""

    def run_some(names: Sequence[str]) -> list[tuple[str, float, int]]:
        simulator = Simulator(tables)
        simulator.load(workload)
        scratch = new_scratch(simulator.max_slots, tables.num_models, largest(rules.values()))
        some = []
        for name in names:
            status = run.run_episode(*simulator.arguments, rules[name], simulator.trace, scratch)
            simulator.check()
            cost = simulator.cost() if status == layout.DONE else np.inf
            some.append((name, cost, int(simulator.state.scalars[layout.DECISIONS])))
        return some

    first_like = {_acts_like(rule, tables): name for name, rule in reversed(list(rules.items()))}
    names = list(first_like.values())
    found = [row for part in _parallel(run_some, [names[k::threads] for k in range(threads)], threads) for row in part]
    results = {name: (cost, decisions) for name, cost, decisions in found}
    alike = {name: results[first_like[_acts_like(rule, tables)]] for name, rule in rules.items()}
    return {name: cost for name, (cost, _) in alike.items()}, {name: number for name, (_, number) in alike.items()}


def _acts_like(rule: Rule, tables: FleetTables) -> tuple[Any, ...]:
    """Equal for rules that decide the same on a fleet: where nothing may be prefetched, none of them does."""
    order = rule.order.copy()
    if not tables.prefetch_limit:
        order[ORDER.prefetch] = 0.0
    network = rule.network.slot_linear
    parts = (rule.weights, rule.values, rule.limits, order)
    return (rule.kind, id(network) if len(network) else 0, *(part.tobytes() for part in parts))


def _cheapest(costs: Mapping[str, float]) -> list[str]:
    """Bases in order of cost; of those with equal cost, which decide the same, only the first."""
    first_with: dict[float, str] = {}
    for name, cost in costs.items():
        first_with.setdefault(cost, name)
    finite = [cost for cost in sorted(first_with) if np.isfinite(cost)] or [np.inf]
    return [first_with[cost] for cost in finite]


def _variety(rules: Mapping[str, Rule], cheapest: Sequence[str], start: str) -> tuple[Rule, ...]:
    """The rules that continue replays: the start's, and the cheapest others under the limits of the start."""
    names = [start, *(name for name in cheapest if name != start)]
    names = [names[k % len(names)] for k in range(RULES)]
    return tuple(rules[name]._replace(limits=rules[start].limits) for name in names)


# ---------------------------------------------------------------------------------------------------------------------
# Improvement


def _ways() -> Int64Array:
    """`(ways, WAY)`: how replays continue after a change."""
    ways = [(mode, rule, 0, 0, 0) for rule in range(RULES) for mode in (kernel.RULE, kernel.PLANNED)]
    ways.append((kernel.RETURN, 0, 0, 0, 0))
    ways += [(mode, 0, drawn, 0, 0) for drawn in RANDOM for mode in (kernel.PLANNED, kernel.RETURN)]
    return np.array(ways, dtype=np.int64)


class _Chain:
    """The plan that is improved from one base, and its arrays."""

    def __init__(self, tables: FleetTables, workload: Workload, rules: tuple[Rule, ...], room: int, draws: Any) -> None:
        self._requests, models = len(workload), tables.num_models
        simulator = Simulator(tables)
        simulator.load(workload)
        _, at, fleet, fleet_at, requests = simulator.arguments
        self._rows = layout.arena(1 + len(_ways()), int(at[-1]))
        self._game = Game(at, fleet, fleet_at, requests, rules[0].limits, np.zeros((0, 4), dtype=np.int64))
        self._rules, self._draws = rules, draws
        self._scratch = new_scratch(simulator.max_slots, models, largest(rules))
        self._pointers = np.zeros(models, dtype=np.int64)
        self._plans = [_new_plan(room, models, self._requests) for _ in range(3)]
        self._counts = np.zeros(2, dtype=np.int64)
        self._reach = _reach(tables, workload)
        by_rule = np.array([(kernel.RULE, 0, 0, 0, 0)], dtype=np.int64)
        self.cost = float(
            kernel.first_plan(
                self._rows, self._game, rules, self._scratch, self._plans[0], self._search(by_rule, np.inf, 0)
            )
        )

    def rounds(self, gain: float, most: int, max_replays: int) -> Iterator[float]:
        """Improve the plan; yields its cost after each round, until a round gains less than `gain`."""
        ways = _ways()
        for _ in range(most):
            before = self.cost
            slack = SLACK_REQUESTS * before / self._requests
            self.cost = float(
                kernel.improve(
                    self._rows[0], self._rows[1:], self._game, self._rules, self._scratch, self._pointers,
                    self._plans[0], self._plans[1], self._plans[2],
                    self._search(ways, slack, max_replays), before, self._counts,
                )
            )  # fmt: skip
            yield self.cost
            if before - self.cost < gain * before or self.replays >= max_replays:
                return

    @property
    def replays(self) -> int:
        """Number of replays so far."""
        return int(self._counts[0])

    def codes(self) -> Int64Array:
        """The decisions of the plan; a copy."""
        plan = self._plans[0]
        codes: Int64Array = plan.entries[: plan.size[0], kernel.ENTRY.code].copy()
        return codes

    def _search(self, ways: Int64Array, slack: float, max_replays: int) -> Search:
        groups = np.zeros((len(ways), len(kernel.GROUP)), dtype=np.int64)
        stack = np.zeros(1 + len(ways), dtype=np.int64)
        answers = np.zeros(kernel.RULE + RULES, dtype=np.int64)
        spans = np.zeros((len(ways), len(kernel.SPAN)), dtype=np.int64)
        return Search(ways, groups, stack, answers, spans, self._reach, self._draws, slack, CALM, max_replays)


def _reach(tables: FleetTables, workload: Workload) -> Int64Array:
    """`Search.reach`: one past each request and those that follow it; past all where some are refused, unlogged."""
    requests = len(workload)
    tokens = workload.context_tokens.astype(np.int64) + workload.output_tokens
    if np.any(tokens > tables.kv_tokens[workload.model]):
        return np.full(requests, requests, dtype=np.int64)
    reach = np.arange(1, requests + 1)
    followers = np.flatnonzero(workload.after >= 0)
    np.maximum.at(reach, workload.after[followers], followers + 1)
    return reach


def _new_plan(room: int, models: int, requests: int) -> Plan:
    """Arrays for a plan."""
    return Plan(
        entries=np.zeros((room, len(kernel.ENTRY)), dtype=np.int64),
        cost=np.zeros(room),
        held=np.zeros((room, models), dtype=np.int8),
        until=np.zeros((room, models), dtype=np.int32),
        needs=np.full((requests, len(kernel.NEED)), NONE, dtype=np.int64),
        size=np.zeros(1, dtype=np.int64),
    )


def _parallel(work: Any, jobs: Sequence[Any], threads: int) -> list[Any]:
    """Apply `work` to every job; results in the order of the jobs."""
    if threads == 1:
        return [work(job) for job in jobs]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, jobs))
