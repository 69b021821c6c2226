"""Claims about curves of a training, and about what becomes of a trained model: agents, contestants, W&B."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import cace_env
from cace_env.config import ConfigError
from cace_env.evaluation import load_suite
from cace_env.evaluation.held_out import problems_of
from cace_env.networks import ActorCritic, ScoreNetwork
from cace_env.policies import contestant_of
from cace_env.policies.agent import CARD_FILE
from cace_env.sb3 import (
    EvaluationCallback,
    EvictionVecEnv,
    MaskableQRDQN,
    SwapVecEnv,
    contestant,
    load_agent,
    save_agent,
    score_network,
)
from cace_env.sb3.judging import Judge, headroom_percent, play_model, short_name
from cace_env.scenarios import load_scenario, seeds
from cace_env.tables import Protocol
from tests.support.envs import short

ROOT = Path(__file__).resolve().parents[2]
SMALL = short("workstation", 150).replace(name="small")
LARGE = short("default", 150).replace(name="large")
SEEDS = seeds("validation", 3)

pytestmark = pytest.mark.usefixtures("one_thread")


def ppo(algorithm: Any = PPO, policy: str = "SlotPolicy", venv: Any = None, **settings: Any) -> Any:
    sizes = {"policy_kwargs": {"hidden": 4, "value_hidden": 5}} if policy == "SlotPolicy" else {}
    venv = EvictionVecEnv(4, scenario=SMALL, baseline="lru") if venv is None else venv
    made = {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "seed": 0, "device": "cpu"}
    return algorithm(policy, venv, **(made | sizes | settings))


def curves(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation


def test_curves_are_what_evaluate_says_of_the_agents_that_were_kept(tmp_path: Path):
    model = ppo()
    callback = EvaluationCallback(every=64, seeds=3, folder=tmp_path, verbose=0)
    model.learn(160, callback=callback)
    rows = curves(tmp_path)
    assert [row["global_step"] for row in rows] == [0, 64, 128, 192]  # PPO learns for whole rollouts
    for name, step in (("last", -1), ("best", int(np.argmax([row["eval/saved_vs_lru"] for row in rows])))):
        mine = cace_env.evaluate(f"agent:{tmp_path / name}", SMALL, SEEDS)
        for rival, short_of_it in (("lru", "lru"), ("cace", "cace"), ("cace:tuned-eviction", "tuned_cace")):
            gain = mine.gain_over(cace_env.evaluate(rival, SMALL, SEEDS))
            assert rows[step][f"eval/saved_vs_{short_of_it}"] == pytest.approx(gain.percent)
    cace = cace_env.evaluate("cace", SMALL, SEEDS).gain_over(cace_env.evaluate("lru", SMALL, SEEDS))
    assert [row["rivals/cace_saved_vs_lru"] for row in rows] == pytest.approx([cace.percent] * 4)
    assert {row["rivals/lru_saved_vs_lru"] for row in rows} == {0.0}
    assert callback.best_saved == max(row["eval/saved_vs_lru"] for row in rows)
    assert rows[-1]["time/decisions_per_s"] > 0


def test_the_last_evaluation_is_of_the_model_that_learn_leaves_behind(tmp_path: Path):
    model = ppo()
    model.learn(64, callback=EvaluationCallback(every=64, seeds=2, folder=tmp_path, verbose=0))
    left = score_network(model.policy).to_network()
    np.testing.assert_equal(dict(load_agent(tmp_path / "last").network.weights), dict(left.weights))


def test_training_is_the_same_with_and_without_an_evaluation():
    watched = ppo().learn(128, callback=EvaluationCallback(every=64, seeds=2, verbose=0))
    alone = ppo().learn(128)
    for mine, theirs in zip(watched.policy.parameters(), alone.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_card_knows_scenarios_seeds_ranges_and_requests(tmp_path: Path):
    model = ppo()
    model.learn(320, callback=EvaluationCallback(every=64, seeds=2, folder=tmp_path, verbose=0))
    card = load_agent(tmp_path).card
    assert (card.algorithm, card.trained_on, card.env) == ("ppo", ("small",), Protocol.EVICTION)
    assert card.requests >= 8 * 150  # of the scale alone
    assert problems_of(card) == []
    last = load_agent(tmp_path / "last")
    assert len(last.card.limits) > 50
    guarded = cace_env.evaluate(f"guarded:agent:{tmp_path / 'last'}", SMALL, SEEDS)
    assert guarded.column("cost").min() > 0


@pytest.mark.parametrize(("algorithm", "policy"), [(MaskablePPO, "MlpPolicy"), (PPO, "MlpPolicy"), (DQN, "MlpPolicy")])
def test_other_policies_are_judged_as_they_would_act_in_the_environment(
    algorithm: Any, policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    if algorithm is DQN:
        venv = EvictionVecEnv(4, scenario=SMALL)
        model: Any = DQN(policy, venv, buffer_size=200, learning_starts=20, seed=0, device="cpu")
    else:
        model = ppo(algorithm, policy)
    callback = EvaluationCallback(SMALL, every=64, seeds=3, folder=tmp_path)
    model.learn(64, callback=callback)
    row = curves(tmp_path)[-1]
    asked = cace_env.evaluate(contestant(model), SMALL, SEEDS, illegal="replace")
    assert row["eval/saved_vs_lru"] == pytest.approx(asked.gain_over(cace_env.evaluate("lru", SMALL, SEEDS)).percent)
    replaced = asked.column("illegal_actions").sum()
    decisions = sum(episode["decisions"] for episode in play_model(model, SMALL, SEEDS))
    assert row.get("eval/illegal_share", 0.0) == pytest.approx(replaced / decisions)
    assert ("eval/illegal_share" in row) == (algorithm is not MaskablePPO)
    assert (replaced > 0) == (algorithm is not MaskablePPO)
    assert callback.best is None and (tmp_path / "best.zip").is_file() and not (tmp_path / "best").exists()
    assert f"{100 * replaced / decisions:.0f} % illegal" in capsys.readouterr().err or not replaced


def test_a_model_of_the_largest_fleet_is_judged_on_all(tmp_path: Path):
    model = ppo(MaskablePPO, "MlpPolicy", EvictionVecEnv(4, scenario=[SMALL, LARGE]))
    model.learn(64, callback=EvaluationCallback(every=64, seeds=2, folder=tmp_path, verbose=0))
    row = curves(tmp_path)[-1]
    both = [row["eval/small/saved_vs_lru"], row["eval/large/saved_vs_lru"]]
    assert row["eval/saved_vs_lru"] == pytest.approx(np.mean(both))


def test_models_of_single_environments_and_of_swap_v0_are_judged_as_well(tmp_path: Path):
    single = make_vec_env(cace_env.EVICTION_ID, 2, env_kwargs={"scenario": SMALL, "scale_rewards": True})
    ppo(venv=single).learn(32, callback=EvaluationCallback(seeds=2, folder=tmp_path / "a", verbose=0))
    swap = SwapVecEnv(4, scenario=SMALL, baseline="lru")
    callback = EvaluationCallback(seeds=2, folder=tmp_path / "b", verbose=0)
    ppo(venv=swap).learn(32, callback=callback)
    card = load_agent(tmp_path / "a").card
    assert card.trained_on == ("small",)
    assert 8 * 150 <= card.requests < 2 * 8 * 150  # the scale is found once for both
    assert load_agent(tmp_path / "b").card.env == Protocol.SWAP
    assert callback.judge is not None and callback.judge.short == ("lru", "cace", "tuned_cace")


def test_requests_are_counted_whatever_holds_the_environments():
    for venv in (
        make_vec_env(cace_env.EVICTION_ID, 2, env_kwargs={"scenario": SMALL}),
        EvictionVecEnv(2, scenario=SMALL),
    ):
        callback = EvaluationCallback(seeds=2, verbose=0)
        ppo(venv=venv, n_steps=128).learn(256, callback=callback)
        requests = callback.rows[-1]["requests"]
        assert requests >= 150 and requests % 150 == 0  # whole episodes


def test_sb3s_own_logger_gets_the_curves(tmp_path: Path):
    from stable_baselines3.common.logger import configure

    model = ppo()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(64, callback=EvaluationCallback(every=64, seeds=2, verbose=0))
    model.logger.close()
    with (tmp_path / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["time/total_timesteps"] for row in rows if row["eval/saved_vs_lru"]] == ["0", "64"]


def test_learning_further_goes_on_with_the_curves(tmp_path: Path):
    model, callback = ppo(), EvaluationCallback(every=64, seeds=2, folder=tmp_path, verbose=0)
    model.learn(64, callback=callback)
    model.learn(64, callback=callback, reset_num_timesteps=False)
    assert [row["global_step"] for row in curves(tmp_path)] == [0, 64, 64, 128]


def test_a_model_that_learns_from_test_seeds_is_refused():
    model = ppo(venv=EvictionVecEnv(4, scenario=SMALL, split="test"))
    with pytest.raises(ConfigError, match="trained on split 'test'"):
        model.learn(64, callback=EvaluationCallback(seeds=SEEDS))


def test_what_must_not_be_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="test seed"):
        EvaluationCallback(seeds=seeds("test", 3))
    with pytest.raises(ConfigError, match="101 validation seeds"):
        EvaluationCallback(seeds=101)
    with pytest.raises(ConfigError, match="every is 0"):
        EvaluationCallback(every=0)
    with pytest.raises(ConfigError, match="no policy called"):
        ppo().learn(1, callback=EvaluationCallback(rivals=("cake",), seeds=2))
    (tmp_path / "metrics.csv").write_text("")
    with pytest.raises(ConfigError, match="overwrite=True"):
        EvaluationCallback(folder=tmp_path)
    EvaluationCallback(folder=tmp_path, overwrite=True)


def test_names_of_curves_are_short():
    names = ("lru", "cace:tuned-eviction", "very-patient-wsjf+cace:tuned-swap", "fifo+lru", "agent:eviction")
    assert [short_name(name) for name in names] == ["lru", "tuned_cace", "tuned_cace", "fifo_lru", "agent_eviction"]
    with pytest.raises(ConfigError, match="with the same short name"):
        Judge({"small": SMALL}, Protocol.SWAP, SEEDS, ("cace:tuned-swap", "very-patient-wsjf+cace:tuned-swap"))


def test_scores_go_by_what_the_suite_says_there_is_to_save():
    entry = next(each for each in load_suite().entries if each.id == "eviction-default")
    assert 5 < headroom_percent(entry.load(), Protocol.EVICTION) < 50
    assert headroom_percent(load_scenario("workstation"), Protocol.EVICTION) > 5
    assert headroom_percent(load_scenario("tiny"), Protocol.EVICTION) > 20  # that of the optimum
    tighter = entry.load().replace(pressure=1.9)  # only its name is the suite's
    assert np.isnan(headroom_percent(tighter, Protocol.EVICTION))
    assert np.isnan(headroom_percent(SMALL, Protocol.SWAP))


# ---------------------------------------------------------------------------------------------------------------------
# Agents and contestants


def test_every_kind_of_network_becomes_an_agent_that_acts_the_same(tmp_path: Path):
    model = ppo()
    scores = score_network(model.policy)
    observations = model.env.reset()
    actions, _ = model.predict(observations, deterministic=True)
    layout = model.env.get_attr("layout")[0]
    both = model.observation_space, model.action_space
    actor = ActorCritic.of_spaces(*both, hidden=4)
    actor.scores.begin_as(scores.to_network())
    for number, trained in enumerate((model, scores, scores.to_network(), actor)):
        saved = save_agent(trained, tmp_path / str(number), name="mine", description="by hand")
        agent = load_agent(tmp_path / str(number))
        assert [agent.act(row, layout) for row in observations] == actions.tolist()
        assert agent.card == saved.card and agent.card.name == "mine"
        found = cace_env.evaluate(f"agent:{tmp_path / str(number)}", SMALL, SEEDS)
        assert found.column("cost").tolist() == cace_env.evaluate(agent, SMALL, SEEDS).column("cost").tolist()


def test_a_networks_card_learns_its_ranges_from_what_it_was_trained_on(tmp_path: Path):
    network = ScoreNetwork("eviction", 4)
    agent = save_agent(network, tmp_path, algorithm="cleanrl", trained_on=("workstation",), train_seeds="0-99")
    assert len(agent.card.limits) > 50
    assert (agent.card.algorithm, agent.card.name) == ("cleanrl", "cleanrl-eviction")
    with pytest.raises(ConfigError, match="no field 'trained'"):
        save_agent(network, tmp_path, trained=("workstation",))


def test_a_run_folder_stands_for_its_best_agent(tmp_path: Path):
    save_agent(ScoreNetwork("eviction", 4), tmp_path / "best", name="the-best", description="the-best")
    save_agent(ScoreNetwork("eviction", 4), tmp_path / "last", name="the-last")
    assert load_agent(tmp_path).card.name == "the-best"
    found = contestant_of(f"agent:{tmp_path}").built_in
    assert found is not None and "the-best" in found.description
    assert load_agent(tmp_path / "last").card.name == "the-last"


def test_a_model_that_cannot_be_an_agent_says_what_to_do(tmp_path: Path):
    model = ppo(MaskablePPO, "MlpPolicy")
    with pytest.raises(ConfigError, match=r"MaskableActorCriticPolicy.*contestant\(model\)"):
        save_agent(model, tmp_path)
    assert not (tmp_path / CARD_FILE).exists()
    with pytest.raises(ConfigError, match="a dict cannot be saved"):
        save_agent({}, tmp_path)  # type: ignore[arg-type]


def test_a_contestant_sees_observations_as_its_model_did():
    """With running statistics, an MlpPolicy acts on what they make of an observation, here as in training."""
    venv = VecNormalize(EvictionVecEnv(4, scenario=SMALL), norm_obs=True)
    model = ppo(MaskablePPO, "MlpPolicy", venv)
    model.learn(64)
    player, raw = contestant(model), EvictionVecEnv(4, scenario=SMALL)
    seen, masks = raw.reset(), np.array(raw.env_method("action_masks"))
    expected, _ = model.predict(venv.normalize_obs(seen), action_masks=masks, deterministic=True)
    assert [player.act(row, mask.astype(np.int8)) for row, mask in zip(seen, masks, strict=True)] == expected.tolist()


def test_off_policy_models_are_kept_with_their_ranges(tmp_path: Path):
    venv = EvictionVecEnv(4, scenario=SMALL, baseline="lru")
    model = MaskableQRDQN(
        "SlotPolicy",
        venv,
        buffer_size=400,
        learning_starts=20,
        policy_kwargs={"hidden": 4, "value_hidden": 5, "n_quantiles": 3},
        device="cpu",
    )
    model.learn(120, callback=EvaluationCallback(every=60, seeds=2, folder=tmp_path, verbose=0))
    card = load_agent(tmp_path / "last").card
    assert card.algorithm == "qrdqn" and len(card.limits) > 50


# ---------------------------------------------------------------------------------------------------------------------
# W&B

SCRIPT = """
import sys
import torch, wandb
from stable_baselines3 import PPO
from cace_env.sb3 import EvaluationCallback, EvictionVecEnv
torch.set_num_threads(1)
wandb.init(mode="offline", project="p", dir=sys.argv[1], settings=wandb.Settings(console="off", silent=True))
model = PPO("SlotPolicy", EvictionVecEnv(4, scenario=sys.argv[2]), n_steps=16, batch_size=32, device="cpu")
model.learn(128, callback=EvaluationCallback(every=64, seeds=2, verbose=0))
wandb.finish()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `wandb.init(mode="offline")` in a script leaves behind."""
    pytest.importorskip("wandb", reason="needs the extra train")
    home = tmp_path_factory.mktemp("own")
    scenario = home / "small.yaml"
    scenario.write_text(cace_env.config.dump(SMALL))
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    own |= {"HOME": str(home), "WANDB_ERROR_REPORTING": "false", "NETRC": str(home / "netrc")}
    own |= {f"WANDB_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "CACHE", "DATA")}
    own["CACE_ENV_CACHE_DIR"] = str(cace_env.compilation.cache_root())
    command = [sys.executable, "-c", SCRIPT, str(home), str(scenario)]
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = (home / "wandb").glob("offline-run-*")
    return found


@pytest.fixture(scope="module")
def told(run: Path) -> list[dict[str, Any]]:
    """Every record of the run, by W&B's own reader."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.integration
