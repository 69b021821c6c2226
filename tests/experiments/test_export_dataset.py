"""Claims about exported datasets: what Minari reads back is what happened, and can be played again."""

from __future__ import annotations

import json
import re
import shlex
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cace_env import evaluate
from cace_env.config import dump
from cace_env.fleets import REWARD_TERMS
from cace_env.scenarios import SEEDS
from tests.support.envs import roomy, short

minari: Any = pytest.importorskip("minari", reason="needs the extra datasets")
pytest.importorskip("pyarrow", reason="needs the extra datasets")
pytest.importorskip("tyro", reason="needs the extra experiments")

from experiments import export_dataset  # noqa: E402
from experiments.running import datasets  # noqa: E402

PAGE = Path(__file__).resolve().parents[2] / "docs" / "datasets.md"
EPISODES = 3
OLD = "cace_env/default/lru-v0"


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets are kept in a folder of the test, and the network is never asked."""

    def refuse(*arguments: Any) -> None:
        raise AssertionError(f"the network was asked: {arguments}")

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(sys, "path", list(sys.path))


def exported(tmp_path: Path, *arguments: str, scenario: Any = None) -> int:
    """The exit status of the command on a short scenario, whose file lies beside the datasets."""
    path = tmp_path / "scenario.yaml"
    path.write_text(dump(short(requests=150) if scenario is None else scenario), encoding="utf-8")
    episodes = ["--episodes", str(EPISODES)] if "--episodes" not in arguments else []
    return export_dataset.main(["--scenario", str(path), *episodes, *arguments])


@pytest.mark.parametrize("policy", ["cace", "belady-cost", "random"])
def test_returns_are_minus_the_costs_that_evaluate_finds(policy: str, tmp_path: Path) -> None:
    assert exported(tmp_path, "--policy", policy) == 0
    dataset = minari.load_dataset(f"cace_env/default/{policy}-v0")
    costs = evaluate(policy, short(requests=150), range(EPISODES)).column("cost")
    np.testing.assert_allclose([episode.rewards.sum() for episode in dataset], -costs, rtol=1e-9)
    about = dataset.storage.metadata["cace_env"]
    assert about["cost"] == costs.tolist() and about["mean_cost"] == pytest.approx(costs.mean())
    assert about["policy"]["clairvoyant"] == (policy == "belady-cost")


def test_an_episode_played_again_from_its_seed_is_the_same(tmp_path: Path) -> None:
    assert exported(tmp_path, "--policy", "lru") == 0
    dataset = minari.load_dataset(OLD)
    env = dataset.recover_environment()
    assert dataset.total_episodes == EPISODES
    assert dataset.storage.metadata["cace_env"]["reward_terms"] == list(REWARD_TERMS)
    for episode, about in zip(dataset, dataset.storage.get_episode_metadata(range(EPISODES)), strict=True):
        observation, info = env.reset(seed=about["seed"])
        assert info["workload_seed"] == about["seed"] == episode.id
        steps = len(episode)
        assert steps == about["total_steps"] > 10
        assert episode.observations.dtype == np.float32 and episode.rewards.dtype == np.float64
        assert not episode.terminations[:-1].any() and episode.terminations[-1] and not episode.truncations.any()
        for step in range(steps + 1):
            np.testing.assert_array_equal(episode.observations[step], observation)
            assert episode.infos.keys() == info.keys()
            for name, value in info.items():
                np.testing.assert_array_equal(episode.infos[name][step], value)
            if step == steps:
                break
            assert info["action_mask"][episode.actions[step]] == 1
            observation, reward, terminated, _, info = env.step(episode.actions[step])
            assert (episode.rewards[step], episode.terminations[step]) == (reward, terminated)
        assert not episode.infos["reward_terms"][0].any()
        for name, value in about["episode_metrics"].items():
            np.testing.assert_equal(np.nan if value is None else value, env.unwrapped.episode_metrics[name])


def test_the_dataset_says_what_it_is_and_where_to_evaluate(tmp_path: Path) -> None:
    more = ["--author", "Ada", "--author-email", "ada@example.org", "--code-permalink", "https://example.org/code"]
    assert exported(tmp_path, "--split", "validation", "--episodes", "2", *more) == 0
    dataset = minari.load_dataset("cace_env/default/lru-validation-v0")
    facts = dataset.storage.metadata
    assert facts["author"] == {"Ada"} and facts["author_email"] == {"ada@example.org"}
    assert (facts["algorithm_name"], facts["code_permalink"]) == ("lru", "https://example.org/code")
    about = facts["cace_env"]
    assert about["seeds"] == list(SEEDS["validation"][:2])
    assert about["scenario"]["workload"]["requests"] == 150
    assert {"cace-env", "numpy", "gymnasium"} <= set(about["versions"])
    assert dataset.recover_environment().unwrapped.split == "validation"
    assert dataset.recover_environment(eval_env=True).unwrapped.split == "test"
    assert dataset.id in minari.list_local_datasets()


def test_a_shipped_scenario_is_recovered_by_its_name(tmp_path: Path) -> None:
    assert export_dataset.main(["--scenario", "workstation", "--episodes", "1"]) == 0
    spec = minari.load_dataset("cace_env/workstation/lru-v0").env_spec
    assert spec.kwargs == {"scenario": "workstation", "split": "train"}


def test_a_python_policy_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text('def keep_none(features, legal):\n    """All alike."""\n    return legal * 0.0\n')
    monkeypatch.chdir(tmp_path)
    assert exported(tmp_path, "--policy", "mine:keep_none", "--episodes", "1") == 0
    policy = minari.load_dataset("cace_env/default/keep_none-v0").storage.metadata["cace_env"]["policy"]
    assert (policy["name"], policy["description"]) == ("keep_none", "All alike.")


def test_an_episode_that_is_cut_short_is_truncated(tmp_path: Path) -> None:
    assert exported(tmp_path, "--episodes", "1", scenario=short(rules={"max_decisions": 12})) == 0
    (episode,) = minari.load_dataset(OLD)
    assert (len(episode), episode.terminations[-1], episode.truncations[-1]) == (12, False, True)


def test_an_episode_in_which_nothing_is_asked_has_one_step(tmp_path: Path) -> None:
    assert exported(tmp_path, "--episodes", "1", scenario=roomy()) == 0
    (episode,) = minari.load_dataset("cace_env/roomy/lru-v0")
    assert (len(episode), episode.actions.tolist()) == (1, [0])


def test_a_dataset_is_replaced_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exported(tmp_path, "--episodes", "1") == 0
    assert exported(tmp_path, "--episodes", "2") == 2
    assert "already" in capsys.readouterr().err
    assert minari.load_dataset(OLD).total_episodes == 1
    assert exported(tmp_path, "--episodes", "2", "--force") == 0
    assert minari.load_dataset(OLD).total_episodes == 2


@pytest.mark.parametrize("mistake", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_dataset_and_nothing_else(
    mistake: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(tmp_path, "--episodes", "1") == 0
    before = sorted(tmp_path.rglob("*"))
    asked = []

    def broken(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
        asked.append(1)
        if len(asked) > 20:
            raise mistake("enough")
        return features[:, 0]

    monkeypatch.setattr("tests.experiments.test_export_dataset.broken", broken, raising=False)
    status = exported(tmp_path, "--policy", "tests.experiments.test_export_dataset:broken", "--dataset", OLD, "--force")
    assert status == (1 if mistake is ValueError else 130)
    assert ("error: " if mistake is ValueError else "nothing is kept") in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    assert minari.load_dataset(OLD).total_episodes == 1


def test_what_fails_leaves_no_empty_folders(tmp_path: Path) -> None:
    assert exported(tmp_path, "--policy", "tests.experiments.test_export_dataset:without_scores") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["scenario.yaml"]


def without_scores(features: np.ndarray, legal: np.ndarray) -> None:
    """Answers nothing."""


def test_out_names_the_folder_of_all_datasets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exported(tmp_path, "--out", str(tmp_path / "datasets"), "--dataset", "mine-v3", "--episodes", "1") == 0
    assert (tmp_path / "datasets" / "mine-v3" / "data" / "metadata.json").exists()
    assert 'minari.load_dataset("mine-v3")' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "lur"], "did you mean 'lru'"),
        (["--policy", "no-swapping"], "room for everything"),
        (["--policy", "ollama"], "--choices-only"),
        (["--dataset", "without-a-version"], "NAMESPACE/NAME-vNUMBER"),
        (["--dataset", "a b-v0"], "NAMESPACE/NAME-vNUMBER"),
        (["--dataset", "../elsewhere-v0"], "NAMESPACE/NAME-vNUMBER"),
        (["--episodes", "0"], "0 train seeds were asked for"),
        (["--episodes", "101", "--split", "test"], "101 test seeds were asked for"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["scenario.yaml"]


def test_a_policy_with_limits_is_marked_as_cut_down(tmp_path: Path) -> None:
    assert exported(tmp_path, "--policy", "ttl", "--choices-only", "--episodes", "1") == 0
    facts = minari.load_dataset("cace_env/default/ttl-v0").storage.metadata
    assert facts["cace_env"]["policy"]["choices_only"] and "left out" in facts["description"]
    assert exported(tmp_path, "--policy", "lfu", "--choices-only", "--episodes", "1") == 0
    assert not minari.load_dataset("cace_env/default/lfu-v0").storage.metadata["cace_env"]["policy"]["choices_only"]


def test_an_episode_that_minari_could_not_read_back_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pa, dataset = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.dataset")
    table = pa.table({"row": np.arange(datasets.MOST_ROWS)})
    dataset.write_dataset(table, tmp_path / "rows", format=datasets.FORMAT)
    assert len(list(dataset.dataset(tmp_path / "rows").to_batches())) == 1  # Minari takes each batch for an episode
    monkeypatch.setattr(datasets, "MOST_ROWS", 20)
    assert exported(tmp_path) == 2
    assert "Minari can read back at most 19" in capsys.readouterr().err


def test_without_minari_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    assert exported(tmp_path) == 2
    assert 'pip install "cace-env[datasets]"' in capsys.readouterr().err


def test_metadata_is_strict_json(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert exported(tmp_path, "--episodes", "1") == 0
    files = list(tmp_path.rglob("metadata.json"))
    assert len(files) == 2
    for path in files:
        json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_the_examples_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    (command,) = re.findall(r"^python -m experiments\.export_dataset (.*)$", page, re.MULTILINE)
    assert export_dataset.main(shlex.split(command)) == 0
    examples = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {"__name__": "example"}
    for example in examples:
        exec(compile(example, PAGE.name, "exec"), namespace)
    assert len(examples) == 2 and capsys.readouterr().out
