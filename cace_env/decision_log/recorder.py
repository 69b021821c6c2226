"""Turns the questions of an episode and their answers into decisions."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np

import cace_env
from cace_env.config import ConfigError
from cace_env.decision_log.record import EVICT, FORCED, KEEP_ALIVE, LOAD, Candidate, Decision
from cace_env.decision_log.writer import DecisionLog
from cace_env.kernel import rules
from cace_env.kernel.state import FIXED, MODEL, T_UNLOAD_START, T_VICTIM, TRACED
from cace_env.observation import PENDING, SLOT, SLOT_FEATURES
from cace_env.policies import Guarded, Planner, Player, PythonPolicy, explain
from cace_env.policies.built_in import Policy
from cace_env.policies.explanations import BEFORE, Contribution, Explanation
from cace_env.simulation import Simulator
from cace_env.tables import NONE, FloatArray

# What is kept of every candidate, whoever decides.
OF_VICTIMS: Final = (
    "since_use_s", "reload_s", "freed_gb", "rate_10m", "window_requests", "running", "waiting", "latency_weight",
    "expected_output_tokens",
)  # fmt: skip
OF_LOADS: Final = ("waiting", "oldest_wait_s", "waiting_weight", "load_s", "need_gb", "rate_10m", "latency_weight")


class Recorder:
    """Writes the decisions of an episode to a log.

    `begin` after the simulator's reset; `answer`, or `note` when an action has been chosen, before the simulator is
    told; `settle` after that. With an event trace (`Simulator(trace=True)`) it sees evictions in which nobody chose,
    too.

    Args:
        log: where to.
        policy: name of the policy.
        who: the policy, to say what it was.
        scenario: its name.
        seed: of the episode.
        reasons: divide the margin of the choice among the features, where the policy allows it.
    """

    def __init__(
        self,
        log: DecisionLog,
        policy: str,
        who: Policy | PythonPolicy | Guarded | Planner | None,
        *,
        scenario: str = "",
        seed: int = -1,
        reasons: bool = True,
    ) -> None:
        self.log, self.reasons = log, reasons
        self._about: dict[str, Any] = {"policy": policy, "version": version_of(who), "scenario": scenario, "seed": seed}
        self._open: Decision | None = None  # noted, but not settled
        self._chosen = NONE  # the victim of the last choice, until it is in the trace
        self._seen = 0  # rows of the trace
        self._leaving: set[int] = set()  # models chosen as victims that still have to unload

    def begin(self, simulator: Simulator) -> None:
        """After a reset."""
        self._open, self._seen, self._chosen, self._leaving = None, 0, NONE, set()
        self.settle(simulator)

    def answer(self, who: Player | Guarded | Planner, simulator: Simulator) -> tuple[int, float]:
        """Like `who.answer(simulator)`, and notes the decision."""
        action, thought_s = who.answer(simulator)
        guarded = who if isinstance(who, Guarded | Planner) else None
        player = who.decider if isinstance(who, Guarded | Planner) else who
        reason = (guarded.reason or "") if guarded is not None else ""
        detail = guarded.last.get(reason, "") if guarded is not None else ""
        decider = player.policy if isinstance(player.policy, Policy) else None
        self.note(simulator, action, decider, player.scores(simulator), fallback=reason, detail=detail)
        return action, thought_s

    def note(
        self,
        simulator: Simulator,
        action: int,
        decider: Policy | None = None,
        scores: FloatArray | None = None,
        *,
        fallback: str = "",
        detail: str = "",
        done: int = NONE,
    ) -> None:
        """The open question, and what has been chosen; `settle` writes it.

        Args:
            simulator: with the open question.
            action: the choice.
            decider: the built-in policy that chose, to divide its score among the features.
            scores: of the actions, the highest is chosen; NaN = none. By default those that explain its choice.
            fallback: why a guard had another policy decide.
            detail: the same in words.
            done: the action that a watched system has chosen; NONE: `action` is carried out.
        """
        question = simulator.question
        names, places = simulator.tables.model_names, simulator.tables.accelerator_names
        loads = question.target == NONE
        features = OF_LOADS if loads else tuple(dict.fromkeys((*OF_VICTIMS, *_used(decider))))
        columns = [getattr(PENDING if loads else SLOT, name) for name in features]
        rows = (simulator.model_features() if loads else simulator.features())[:, columns].tolist()
        actions = np.flatnonzero(question.legal).tolist()
        place = simulator.state.models[:, MODEL.place]
        why = self._explained(simulator, action, decider)
        if scores is None and why is not None and why.rival >= 0:
            scores = np.full(len(question.legal), np.nan)
            scores[list(why.scores)] = list(why.scores.values())
        candidates = []
        for one in actions:
            score = None if scores is None or np.isnan(scores[one]) else float(scores[one]) + 0.0  # no minus 0
            if not loads:
                model = int(question.slot_models[one])
                candidates.append(Candidate(names[model], places[place[model]], score, tuple(rows[one]), one))
            elif one == len(question.legal) - 1:
                candidates.append(Candidate("", "", score, (), one))
            else:
                model = one - simulator.max_slots
                candidates.append(Candidate(names[model], "", score, tuple(rows[model]), one))
        fixed = int(simulator.state.scalars[FIXED])
        self._chosen = NONE if loads else int(question.slot_models[action if done == NONE else done])
        self._open = Decision(
            question.now_us,
            candidates=tuple(candidates),
            choice=actions.index(action),
            kind=LOAD if loads else EVICT,
            target="" if loads else names[question.target],
            accelerator="" if loads or fixed == NONE else places[fixed],
            features=features,
            rival=_rival(candidates, actions.index(action)),
            reasons=_reasons(why),
            note=why.rival_label if why is not None and why.rival < 0 else "",
            fallback=fallback,
            detail=detail,
            decided_by=decider.name if fallback and decider is not None else "",
            decision=question.decision,
            done=-1 if done == NONE else actions.index(done),
            **self._about,
        )

    def skip(self, simulator: Simulator, action: int) -> None:
        """The open question is answered, and no decision: a watched system had done so before."""
        self._chosen = int(simulator.question.slot_models[action])

    def settle(self, simulator: Simulator) -> None:
        """After the simulator has gone on: writes what was noted, and evictions in which nobody chose."""
        if self._open is not None:
            self.log.add(self._open)
            self._open = None
        until = min(int(simulator.state.scalars[TRACED]), len(simulator.trace))
        self._seen = min(self._seen, until)  # an environment was set back
        for time_us, kind, model, accelerator in simulator.trace[self._seen : until].tolist():
            if kind == T_VICTIM:
                self._leaving.add(model)
                if model == self._chosen:
                    self._chosen = NONE
                else:
                    self._add_lone(simulator, time_us, FORCED, model, accelerator)
            elif kind == T_UNLOAD_START:
                if model not in self._leaving:
                    self._add_lone(simulator, time_us, KEEP_ALIVE, model, accelerator)
                self._leaving.discard(model)
        self._seen = until

    def _add_lone(self, simulator: Simulator, time_us: int, kind: Any, model: int, accelerator: int) -> None:
        tables = simulator.tables
        only = Candidate(tables.model_names[model], tables.accelerator_names[accelerator])
        self.log.add(Decision(time_us, candidates=(only,), choice=0, kind=kind, **self._about))

    def _explained(self, simulator: Simulator, action: int, decider: Policy | None) -> Explanation | None:
        """The explanation of a choice, where the policy's score can be divided."""
        if not self.reasons or decider is None:
            return None
        by_order = simulator.question.target == NONE
        if decider.network is None and decider.kind not in (rules.FEATURES, rules.TERMS) and not by_order:
            return None
        try:
            return explain(decider, simulator, against="rival", action=action)
        except ConfigError:  # another policy acted, and this one would not have considered its choice
            return None


