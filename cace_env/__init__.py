"""cace-env: learn, and compare, which code language model to evict from accelerator memory.

Start with these three files:

1. `tables.py`: everything the simulator reads about a fleet, as plain integers with units and shapes.
2. `kernel/`: what happens, event by event. The rules it obeys are in `docs/design.md`.
3. `env.py`: what an agent sees, may do and is rewarded for (`cace_env/Eviction-v0`, `cace_env/Swap-v0`).

Data goes one way: config -> workload -> simulator -> env -> policy -> metrics -> report. Importing the package
registers the environments and loads nothing heavier than Gymnasium, and Gymnasium imports it by itself for
`gymnasium.make("cace_env:cace_env/Eviction-v0")`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import gymnasium

if TYPE_CHECKING:
    from cace_env.evaluation import evaluate

__all__ = ["EVICTION_ID", "MO_EVICTION_ID", "MO_SWAP_ID", "SWAP_ID", "__version__", "evaluate", "register"]
__version__ = "0.1.0"

EVICTION_ID: Final = "cace_env/Eviction-v0"
SWAP_ID: Final = "cace_env/Swap-v0"
# The same two with a vector of rewards; their names are as MO-Gymnasium's and Gymnasium's rules for ids allow.
MO_EVICTION_ID: Final = "cace_env/MO-Eviction-v0"
MO_SWAP_ID: Final = "cace_env/MO-Swap-v0"


def register() -> None:
    """Makes the environments' ids known to Gymnasium; called at import, harmless when called again.

    Gymnasium 1.x loads no entry points of installed packages, so a fresh interpreter needs `import cace_env` or the
    module in the id: `gymnasium.make("cace_env:cace_env/Eviction-v0")`.
    """
    for env_id, name in ((EVICTION_ID, "Eviction"), (SWAP_ID, "Swap")):
        if env_id not in gymnasium.registry:
            gymnasium.register(
                id=env_id,
                entry_point=f"cace_env.env:{name}Env",
                vector_entry_point=f"cace_env.vector_env:{name}VectorEnv",
            )
    for env_id, name in ((MO_EVICTION_ID, "MOEviction"), (MO_SWAP_ID, "MOSwap")):
        if env_id not in gymnasium.registry:
            gymnasium.register(
                id=env_id,
                entry_point=f"cace_env.envs.objectives:{name}Env",
                vector_entry_point=f"cace_env.envs.objectives:{name}VectorEnv",
                disable_env_checker=True,  # it wants a reward that is one number
            )


def __getattr__(name: str) -> Any:
    # PEP 562: `evaluate` pulls in the compiled simulator, which nobody who only reads `__version__` should wait for.
    if name == "evaluate":
        from cace_env.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


register()
