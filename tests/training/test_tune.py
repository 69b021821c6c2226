"""Searches: seeds to learn from, budgets that are counted, runs that go on, weights that a comparison takes."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")
pytest.importorskip("cmaes", reason="needs the extra train")
pytest.importorskip("optuna", reason="needs the extra train")

import optuna

from cace_env.config import ConfigError
from cace_env.evaluation import evaluate
from cace_env.policies import load_agent
from cace_env.policies.cace import load_cace
from cace_env.scenarios import load_scenario
from cace_env.tables import Protocol
from experiments import compare
from experiments.running.run_folder import Run
from experiments.tune import main
from experiments.tuning.cace import goal_of_log
from experiments.tuning.search_space import Parameter, Space, read_space
from experiments.tuning.study import best_trials
from tests.support.logs import AZURE
from tests.support.small import small

__all__ = ["small"]  # a fixture

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def space_file(path: Path, **parameters: Any) -> Path:
    path.write_text(yaml.safe_dump({"parameters": parameters}))
    return path


def linear(scenario: Path) -> dict[str, Any]:
    """A linear policy with next to nothing to learn from, whose first step is searched."""
    return {
        "algorithm": {"value": "linear"},
        "train_on": {"value": str(scenario)},
        "population": {"value": 4},
        "seeds_per_generation": {"value": 2},
        "train_seeds": {"value": 4},
        "threads": {"value": 1},
        "sigma": {"distribution": "log_uniform_values", "min": 0.05, "max": 1.0},
    }


@pytest.fixture(scope="module")
def tuned(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CACE by CMA-ES on a small scenario, two starts."""
    out = tmp_path_factory.mktemp("runs") / "cace"
    assert main(tuning(small, out)) == 0
    return out


def tuning(scenario: Path, out: Path) -> list[str]:
    asked = ["cace", "--scenarios", str(scenario), "--requests", "60000", "--starts", "2", "--train-seeds", "4"]
    return [*asked, "--out", str(out), "--threads", "1"]


def test_tuned_weights_state_what_they_were_tuned_on_and_what_it_cost(tuned: Path, small: Path):
    found = load_cace(tuned / "cace.yaml").tuned
    assert found is not None and found.train_seeds == "0-3" and found.trained_on == (str(small),)
    starts = [load_cace(file).tuned for file in sorted((tuned / "starts").iterdir())]
    assert found.requests == sum(start.requests for start in starts if start is not None) >= 60_000
    report = (tuned / "report.md").read_text()
    assert f"**Budget: {found.requests:,} simulated requests in training.**" in report
    assert (tuned / "history.png").is_file()
    with (tuned / "history.csv").open() as file:
        assert {row["start"] for row in csv.DictReader(file)} == {"0", "1"}


def test_tuned_weights_are_a_policy_and_a_comparison_states_their_budget(tuned: Path, small: Path, tmp_path: Path):
    name, out = f"cace:{tuned / 'cace.yaml'}", tmp_path / "compared"
    asked = ["--policies", name, "--scenarios", str(small), "--seeds", "2", "--out", str(out)]
    assert compare.main(asked) == 0
    about = Run(out).about["policies"][name]["tuned"]
    assert about["requests"] >= 60_000 and about["train_seeds"] == "0-3"


def test_a_killed_tuning_goes_on_with_the_starts_that_are_missing(tuned: Path, small: Path):
    first, second = sorted((tuned / "starts").iterdir())
    kept, weights = first.read_bytes(), load_cace(second).weights
    second.unlink()
    assert main(tuning(small, tuned)) == 0
    assert first.read_bytes() == kept and load_cace(second).weights == weights


def test_another_tuning_in_the_same_folder_is_refused(tuned: Path, small: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*tuning(small, tuned), "--seed", "5"]) == 2
    assert "holds another search (seed was 0, now 5)" in capsys.readouterr().err


def test_weights_are_tuned_on_windows_of_the_first_half_of_a_log_alone(small: Path, tmp_path: Path):
    log = tmp_path / "log.csv"
    log.write_text(AZURE + "".join(f"2023-11-16 18:{i // 60:02}:{i % 60:02}.0,{50 + i},9\n" for i in range(300)))
    section = {"path": str(log), "format": "azure", "users": 5, "windows": 5}
    goal, said = goal_of_log(load_scenario(small), Protocol.EVICTION, section, str(small), 2)
    ((_, tuned),), ((_, chosen),) = goal.train.items(), goal.validation.items()
    seen = [tuned.workload(seed).context_tokens.tolist() for seed in goal.train_seeds]
    judged = [chosen.workload(seed).context_tokens.tolist() for seed in goal.validation_seeds]
    assert seen == 2 * [list(range(50 + first, 80 + first)) for first in (0, 30, 60, 90)]  # models are drawn twice
    assert judged == 2 * [list(range(170, 200))]  # the last window before the half
    assert "--part test" in goal.compare and "windows" not in goal.compare and "4 to tune on, the next 1" in said
    with pytest.raises(ConfigError, match="leave --part out"):
        goal_of_log(load_scenario(small), Protocol.EVICTION, section | {"part": "test"}, str(small), 2)


