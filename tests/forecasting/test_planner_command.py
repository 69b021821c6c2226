"""`experiments.planner`: habits that it fits are those it calibrates, and a table has a row for each case or budget."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("tyro", reason="needs the extra experiments")

from cace_env.forecasting import HabitsCard, load_habits, save_habits
from cace_env.policies import contestant_of
from cace_env.tables import Protocol
from experiments.futures.budgets import PlannedEpisode, budget_table
from experiments.futures.calibrated import reliability
from experiments.futures.on_logs import OWN, RULES, SHIPPED, OfLog, logs_table
from experiments.logs.public import LOGS
from experiments.planner import main
from experiments.reading.roc import auc
from experiments.running.contestants import about_habits
from tests.support.logs import AZURE
from tests.support.small import SMALL


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def test_habits_are_fitted_and_calibrated(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    habits = tmp_path / "habits"
    assert main(["fit", "--scenarios", str(small), "--seeds", "2", "--out", str(habits)]) == 0
    card = load_habits(habits)[1]
    assert (card.requests, card.train_seeds, card.part) == (600, "0-1", "")
    assert card.command == f"python -m experiments.planner fit --scenarios {small} --seeds 2 --out {habits}"
    asked = ["--scenarios", str(small), "--seeds", "1", "--questions", "5", "--futures", "4", "--habits", str(habits)]
    assert main(["calibrate", *asked]) == 0
    shown = capsys.readouterr().out
    assert main(["fit", "--scenarios", str(small), "--out", str(habits)]) == 2
    assert "results are never overwritten" in capsys.readouterr().err
    assert "the next 60 s" in shown and "the next 300 s" in shown
    assert shown.count("| small |") == 2


def test_habits_are_fitted_on_training_seeds_alone(small: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--scenarios", str(small), "--split", "test", "--out", str(tmp_path / "habits")])


@pytest.mark.parametrize(
    ("learned", "said"),
    [
        ("0-3", []),
        ("0-9", ["its habits were trained on 2 of the seeds that it is judged by (the first is 8)"]),
        ("2000000", ["its habits were trained on 1 test seeds (the first is 2000000)"]),
        ("", ["its card does not say which seeds its habits were trained on"]),
    ],
)
def test_a_planner_whose_habits_saw_what_it_is_judged_by_is_found_out(
    learned: str, said: list[str], tmp_path: Path
) -> None:
    save_habits(load_habits()[0], HabitsCard(fitted_on=("small",), train_seeds=learned, requests=1), tmp_path)
    found = about_habits(contestant_of(f"planner:lru@habits={tmp_path}"), [8, 9])
    assert found.get("problems", []) == said


def test_habits_of_a_log_have_no_seeds(tmp_path: Path) -> None:
    save_habits(load_habits()[0], HabitsCard(fitted_on=("log",), part="train", requests=1), tmp_path)
    assert about_habits(contestant_of(f"planner:lru@habits={tmp_path}"), [0]) == {}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["calibrate", "--only", "azure-code"], "say where they are by --logs FOLDER"),
        (["calibrate", "--habits", "nowhere"], "the second cannot be read (No such file or directory)"),
        (["budget", "--policy", "evicton"], "no policy or agent called 'evicton', did you mean 'eviction'"),
        (["budget", "--scenarios", "defualt"], "did you mean 'default'"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_played(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert problem in capsys.readouterr().err


def test_a_budget_is_that_of_the_agent_of_its_environment(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--scenarios", str(small), "--seeds", "1", "--env", "swap", "--futures", "2", "--horizons", "5"]
    assert main(["budget", *asked]) == 0
    assert "saves against `agent:swap`" in capsys.readouterr().out


def test_a_budget_is_priced_against_the_policy_alone(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--scenarios", str(small), "--seeds", "2", "--policy", "lru", "--futures", "2", "4", "--horizons", "30"]
    assert main(["budget", *asked]) == 0
    shown = capsys.readouterr().out
    assert "| `planner:lru@futures=2@horizons=30@sure=1.0` | small |" in shown
    assert "| `planner:lru@futures=4@horizons=30@sure=1.0` | small |" in shown
    assert "saves against `lru`" in shown


def test_on_a_log_planners_are_judged_on_its_second_half(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (f"2023-11-16 18:{i // 60:02}:{i % 60:02}.0,{500 + i},{9 + i % 7}\n" for i in range(0, 1500, 5))
    (tmp_path / LOGS["azure-code"].file).write_text(AZURE + "".join(rows))
    asked = ["--logs", str(tmp_path), "--only", "azure-code", "--policy", "lru", "--futures", "2", "--seeds", "2"]
    assert main(["logs", *asked]) == 0
    shown = capsys.readouterr().out
    assert shown.count("| azure-code |") == 1
    assert "own habits against policy" in shown and "shipped habits against policy" in shown


def test_the_best_rule_of_a_log_is_the_one_that_costs_least_there() -> None:
    def costs(each: float) -> OfLog:
        return OfLog(np.full((2, 6), each), 10.0, 1.0, 0.25)

    rules = dict(zip(RULES[Protocol.EVICTION], (costs(9.0), costs(8.0), costs(10.0)), strict=True))
    played = {"log": {"agent": costs(10.0), OWN: costs(6.0), SHIPPED: costs(11.0), **rules}}
    row = logs_table(played, Protocol.EVICTION).splitlines()[2]
    assert "| `gdsf` |" in row and "25 % / 25 %" in row
    assert re.findall(r"[+-]\d+\.\d %", row) == ["+40.0 %", "-10.0 %", "-25.0 %", "+25.0 %"]


def test_over_all_cases_each_has_the_same_weight_and_its_own_seeds() -> None:
    played = {
        "lru": [PlannedEpisode("a", cost, 1.0, 0.0) for cost in (10.0, 20.0)]
        + [PlannedEpisode("b", cost, 1.0, 0.0) for cost in (1000.0, 3000.0)],
        "planner:lru": [PlannedEpisode("a", cost, 3.0, 0.1) for cost in (5.0, 10.0)]
        + [PlannedEpisode("b", cost, 5.0, 0.3) for cost in (900.0, 2700.0)],
    }
    rows = [line.split(" | ") for line in budget_table(played).splitlines()[2:]]
    assert [row[1] for row in rows] == ["a", "b", "all"]
    assert rows[2][2:4] == ["4.0", "20 %"]
    # every draw of seeds of a case saves the same there, so all together do as well
    assert "+50.0 % [+50.0, +50.0]" in rows[0][4]
    assert "+30.0 % [+30.0, +30.0]" in rows[2][4]


def test_prefetch_is_priced_against_the_same_without_it(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ahead = tmp_path / "ahead.yaml"
    ahead.write_text(small.read_text() + "rules: {prefetch_limit: 50}\n")
    asked = ["--scenarios", str(ahead), "--env", "swap", "--seeds", "2", "--futures", "2", "--horizons", "30"]
    assert main(["budget", *asked, "--policy", "lru", "--prefetch-sure", "1", "--knowing", "30"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == [
        "| `planner:lru@futures=2@horizons=30@sure=1.0`",
        "| `knows 30 s`",
        "| `lru, prefetch`",
        "| `planner:lru@futures=2@horizons=30@sure=1.0@prefetch_sure=1.0, prefetch`",
        "| `knows 30 s, prefetch`",
    ]
    prefetches, saved = ([row[column].strip(" |") for row in rows] for column in (-2, -1))
    assert prefetches[:3] == ["-", "-", "0.0"] and float(prefetches[3]) > 0 and float(prefetches[4]) > 0
    assert saved[2].startswith("+0.0 %") and "[" in saved[4]


def test_a_log_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--logs", str(tmp_path)]) != 0
    assert "none of the public logs" in capsys.readouterr().err


def test_auc_is_the_chance_that_what_happened_is_ranked_higher() -> None:
    assert auc(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.0, 0.0, 1.0, 1.0])) == 1.0
    assert auc(np.array([0.5, 0.5]), np.array([0.0, 1.0])) == 0.5
    assert np.isnan(auc(np.array([0.5]), np.array([1.0])))


def test_reliability_is_how_often_it_happened_in_each_bin() -> None:
    cells = reliability(np.array([0.05, 0.05, 0.95, 1.0]), np.array([0.0, 1.0, 1.0, 1.0]))
    assert cells[0] == "0.50 (2)"
    assert cells[-1] == "1.00 (2)"
    assert cells[2] == "-"