def _rival(candidates: list[Candidate], choice: int) -> int:
    """The candidate with the next best score; -1 if no others have one."""
    scored = [at for at, one in enumerate(candidates) if at != choice and one.score is not None]
    return max(scored, key=lambda at: candidates[at].score or 0.0, default=-1)


def _reasons(why: Explanation | None) -> tuple[Contribution, ...]:
    """What moved the score of the choice above that of the rival, the largest first."""
    if why is None or why.rival < 0:
        return ()
    parts = [part for part in why.contributions if part.amount != 0]
    if why.base:
        parts.append(Contribution(BEFORE, "", float("nan"), float("nan"), why.base))
    return tuple(sorted(parts, key=lambda part: -abs(part.amount)))


def _used(policy: Policy | None) -> list[str]:
    """Features of slots that a rule weighs."""
    if policy is None:
        return []
    if policy.kind == rules.TERMS:
        return [term.feature for term in rules.CACE_TERMS.values()]
    if policy.kind != rules.FEATURES:
        return []
    return [feature.name for feature, weight in zip(SLOT_FEATURES, policy.weights, strict=True) if weight]


def version_of(who: Policy | PythonPolicy | Guarded | Planner | None) -> str:
    """What a policy was: version of the package, and a fingerprint of all that decides."""
    package = f"cace-env {cace_env.__version__}"
    fingerprint = fingerprint_of(who.policy if isinstance(who, Guarded | Planner) else who)
    return f"{package}, fingerprint {fingerprint}" if fingerprint else package


def fingerprint_of(policy: Policy | PythonPolicy | None) -> str:
    """Hash of a policy in 16 hexadecimal digits; "" where there is nothing to hash.

    Of a built-in policy or an agent: all numbers that decide. Of a Python policy: its source, without what it imports.
    """
    if policy is None:
        return ""
    if not isinstance(policy, Policy):
        try:
            source = inspect.getsource(policy if inspect.isroutine(policy) else type(policy))
        except (OSError, TypeError):
            return ""
        return hashlib.sha256(source.encode()).hexdigest()[:16]
    values = policy.values
    if values is not None and not isinstance(values, Mapping):
        values = {"by": values.__qualname__}  # type: ignore[dict-item]
    order = {} if policy.order is None else asdict(policy.order) | {"description": "", "source": ""}
    digest = hashlib.sha256()
    content = [policy.kind, policy.weights, values, policy.keep_alive_s, policy.max_resident, order]
    digest.update(json.dumps(content, sort_keys=True, default=dict).encode())
    if policy.network is not None:
        if policy.network.urgency is not None:
            digest.update(policy.network.urgency.row().tobytes())
        for name, weight in sorted(policy.network.weights.items()):
            digest.update(name.encode() + weight.tobytes())
    return digest.hexdigest()[:16]
