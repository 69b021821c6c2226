"""A guard around any policy: LRU decides when the policy should not be trusted. Every such decision is counted.

    guarded = Guarded(my_policy, time_limit_s=0.5)
    cace_env.evaluate(guarded, "default")        # or by name: evaluate("guarded:cace", ...)
    guarded.counts                               # decisions taken by LRU, by reason

LRU takes over for one of these reasons:
- `input`: a number of the observation is NaN, infinite, or far out of the range seen in training
  (`cace_env.policies.ranges`; without ranges, out of the bounds of the observation space);
- `error`: the policy raises an error, or its answer is neither a legal action nor scores;
- `late`: the policy takes longer than `time_limit_s`. Python cannot stop it: its answer is awaited and discarded;
- `forecast`: demand does not follow the forecast in its features (`ForecastWatch`);
- `compute`: computing is the bottleneck, not loading: more than a quarter of the answers take longer than
  `long_answer_s` and than a load (`Answers`). The agents were found to be useless or worse there;
- `starved`: in Swap-v0, a model for which idle ones could make room has waited longer than 30 s and than
  `patient_loads` of its own loads. Only the choice of what to load is taken.

After the last problem LRU continues for `hold` decisions without asking the policy, so that a policy that fails now and
then does not alternate with LRU, whose plan differs; after `starved` for none. In Swap-v0 the fallback is
`patient-fifo+lru`, which is LRU of Eviction-v0: oldest request first, and up to 30 s of patience for an idle victim.
(The policy keeps its own timers: if it has none, patience ends at the first question after 30 s.)

The numbers were set on logs of real requests, GenTD26 and Azure code; `docs/agents.md` shows what the guard keeps and
catches on others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from cace_env.config import ConfigError
from cace_env.kernel.features import PER_MINUTE_10
from cace_env.kernel.state import CLOCK, DEMAND, LOAD_US, LOADS, MODEL, REQUEST, TARGET
from cace_env.observation import PENDING, ObservationLayout
from cace_env.policies.agent import PREFIX, Agent, load_agent
from cace_env.policies.built_in import Policy, Training
from cace_env.policies.built_in import policy as find_policy
from cace_env.policies.clairvoyant import Future
from cace_env.policies.orders import PATIENCE_S, Order
from cace_env.policies.orders import order as find_order
from cace_env.policies.player import Player
from cace_env.policies.python import PolicyError, PythonPolicy, layout_for, view
from cace_env.policies.ranges import Ranges, bounds_of, out_of_range
from cace_env.simulation import Limits, Simulator
from cace_env.tables import NONE, FleetTables, FloatArray, Protocol
from cace_env.workload import Workload

GUARDED: Final = "guarded:"  # in front of a policy's name
REASONS: Final = ("input", "error", "late", "forecast", "compute", "starved")
FALLBACK: Final = {Protocol.EVICTION: "lru", Protocol.SWAP: "patient-fifo+lru"}
LONG_SHARE: Final = 0.25  # of the answers: 0.29 at least where the shipped agents gain nothing, 0.23 at most elsewhere
RECENT_US: Final = 1_800_000_000  # answers that count as recent: half an hour outlasts a burst
LOOK_EVERY_US: Final = 60_000_000  # a look at all recent answers takes longer than a decision
LEAST_ANSWERS: Final = 20  # recent ones, before there is a verdict


@dataclass(frozen=True)
class ForecastWatch:
    """Detects when the error of the demand forecast is anomalous, from the past alone (causal).

    In every window of at least `window_s` the arrivals of each model are compared with `rate_10m` at its beginning, the
    feature that most policies use, times its length. The error is the root mean square over the models of
    `sqrt(arrived + 3/8) - sqrt(expected + 3/8)` (Anscombe's transform: about 0.5 for Poisson arrivals of any rate that
    is known). Burstiness differs between deployments, so an error is compared with those before it: how many of their
    standard deviations it lies above their mean, smoothed over two windows. From `high` on the forecast is anomalous,
    until it is below `low` again; during that time the history does not grow.

    Attributes:
        window_s: least length of a window [s]; it ends with the first question after that.
        warm_up_s: nothing is counted before this time, because rates begin at 0.
        history: windows before the first verdict.
        high: standard deviations at which an anomaly begins. At 3, bursts of real logs counted as anomalies; above 4,
            not every exchange of the most and the least wanted models does.
        low: standard deviations at which it ends.
    """

    window_s: float = 120.0
    warm_up_s: float = 600.0
    history: int = 8
    high: float = 4.0
    low: float = 2.0

    def __post_init__(self) -> None:
        if not (self.window_s > 0 and self.warm_up_s >= 0 and self.history >= 2 and self.low <= self.high):
            raise ConfigError(
                f"{self} is not valid: window_s has to be above 0, warm_up_s at least 0, history at least 2, and low "
                "at most high"
            )


DEFAULT_WATCH: Final = ForecastWatch()


class ForecastError:
    """The running error of one episode's demand forecast, as `ForecastWatch` defines it."""

    def __init__(self, watch: ForecastWatch) -> None:
        self.watch = watch
        self.anomalous = False
        self.score = 0.0  # standard deviations above the mean of the history, smoothed
        self._window: tuple[float, FloatArray, FloatArray] | None = None  # since, arrivals then, rates then [1/min]
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def see(self, simulator: Simulator) -> None:
        """Record the arrivals until now; arrays of `(M,)`."""
        state = simulator.state
        now_s = float(state.scalars[CLOCK]) * 1e-6
        if self._window is not None and now_s - self._window[0] < self.watch.window_s:
            return
        if now_s < self.watch.warm_up_s:
            return
        arrived = state.models[:, MODEL.uses].astype(np.float64)
        minutes = (now_s - state.models[:, MODEL.last_arrival] * 1e-6) / 60.0
        rate = state.demand[:, DEMAND.rate_10m] * np.exp2(-minutes / 10.0) * PER_MINUTE_10
        if self._window is not None:
            since_s, before, rate_then = self._window
            self.add(arrived - before, rate_then * (now_s - since_s) / 60.0)
        self._window = now_s, arrived, rate

    def add(self, arrived: FloatArray, expected: FloatArray) -> None:
        """Add a finished window: actual and forecast requests of each model, `(M,)` each."""
        gaps = np.sqrt(arrived + 0.375) - np.sqrt(expected + 0.375)
        error = float(np.sqrt(np.mean(gaps**2)))
        if self._count >= self.watch.history:
            spread = math.sqrt(self._squares / (self._count - 1))
            # A history that happens to vary little must not make a small error an anomaly.
            sigmas = (error - self._mean) / max(spread, 0.25 * self._mean, 1e-9)
            self.score += (sigmas - self.score) / 2
            self.anomalous = self.score >= (self.watch.low if self.anomalous else self.watch.high)
        if not self.anomalous:
            self._count += 1
            off = error - self._mean
            self._mean += off / self._count
            self._squares += off * (error - self._mean)


