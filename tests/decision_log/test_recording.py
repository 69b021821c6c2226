"""Claims about what is recorded: it is the compiled run, with the scores and reasons that the policy had."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError
from cace_env.decision_log import Decision, DecisionLog, fingerprint_of, read_decisions
from cace_env.envs import Actor, EvictionEnv, FleetEnv, SwapEnv
from cace_env.evaluation import evaluate, run_episode
from cace_env.kernel.state import TRACE_KINDS
from cace_env.policies import Guarded, contestant_of, load_agent, policy
from cace_env.policies.built_in import Policy, weigh
from cace_env.wrappers import LogDecisions
from tests.support.small import SMALL, lru_in_python

SEED = 2_000_000
PLAYERS = [
    ("lru", "eviction"), ("cace", "eviction"), ("random", "eviction"), ("belady", "eviction"), ("ollama", "eviction"),
    ("ttl", "eviction"), ("static-best", "eviction"), ("agent:eviction", "eviction"), ("guarded:cace", "eviction"),
    ("lru", "swap"), ("wsjf+cace", "swap"), ("very-patient-wsjf+cace:tuned-swap", "swap"), ("belady", "swap"),
    ("wsjf+agent:eviction", "swap"), ("agent:swap", "swap"), ("patient-fifo+ttl", "swap"),
]  # fmt: skip
SUMS = [("lru", "eviction"), ("cace", "eviction"), ("agent:eviction", "eviction"), ("wsjf+cace", "swap")]


def logged(folder: Path, who: Any, protocol: str = "eviction") -> tuple[Case, list[Decision]]:
    """An episode of the small scenario, from its log."""
    case = case_of(SMALL, protocol)
    with DecisionLog(folder) as log:
        evaluate(who, case, [SEED], decision_log=log)
    return case, read_decisions(folder)


def departures(case: Case, who: str) -> list[tuple[int, str, str, str]]:
    """(time, model, accelerator, whether chosen) of an episode played in one compiled call."""
    simulator, _ = run_episode(contestant_of(who), case, case.workload(SEED), SEED, trace=True)
    chosen: set[int] = set()
    found = []
    for time_us, kind, model, accelerator in simulator.trace[: len(simulator.episode().trace)].tolist():
        where = case.tables.model_names[model] if kind > 4 else "", case.tables.accelerator_names[accelerator]
        if TRACE_KINDS[kind] == "VICTIM":
            chosen.add(model)
            found.append((time_us, *where, "chosen"))
        elif TRACE_KINDS[kind] == "UNLOAD_START":
            if model not in chosen:
                found.append((time_us, *where, "keep-alive"))
            chosen.discard(model)
    return found


@pytest.mark.parametrize(("who", "protocol"), PLAYERS)
def test_the_log_has_every_eviction_of_the_compiled_run_and_no_other(who: str, protocol: str, tmp_path: Path):
    case, decisions = logged(tmp_path, who, protocol)
    mine = [
        (d.time_us, d.chosen.model, d.chosen.accelerator, "keep-alive" if d.kind == "keep-alive" else "chosen")
        for d in decisions
        if d.kind != "load"
    ]
    assert mine == departures(case, who)
    assert mine


@pytest.mark.parametrize(("who", "protocol"), PLAYERS)
def test_logging_changes_no_number_of_a_result(who: str, protocol: str, tmp_path: Path):
    case = case_of(SMALL, protocol)
    (fast,) = evaluate(who, case, [SEED]).rows
    with DecisionLog(tmp_path) as log:
        (slow,) = evaluate(who, case, [SEED], decision_log=log).rows
    assert repr(slow | {"decision_us": 0}) == repr(fast | {"decision_us": 0})
    asked = [d.decision for d in read_decisions(tmp_path) if d.decision >= 0]
    assert asked == list(range(int(fast["decisions"])))


@pytest.mark.parametrize(("who", "protocol"), [*PLAYERS, (lru_in_python, "eviction"), (lru_in_python, "swap")])
def test_the_choice_has_the_highest_score(who: Any, protocol: str, tmp_path: Path):
    _, decisions = logged(tmp_path, who, protocol)
    scored = [d for d in decisions if d.chosen.score is not None]
    assert scored or who == "patient-fifo+ttl"
    for d in scored:
        highest = max(one.score for one in d.candidates if one.score is not None)
        assert d.chosen.score == pytest.approx(highest, rel=1e-5, abs=1e-5)  # a network's are computed by NumPy again
        assert d.rival < 0 or d.candidates[d.rival].score is not None


@pytest.mark.parametrize(("who", "protocol"), SUMS)
def test_the_reasons_add_up_to_the_margin_over_the_next_best(who: str, protocol: str, tmp_path: Path):
    _, decisions = logged(tmp_path, who, protocol)
    explained = [d for d in decisions if d.reasons]
    assert explained
    for d in explained:
        assert d.chosen.score is not None
        margin = d.chosen.score - (d.candidates[d.rival].score or 0.0)
        total = sum(reason.amount for reason in d.reasons)
        size = sum(abs(reason.amount) for reason in d.reasons)
        assert total == pytest.approx(margin, abs=1e-9 + 2e-3 * size)
        sizes = [abs(reason.amount) for reason in d.reasons]
        assert sizes == sorted(sizes, reverse=True)


def test_candidates_carry_the_features_that_the_rule_weighs(tmp_path: Path):
    _, decisions = logged(tmp_path, "cace")
    for d in decisions:
        if d.decision >= 0:
            assert {"reload_s", "latency_weight", "expected_output_tokens", "since_use_s", "window_requests"} <= {
                *d.features
            }
            assert all(len(one.values) == len(d.features) for one in d.candidates)
            assert d.target and d.target not in {one.model for one in d.candidates}


def test_a_question_answered_by_an_order_says_so(tmp_path: Path):
    _, decisions = logged(tmp_path, "wsjf+lru", "swap")
    loads = [d for d in decisions if d.kind == "load"]
    assert loads
    assert all(d.note.startswith("by its order") and d.rival == -1 and not d.target for d in loads)
    waits = [one for d in loads for one in d.candidates if not one.model]
    assert waits and all(not one.values for one in waits)


def test_decisions_that_a_guard_took_over_name_the_reason_and_who_decided(tmp_path: Path):
    def fails_at_times(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
        if features[:, 0].sum() % 2:
            raise ZeroDivisionError("no idea")
        return lru_in_python(features, legal)

    guarded = Guarded(fails_at_times, name="shaky", forecast=None, long_answer_s=None, hold=0)
    _, decisions = logged(tmp_path, guarded)
    taken = [d for d in decisions if d.fallback]
    assert len(taken) == guarded.counts["error"] > 0
    assert {(d.fallback, d.decided_by, d.policy) for d in taken} == {("error", "lru", "guarded:shaky")}
    assert all("no idea" in d.detail and d.reasons for d in taken)
    assert all(not d.decided_by and not d.detail for d in decisions if not d.fallback)


def without_lone_scores(decision: Decision) -> Decision:
    """Without the score of a victim that was not compared, which explanations lack."""
    if decision.rival >= 0:
        return decision
    return replace(decision, candidates=tuple(replace(one, score=None) for one in decision.candidates))


@pytest.mark.parametrize("kind", [EvictionEnv, SwapEnv])
def test_an_environment_logs_what_evaluation_logs(kind: type[FleetEnv], tmp_path: Path):
    _, expected = logged(tmp_path / "evaluated", "cace", kind.PROTOCOL)
    with DecisionLog(tmp_path / "stepped") as log:
        env = LogDecisions(kind(SMALL, "test", render_mode="ansi"), log, "cace", "cace")
        actor = Actor("cace", env)
        _, info = env.reset(options={"workload_seed": SEED})
        actor.reset(info["workload_seed"])
        over = False
        while not over:
            _, _, terminated, truncated, _ = env.step(actor.act())
            over = terminated or truncated
    found = read_decisions(tmp_path / "stepped")
    assert list(map(without_lone_scores, found)) == list(map(without_lone_scores, expected))


def test_an_illegal_action_is_logged_as_the_one_that_took_its_place(tmp_path: Path):
    with DecisionLog(tmp_path) as log:
        env = LogDecisions(EvictionEnv(SMALL), log, "mine")
        _, info = env.reset(seed=0)
        illegal, instead = int(np.flatnonzero(info["action_mask"] == 0)[0]), int(info["action_mask"].argmax())
        with pytest.raises(gymnasium.error.InvalidAction):
            env.step(99)
        env.step(illegal)
    (decision,) = read_decisions(tmp_path)
    assert decision.chosen.action == instead
    assert decision.chosen.score is None and not decision.reasons


def test_only_these_environments_can_be_logged(tmp_path: Path):
    with DecisionLog(tmp_path) as log, pytest.raises(ConfigError, match="needs an EvictionEnv or a SwapEnv"):
        LogDecisions(gymnasium.make("CartPole-v1"), log, "mine")


def test_a_fingerprint_changes_with_what_decides_and_with_nothing_else():
    agent, cace = load_agent("eviction"), policy("cace")
    mine = [
        cace,
        policy("lru"),
        agent.policy(),
        policy("wsjf+lru"),
        policy("ttl"),
        Policy("x", "", weights=weigh(uses=1)),
    ]
    assert len({fingerprint_of(one) for one in mine}) == len(mine)
    assert fingerprint_of(replace(cace, name="other", description="other")) == fingerprint_of(cace)
    weights = {name: weight.copy() for name, weight in agent.network.weights.items()}
    weights["slot_linear"][0] += 1
    changed = replace(agent.policy(), network=replace(agent.network, weights=weights))
    assert fingerprint_of(changed) != fingerprint_of(agent.policy()) == fingerprint_of(load_agent("eviction").policy())
    assert len(fingerprint_of(lru_in_python)) == 16
    assert fingerprint_of(math.floor) == ""  # no source to hash
