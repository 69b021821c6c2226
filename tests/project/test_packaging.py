"""Claims about the wheel: what is in it, and that it works where the repository is not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import cace_env
from cace_env.compilation import cache_root

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.integration

# Runs in the fresh environment. The first `make` comes before any import of cace_env: the id alone must be enough.
STEP_EVERY_SCENARIO = """
import importlib.util
import json

import gymnasium
import numpy as np

ID = "cace_env:cace_env/Eviction-v0"


def steps(env):
    observation, info = env.reset(seed=0)
    for count in range(1, 6):
        assert env.observation_space.contains(observation), observation
        action = int(np.flatnonzero(info["action_mask"])[0])
        observation, reward, terminated, truncated, info = env.step(action)
        assert np.isfinite(reward), reward
        if terminated or truncated:
            break
    env.close()
    return count


default = steps(gymnasium.make(ID))

import cace_env
from cace_env.scenarios import compared_scenarios

print(json.dumps({
    "file": cace_env.__file__,
    "from_checkout": [name for name in ("agents", "experiments", "tests") if importlib.util.find_spec(name)],
    "default": default,
    "scenarios": {name: steps(gymnasium.make(ID, scenario=name)) for name in compared_scenarios()},
}))
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What `command` prints; its errors if it fails. Nothing outside may add to its module path."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_"))}
    done = subprocess.run(command, cwd=cwd, env=clean | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as it would be published, built without a network by the tools of the `dev` extra."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def fresh_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter of its own with only the wheel installed, and this one's libraries behind it.

    A line in a .pth file adds a folder without reading the .pth files in there, so an editable install of the checkout
    stays out.
    """
    folder = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--no-deps", "--no-index", wheel, cwd=folder)
    libraries = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    site_packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (site_packages / "zz_libraries.pth").write_text("\n".join(libraries) + "\n", encoding="utf-8")
    return python


def test_wheel_holds_cace_env_and_nothing_else(wheel: Path):
    info = f"cace_env-{cace_env.__version__}.dist-info"
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"cace_env", info}


def test_wheel_holds_every_module_every_data_file_and_the_typing_marker(wheel: Path):
    shipped = set(zipfile.ZipFile(wheel).namelist())
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "cace_env").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in {".nbi", ".nbc"}
    }
    assert {"cace_env/py.typed", "cace_env/data/suites/v1.yaml", "cace_env/data/suites/v1-costs.csv"} <= shipped
    assert {f"cace_env/data/rl_zoo3/{name}.yml" for name in ("ppo", "ppo_mask", "dqn", "qrdqn")} <= shipped
    assert here <= shipped, f"not in the wheel: {sorted(here - shipped)}"


def test_wheel_ships_its_licence_and_asks_for_nothing_heavy(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    info = f"cace_env-{cace_env.__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in archive.namelist()
    metadata = archive.read(f"{info}/METADATA").decode()
    required = {
        re.split(r"[<>=!~ ]", line.removeprefix("Requires-Dist: "))[0].lower()
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    }
    assert required == {"numpy", "numba", "gymnasium", "pydantic", "pyyaml"}


def test_every_scenario_can_be_made_and_stepped_from_the_wheel_alone(fresh_python: Path, tmp_path: Path):
    cache = str(cache_root())  # the wheel has the same sources, so what is compiled already serves it
    outcome = json.loads(run(fresh_python, "-c", STEP_EVERY_SCENARIO, cwd=tmp_path, CACE_ENV_CACHE_DIR=cache))
    assert Path(outcome["file"]).is_relative_to(fresh_python.parents[1]), outcome["file"]
    assert outcome["from_checkout"] == []
    assert outcome["default"] >= 1
    assert outcome["scenarios"]
    assert all(steps >= 1 for steps in outcome["scenarios"].values()), outcome["scenarios"]


def test_version_is_the_same_everywhere():
    version = re.escape(cace_env.__version__)
    assert re.search(rf"^## \[{version}\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.search(rf"^version: {version}$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)


WITHOUT_TRAINING = """
import importlib, importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"optuna", "sb3_contrib", "scipy", "stable_baselines3", "torch", "wandb"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
for name in sys.argv[1:]:
    importlib.import_module(f"experiments.{name}")
"""


def test_commands_of_the_extra_experiments_start_without_what_only_training_needs():
    commands = ("characterize", "compare", "forecasts", "live", "planner", "recommend", "sessions", "submission")
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRAINING, *commands], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
