"""Claims about explanations: their parts add up to the difference of scores, and are about what the policy chose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import yaml

from cace_env.config import ConfigError
from cace_env.envs import Actor, EvictionEnv, ExplainDecisions, FleetEnv, SwapEnv
from cace_env.observation import CONTEXT, PENDING, SLOT, ObservationLayout
from cace_env.policies import ORDERS, Agent, explain, policy, write_agent
from cace_env.policies.agent import AgentCard
from cace_env.policies.built_in import Policy, weigh
from cace_env.policies.explanations import Contribution, Explanation, quantity
from cace_env.policies.network import Network, Urgency, weight_shapes
from tests.support.envs import roomy, short
from tests.support.small import SMALL

KINDS = (EvictionEnv, SwapEnv)


URGENCY = Urgency(grace_s=0.5, loads=0.5, ages=0.2, busy=2.0, price=1.0)


def agent(kind: type[FleetEnv], hidden: int, seed: int = 0) -> Agent:
    """An agent with random weights, all of them, which in Swap-v0 minds long waits."""
    draws = np.random.default_rng(seed)
    protocol: Any = kind.PROTOCOL
    weights = {
        name: (draws.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in weight_shapes(protocol, hidden).items()
    }
    urgency = URGENCY if kind is SwapEnv else None
    card = AgentCard(name="dice", env=protocol, algorithm="none", hidden=hidden, urgency=urgency)
    return Agent(card, Network(protocol, hidden, weights))


def asked(kind: type[FleetEnv], who: Any, seed: int = 3, **options: Any) -> Iterator[tuple[FleetEnv, np.ndarray, int]]:
    """Every question of an episode: the environment, the observation, and what the policy then does."""
    env = kind(short(), **options)
    actor = Actor(who, env)
    observation, info = env.reset(seed=seed)
    actor.reset(info["workload_seed"])
    over = False
    while not over:
        action = actor.act()
        yield env, observation, action
        observation, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated


def total(explanation: Explanation) -> float:
    """All parts together."""
    return sum(c.amount for c in explanation.contributions) + explanation.base + explanation.residual


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.parametrize("against", ["mean", "rival"])
def test_the_parts_add_up_to_the_difference_of_the_scores(kind: Any, hidden: int, against: Any):
    trained, kinds = agent(kind, hidden), set()
    for env, observation, chosen in asked(kind, trained.policy()):
        logits = trained.network.logits(observation, env.layout).astype(float)
        legal = np.flatnonzero(np.isfinite(logits)).tolist()
        scale = 1 + np.abs(logits[legal]).max()
        assert explain(trained, env.simulator).action == chosen
        for action in legal:
            explanation = explain(trained, env.simulator, against=against, action=action)
            others = [logits[other] for other in legal if other != action]
            difference = logits[action] - (max(others) if against == "rival" else np.mean(others))
            assert explanation.difference == pytest.approx(difference, abs=1e-5 * scale)
            assert total(explanation) == pytest.approx(difference, abs=1e-5 * scale)
            assert explanation.margin == pytest.approx(logits[action] - max(others), abs=1e-5 * scale)
            assert (explanation.margin >= 0) == (action == chosen)
            assert abs(explanation.residual) <= 1.1e-3 * sum(abs(c.amount) for c in explanation.contributions) + 1e-9
            kinds.add(explanation.label.split()[0])
    assert kinds == ({"evict"} if kind is EvictionEnv else {"evict", "load", "wait"})


def test_of_a_linear_agent_a_part_is_weight_times_feature_less_the_mean_of_the_alternatives():
    trained = agent(EvictionEnv, 0)
    weights = trained.network.weights["slot_linear"]
    for env, observation, action in asked(EvictionEnv, trained.policy()):
        slots = env.layout.split(observation).slots.astype(float)
        others = (slots[:, SLOT.legal] > 0) & (np.arange(len(slots)) != action)
        expected = weights * (slots[action] - slots[others].mean(axis=0))
        amounts = {c.feature: c.amount for c in explain(trained, env.simulator).contributions}
        np.testing.assert_allclose([amounts[name] for name in SLOT._fields], expected, rtol=1e-6, atol=1e-9)


def test_a_network_without_hidden_weight_is_explained_as_the_linear_policy_that_it_is():
    linear = agent(SwapEnv, 0)
    shapes = weight_shapes("swap", 4)
    weights = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()} | dict(linear.network.weights)
    network = Agent(linear.card.model_copy(update={"hidden": 4}), Network("swap", 4, weights))
    for env, observation, _ in asked(SwapEnv, linear.policy()):
        one, other = (explain(a, observation, env.layout) for a in (linear, network))
        np.testing.assert_allclose(
            [c.amount for c in one.contributions], [c.amount for c in other.contributions], atol=1e-12
        )
        assert one.base == pytest.approx(other.base)


def test_gradients_are_those_of_the_network():
    # By finite differences of `Network.logits`: from the candidates alike, a small step along the line.
    trained = agent(EvictionEnv, 8)
    env, observation, action = next(asked(EvictionEnv, trained.policy()))
    explanation = explain(trained, observation, env.layout)
    slots = env.layout.split(observation).slots
    legal = slots[:, SLOT.legal] > 0
    steps = np.zeros(len(SLOT))
    for share in (np.arange(64) + 0.5) / 64:
        for column in range(len(SLOT)):
            ends = []
            for sign in (1, -1):
                moved = observation.astype(np.float64).copy()
                rows = moved[: env.layout.slots_end].reshape(slots.shape)
                alike = rows[legal].mean(axis=0)
                direction = rows[legal] - alike
                rows[legal] = alike + share * direction
                rows[legal, column] += sign * 1e-4 * direction[:, column]
                logits = trained.network.logits(moved, env.layout)  # type: ignore[arg-type]
                others = [logits[a] for a in np.flatnonzero(legal) if a != action]
                ends.append(float(logits[action] - np.mean(others)))
            steps[column] += (ends[0] - ends[1]) / 2e-4 / 64
    amounts = {c.feature: c.amount for c in explanation.contributions}
    np.testing.assert_allclose([amounts[n] for n in SLOT._fields], steps, atol=0.02 * np.abs(steps).max())


def test_what_tells_no_candidates_apart_is_part_of_no_reason():
    trained, compared = agent(SwapEnv, 8), 0
    for env, observation, _ in asked(SwapEnv, trained.policy()):
        blocks = env.layout.split(observation)
        ordering = blocks.context[CONTEXT.ordering] > 0
        if blocks.context[CONTEXT.wait_legal] > 0:
            continue  # waiting has no features that would be the same
        rows = (
            blocks.pending[blocks.pending[:, PENDING.legal] > 0] if ordering else blocks.slots[blocks.slots[:, 1] > 0]
        )
        names = PENDING._fields if ordering else SLOT._fields
        same = {name for name, column in zip(names, rows.T, strict=True) if np.ptp(column) == 0}
        assert {"legal"} <= same
        compared += 1
        for contribution in explain(trained, observation, env.layout).contributions:
            assert contribution.amount == 0 or contribution.feature not in same
    assert compared > 20


def test_against_waiting_a_model_is_measured_from_one_of_which_nothing_is_known():
    trained = agent(SwapEnv, 0)
    w, found = trained.network.weights, 0
    for env, observation, _ in asked(SwapEnv, trained.policy()):
        pending, context = env.layout.split(observation)[1:]
        legal = np.flatnonzero(pending[:, PENDING.legal])
        if len(legal) != 1 or not context[CONTEXT.wait_legal]:
            continue
        load = explain(trained, observation, env.layout, action=env.layout.max_slots + int(legal[0]))
        flags = w["pending_linear"][PENDING.present] + w["pending_linear"][PENDING.legal]
        assert load.base == pytest.approx(flags - context @ w["wait_linear"] - w["wait_bias"][0], abs=1e-5)
        amounts = {c.feature: c.amount for c in load.contributions}
        expected = w["pending_linear"] * pending[legal[0]]
        expected[[PENDING.present, PENDING.legal]] = 0
        expected[PENDING.oldest_wait_s] += URGENCY.scores(*env.layout.split(observation))[legal[0]]
        np.testing.assert_allclose([amounts[name] for name in PENDING._fields], expected, atol=1e-6)
        found += 1
    assert found > 5


@pytest.mark.parametrize(
    "name", ["lru", "ewma", "gdsf", "cace", "cace-no-recency", "cace-output-kept", "wsjf+cace", "fifo-any-victim+lru"]
)
def test_a_built_in_sum_is_explained_by_its_terms_and_chooses_the_highest_score(name: str):
    kind = SwapEnv if "+" in name else EvictionEnv
    victims = 0
    for env, _, action in asked(kind, name):
        explanation = explain(name, env.simulator)
        assert explanation.action == action
        if explanation.rival >= 0:
            victims += 1
            assert explanation.margin >= 0
            assert explanation.scores[action] == max(explanation.scores.values())
            others = [score for a, score in explanation.scores.items() if a != action]
            assert total(explanation) == pytest.approx(explanation.scores[action] - np.mean(others))
        else:
            assert explanation.contributions == () and "its order" in str(explanation)
    assert victims > 5


def test_an_agent_of_eviction_v0_that_goes_with_an_order_is_explained_where_it_chooses_the_victim():
    mixed, victims = replace(agent(EvictionEnv, 8).policy(), order=ORDERS["wsjf"]), 0
    for env, observation, action in asked(SwapEnv, mixed):
        explanation = explain(mixed, env.simulator)
        assert explanation.action == action
        if explanation.rival >= 0:
            victims += 1
            logits = mixed.network.logits(observation, env.layout)  # type: ignore[union-attr]
            assert explanation.margin == pytest.approx(logits[action] - logits[explanation.rival], abs=1e-4)
            assert explanation.margin >= 0
        else:
            assert "its order" in str(explanation)
    assert victims > 5


def test_a_part_of_cace_is_its_weight_times_its_term():
    env, _, action = next(asked(EvictionEnv, "cace"))
    explanation = explain("cace", env.simulator, against="rival")
    assert {c.feature for c in explanation.contributions} == {
        *("reload_s", "latency_weight", "expected_output_tokens", "since_use_s", "window_requests")
    }
    rows = env.simulator.features()
    legal = np.flatnonzero(env.action_masks())
    used = rows[legal, SLOT.since_use_s]
    # Weight 1; who was used last is kept most: term 1 - (x - least) / (greatest - least).
    expected = (rows[action, SLOT.since_use_s] - rows[explanation.rival, SLOT.since_use_s]) / np.ptp(used)
    (recency,) = (c for c in explanation.contributions if c.feature == "since_use_s")
    assert recency.amount == pytest.approx(expected)
    assert (
        recency.value == rows[action, SLOT.since_use_s] and recency.others == rows[explanation.rival, SLOT.since_use_s]
    )


def test_a_sentence_says_what_was_done_and_why_in_physical_units():
    env, _, _ = next(asked(EvictionEnv, "lru"))
    explanation = explain("lru", env.simulator)
    names = env.tables.model_names
    model = names[env.simulator.state.slots[explanation.action]]
    assert str(explanation).startswith(
        f"evict slot {explanation.action}, {model}, compared with the other candidates: not used for "
    )
    assert len(explanation.top(3)) == 1, "lru looks at one feature"
    part = Contribution("reload_s", "s", 90.0, 7200.0, -0.25)
    assert str(part) == "reload takes 90 s (others 2 h) -0.25"
    assert (
        quantity(1e6, "s") == "ever" and quantity(1.0, "flag") == "yes" and quantity(1234.5, "tokens") == "1,234 tokens"
    )


def test_another_action_can_be_asked_about():
    trained = agent(EvictionEnv, 8)
    env, observation, action = next(asked(EvictionEnv, trained.policy()))
    other = next(a for a in np.flatnonzero(env.action_masks()).tolist() if a != action)
    why_not = explain(trained, observation, env.layout, action=other, against="rival")
    assert why_not.rival == action and why_not.margin < 0
    why = explain(trained, observation, env.layout, against="rival")
    if why.rival == other:
        assert why.difference == pytest.approx(-why_not.difference, abs=1e-5)


def test_what_cannot_be_explained_is_refused():
    env, observation, action = next(asked(EvictionEnv, "lru"))
    for name in ("random", "belady", "hyperbolic", "rate-load-size", "ollama"):
        with pytest.raises(ConfigError, match=f"policy {name!r} does not score by a weighted sum"):
            explain(name, env.simulator)
    trained = agent(EvictionEnv, 0)
    with pytest.raises(ConfigError, match="needs its layout"):
        explain(trained, observation)
    with pytest.raises(ConfigError, match="needs a simulator"):
        explain("lru", observation, env.layout)
    illegal = int(np.argmin(env.action_masks()))
    with pytest.raises(ConfigError, match=f"there is no candidate {illegal} here"):
        explain(trained, observation, env.layout, action=illegal)
    with pytest.raises(ConfigError, match="only one legal action"):
        explain(trained, only_one(observation, env.layout, action), env.layout)


def only_one(observation: np.ndarray, layout: ObservationLayout, action: int) -> np.ndarray:
    """The observation, with a single legal slot."""
    changed = observation.copy()
    layout.split(changed).slots[:, SLOT.legal] = np.arange(layout.max_slots) == action
    return changed


@pytest.mark.parametrize("kind", KINDS)
def test_on_request_the_environment_says_what_a_policy_would_do_and_why(kind: Any):
    trained = agent(kind, 4)
    plain, said = kind(short()), ExplainDecisions(gymnasium.make(f"cace_env:{kind.ID}", scenario=short()), trained)
    (observation, info), (same, more) = plain.reset(seed=3), said.reset(seed=3)
    over = False
    while not over:
        np.testing.assert_array_equal(observation, same)
        explanation = more.pop("explanation")
        np.testing.assert_equal(info, more)
        assert info["action_mask"][explanation.action] == 1
        observation, _, terminated, truncated, info = plain.step(explanation.action)
        same, _, _, _, more = said.step(explanation.action)
        over = terminated or truncated
    assert more["explanation"] is None


def test_only_environments_and_policies_that_can_be_explained_are_wrapped():
    with pytest.raises(ConfigError, match="ExplainDecisions needs an EvictionEnv or a SwapEnv"):
        ExplainDecisions(gymnasium.make("CartPole-v1"), "lru")
    nobody_asked = ExplainDecisions(EvictionEnv(roomy()), "cace")
    assert nobody_asked.reset(seed=0)[1]["explanation"] is None


def test_a_weighted_sum_of_ones_own_is_explained():
    mine = Policy("mine", "slow and unused", weights=weigh(since_use_s=-1.0, reload_s=2.0))
    env, _, _ = next(asked(EvictionEnv, mine))
    explanation = explain(mine, env.simulator)
    assert {c.feature for c in explanation.contributions} == {"since_use_s", "reload_s"}
    assert explain(replace(policy("lru"), weights=mine.weights), env.simulator).scores == explanation.scores


def test_the_report_of_a_comparison_says_why_agents_decided(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="needs the extra experiments")
    from experiments.compare import main
    from experiments.reports.decisions import FACTORS_FILE, Factor, read_decisions
    from experiments.running.run_files import rows_of
    from experiments.running.run_folder import Run
    from tests.support.html_reports import Report

    scenario, folder, out = tmp_path / "small.yaml", tmp_path / "dice", tmp_path / "out"
    scenario.write_text(yaml.safe_dump(SMALL))
    write_agent(agent(SwapEnv, 4), folder)
    options = ["--env", "swap", "--policies", f"agent:{folder}", "--seeds", "1", "--workers", "1"]
    assert main([*options, "--scenarios", str(scenario), "--out", str(out)]) == 0
    page, run = Report(out), Run(out)
    kinds = [row["kind"] for row in page.table("Single decisions") if row["policy"] == f"agent:{folder}"]
    assert kinds == ["clear"] * 3 + ["narrow"] * 3
    factors = [factor for factor in rows_of(run.path / FACTORS_FILE, Factor) if factor.policy == f"agent:{folder}"]
    assert sum(factor.share for factor in factors) == pytest.approx(1)
    assert all(abs(factor.for_choice) <= factor.share + 1e-9 for factor in factors)
    assert [*page.figures["What weighs how much in a decision"]] == [("small-swap",)]
    decisions = read_decisions(run, "small-swap")
    margins = [first.margin for first, _ in decisions]
    assert margins == sorted(margins, reverse=True) and min(margins) >= 0
    for first, reasons in decisions:
        assert {reason.choice for reason in reasons} == {first.choice} != {first.rival}
