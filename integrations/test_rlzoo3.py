"""Claims about the environment in RL Zoo; collected by `make test-rlzoo3` only, which installs it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import yaml

import cace_env
from integrations.page import run_command, snippets

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]  # warnings of others are no failures

ZOO = Path(cace_env.__path__[0]) / "data" / "rl_zoo3"
SMALL = "n_envs:2 n_steps:64 batch_size:64"  # of hyperparameters: a rollout in a second


def command(line: str, *more: str) -> list[str]:
    """A command of the page as a list, with few decisions and no evaluation in between."""
    line = line.replace("$ZOO", str(ZOO)).replace("-n 600000", "-n 128")
    _, *words = shlex.split(line)
    return [sys.executable, *words, "--eval-freq", "-1", "--device", "cpu", "--seed", "1", *more]


def commands() -> list[str]:
    lines = "".join(snippets("RL Zoo", "console")).splitlines()
    return [line for line in lines if line.startswith("python -m rl_zoo3.train")]


def saved(folder: Path, algorithm: str) -> Path:
    (found,) = folder.glob(f"logs/{algorithm}/cace_env-*_1/cace_env-*.zip")
    return found


def test_the_zoo_trains_untouched(tmp_path: Path) -> None:
    plain, _ = commands()
    run_command(command(plain, "-params", *SMALL.split(), "--env-kwargs", "scenario:'workstation'"), tmp_path)
    assert saved(tmp_path, "ppo").is_file()


def test_our_hyperparameters_bring_shared_weights_and_the_baseline(tmp_path: Path) -> None:
    _, tuned = commands()
    said = run_command(command(tuned, "-params", *SMALL.split()), tmp_path)
    assert "'cace_env.sb3.SlotPolicy'" in said and "'baseline': 'lru'" in said
    config = saved(tmp_path, "ppo").with_suffix("") / "config.yml"
    assert "SlotPolicy" in config.read_text(encoding="utf-8")


def test_a_launcher_of_few_lines_trains_maskable_ppo(tmp_path: Path) -> None:
    (launcher,) = snippets("RL Zoo")
    assert len(launcher.splitlines()) <= 10
    (tmp_path / "zoo_masked.py").write_text(launcher, encoding="utf-8")
    line = "python zoo_masked.py --algo ppo_mask --env cace_env/Swap-v0 --gym-packages cace_env -n 600000"
    kwargs = ("--env-kwargs", "scenario:'workstation'", "baseline:'lru'", "strict:True")
    run_command(command(f"{line} --conf-file $ZOO/ppo_mask.yml", "-params", *SMALL.split(), *kwargs), tmp_path)
    assert saved(tmp_path, "ppo_mask").is_file()


@pytest.mark.parametrize("name", ["dqn", "qrdqn"])
def test_value_methods_train_with_our_hyperparameters(name: str, tmp_path: Path) -> None:
    line = f"python -m rl_zoo3.train --algo {name} --env cace_env/Eviction-v0 --gym-packages cace_env -n 600000"
    more = ("-params", "n_envs:1", "learning_starts:50", "batch_size:32", "buffer_size:200")
    kwargs = ("--env-kwargs", "scenario:'workstation'", "baseline:'lru'")
    run_command(command(f"{line} --conf-file $ZOO/{name}.yml", *more, *kwargs), tmp_path)
    assert saved(tmp_path, name).is_file()


def test_the_files_know_both_environments() -> None:
    for path in ZOO.glob("*.yml"):
        assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) == {cace_env.EVICTION_ID, cace_env.SWAP_ID}
