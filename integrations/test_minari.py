"""Claims about the environment in Minari's own collector; collected by `make test-minari` only, which installs it."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest

from cace_env.fleets import REWARD_TERMS
from integrations.page import run, snippets

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]  # warnings of others are no failures

ENVS = ["cace_env:cace_env/Eviction-v0", "cace_env:cace_env/Swap-v0"]


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize("env_id", ENVS)
def test_the_collector_records_infos_untouched(
    env_id: str, data_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    made = gym.make(env_id, scenario="workstation", baseline="lru", max_episode_steps=20)
    env = minari.DataCollector(made, record_infos=True, data_format=data_format)
    rows = []
    for seed in range(2):
        _, info = env.reset(seed=seed)
        infos, rewards, over = [info], [], False
        while not over:
            _, reward, terminated, truncated, info = env.step(int(info["action_mask"].argmax()))
            infos.append(info)
            rewards.append(reward)
            over = terminated or truncated
        rows.append((infos, rewards))
    dataset = env.create_dataset("mine/first-v0")
    scale = made.get_wrapper_attr("reward_scale")
    for episode, (infos, rewards) in zip(dataset.iterate_episodes(), rows, strict=True):
        assert episode.infos.keys() == infos[0].keys()
        for name, values in episode.infos.items():
            np.testing.assert_array_equal(values, [info[name] for info in infos])
        terms = episode.infos["reward_terms"]
        assert terms.shape == (len(rewards) + 1, len(REWARD_TERMS)) and not terms[0].any()
        np.testing.assert_allclose(terms[1:].sum(axis=1) / scale, rewards, atol=1e-9)
    env.close()


def test_the_snippet_of_the_page_makes_a_dataset(tmp_path: Path) -> None:
    (code,) = snippets("Minari")
    assert "reward_terms" in run(code, tmp_path, MINARI_DATASETS_PATH=str(tmp_path))
