"""Ablations: what is left out is left out, the full policy is the shipped one, and other weights need no new run."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.evaluation import evaluate
from cace_env.fleets import REWARDS
from cace_env.policies import policy
from cace_env.policies.cace import load_cace
from cace_env.scenarios import load_scenario
from cace_env.tables import Protocol
from experiments.ablate import main
from experiments.reading.cace_ablations import cace_variants
from experiments.reading.reweighed import AS_STATED, halved_and_doubled, judged, presets, reward_of
from experiments.running.cases import chosen
from experiments.running.run_folder import Run
from tests.support.small import SMALL, small

SEEDS = range(2_000_000, 2_000_003)

__all__ = ["small"]  # a fixture


@pytest.fixture(scope="module")
def judged_run(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "weights"
    asked = ["weights", "--scenarios", str(small), "--policies", "cace,belady-cost", "--seeds", "3", "--out", str(out)]
    assert main(asked) == 0
    return out


def costs(folder: Path, name: str) -> list[float]:
    with (folder / "rows.csv").open(newline="") as file:
        return [float(row["cost"]) for row in csv.DictReader(file) if row["policy"] == name]


def test_each_term_of_cace_is_left_out_and_stands_alone_once():
    full, variants = cace_variants("cace")
    assert full.weights == policy("cace").weights
    assert variants["without load time"].weights == policy("cace-no-load-time").weights
    assert len(variants) == 10
    alone = [row for name, row in variants.items() if name.startswith("only")]
    assert [sum(weight != 0 for weight in row.weights) for row in alone] == [1] * 5
    np.testing.assert_array_equal(np.sum([row.weights for row in alone], axis=0), full.weights)


def test_a_term_turned_round_stays_so_when_it_stands_alone_and_one_without_weight_has_no_variant(tmp_path: Path):
    _, variants = cace_variants("cace-output-kept")
    assert sum(variants["only output length"].weights) == -1.0
    weights = load_cace("cace").weights.without("recency").model_dump()
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"weights": weights}))
    _, variants = cace_variants(file)
    assert len(variants) == 8 and "without recency" not in variants
    file.write_text(yaml.safe_dump({"weights": dict.fromkeys(weights, 0.0) | {"recency": 2.0}}))
    with pytest.raises(ConfigError, match="only 'recency' has a weight"):
        cace_variants(file)


def test_an_ablation_of_cace_runs_every_variant_on_the_same_requests(small: Path, tmp_path: Path):
    out = tmp_path / "cace"
    asked = ["cace", "--scenarios", str(small), "--env", "swap", "--order", "wsjf", "--seeds", "3", "--out", str(out)]
    assert main(asked) == 0
    run = Run(out)
    assert run.scenarios == ["small-swap"] and len(run.policies("small-swap")) == 12
    full = evaluate("wsjf+cace", case_of(load_scenario(small), "swap"), SEEDS)
    assert costs(out, "wsjf+cace (full)") == full.column("cost").tolist()
    alone = evaluate("wsjf+lru", case_of(load_scenario(small), "swap"), SEEDS)
    assert costs(out, "wsjf+only recency") == alone.column("cost").tolist()  # recency alone is LRU
    report = (out / "report.md").read_text()
    assert "| without future demand |" in report and "3 seeds are too few" in report
    assert (out / "parts.png").is_file() and (out / "scenarios" / "small-swap.yaml").is_file()


def test_costs_under_the_stated_weights_are_those_that_were_paid(judged_run: Path):
    run = Run(judged_run)
    stated = reward_of(run.about["scenarios"]["small"])
    assert stated == REWARDS["balanced"]
    for name in ("lru", "cace"):
        columns = run.columns["small", name]
        np.testing.assert_allclose(judged(columns, stated), columns["cost"], rtol=1e-12)


def test_costs_under_other_weights_are_those_of_a_new_run_of_a_policy_that_does_not_read_them(judged_run: Path):
    columns = Run(judged_run).columns["small", "lru"]
    for name, preset in REWARDS.items():
        again = evaluate("lru", load_scenario(SMALL).replace(reward=name), SEEDS).column("cost")
        np.testing.assert_allclose(judged(columns, preset), again, rtol=1e-9)


def test_every_weight_is_halved_and_doubled_and_nothing_else_changes():
    stated = {"a": REWARDS["balanced"]}
    rows = {row.name: row.by_scenario["a"] for row in halved_and_doubled(stated)}
    assert rows.pop(AS_STATED) == REWARDS["balanced"]
    assert len(rows) == 2 * 5  # completion, chat twice, reasoning, agent
    assert rows["chat w_e2e x 2"].chat.w_e2e == 0.2 and rows["chat w_e2e x 2"].chat.w_ttft == 0.3
    assert rows["completion w_ttft x 0.5"].completion.w_ttft == 0.5
    assert [row.name for row in presets(stated)] == [AS_STATED, "ttft", "e2e", "balanced"]


def test_the_cheapest_named_does_not_know_the_future(judged_run: Path):
    lines = (judged_run / "report.md").read_text().splitlines()
    rows = [line for line in lines if " x 2 |" in line and line.count("|") == 5]
    assert rows and not any(line.endswith("`belady-cost` |") for line in rows)


def test_a_finished_comparison_can_be_judged_without_a_new_run(judged_run: Path, tmp_path: Path):
    out = tmp_path / "again"
    assert main(["rewards", "--run", str(judged_run), "--out", str(out)]) == 0
    assert "| e2e |" in (out / "report.md").read_text() and not (out / "rows.csv").exists()


def test_policies_can_be_told_the_weights_they_are_judged_by(small: Path, tmp_path: Path):
    out = tmp_path / "told"
    asked = ["rewards", "--told", "--scenarios", str(small), "--policies", "cace", "--seeds", "2", "--out", str(out)]
    assert main(asked) == 0
    told = Run(out).columns["small (e2e)", "cace"]["cost"]
    again = evaluate("cace", load_scenario(SMALL).replace(reward="e2e"), SEEDS[:2]).column("cost")
    assert told.tolist() == again.tolist()
    assert "1 scenario, 2 test seeds" in (out / "report.md").read_text()


def test_scenarios_are_chosen_by_suite_entry_name_and_file(small: Path):
    assert len(chosen([], [Protocol.EVICTION])) == 12 and len(chosen(["shifted-v1"], [Protocol.SWAP])) == 10
    assert [row.scenario.rules.prefetch_limit for row in chosen(["swap-prefetch-spare"], [Protocol.SWAP])] == [600]
    assert [row.name for row in chosen(["swap-agents", "light-pressure", str(small)], [Protocol.SWAP])] == [
        "swap-agents",
        "light-pressure-swap",
        "small-swap",
    ]
    with pytest.raises(ConfigError, match="swap-agents is nothing of Eviction-v0"):
        chosen(["swap-agents"], [Protocol.EVICTION])
    assert [row.name for row in chosen(["cold-crowded", "memory-25"], [Protocol.SWAP])] == [
        "swap-cold-crowded",
        "swap-memory-25",
    ]
    with pytest.raises(ConfigError, match="eviction-large-fleet is nothing of Swap-v0"):
        chosen(["large-fleet"], [Protocol.SWAP])
    with pytest.raises(ConfigError, match="called 'large-flet', did you mean 'large-fleet'"):
        chosen(["large-flet"], [Protocol.EVICTION])
    with pytest.raises(ConfigError, match="called 'defualt', did you mean 'default'"):
        chosen(["defualt"], [Protocol.EVICTION])


def test_options_that_do_not_go_together_are_refused(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["cace", "--order", "wsjf", "--out", str(tmp_path / "x")]) == 2
    assert "add --env swap" in capsys.readouterr().err
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    assert main(["cace", "--out", str(tmp_path / "there")]) == 2
    assert "never overwritten" in capsys.readouterr().err
