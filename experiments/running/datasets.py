"""Episodes of any policy as a Minari dataset."""

from __future__ import annotations

import copy
import importlib
import math
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import gymnasium
import numpy as np
import yaml
from rich.console import Console
from rich.progress import track

import cace_env
from cace_env.config import ConfigError, Frozen, dump
from cace_env.envs import Actor
from cace_env.fleets import REWARD_TERMS
from cace_env.policies.built_in import Policy
from cace_env.scenarios import Scenario, Split, load_scenario, scenario_names, seeds
from experiments.running.command_line import metavar
from experiments.running.run_folder import surroundings

FORMAT: Final = "parquet"  # a sixth of the size of Minari's "arrow"
MOST_ROWS: Final = 32_768  # of an episode: pyarrow reads longer ones in parts, which Minari takes for episodes


class Options(Frozen):
    """Whose episodes are written, and where to."""

    scenario: str = "default"
    """Name of a shipped scenario, or a YAML file."""
    policy: str = "lru"
    """Built-in policy, cace:FILE.yaml (CACE with other weights), or MODULE:OBJECT, f(features, legal) -> scores."""
    episodes: int = 10
    """How many, one per seed."""
    split: Split = "train"
    """Where the seeds come from."""
    dataset: Annotated[str | None, metavar("ID")] = None
    """Id of the dataset; cace_env/SCENARIO/POLICY-v0 by default, with -SPLIT before -v0 unless that is train."""
    out: Annotated[Path | None, metavar("FOLDER")] = None
    """Where datasets are kept; $MINARI_DATASETS_PATH or ~/.minari/datasets by default, where Minari looks for them."""
    author: Annotated[str | None, metavar("NAME")] = None
    """The author that the dataset names; none by default."""
    author_email: Annotated[str | None, metavar("ADDRESS")] = None
    """Where the author can be reached; left out by default."""
    code_permalink: Annotated[str | None, metavar("URL")] = None
    """Where this version of the code is published; left out by default. The commit is kept in any case."""
    choices_only: bool = False
    """Play a policy with a keep-alive or a count limit (ttl, ollama, ...) by its choice of victims alone."""
    force: bool = False
    """Replace a dataset of the same id, once the new one is complete."""


class Recording(NamedTuple):
    """An episode; `T` steps, observations and infos have one row more."""

    observations: np.ndarray  # (T + 1, layout.size) float32
    actions: np.ndarray  # (T,) int64
    rewards: np.ndarray  # (T,) float64
    terminations: np.ndarray  # (T,) bool
    truncations: np.ndarray  # (T,) bool
    infos: dict[str, list[Any]]  # (T + 1,) each
    metrics: dict[str, float]  # of the episode

    def buffer(self) -> dict[str, Any]:
        """What Minari takes, under its names."""
        return {name: value for name, value in self._asdict().items() if name != "metrics"}


def record(env: gymnasium.Env[Any, Any], actor: Actor, seed: int) -> Recording:
    """An episode of `actor` on the workload of `seed`."""
    observation, info = env.reset(seed=seed)
    actor.reset(info["workload_seed"])
    observations, infos = [observation], [info]
    actions, rewards, terminations, truncations = [], [], [], []
    over = False
    while not over:
        actions.append(actor.act())
        observation, reward, terminated, truncated, info = env.step(actions[-1])
        observations.append(observation)
        infos.append(info)
        rewards.append(float(reward))
        terminations.append(terminated)
        truncations.append(truncated)
        over = terminated or truncated
    return Recording(
        np.array(observations),
        np.array(actions, dtype=np.int64),
        np.array(rewards),
        np.array(terminations),
        np.array(truncations),
        {name: [row[name] for row in infos] for name in infos[0]},
        env.get_wrapper_attr("episode_metrics"),
    )


def export(options: Options, console: Console) -> tuple[str, Path]:
    """Writes the dataset; returns its id and folder. What had that id before is replaced once all is written.

    Raises:
        ConfigError: Minari is missing, an option that cannot be used, or an id that is taken; nothing has been written.
        PolicyError, SimulationError: an episode failed; nothing is kept of the new dataset.
    """
    _require_minari()
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage
    from minari.storage import get_dataset_path

    if options.out is not None:
        os.environ["MINARI_DATASETS_PATH"] = str(options.out.resolve())  # the only way to tell Minari
    scenario = load_scenario(options.scenario)
    numbers = seeds(options.split, options.episodes)
    env = make(options, scenario)
    actor = Actor(options.policy, env, choices_only=True)
    if actor.has_limits and not options.choices_only:
        raise ConfigError(
            f"policy {actor.name!r} has a keep-alive or a count limit, by which models leave unasked; in Eviction-v0 "
            "nothing leaves but by an action; --choices-only plays its choice of victims alone"
        )
    dataset_id = options.dataset or default_id(scenario.name, actor.name, options.split)
    folder = folder_of(dataset_id)
    if folder.exists() and not options.force:
        taken = f"there is a dataset {dataset_id} already, in {folder}"
        raise ConfigError(f"{taken}; give the new one another --dataset, or replace the old one by --force")
    # Minari does not list what begins with a dot.
    with tempfile.TemporaryDirectory(dir=get_dataset_path(), prefix=".export-", ignore_cleanup_errors=True) as scratch:
        draft = Path(scratch) / folder.name
        draft.mkdir()
        storage = MinariStorage.new(draft / "data", env.observation_space, env.action_space, env.spec, FORMAT)
        costs: list[float] = []
        for episode, seed in enumerate(track(numbers, "recording", console=console)):
            played = record(env, actor, seed)
            if len(played.observations) > MOST_ROWS:
                raise ConfigError(
                    f"the episode of seed {seed} has {len(played.actions)} decisions; Minari can read back at most "
                    f"{MOST_ROWS - 1}; take fewer requests, or set rules.max_decisions in the scenario"
                )
            buffer = EpisodeBuffer(id=episode, seed=seed, **played.buffer())
            storage.update_episodes([buffer])
            storage.update_episode_metadata([about_episode(played)], [episode])
            costs.append(played.metrics["cost"])
        storage.update_metadata(about(options, scenario, actor, env, costs) | {"dataset_id": dataset_id})
        storage.update_metadata({"minari_version": minari.__version__})
        put(draft, folder, dataset_id)
    return dataset_id, folder


