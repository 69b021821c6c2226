"""Claims about exported policies: they answer as cace-env does, say what they are, and refuse what they are not."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cace_env
from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.export import (
    Question,
    agreement,
    form_of,
    load_numpy,
    load_onnx,
    questions,
    standalone,
    write_numpy,
    write_onnx,
)
from cace_env.observation import BLOCKS, CONTEXT, PENDING, SLOT
from cace_env.policies import Agent, Guarded, Policy, contestant_of, policy, weigh
from cace_env.policies.agent import features_hash
from cace_env.policies.network import Urgency
from cace_env.scenarios import seeds
from tests.support.agents import agent_of, random_network
from tests.support.small import SMALL, lru_in_python

RULES = (
    "lru", "fifo", "lfu", "lru-2", "gdsf", "ewma", "hyperbolic", "rate-load-size", "modelmesh", "omlx", "cace",
    "cace-output-kept", "cace-no-demand", "cace:tuned-eviction",
)  # fmt: skip
# What plays in cace-env, where, and what is exported of it.
PLAYED = [
    *((name, scenario, "eviction", name) for name in RULES for scenario in ("default", "mixed-gpus")),
    *(("agent:eviction", scenario, "eviction", "agent:eviction") for scenario in ("default", "agents", "workstation")),
    *(("agent:swap", scenario, "swap", "agent:swap") for scenario in ("default", "agents", "workstation")),
    ("wsjf+cace:tuned-swap", "default", "swap", "cace:tuned-swap"),
    ("patient-fifo+agent:eviction", "mixed-gpus", "swap", "agent:eviction"),
]
ASKED = 400  # questions of each
FLOAT32 = 3e-5  # how far scores may be apart that 64 units add up in another order
FORMS = ("numpy", "onnx")
Decide = Callable[..., tuple[int, Any]]


def exported(what: Any, form: str, folder: Path, env: str | None = None) -> Decide:
    """A policy written in one of the forms and read again, as `(slots, pending, context, legal) -> action, scores`."""
    if form == "onnx":
        pytest.importorskip("onnx", reason="needs the extra export")
        pytest.importorskip("onnxruntime", reason="needs the extra export")
        write_onnx(what, folder / "policy.onnx", env)
        return load_onnx(folder / "policy.onnx")
    write_numpy(what, folder, env)
    read = load_numpy(folder)
    return lambda *question: (read.decide(*question), read.scores(*question))


def recorded(name: str, scenario: Any, env: str, most: int = ASKED) -> list[Question]:
    """Questions of test episodes with the answers of cace-env."""
    chosen = contestant_of(name).built_in
    assert chosen is not None
    case = case_of(scenario, env)
    return list(islice((one for seed in seeds("test", 20) for one in questions(chosen, case, seed)), most))


def made_up(swap: bool, seed: int, slots: int = 6, pending: int = 4) -> list[Any]:
    """A question out of random numbers; half of the actions are legal."""
    draws = np.random.default_rng(seed)
    legal = draws.random(slots + (pending + 1 if swap else 0)) < 0.5
    legal[draws.integers(len(legal))] = True
    rows = [draws.exponential(100.0, shape) for shape in ((slots, len(SLOT)), (pending, len(PENDING)), len(CONTEXT))]
    rows[0][:, SLOT.occupied] = draws.random(slots) < 0.8
    rows[1][:, PENDING.present] = draws.random(pending) < 0.8
    rows[1][:, PENDING.target] = np.arange(pending) == 0
    return [*rows, legal]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "scenario", "env", "what"), PLAYED, ids=lambda part: str(part))
def test_it_takes_the_actions_of_cace_env(name: str, scenario: str, env: str, what: str, form: str, tmp_path: Path):
    found = agreement(exported(what, form, tmp_path), recorded(name, scenario, env))
    assert found.same == found.questions == ASKED
    assert found.score_error <= (FLOAT32 if "agent" in what else 0.0)  # rules to the same bit


def test_recorded_questions_leave_a_choice_and_show_what_the_simulator_shows():
    asked = recorded("agent:swap", "default", "swap")
    assert np.mean([one.legal.sum() > 1 for one in asked]) > 0.9
    wait, ordering = CONTEXT.wait_legal, CONTEXT.ordering
    assert {bool(one.context[ordering]) for one in asked} == {True, False}
    assert all(one.legal[-1] == (one.context[wait] == 1.0) for one in asked)
    victims = [one for one in asked if not one.context[ordering]]
    assert all((one.legal[: len(one.slots)] == (one.slots[:, SLOT.legal] == 1)).all() for one in victims)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", ["eviction", "swap"])
@pytest.mark.parametrize("hidden", [0, 5])
def test_any_network_is_exported(hidden: int, protocol: str, form: str, tmp_path: Path):
    urgency = Urgency(grace_s=1.0, loads=1.0, ages=0.5, busy=2.0, price=1.0) if protocol == "swap" else None
    agent = agent_of(random_network(protocol, hidden), urgency=urgency)
    decide = exported(agent, form, tmp_path)
    case = case_of(SMALL, protocol)
    asked = list(islice(questions(agent.policy(), case, 1), 100))
    found = agreement(decide, asked)
    assert found.same == found.questions == len(asked) > 20
    assert found.score_error <= FLOAT32


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", ["lru", "cace", "omlx", "agent:eviction", "agent:swap"])
def test_it_never_takes_an_illegal_action(what: str, form: str, tmp_path: Path):
    decide, swap = exported(what, form, tmp_path), form_of(what).swap
    for seed in range(50):
        *blocks, legal = made_up(swap, seed)
        action, scores = decide(*blocks, legal)
        assert legal[action]
        assert (np.isneginf(scores) == ~legal).all()
        for only in range(len(legal)):
            assert decide(*blocks, np.arange(len(legal)) == only)[0] == only


@pytest.mark.parametrize("form", FORMS)
def test_a_fleet_may_have_any_size(form: str, tmp_path: Path):
    agent = exported(agent_of(random_network("eviction", 3)), form, tmp_path)
    for slots, pending in ((1, 0), (3, 0), (40, 25)):
        *blocks, legal = made_up(False, 0, slots, pending or 1)
        blocks[1] = blocks[1][:pending]
        assert legal[agent(*blocks, legal)[0]]


@pytest.mark.parametrize("form", FORMS)
def test_ties_go_to_the_least_recently_used_and_then_to_the_lowest_slot(form: str, tmp_path: Path):
    decide = exported("lfu", form, tmp_path)
    slots, pending, context = np.zeros((4, len(SLOT))), np.zeros((0, len(PENDING))), np.zeros(len(CONTEXT))
    slots[:, SLOT.since_use_s] = 5.0, 9.0, 9.0, 9.0
    assert decide(slots, pending, context, np.ones(4, bool))[0] == 1
    assert decide(slots, pending, context, np.array([True, False, True, True]))[0] == 2


@pytest.mark.parametrize("what", ["lru", "omlx", "cace:tuned-eviction", "agent:swap"])
def test_a_feature_that_it_does_not_read_does_not_matter(what: str, tmp_path: Path):
    write_numpy(what, tmp_path)
    read: Any = load_numpy(tmp_path)
    for seed in range(30):
        *blocks, legal = made_up(read.swap, seed)
        answer = read.scores(*blocks, legal)
        for (block, features), values in zip(BLOCKS.items(), blocks, strict=True):
            unread = [i for i, one in enumerate(features) if one.name not in read.about["reads"][block]]
            values[..., unread] = 1.0
        assert np.array_equal(read.scores(*blocks, legal), answer)


def test_every_feature_that_it_reads_matters(tmp_path: Path):
    write_numpy("agent:swap", tmp_path)
    read: Any = load_numpy(tmp_path)
    *blocks, legal = made_up(True, 0)
    legal[:] = True
    answer = read.scores(*blocks, legal)
    for (block, features), values in zip(BLOCKS.items(), blocks, strict=True):
        names = [one.name for one in features]
        for name in read.about["reads"][block]:
            column = names.index(name)
            kept = values[..., column].copy()
            values[..., column] = 100.0 * (1.0 + kept)  # a difference that float32 sees
            assert not np.array_equal(read.scores(*blocks, legal), answer), name
            values[..., column] = kept


def test_a_rule_reads_what_it_weighs_and_what_breaks_ties():
    assert form_of("lru").about["reads"] == {"slot": ["since_use_s"], "pending": [], "context": []}
    assert form_of("gdsf").about["reads"]["slot"] == ["greedy_dual", "since_use_s"]
    assert len(form_of("agent:swap").about["reads"]["slot"]) < len(SLOT)  # some have no weight in it


def test_it_says_what_it_is_and_which_features_it_takes(tmp_path: Path):
    pytest.importorskip("onnx", reason="needs the extra export")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra export")
    write_numpy("agent:eviction", tmp_path)
    write_onnx("agent:eviction", tmp_path / "policy.onnx")
    folder = json.loads((tmp_path / "policy.json").read_text("utf-8"))
    session = runtime.InferenceSession(str(tmp_path / "policy.onnx"), providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["cace_env"]) == {key: folder[key] for key in folder if key != "weights_sha256"}
    assert folder["cace_env"] == cace_env.__version__
    assert folder["features_hash"] == properties["features_hash"] == features_hash()
    assert folder["agent_weights_sha256"] == cace_env.policies.load_agent("eviction").card.weights_sha256
    for block, features in BLOCKS.items():
        rows = [(one["name"], one["unit"], one["scale"], one["log"]) for one in folder["features"][block]]
        assert rows == [(one.name, one.unit, one.scale, one.log) for one in features]
    assert folder["trained_range"]["slot.reload_s"][0] < folder["trained_range"]["slot.reload_s"][1]


def test_the_numpy_form_needs_nothing_but_numpy(tmp_path: Path):
    write_numpy("agent:eviction", tmp_path)
    code = (tmp_path / "policy.py").read_text("utf-8")
    imported = {
        (str(node.module) if isinstance(node, ast.ImportFrom) else node.names[0].name).partition(".")[0]
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy"}
    question = recorded("agent:eviction", "default", "eviction", 1)[0]
    np.savez(tmp_path / "question.npz", **{k: getattr(question, k) for k in ("slots", "pending", "context", "legal")})
    ask = (
        "import sys, numpy; sys.path.insert(0, '.'); sys.modules['cace_env'] = None; from policy import decide; "
        "print(decide(**numpy.load('question.npz')))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) == question.action


REFUSED: list[tuple[Any, str | None, str]] = [
    ("belady", None, "knows the future"),
    ("belady-cost", None, "knows the future"),
    ("static-best", None, "demand of training seeds"),
    ("random", None, "at random"),
    ("llama-swap", None, "by their names"),
    ("llama-cpp", None, "unloads idle models by itself or limits"),
    ("ttl", None, "unloads idle models by itself or limits"),
    ("cace-quoted", None, "the clock"),
    ("wsjf+cace", None, "part behind the plus"),
    ("wsjf+agent:eviction", None, "export the agent alone"),
    ("no-swapping", None, "no formula"),
    (lru_in_python, None, "no formula"),
    (Guarded("agent:eviction"), None, "export the policy behind it"),
    ("lru", "swap", "does not say which model is loaded"),
    ("agent:eviction", "swap", "does not say which model is loaded"),
    ("agent:swap", "eviction", "trained for Swap-v0"),
    ("lru", "both", "has to be one of eviction, swap"),
    (Policy("nothing", "", weights=weigh()), None, "equals lru"),
]


@pytest.mark.parametrize(("what", "env", "why"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_function_of_features_is_refused(what: Any, env: str | None, why: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=why):
        write_numpy(what, tmp_path / "out", env)
    assert not (tmp_path / "out").exists()


def test_an_agent_of_other_features_is_not_exported():
    agent = agent_of(random_network())
    with pytest.raises(ConfigError, match="trained on other features"):
        form_of(Agent(agent.card.model_copy(update={"features": "another"}), agent.network))


def test_a_question_without_sense_is_refused_by_numpy(tmp_path: Path):
    write_numpy("cace", tmp_path)
    decide: Any = load_numpy(tmp_path).decide
    *blocks, legal = made_up(False, 0)
    with pytest.raises(ValueError, match="no action is legal"):
        decide(*blocks, np.zeros_like(legal))
    with pytest.raises(ValueError, match=r"legal has shape \(5,\)"):
        decide(*blocks, legal[:5])
    with pytest.raises(ValueError, match="'slot' has shape"):
        decide(blocks[0][:, :-1], *blocks[1:], legal)
    for nonsense in (np.nan, np.inf, -np.inf):
        blocks[2][0] = nonsense
        with pytest.raises(ValueError, match="'context' holds a number that is not finite"):
            decide(*blocks, legal)


@pytest.mark.parametrize("what", ["cace", "agent:eviction"])
def test_a_question_without_sense_is_answered_with_minus_one_by_onnx(what: str, tmp_path: Path):
    decide = exported(what, "onnx", tmp_path)
    *blocks, legal = made_up(False, 0)
    assert decide(*blocks, legal)[0] >= 0
    assert decide(*blocks, np.zeros_like(legal))[0] == -1
    for nonsense in (np.nan, np.inf, -np.inf):
        for values in blocks:
            kept, values.flat[3] = values.flat[3], nonsense
            assert decide(*blocks, legal)[0] == -1
            values.flat[3] = kept


@pytest.mark.parametrize(
    ("what", "feature", "value"), [("rate-load-size", "freed_gb", 0.0), ("agent:eviction", "free_gb", 1e300)]
)
def test_a_legal_action_whose_score_is_not_finite_is_not_chosen_over_an_illegal_one(
    what: str, feature: str, value: float, tmp_path: Path
):
    write_numpy(what, tmp_path)
    decide: Any = load_numpy(tmp_path).decide
    *blocks, legal = made_up(False, 0)
    assert legal[decide(*blocks, legal)]
    blocks[0][legal, getattr(SLOT, feature)] = value
    with pytest.raises(ValueError, match="score of a legal action is not finite"):
        decide(*blocks, legal)
    assert exported(what, "onnx", tmp_path)(*blocks, legal)[0] == -1


def test_rows_are_made_by_name(tmp_path: Path):
    write_numpy("lru", tmp_path)
    read = load_numpy(tmp_path)
    rows = read.table("slot", [{"since_use_s": 3.0}, {}, {"since_use_s": 12.0, "uses": 7.0}])
    assert rows.shape == (3, len(SLOT))
    assert rows[:, SLOT.since_use_s].tolist() == [3.0, 0.0, 12.0] and rows[2, SLOT.uses] == 7.0
    with pytest.raises(ValueError, match="lacks 'since_use_s', which the policy reads"):
        read.table("slot", [{"uses": 1.0}])
    with pytest.raises(ValueError, match="has no feature 'since_use'"):
        read.table("slot", [{"since_use": 1.0}])


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path):
    write_numpy("cace", tmp_path / "one")
    write_numpy("agent:eviction", tmp_path / "two")
    (tmp_path / "one" / "weights.npz").write_bytes((tmp_path / "two" / "weights.npz").read_bytes())
    with pytest.raises(ConfigError, match="was not written with this"):
        load_numpy(tmp_path / "one")
    with pytest.raises(ConfigError, match="holds no exported policy"):
        load_numpy(tmp_path / "nowhere")
    (tmp_path / "two" / "policy.json").write_text('{"format": "another"}', encoding="utf-8")
    with pytest.raises(ConfigError, match="not of the format"):
        load_numpy(tmp_path / "two")


def test_a_foreign_onnx_file_is_refused(tmp_path: Path):
    onnx = pytest.importorskip("onnx", reason="needs the extra export")
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    value = onnx.helper.make_tensor_value_info("x", 1, [1])
    out = onnx.helper.make_tensor_value_info("y", 1, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "foreign", [value], [out])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "foreign.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match="no policy of cace-env"):
        load_onnx(tmp_path / "foreign.onnx")
    (tmp_path / "text.onnx").write_text("no model", encoding="utf-8")
    with pytest.raises(ConfigError, match="does not read this file"):
        load_onnx(tmp_path / "text.onnx")


def test_the_same_policy_gives_the_same_bytes(tmp_path: Path):
    for name in ("one", "two"):
        write_numpy("agent:swap", tmp_path / name)
    for file in ("policy.py", "policy.json", "weights.npz"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_code_beside_the_weights_is_not_run_on_loading(tmp_path: Path):
    write_numpy(policy("lru"), tmp_path)
    (tmp_path / "policy.py").write_text("raise SystemExit", encoding="utf-8")
    assert isinstance(load_numpy(tmp_path), standalone.Policy)
