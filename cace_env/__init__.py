"""cace-env: learn, and compare, which code language model to evict from accelerator memory.

Start with these three files:

1. `tables.py`: everything the simulator reads about a fleet, as plain integers with units and shapes.
2. `kernel/`: what happens, event by event. The rules it obeys are in `docs/design.md`.
3. `envs/eviction.py`: observations, actions and rewards of `cace_env/Eviction-v0`; `envs/swap.py` has
   `cace_env/Swap-v0`.

Folders, from the top down; each imports only from those below it, and its `__init__` says what it offers:

- `sb3/`: training with Stable-Baselines3
- `envs/`: the Gymnasium environments, single and batched
- `planning/`: the clairvoyant reference and exact optima
- `evaluation/`: policies on scenarios, with the same requests for all
- `rendering/`: pictures
- `decision_log/`: every decision in files, and why a model was evicted
- `policies/`: built-in rules, CACE, agents, guards, explanations
- `simulation/`: Python's side of the compiled simulator, metrics and bounds
- `kernel/`: the compiled simulator
- `traces/`, `generator/`: requests, from logs or drawn
- `fleets/`: models, GPUs, load engines and prices

Data goes one way: config -> workload -> simulator -> env -> policy -> metrics -> report. Importing the package
registers the environments and loads nothing heavier than Gymnasium, and Gymnasium imports it by itself for
`gymnasium.make("cace_env:cace_env/Eviction-v0")`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gymnasium

if TYPE_CHECKING:
    from cace_env.evaluation import evaluate

__all__ = ["EVICTION_ID", "MO_EVICTION_ID", "MO_SWAP_ID", "SWAP_ID", "__version__", "evaluate", "register"]
__version__ = "0.2.0"

EVICTION_ID: Final = "cace_env/Eviction-v0"
SWAP_ID: Final = "cace_env/Swap-v0"
# The same two with a vector of rewards; their names are as MO-Gymnasium's and Gymnasium's rules for ids allow.
MO_EVICTION_ID: Final = "cace_env/MO-Eviction-v0"
MO_SWAP_ID: Final = "cace_env/MO-Swap-v0"


def register(env_id: str, base: str = EVICTION_ID, *, max_episode_steps: int | None = None, **settings: Any) -> None:
    """Register your own environment with Gymnasium, for `gymnasium.make` and `gymnasium.make_vec` alike.

        cace_env.register("MyCompany/Eviction-v0", scenario="my.yaml", baseline="lru")
        envs = gymnasium.make_vec("MyCompany/Eviction-v0", num_envs=64)

    Gymnasium needs a single and a vector environment; without the latter, `make_vec` silently steps single ones in
    Python. Other processes do not know the id: put the call into a module and its name before the id,
    `gymnasium.make("my_envs:MyCompany/Eviction-v0")`, which RL Zoo calls `--gym-packages`.

    Args:
        env_id: `NAMESPACE/NAME-vNUMBER`. Registering it again replaces it, with Gymnasium's warning if that changes
            anything.
        base: the id whose environment it is: `EVICTION_ID`, `SWAP_ID` or another registered one.
        max_episode_steps: as for `gymnasium.register`.
        **settings: arguments of the environment, other than its defaults. `scenario` may be a file; a relative path
            is meant from the folder where this is called.

    Raises:
        gymnasium.error.Error: a malformed `env_id`, or an unknown `base`.
    """
    spec = gymnasium.spec(base)
    scenario = settings.get("scenario")
    if isinstance(scenario, os.PathLike) or (isinstance(scenario, str) and scenario.endswith((".yaml", ".yml"))):
        settings["scenario"] = str(Path(scenario).resolve())
    mine = replace(
        spec,
        id=env_id,
        kwargs={**spec.kwargs, **settings},
        max_episode_steps=spec.max_episode_steps if max_episode_steps is None else max_episode_steps,
    )
    if gymnasium.registry.get(mine.id) == mine:
        return
    fields = ("entry_point", "vector_entry_point", "disable_env_checker", "max_episode_steps", "kwargs")
    gymnasium.register(id=env_id, **{field: getattr(mine, field) for field in fields})


def _register_all() -> None:
    """Register the environments with Gymnasium.

    Gymnasium 1.x loads no entry points of installed packages, so a fresh interpreter needs `import cace_env` or the
    module in the id: `gymnasium.make("cace_env:cace_env/Eviction-v0")`.
    """
    for env_id, single, many in (
        (EVICTION_ID, "cace_env.envs:EvictionEnv", "cace_env.envs:EvictionVectorEnv"),
        (SWAP_ID, "cace_env.envs:SwapEnv", "cace_env.envs:SwapVectorEnv"),
        (MO_EVICTION_ID, "cace_env.envs.objectives:MOEvictionEnv", "cace_env.envs.objectives:MOEvictionVectorEnv"),
        (MO_SWAP_ID, "cace_env.envs.objectives:MOSwapEnv", "cace_env.envs.objectives:MOSwapVectorEnv"),
    ):
        if env_id not in gymnasium.registry:
            # Gymnasium's checker wants a reward that is one number.
            of_vectors = env_id in (MO_EVICTION_ID, MO_SWAP_ID)
            gymnasium.register(id=env_id, entry_point=single, vector_entry_point=many, disable_env_checker=of_vectors)


def __getattr__(name: str) -> Any:
    # PEP 562: `evaluate` pulls in the compiled simulator, which should not load just to read `__version__`.
    if name == "evaluate":
        from cace_env.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


_register_all()
