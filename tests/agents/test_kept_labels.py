"""Claims about labels that are kept: they are those of pricing, several networks learn from them, no others slip in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import yaml

from agents.imitation.config import ImitationConfig
from agents.imitation.demonstrations import classrooms
from agents.imitation.labels import KeptLabels
from agents.imitation.pricing import price_episode, pricing_of
from agents.imitation.trainer import ImitationTrainer
from cace_env.config import ConfigError
from cace_env.executor import Threads
from cace_env.policies import load_agent, policy, write_agent
from experiments.label import main as label
from experiments.train import main as train
from tests.support.small import SMALL

SHORT = SMALL | {"workload": SMALL["workload"] | {"requests": 150}}
LARGER = {**SHORT, "name": "larger", "fleet": [{"gpu": "l40s", "count": 2}], "pressure": 1.5}


@pytest.fixture
def scenarios(tmp_path: Path) -> tuple[str, ...]:
    """Two fleets of different size, as files."""
    paths = []
    for scenario in (SHORT, LARGER):
        path = tmp_path / f"{scenario['name']}.yaml"
        path.write_text(yaml.safe_dump(scenario), encoding="utf-8")
        paths.append(str(path))
    return tuple(paths)


def config_of(scenarios: tuple[str, ...], folder: Path, **changes: Any) -> ImitationConfig:
    small: dict[str, Any] = {"shown": 0, "hidden": 4, "batch_size": 32, "passes": 4.0, "episodes": 2, "player": "lru"}
    small |= {"labels": str(folder), "futures": 2, "horizons_s": (20.0, 60.0), "share": 0.5}
    return ImitationConfig(train_on=scenarios, **(small | changes))


def kept(config: ImitationConfig) -> KeptLabels:
    return KeptLabels(config, list(classrooms(config).values()), pricing_of(config))


def priced(config: ImitationConfig) -> ImitationConfig:
    """The same configuration, with all of its episodes in the folder."""
    labels = kept(config)
    list(labels.price(labels.missing(), Threads(1)))
    return config


def learned(config: ImitationConfig, *intervals: int) -> ImitationTrainer:
    trainer = ImitationTrainer(config)
    for steps in intervals:
        trainer.learn(steps, lambda step: None)
    return trainer


def same(one: ImitationTrainer, two: ImitationTrainer) -> bool:
    mine, theirs = one.agent().network.weights, two.agent().network.weights
    return all(np.array_equal(theirs[name], weight) for name, weight in mine.items())


@pytest.mark.parametrize("env", ["eviction", "swap"])
def test_kept_labels_are_those_of_pricing(scenarios: tuple[str, ...], tmp_path: Path, env: str) -> None:
    config = priced(
        config_of(scenarios, tmp_path / "labels", env=env, player="lru" if env == "eviction" else "fifo+lru")
    )
    labels = kept(config)
    for (room, seed), (read, of_seed, requests) in zip(labels.jobs, labels.read(), strict=True):
        fresh = price_episode(room, seed, policy(config.played_by), pricing_of(config))
        expected = fresh.labelled(room, range(2))
        assert (seed, fresh.requests, room.number, fresh.limits) == (of_seed, requests, read.case, read.limits)
        np.testing.assert_array_equal(read.labels, expected.labels)
        np.testing.assert_array_equal(read.observations, expected.observations)
    assert same(learned(config, 500), learned(priced(config.model_copy(update={"labels": str(tmp_path / "b")})), 500))


def test_networks_of_any_size_and_horizons_learn_from_the_same_files(
    scenarios: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "labels"
    first = learned(priced(config_of(scenarios, folder, kept_horizons_s=(20.0, 60.0, 120.0))), 400)
    assert len(list(folder.glob("*.npz"))) == 4
    monkeypatch.setattr("agents.imitation.labels.price_episode", None)  # nothing is priced from now on
    more = {"kept_horizons_s": (20.0, 60.0, 120.0)}
    second = learned(config_of(scenarios, folder, **more, hidden=8, seed=1, horizons_s=(120.0,)), 400)
    assert (first.step, first.requests) == (second.step, second.requests)
    assert second.agent().card.hidden == 8
    assert not same(first, learned(config_of(scenarios, folder, **more, horizons_s=(120.0,)), 400))
    assert same(first, learned(config_of(scenarios, folder, **more), 400))


def test_a_resumed_training_reads_them_again(scenarios: tuple[str, ...], tmp_path: Path) -> None:
    config = priced(config_of(scenarios, tmp_path / "labels"))
    begun, whole = learned(config, 300), learned(config, 300, 300)
    (tmp_path / "state").mkdir()
    begun.save(tmp_path / "state")
    assert (tmp_path / "state" / "training.npz").stat().st_size < 100_000  # no labels
    resumed = ImitationTrainer(config)
    resumed.load(tmp_path / "state")
    resumed.learn(300, lambda step: None)
    assert same(resumed, whole)
    assert (resumed.step, resumed.requests) == (whole.step, whole.requests)
    fewer = ImitationTrainer(config.model_copy(update={"episodes": 1}))
    with pytest.raises(ConfigError, match="labels that are kept"):
        fewer.load(tmp_path / "state")


def test_what_earlier_players_met_is_learned_from_besides(scenarios: tuple[str, ...], tmp_path: Path) -> None:
    first = learned(priced(config_of(scenarios, tmp_path / "a")), 400)
    write_agent(first.agent(), tmp_path / "agent")
    own = {"player": f"agent:{tmp_path / 'agent'}", "first_seed": 40}
    alone = priced(config_of(scenarios, tmp_path / "b", **own))
    both = learned(alone.model_copy(update={"earlier_labels": (str(tmp_path / "a"),)}), 400)
    one, two = first.learn(1, lambda step: None)["remembered"], learned(alone).learn(1, lambda step: None)["remembered"]
    assert both.learn(1, lambda step: None)["remembered"] == one + two
    assert both.agent().card.train_seeds == "0-1,40-43"
    # What the player learned from is part of the budget.
    assert learned(alone).requests == both.requests
    assert both.requests > first.requests + sum(requests for _, _, requests in kept(alone).read())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"player": "gdsf"}, "with other player, play_on"),
        ({"futures": 3}, "with other futures"),
        ({"share": 1.0}, "with other share"),
        ({"horizons_s": (20.0,)}, "with other horizons_s"),
        ({"episodes": 3}, r"2 of 6 episodes are not in .*: python -m experiments.label"),
        ({"earlier_labels": ("nowhere",)}, "holds no labels of these scenarios"),
        ({"player": "belady"}, "knows the true future"),
    ],
)
def test_labels_that_were_made_otherwise_are_refused(
    scenarios: tuple[str, ...], tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    priced(config_of(scenarios, tmp_path / "labels"))
    with pytest.raises(ConfigError, match=problem):
        ImitationTrainer(config_of(scenarios, tmp_path / "labels", **changes))


def test_other_scenarios_and_damaged_files_are_refused(scenarios: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    config = priced(config_of(scenarios, folder))
    (folder / "small-1.npz").write_bytes((folder / "small-0.npz").read_bytes())
    with pytest.raises(ConfigError, match=r"small-1.npz': was priced otherwise, with other seed"):
        ImitationTrainer(config)
    (folder / "small-1.npz").write_bytes((folder / "small-0.npz").read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"small-1.npz': holds no labels .*; delete it, and price it anew"):
        ImitationTrainer(config)
    Path(scenarios[1]).write_text(yaml.safe_dump({**LARGER, "pressure": 1.6}), encoding="utf-8")
    (folder / "small-1.npz").unlink()
    priced(config)
    with pytest.raises(ConfigError, match=r"larger-0.npz': was priced otherwise, with other scenario"):
        ImitationTrainer(config)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"player": ""}, "somebody has to play the episodes"),
        ({"labels": ""}, "player is about labels that are kept"),
        ({"kept_horizons_s": (60.0, 120.0)}, "horizons_s has 20 s"),
    ],
)
def test_options_that_cannot_be_together_are_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=problem):
        config_of(("default",), tmp_path, **changes)


def test_the_commands_take_the_same_file(
    scenarios: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(scenarios, tmp_path / "labels").model_dump(mode="json", exclude_defaults=True)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(config | {"algorithm": "imitation", "validation_seeds": 1}), encoding="utf-8")
    trained = [str(path), "--steps", "300", "--interval", "300", "--out", str(tmp_path / "run"), "--wandb", "off"]
    assert train(trained) == 2
    assert "python -m experiments.label" in capsys.readouterr().err
    assert label([str(path), "--threads", "2"]) == 0
    assert label([str(path)]) == 0
    said = capsys.readouterr().out
    assert "of 4 episodes" in said and "priced 0 decisions of 0 episodes" in said
    assert train(trained) == 0
    assert (tmp_path / "run" / "best" / "agent.json").is_file()
    assert label(["--algorithm", "linear"]) == 2
    assert "sampled futures" in load_agent(tmp_path / "run" / "best").card.description
    there = sorted((tmp_path / "labels").iterdir())
    capsys.readouterr()
    assert label([str(path), "--player", "gdsf", "--episodes", "3"]) == 2
    assert "was priced otherwise, with other player" in capsys.readouterr().err
    assert sorted((tmp_path / "labels").iterdir()) == there  # nothing was priced that could not be learned from