def test_trials_are_pruned_counted_and_kept_and_the_best_is_chosen_by_all_validation_seeds(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("experiments.tuning.run.ALL_VALIDATION", 3)
    file, out = space_file(tmp_path / "space.yaml", **linear(small)), tmp_path / "search"
    asked = [str(file), "--trials", "6", "--steps", "8", "--intervals", "2", "--validation-seeds", "2"]
    asked += ["--out", str(out), "--threads", "1"]
    assert main(asked) == 0
    with (out / "trials.csv").open() as rows:
        trials = list(csv.DictReader(rows))
    assert len(trials) == 6 and all(int(row["requests"]) > 0 for row in trials)
    about = json.loads((out / "run.json").read_text())
    best = about["finalists"][0]
    assert best["validation"] == min(row["validation"] for row in about["finalists"])
    found = f"agent:{out / 'best' / 'agent'}"
    costs = {p: evaluate(p, small, range(1_000_000, 1_000_003)).column("cost").sum() for p in (found, "lru")}
    assert best["validation"] == pytest.approx(costs[found] / costs["lru"])
    card = load_agent(out / "best" / "agent").card
    assert card.train_seeds == "0-3" and card.env == "eviction"
    assert yaml.safe_load((out / "best-config.yaml").read_text())["algorithm"] == "linear"
    assert "## The best trials" in (out / "report.md").read_text()
    # The same command asks for no more than is there; more trials are added to those.
    assert main(asked) == 0
    asked[2] = "8"
    assert main(asked) == 0
    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{out / 'study.db'}")
    assert len(study.get_trials()) == 8 and best_trials(study)[0].value == study.best_value


def test_the_spaces_that_ship_can_be_read():
    files = [*sorted((CONFIGS / "tune").glob("*.yaml")), CONFIGS / "sweep.yaml"]
    assert len(files) >= 2
    for file in files:
        space = read_space(file)
        assert "algorithm" in space.parameters and space.searched(), file


def test_what_a_space_says_is_what_is_suggested():
    space = Space(
        parameters={
            "fixed": Parameter(value=None),
            "choice": Parameter(values=("a", "b")),
            "count": Parameter(min=2, max=5),
            "share": Parameter(min=0.25, max=0.75),
            "rate": Parameter(min=1e-4, max=1e-2, distribution="log_uniform_values"),
            "grid": Parameter(min=0.0, max=1.0, distribution="q_uniform", q=0.5),
        }
    )
    assert space.searched() == ["choice", "count", "share", "rate", "grid"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        found = space.suggest(study.ask())
        assert found["fixed"] is None and found["choice"] in ("a", "b") and found["count"] in (2, 3, 4, 5)
        assert 0.25 <= found["share"] <= 0.75 and 1e-4 <= found["rate"] <= 1e-2 and found["grid"] in (0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ({"value": 1, "values": [1, 2]}, "give one of value, values, or min and max; got value and values"),
        ({}, "got none"),
        ({"min": 2.0, "max": 1.0}, "min has to be less"),
        ({"min": 0.0, "max": 1.0, "distribution": "log_uniform_values"}, "begins above 0"),
        ({"min": 0.0, "max": 1.0, "distribution": "q_uniform"}, "needs q"),
        ({"min": 0.0, "max": 1.0, "distribution": "normal"}, "distribution"),
    ],
)
def test_a_space_that_says_nothing_or_two_things_is_refused(parameter: dict[str, Any], said: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=said):
        read_space(space_file(tmp_path / "space.yaml", algorithm={"value": "linear"}, sigma=parameter))


def test_a_space_without_anything_to_search_and_unknown_keys_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="nothing to search"):
        read_space(space_file(tmp_path / "space.yaml", algorithm={"value": "linear"}))
    (tmp_path / "typo.yaml").write_text("paramters: {sigma: {min: 0.1, max: 1.0}}\n")
    with pytest.raises(ConfigError, match="unknown key, did you mean 'parameters'"):
        read_space(tmp_path / "typo.yaml")


def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "experiments.running.executors.on_ray", raising=False)
    rllib = space_file(tmp_path / "rllib.yaml", algorithm={"value": "rllib-ppo"}, gamma={"min": 0.9, "max": 0.99})
    cases = (
        (["cace", "--order", "wsjf"], "add --env swap"),
        (["cace", "--order", "wsfj", "--env", "swap"], "did you mean 'wsjf'"),
        (["cace", "--trace", "log.csv"], "no such file"),
        (["cace", "--trace", "log.csv", "--format", "azure"], "needs one scenario"),
        ([str(CONFIGS / "tune" / "linear.yaml"), "--order", "wsjf"], "for `tune cace`"),
        ([str(tmp_path / "nothing.yaml")], "cannot be read"),
        ([str(CONFIGS / "tune" / "linear.yaml"), "--executor", "ray", "--jobs", "2"], "one trial is played after"),
        ([str(CONFIGS / "sweep.yaml"), "--executor", "ray"], "--executor ray is for linear, network, imitation"),
        ([str(rllib)], "search its numbers with --search asha"),
        ([str(rllib), "--search", "asha"], "pip install 'cace-env[rllib]'"),
    )
    for number, (asked, said) in enumerate(cases):
        assert main([*asked, "--out", str(tmp_path / f"out-{number}")]) == 2
        assert said in capsys.readouterr().err