def make(options: Options, scenario: Scenario) -> gymnasium.Env[Any, Any]:
    """The environment, with a specification that holds everything that a file of one's own says."""
    shipped = options.scenario in scenario_names()
    what = options.scenario if shipped else yaml.safe_load(dump(scenario))
    return gymnasium.make(cace_env.EVICTION_ID, scenario=what, split=options.split)


def default_id(scenario: str, policy: str, split: Split) -> str:
    """Such as `cace_env/default/lru-v0`; what Minari does not allow in names becomes a hyphen."""
    names = [re.sub(r"[^\w-]+", "-", name).strip("-") for name in (scenario, policy)]
    return "/".join(["cace_env", *names]) + ("" if split == "train" else f"-{split}") + "-v0"


def folder_of(dataset_id: str) -> Path:
    """Where Minari keeps it.

    Raises:
        ConfigError: it is no id of a dataset.
    """
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage import get_dataset_path

    try:
        parse_dataset_id(dataset_id)
    except (TypeError, ValueError) as error:
        wanted = "NAMESPACE/NAME-vNUMBER in letters, digits, - and _, such as cace_env/default/mine-v0"
        raise ConfigError(f"{dataset_id!r} cannot be the id of a dataset; it has to be {wanted}") from error
    return Path(get_dataset_path(dataset_id))


def put(draft: Path, folder: Path, dataset_id: str) -> None:
    """A finished draft becomes the dataset."""
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.namespace import create_namespace, list_local_namespaces

    namespace, _, _ = parse_dataset_id(dataset_id)
    if namespace is not None and namespace not in list_local_namespaces():
        create_namespace(namespace)
    if folder.exists():
        shutil.rmtree(folder)
    draft.rename(folder)


def about(
    options: Options,
    scenario: Scenario,
    actor: Actor,
    env: gymnasium.Env[Any, Any],
    costs: Sequence[float],
) -> dict[str, Any]:
    """Metadata of the whole: keys that Minari knows, and ours under "cace_env"."""
    policy = actor.policy
    clairvoyant = isinstance(policy, Policy) and policy.clairvoyant
    description = policy.description if isinstance(policy, Policy) else (policy.__doc__ or "").strip()
    choices_only = options.choices_only and actor.has_limits
    what = f"{len(costs)} episodes of {actor.name} on scenario {scenario.name}, {options.split} seeds"
    what += " (keep-alive and count limit left out)" if choices_only else ""
    what += "; the policy knows the future, the observations do not" if clairvoyant else ""
    assert env.spec is not None
    evaluation = copy.deepcopy(env.spec)
    evaluation.kwargs["split"] = "test"
    optional = {
        "author": options.author and {options.author},
        "author_email": options.author_email and {options.author_email},
        "code_permalink": options.code_permalink,
    }
    return {name: value for name, value in optional.items() if value} | {
        "algorithm_name": actor.name,
        "description": what,
        "requirements": [f"cace-env=={cace_env.__version__}"],
        "eval_env_spec": evaluation.to_json(),
        "cace_env": {
            "scenario": yaml.safe_load(dump(scenario)),
            "split": options.split,
            "seeds": list(seeds(options.split, options.episodes)),
            "policy": {
                "name": actor.name,
                "description": description,
                "clairvoyant": clairvoyant,
                "choices_only": choices_only,
            },
            "reward_terms": list(REWARD_TERMS),
            "cost": costs,
            "mean_cost": sum(costs) / len(costs),
            **surroundings(),
        },
    }


def about_episode(played: Recording) -> dict[str, Any]:
    """Metadata of an episode: its metrics (null where there is none), and what Minari's own collector keeps."""
    metrics = {name: None if math.isnan(value) else value for name, value in played.metrics.items()}
    rewards = played.rewards
    sums = {name: float(getattr(rewards, name)()) for name in ("sum", "mean", "std", "max", "min")}
    return {f"rewards_{name}": value for name, value in sums.items()} | {"episode_metrics": metrics}


def _require_minari() -> None:
    """Minari, and what it needs to write Parquet."""
    for name in ("minari", "pyarrow", "PIL"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f'a dataset needs {name} ({error}); pip install "cace-env[datasets]"') from error