def test_ones_own_run_of_wandb_draws_every_curve_over_the_global_step(told: list[dict[str, Any]]):
    history = [record["history"]["item"] for record in told if record["type"] == "history"]
    for name in (
        "eval/saved_vs_lru",
        "eval/saved_vs_tuned_cace",
        "rivals/cace_saved_vs_lru",
        "rivals/lru_saved_vs_lru",
    ):
        assert [item["global_step"] for item in history if name in item] == [0, 64, 128]
    losses = [item["global_step"] for item in history if "train/value_loss" in item]
    assert losses == [64, 128]


@pytest.mark.integration
def test_ones_own_run_of_wandb_gets_settings_table_picture_and_agent(told: list[dict[str, Any]], run: Path):
    whole = json.dumps(told)
    for piece in ('"learning_rate"', '"trained_on"', "eval/scenarios.path", "timeline/small.path"):
        assert piece in whole, piece
    aliases = [record["artifact"]["aliases"] for record in told if record["type"] == "artifact"]
    assert {"best", "latest"} in map(set, aliases) and any("last" in each for each in aliases)
    tables = [json.loads(path.read_text()) for path in (run / "files").rglob("scenarios*.table.json")]
    assert tables and all(table["columns"][:2] == ["scenario", "cost"] for table in tables)
    assert all(table["data"][0][0] == "small" for table in tables)