class Answers:
    """The share of recent answers that take longer than a load, in one episode; from the past alone.

    Where it is large, requests wait because models compute, and not because they are absent.
    """

    def __init__(self, long_answer_s: float) -> None:
        self.long_s = long_answer_s  # or the mean time of a load, if that is longer
        self.long_share = 0.0
        self._shortest_us, self._next_us = round(long_answer_s * 1e6), 0

    def see(self, simulator: Simulator) -> None:
        """Look at what was answered until now."""
        state = simulator.state
        now_us = int(state.scalars[CLOCK])
        if now_us < self._next_us:
            return
        self._next_us = now_us + LOOK_EVERY_US
        finish_us = state.requests[:, REQUEST.finish_us]
        recent = (finish_us >= 0) & (finish_us > now_us - RECENT_US)
        answers_us = finish_us[recent] - state.requests[recent, REQUEST.first_us]
        long_us = max(self._shortest_us, int(state.scalars[LOAD_US]) / max(int(state.scalars[LOADS]), 1))
        self.long_s = long_us * 1e-6
        self.long_share = float((answers_us > long_us).mean()) if len(answers_us) >= LEAST_ANSWERS else 0.0


class Guarded:
    """A guarded policy; `cace_env.evaluate` takes it like any other.

    Without problems it decides exactly like the policy alone. It plays one episode at a time.

    Args:
        policy: a name of `cace_env.policies.policy`, a `Policy`, an `Agent`, or a Python policy.
        name: name of the policy; its own by default.
        order: order of loads in Swap-v0 for a scorer without a method `order`.
        ranges: of the features in training; None = those of the agent's card (`AgentCard.limits`), or without them the
            bounds of the observation space.
        margin: share of its width by which each range is widened; real logs leave those of the shipped agents by up to
            three quarters of it, and the agents save as much there.
        time_limit_s: longest time to answer [s]; None = no limit, so that results do not depend on the machine.
        forecast: when the demand forecast counts as anomalous; None = never.
        long_answer_s: an answer that takes longer than this and than a load is long (first to last token) [s]; None =
            none is, so that the policy is trusted where computing is the bottleneck, too.
        patient_loads: loads that a model may wait for its own (Swap-v0); None = any number.
        hold: decisions that LRU takes after the last problem.
        clock: function that returns seconds, for the time limit.

    Attributes:
        counts: decisions taken by LRU, by reason, over all episodes.
        trips: how often LRU took over, by reason.
        decisions: all decisions, over all episodes.
        last: the last problem of each kind in words.

    Raises:
        ConfigError: there is no such policy, or a number is out of range.
    """

    def __init__(
        self,
        policy: str | Policy | Agent | PythonPolicy,
        *,
        name: str | None = None,
        order: str | Order | None = None,
        ranges: Ranges | None = None,
        margin: float = 1.0,
        time_limit_s: float | None = None,
        forecast: ForecastWatch | None = DEFAULT_WATCH,
        long_answer_s: float | None = 5.0,
        patient_loads: float | None = 5.0,
        hold: int = 10,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        limits = {"time_limit_s": time_limit_s, "long_answer_s": long_answer_s, "patient_loads": patient_loads}
        if not (margin >= 0 and hold >= 0):
            raise ConfigError(f"margin is {margin}, hold {hold}; they have to be at least 0")
        for key, limit in limits.items():
            if limit is not None and not limit > 0:
                raise ConfigError(f"{key} is {limit}; it has to be above 0, or None for no such limit")
        if isinstance(policy, str) and policy.startswith(PREFIX):
            name, policy = name or policy, load_agent(policy.removeprefix(PREFIX))
        if isinstance(policy, Agent):
            ranges = policy.card.limits if ranges is None else ranges
            policy = policy.policy()
        self.policy = find_policy(policy) if isinstance(policy, str) else policy
        if name is None:
            named = self.policy.name if isinstance(self.policy, Policy) else getattr(policy, "__name__", None)
            name = named or type(policy).__name__
        self.name = f"{GUARDED}{name}"
        self.order = None if order is None else find_order(order)
        self.counts, self.trips = dict.fromkeys(REASONS, 0), dict.fromkeys(REASONS, 0)
        self.decisions = 0
        self.last: dict[str, str] = {}
        self._bounds = bounds_of(ranges or {}, margin)
        self._time_limit_s, self._forecast, self._hold, self._clock = time_limit_s, forecast, hold, clock
        self._long_answer_s, self._patient_loads = long_answer_s, patient_loads

    def begin(
        self,
        tables: FleetTables,
        workload: Workload,
        seed: int,
        *,
        future: Future | None = None,
        training: Training | None = None,
    ) -> Limits:
        """Begins an episode; arguments and errors as for `cace_env.policies.Player`.

        Returns:
            The limits (keep-alive, count, patience) that the simulator needs for this policy.
        """
        name = self.name.removeprefix(GUARDED)
        self._player = Player(
            name, self.policy, tables, workload, seed, order=self.order, future=future, training=training
        )
        self._fallback = Player("fallback", find_policy(FALLBACK[tables.protocol]), tables, workload, seed)
        self._error = None if self._forecast is None else ForecastError(self._forecast)
        self._answers = None if self._long_answer_s is None else Answers(self._long_answer_s)
        self._layout: ObservationLayout | None = None
        self._reason: str | None = None  # reason why LRU decides
        self._held = 0  # decisions that LRU still takes
        self._episode = dict.fromkeys(REASONS, 0)
        return self._player.limits

    def answer(self, simulator: Simulator) -> tuple[int, float]:
        """The action at the open question, and the seconds it took to decide, including checks."""
        began = time.perf_counter()
        self.decisions += 1
        problem, action = self._check(simulator), -1
        if problem is None and self._held == 0:
            self._reason = None
            action, problem = self._ask(simulator)
        if problem is not None:
            if self._reason is None:
                self.trips[problem] += 1
            self._reason, self._held = problem, 0 if problem == "starved" else self._hold
        elif self._held:
            self._held -= 1
        if self._reason is not None:
            self.counts[self._reason] += 1
            self._episode[self._reason] += 1
            action, _ = self._fallback.answer(simulator)
        return action, time.perf_counter() - began

    def watch(self, simulator: Simulator) -> None:
        """Look at a question that somebody else answers, so that forecast and answers are known when it matters."""
        for watch in (self._error, self._answers):
            if watch is not None:
                watch.see(simulator)

    @property
    def reason(self) -> str | None:
        """Why LRU took the last decision, one of REASONS; None if the policy took it."""
        return self._reason

    @property
    def decider(self) -> Player:
        """Who took the last decision: the policy, or LRU."""
        return self._player if self._reason is None else self._fallback

    def columns(self) -> dict[str, float]:
        """The decisions taken by LRU in this episode, as columns of a row of results."""
        return {f"fallback_{reason}": float(count) for reason, count in self._episode.items()}

    def _check(self, simulator: Simulator) -> str | None:
        """Find a problem before the policy is asked; None if there is none."""
        self.watch(simulator)
        if self._layout is None:
            self._layout = layout_for(self.policy, simulator)
        said = {
            "input": out_of_range(view(simulator, self._layout).observation, self._layout, self._bounds),
            "forecast": self._anomaly(),
            "compute": self._bottleneck(),
            "starved": self._starved(simulator),
        }
        problem = next((reason for reason, words in said.items() if words is not None), None)
        if problem is not None:
            self.last[problem] = str(said[problem])
        return problem

    def _anomaly(self) -> str | None:
        """What is wrong with the forecast, in words."""
        if self._error is None or not self._error.anomalous:
            return None
        return f"the forecast errs {self._error.score:.1f} standard deviations more than before"

    def _bottleneck(self) -> str | None:
        """Whether too many answers take longer than loads, in words."""
        answers = self._answers
        if answers is None or answers.long_share <= LONG_SHARE:
            return None
        return (
            f"{100 * answers.long_share:.0f} % of the answers take longer than {answers.long_s:.3g} s and than a load"
        )

    def _starved(self, simulator: Simulator) -> str | None:
        """Whether a model that could be loaded has waited too long, in words."""
        ordering = simulator.tables.protocol == Protocol.SWAP and simulator.state.scalars[TARGET] == NONE
        if self._patient_loads is None or self._held or not ordering:
            return None
        features = simulator.model_features()
        waited_s = features[:, PENDING.oldest_wait_s]
        limit_s = np.maximum(PATIENCE_S, self._patient_loads * features[:, PENDING.load_s])
        # Where models in use would have to leave, handing over cost more than it saved.
        over = waited_s / limit_s * features[:, PENDING.legal] * features[:, PENDING.idle_suffices]
        worst = int(over.argmax())
        if over[worst] <= 1:
            return None
        return f"a model could be loaded and has waited for {waited_s[worst]:.3g} s, longer than {limit_s[worst]:.3g} s"

    def _ask(self, simulator: Simulator) -> tuple[int, str | None]:
        """The policy's answer, and the problem with it, if any."""
        began = self._clock()
        try:
            action, _ = self._player.answer(simulator)
        except PolicyError as error:
            self.last["error"] = str(error)
            return -1, "error"
        thought_s = self._clock() - began
        if self._time_limit_s is not None and thought_s > self._time_limit_s:
            self.last["late"] = f"{thought_s:.3g} s, longer than {self._time_limit_s:g} s"
            return -1, "late"
        return action, None
