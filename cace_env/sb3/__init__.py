"""Support for Stable-Baselines3 and sb3-contrib.

```python
from cace_env.sb3 import EvaluationCallback, EvictionVecEnv, hyperparameters, save_agent
from sb3_contrib import MaskablePPO

venv = EvictionVecEnv(scenario="workstation", baseline="lru")
model = MaskablePPO("SlotPolicy", venv, **hyperparameters("maskable-ppo"))
model.learn(150_000, callback=EvaluationCallback("workstation", every=30_000, folder="runs/mine"))
```

- `EvictionVecEnv`, `SwapVecEnv` (`vec_env`): many environments as the `VecEnv` that SB3 takes.
- `"SlotPolicy"` (`policies`): known to PPO, MaskablePPO, DQN and QRDQN as soon as this package is imported.
- `MaskableDQN`, `MaskableQRDQN` (`exploration`): explore legal actions only.
- `hyperparameters` (`tuned`): hyperparameters that work well.
- `DiscountPerSecond` (`discounting`): a discount per second of simulated time.
- `EvaluationCallback` (`evaluation`): curves against LRU, CACE and tuned CACE on validation seeds.
- `plot_learning_curve` (`plotting`): those curves as a picture.
- `save_agent`, `load_agent`, `contestant` (`saving`): trained models as policies.
"""

from __future__ import annotations

try:
    from cace_env.sb3.discounting import (
        DiscountPerSecond,
        TimedMaskableRolloutBuffer,
        TimedReplayBuffer,
        TimedRolloutBuffer,
    )
    from cace_env.sb3.evaluation import EvaluationCallback
    from cace_env.sb3.exploration import MaskableDQN, MaskableQRDQN
    from cace_env.sb3.plotting import plot_learning_curve
    from cace_env.sb3.policies import (
        DQNSlotPolicy,
        MaskableSlotPolicy,
        QRDQNSlotPolicy,
        SlotPolicy,
        begin_as,
        score_network,
    )
    from cace_env.sb3.saving import contestant, load_agent, save_agent
    from cace_env.sb3.tuned import hyperparameters
    from cace_env.sb3.vec_env import EvictionVecEnv, FleetVecEnv, SwapVecEnv
except ModuleNotFoundError as error:
    if error.name is not None and error.name.startswith("cace_env"):
        raise
    raise ImportError('cace_env.sb3 needs Stable-Baselines3; pip install "cace-env[sb3]"') from error

__all__ = [
    "DQNSlotPolicy",
    "DiscountPerSecond",
    "EvaluationCallback",
    "EvictionVecEnv",
    "FleetVecEnv",
    "MaskableDQN",
    "MaskableQRDQN",
    "MaskableSlotPolicy",
    "QRDQNSlotPolicy",
    "SlotPolicy",
    "SwapVecEnv",
    "TimedMaskableRolloutBuffer",
    "TimedReplayBuffer",
    "TimedRolloutBuffer",
    "begin_as",
    "contestant",
    "hyperparameters",
    "load_agent",
    "plot_learning_curve",
    "save_agent",
    "score_network",
]
