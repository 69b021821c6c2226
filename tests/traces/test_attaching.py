"""Claims about what is attached to a log that lacks it: drawn by seed, said in the label, spread as asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cace_env.tables import TASKS
from cace_env.traces import load_trace
from cace_env.traces.trace import draw_quantiles, prefix_groups
from tests.support.logs import (
    CHAT,
    MODELS,
    REASONING,
    ROWS,
    Model,
    log_of,
    own,
    written,
)

# --- attaching


def test_same_seed_attaches_the_same_and_another_seed_another(tmp_path: Path) -> None:
    path = log_of(tmp_path, 200)
    first, again, other = (load_trace(path, "cace", models=MODELS, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.model, again.model) and not np.array_equal(first.model, other.model)
    assert np.array_equal(first.arrival_us, other.arrival_us)


def test_drawn_models_follow_the_popularity_hint_with_zipf(tmp_path: Path) -> None:
    models = [Model(f"m{rank}", ("chat",), popularity=10.0 - rank) for rank in range(4)]
    workload = load_trace(
        log_of(tmp_path, 20_000, users=20_000), "cace", models=models, tasks="chat", attach="drawn", zipf_exponent=1.0
    )
    expected = 1 / np.arange(1, 5)
    assert np.bincount(workload.model) / len(workload) == pytest.approx(expected / expected.sum(), abs=0.02)


def test_sticky_users_keep_their_model(tmp_path: Path) -> None:
    def repeats(stickiness: float) -> float:
        path = log_of(tmp_path, 20_000, users=10)
        models = [Model(f"m{i}", ("chat",)) for i in range(50)]
        drawn = load_trace(path, "cace", models=models, attach="drawn", stickiness=stickiness, zipf_exponent=0.0)
        per_user = [drawn.model[drawn.user == user] for user in range(10)]
        return float(np.mean([np.mean(models[1:] == models[:-1]) for models in per_user]))

    assert repeats(0.0) == pytest.approx(1 / 50, abs=0.01)
    assert repeats(0.9) == pytest.approx(0.9 + 0.1 / 50, abs=0.01)


def test_drawn_models_serve_the_task_that_was_asked_for(tmp_path: Path) -> None:
    workload = load_trace(
        log_of(tmp_path, 500), "cace", models=MODELS, tasks={"chat": 1, "reasoning": 1}, attach="drawn"
    )
    assert set(workload.task) == {CHAT, REASONING}
    for model, task in zip(workload.model, workload.task, strict=True):
        assert TASKS[task] in MODELS[model].tasks
    assert all(len(set(workload.task[workload.user == user])) == 1 for user in range(5))


def test_client_as_model_ranks_by_use_and_wraps(tmp_path: Path) -> None:
    path = log_of(tmp_path, 60, models="abbccc")
    workload = load_trace(path, "cace", models=MODELS[:2], attach="client-as-model")
    assert workload.model[:6].tolist() == [0, 1, 1, 0, 0, 0]  # c first, b second, a again the first
    assert workload.label == "composite cace: models client-as-model, tasks of the model"


def test_mapping_renames_and_is_said(tmp_path: Path) -> None:
    path = log_of(tmp_path, 4, models="ab")
    mapping = {"a": "r1-14b", "b": "coder-7b"}
    workload = load_trace(path, "cace", models=MODELS, tasks="chat", mapping=mapping)
    assert workload.model.tolist() == [3, 1, 3, 1]
    assert workload.label == "composite cace: tasks all chat, models real (mapped)"


def test_made_up_users_let_choices_be_sticky(tmp_path: Path) -> None:
    workload = load_trace(written(tmp_path, ROWS), "azure", models=MODELS, users=2, tasks="chat")
    assert set(workload.user) <= {0, 1}
    assert workload.label == "composite azure: users drawn, tasks all chat, models drawn"


def test_time_compression_divides_times_and_stands_in_the_label(tmp_path: Path) -> None:
    path = own(tmp_path, "0,100,10,coder-7b,chat,u,,\n10,100,10,coder-7b,chat,u,0,20\n")
    workload = load_trace(path, "cace", models=MODELS, time_compression=10)
    assert workload.arrival_us.tolist() == [0, 1_000_000] and workload.think_us.tolist() == [0, 2_000_000]
    assert workload.label == "trace cace: time x10 compressed"
    assert workload.meta["time_compression"] == 10 and workload.meta["span_s"] == 10


def test_meta_names_source_licence_and_what_was_attached(tmp_path: Path) -> None:
    meta = load_trace(written(tmp_path, ROWS), "azure", models=MODELS).meta
    assert meta["source"] == "log.csv" and meta["format"] == "azure"
    assert meta["licence"] == "CC BY 4.0" and "Splitwise" in meta["attribution"]
    assert meta["attach"] == "drawn" and meta["attached"] == ["models drawn", "tasks of the model"]
    assert meta["model_names"] == [model.name for model in MODELS]


def test_drawn_tokens_meet_their_quantiles() -> None:
    levels, values = (0.1, 0.5, 0.9, 0.99), (147, 1469, 5188, 7436)
    drawn = draw_quantiles(levels, values, np.random.default_rng(0).random(50_000))
    assert np.quantile(drawn, levels) == pytest.approx(values, rel=0.03)
    assert drawn.min() == 147 and drawn.max() == 7436  # nothing is invented beyond the outermost quantiles


def test_prefix_groups_never_share_more_than_the_prompt() -> None:
    context = np.array([10, 10])
    _, new = prefix_groups([[1], [1]], context, 512, None)
    assert new.tolist() == [10, 1]
