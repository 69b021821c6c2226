"""Claims about the generator beside published figures and the files that they come from."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from cace_env.generator import WorkloadConfig, generate
from cace_env.generator.config import (
    Quantiles,
    TaskShares,
)
from experiments.yardsticks import workload_statistics as statistics

ROOT = Path(__file__).resolve().parents[2]
ONLY_AGENTS = TaskShares(completion=0.0, chat=0.0, reasoning=0.0, agent=1.0)

DATA = next((path for path in (ROOT.parent / "shared/data", ROOT / "shared/data") if path.is_dir()), None)


# --- published figures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "checks",
    [
        statistics.token_and_gap_checks,
        statistics.habit_checks,
        statistics.popularity_checks,
        statistics.day_checks,
    ],
)
def test_the_generator_comes_as_near_to_the_published_figures_as_stated(checks):
    wrong = [f"{c.what}: {c.value:.4g}, published {c.target:.4g}" for c in checks() if not c.holds]
    assert not wrong


def levels(values: np.ndarray) -> np.ndarray:
    return np.quantile(values, statistics.LEVELS)


def as_array(quantiles: Quantiles) -> np.ndarray:
    return np.array([quantiles.p10, quantiles.p50, quantiles.p90, quantiles.p99])


def rows_of(name: str) -> list[dict[str, str]]:
    """The rows of a published file."""
    if DATA is None or not (DATA / name).exists():
        pytest.skip(
            f"{name} is not in shared/data, beside the repository or in it: the traces are not part of it "
            "(docs/workloads.md)"
        )
    with gzip.open(DATA / name, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def numbers(rows: list[dict[str, str]], column: str) -> np.ndarray:
    """The numbers of a column; empty cells are left out."""
    return np.array([float(row[column]) for row in rows if row[column]])


def grouped(rows: list[dict[str, str]], column: str) -> list[list[dict[str, str]]]:
    """Rows by what stands in a column, each group in the order of the rows."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(row[column], []).append(row)
    return list(groups.values())


def gaps(groups: list[list[dict[str, str]]], column: str) -> np.ndarray:
    """Differences between neighbours within each group."""
    return np.concatenate([np.diff(numbers(group, column)) for group in groups])


def codes(rows: list[dict[str, str]], column: str) -> np.ndarray:
    """A number for each different text of a column, `(rows,)`."""
    return np.unique([row[column] for row in rows], return_inverse=True)[1].astype(np.int32)


def test_completions_are_those_of_the_files():
    azure, cups = rows_of("azure2023_code_first60.csv.gz"), rows_of("copilot_cups_events.csv.gz")
    completion = WorkloadConfig().completion
    assert as_array(completion.prompt_tokens) == pytest.approx(levels(numbers(azure, "ContextTokens")), rel=0.05)
    shown = [row for row in cups if row["state"] == "Shown"]
    gap_s = gaps(grouped(shown, "user"), "t_s")
    assert as_array(completion.gap_s) == pytest.approx(levels(gap_s), rel=0.05)
    assert completion.gap_s.mean == pytest.approx(gap_s.mean(), rel=0.1)
    output_tokens = numbers(shown, "completion_tokens")
    assert as_array(completion.output_tokens) == pytest.approx(levels(output_tokens), rel=0.15)


def test_chats_are_those_of_the_files():
    azure, study = rows_of("azure2023_conv.csv.gz"), rows_of("realhumaneval_chat.csv.gz")
    chat = WorkloadConfig().chat
    assert as_array(chat.prompt_tokens) == pytest.approx(levels(numbers(azure, "ContextTokens")), rel=0.05)
    assert as_array(chat.output_tokens) == pytest.approx(levels(numbers(azure, "GeneratedTokens")), rel=0.05)
    study.sort(key=lambda row: float(row["t"]))
    assert as_array(chat.gap_s) == pytest.approx(levels(gaps(grouped(study, "programmer"), "t")), rel=0.05)
    first = sum(row["messages"] == "1" for row in study)
    assert chat.session_requests == pytest.approx(len(study) / first, rel=0.05)


def test_agents_are_those_of_the_file():
    steps = [row for row in rows_of("claude_code_requests_train.csv.gz") if row["agent_type"] == "main"]
    steps.sort(key=lambda row: float(row["t_s"]))
    sessions = grouped(steps, "session")
    agent = WorkloadConfig().agent
    assert as_array(agent.gap_s) == pytest.approx(levels(gaps(sessions, "t_s")), rel=0.1)
    assert as_array(agent.output_tokens) == pytest.approx(levels(numbers(steps, "out_tokens")), rel=0.05)
    assert as_array(agent.session_requests) == pytest.approx(levels(np.array([*map(len, sessions)])), rel=0.05)
    config = WorkloadConfig(requests=200_000, users=100, shares=ONLY_AGENTS, requests_per_user_hour=10.0)
    workload = generate(config, statistics.calibration_models(), 0)
    assert levels(workload.context_tokens) == pytest.approx(levels(numbers(steps, "in_tokens")), rel=0.2)


def test_habits_are_those_of_the_file():
    requests = rows_of("alibaba_gentd26_requests_before_1202.csv.gz")
    requests.sort(key=lambda row: row["gmt_create"])
    models, groups = codes(requests, "checkpoint_model_version_id"), codes(requests, "groupId")
    runs = [generate(WorkloadConfig(), statistics.calibration_models(), seed) for seed in range(100)]
    repeats = np.mean([statistics.same_as_before(run.model, run.user) for run in runs])
    same = np.mean([statistics.same_as_before(run.model) for run in runs])
    assert repeats == pytest.approx(statistics.same_as_before(models, groups), rel=0.07)
    assert 1 - same == pytest.approx(1 - statistics.same_as_before(models), rel=0.07)
