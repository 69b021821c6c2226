"""What a policy would have done, beside what the watched system did.

The state follows the *watched system*: policy and system are asked the same question in the same state, so that single
decisions can be compared. What the policy's own decisions would have led to is a second mirror, which follows them:
the same requests, as long as they were seen to take. It counts evictions and loads, not how long people would have
waited: the times that were seen hold the waits of the system that was seen.

Who was right where the two differ is told by what happened next: the model that was asked for again first should have
stayed.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from cace_env.decision_log import Decision, DecisionLog, Recorder
from cace_env.live.decider import Decider
from cace_env.live.mirror import Mirror
from cace_env.live.shadow.following import Follower
from cace_env.simulation.simulator import Question
from cace_env.tables import FleetTables

logger = logging.getLogger(__name__)

REMEMBERED: Final = 50  # last decisions that differ
OPEN_DUELS: Final = 1000  # the oldest are given up
SEEN_US: Final = 30_000_000  # a server has evicted until then, or it is not known what; `Forwarder.behind_s` is shorter
MOST_LOOKS: Final = 20_000


class Looks:
    """What a server held, by time: the models that it listed as loaded or loading. Nobody asks back in time."""

    def __init__(self) -> None:
        self._looks: deque[tuple[int, frozenset[int]]] = deque(maxlen=MOST_LOOKS)  # from the last one before a question
        self._fresh: deque[tuple[int, frozenset[int]]] = deque(maxlen=MOST_LOOKS)  # not compared yet

    def add(self, time_us: int, held: frozenset[int]) -> None:
        """The server holds these models at this time."""
        self._looks.append((time_us, held))
        self._fresh.append((time_us, held))

    def gone(self, time_us: int, target: int, candidates: Sequence[int]) -> tuple[int, bool] | None:
        """Which candidate had left when the target was there, or as soon as one had; None: not seen.

        Returns:
            The model, and whether it was there at the last look before the question: if not, it had left earlier.
            Such a model comes first.
        """
        while len(self._looks) > 1 and self._looks[1][0] < time_us:
            self._looks.popleft()
        before: frozenset[int] | None = None
        for at_us, held in self._looks:
            if at_us < time_us:
                before = held
                continue
            if at_us > time_us + SEEN_US:
                return None
            left = [model for model in candidates if model not in held]
            if left:
                earlier = [model for model in left if before is not None and model not in before]
                return (earlier or left)[0], not earlier
            if target in held:
                return None
        return None

    def next(self, until_us: int) -> tuple[int, frozenset[int]] | None:
        """The next look that has not been compared, up to a time."""
        return self._fresh.popleft() if self._fresh and self._fresh[0][0] <= until_us else None


@dataclass
class Tally:
    """What has been counted; `asked` questions are those with a choice."""

    asked: int = 0
    agreed: int = 0
    seen: int = 0  # questions whose answer was seen at the server, not taken from the rule
    missed: int = 0  # questions of the mirror alone: the server had evicted the model before
    sooner: int = 0  # where they differ: what the system evicted was asked for again first
    later: int = 0  # what the policy would have evicted was
    by_lru: Counter[str] = field(default_factory=Counter)  # policy's answers that were LRU's, by reason
    looks: int = 0
    matches: int = 0  # looks at which the mirror held what the server did
    requests: int = 0
    unknown: int = 0  # requests for models that are not of the fleet
    unread: int = 0  # requests that are compressed or no JSON: nobody looks into them
    elsewhere: int = 0  # other things that were posted, such as embeddings
    failed: int = 0  # requests that the server refused or broke off
    given_up: int = 0  # requests whose client went before the end


class Watcher:
    """Watches, asks, compares and writes down.

    Args:
        tables: the fleet, as `live_tables` gives it.
        policy: who is asked what it would have done.
        alone: the same policy once more, for the mirror that follows it.
        deployed: the rule that the watched system is thought to have.
        began_us: time of the first event [us since 1970], the zero of all times here.
        log: of decisions, with the clock "utc".
        scenario: name of the deployment in the log.
        window_us: evictions are counted by windows of this length.

    Attributes:
        looks: at the server, where somebody takes them; a question is answered by what was seen there.
        tally: counts.
        differing: the last decisions in which the two differ.
    """

    def __init__(
        self,
        tables: FleetTables,
        policy: Decider,
        alone: Decider,
        deployed: Decider,
        *,
        began_us: int,
        log: DecisionLog | None = None,
        scenario: str = "",
        window_us: int = 600_000_000,
    ) -> None:
        self.tables, self.policy, self.deployed = tables, policy, deployed
        self.looks, self.tally = Looks(), Tally()
        self.differing: deque[Decision] = deque(maxlen=REMEMBERED)
        self.began_us, self._log = began_us, log
        self._duels: deque[tuple[int, int]] = deque(maxlen=OPEN_DUELS)  # evicted by the system, by the policy
        self._recorder = Recorder(self, policy.name, policy.who, scenario=scenario)  # type: ignore[arg-type]
        self.server = Follower(
            tables, deployed.limits, self._compared, window_us=window_us, believes=True, recorder=self._recorder
        )
        self.own = Follower(
            tables, policy.limits, lambda mirror: alone.now(mirror).action, window_us=window_us, believes=False
        )

    # -----------------------------------------------------------------------------------------------------------------
    # What is seen; times in us since `began_us`

    def arrive(self, now_us: int, key: Hashable, model: int, *about: Any) -> None:
        """As `Follower.arrive`."""
        self.advance(now_us)  # questions that were due before are judged by this request, too
        self.tally.requests += 1
        self._judge(model)
        self._both(now_us, lambda each: each.arrive(now_us, key, model, *about))

    def first_token(self, now_us: int, key: Hashable) -> None:
        """As `Follower.first_token`."""
        self._both(now_us, lambda each: each.first_token(now_us, key))

    def finish(self, now_us: int, key: Hashable, tokens: int) -> None:
        """As `Follower.finish`."""
        self._both(now_us, lambda each: each.finish(now_us, key, tokens))

    def give_up(self, now_us: int, key: Hashable) -> None:
        """As `Follower.give_up`."""
        self._both(now_us, lambda each: each.give_up(now_us, key))

    def advance(self, now_us: int) -> None:
        """Nothing is seen until then."""
        self._both(now_us, lambda each: each.advance(now_us))

    def _both(self, now_us: int, tell: Callable[[Follower], None]) -> None:
        while (look := self.looks.next(now_us)) is not None:
            self.server.advance(look[0])
            self.tally.looks += 1
            self.tally.matches += look[1] == self.server.held()
        tell(self.server)
        tell(self.own)

    # -----------------------------------------------------------------------------------------------------------------

    def add(self, decision: Decision) -> None:
        """Keeps a decision, with the time of day: what a `Recorder` calls."""
        decision = replace(decision, time_us=decision.time_us + self.began_us)
        if decision.done >= 0 and decision.done != decision.choice:
            self.differing.append(decision)
        if self._log is not None:
            try:
                self._log.add(decision)
            except OSError as error:
                logger.error("the decision log cannot be written: %s", error.strerror)

    def _compared(self, mirror: Mirror) -> int:
        """Asks both, and answers as the watched system did."""
        question = mirror.simulator.question
        seen = self._seen(question)
        if seen is not None and not seen[1]:
            self.tally.missed += 1
            self._recorder.skip(mirror.simulator, seen[0])
            return seen[0]
        choice = self.policy.now(mirror)
        self.tally.seen += seen is not None
        done = self.deployed.now(mirror).action if seen is None else seen[0]
        self.tally.asked += 1
        self.tally.agreed += done == choice.action
        if choice.fallback:
            self.tally.by_lru[choice.fallback] += 1
        if done != choice.action:
            models = question.slot_models
            self._duels.append((int(models[done]), int(models[choice.action])))
        self._recorder.note(
            mirror.simulator, choice.action, choice.decider, choice.scores, fallback=choice.fallback,
            detail=choice.detail, done=done,
        )  # fmt: skip
        return done

    def _seen(self, question: Question) -> tuple[int, bool] | None:
        """The slot whose model the server was seen to evict, as `Looks.gone`; None: nobody has seen it."""
        slots = np.flatnonzero(question.legal).tolist()
        models = question.slot_models[slots].tolist()
        gone = self.looks.gone(question.now_us, question.target, models)
        return None if gone is None else (slots[models.index(gone[0])], gone[1])

    def _judge(self, model: int) -> None:
        """A model is asked for: whoever would have kept it was right."""
        still: deque[tuple[int, int]] = deque(maxlen=OPEN_DUELS)
        for system, policy in self._duels:
            self.tally.sooner += system == model
            self.tally.later += policy == model
            if model not in (system, policy):
                still.append((system, policy))
        self._duels = still
