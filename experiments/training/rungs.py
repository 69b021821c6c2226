"""The rungs of the learning curves: scenarios, algorithms, rivals."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from cace_env.evaluation.held_out import WHOLE_SUITE


class Rung(NamedTuple):
    """What is trained on and judged by."""

    decisions: int  # of a training, where nothing else is said
    seeds: int  # validation seeds that judge it


class Algorithm(NamedTuple):
    """What is trained, by which policy."""

    name: str  # of its hyperparameters
    kind: str  # class in cace_env.sb3, sb3_contrib or stable_baselines3
    policy: str
    colour: str
    share: float = 1.0  # of the rung's decisions: less of what takes several times as long


OUT: Final = Path("runs/learning-curves")
ABOUT: Final = "about.json"  # what the runs on a rung have in common
RUNGS: Final = {
    "tiny": Rung(120_000, 100),
    "workstation": Rung(600_000, 20),
    "default": Rung(600_000, 20),
    WHOLE_SUITE: Rung(1_200_000, 10),
}
AGENTS: Final = {
    "MaskablePPO": Algorithm("maskable-ppo", "sb3_contrib.MaskablePPO", "SlotPolicy", "#882255"),
    "PPO": Algorithm("ppo", "stable_baselines3.PPO", "SlotPolicy", "#0072B2"),
    "DQN": Algorithm("dqn", "cace_env.sb3.MaskableDQN", "SlotPolicy", "#009E73", 0.25),
    "QR-DQN": Algorithm("qrdqn", "cace_env.sb3.MaskableQRDQN", "SlotPolicy", "#56B4E9", 0.25),
    "MaskablePPO-MLP": Algorithm("maskable-ppo", "sb3_contrib.MaskablePPO", "MlpPolicy", "#E69F00"),
}
RIVALS: Final = {"lru": "LRU", "cace": "CACE", "tuned_cace": "tuned CACE"}  # name in curves -> in tables
RIVAL_POLICIES: Final = {"lru": "lru", "cace": "cace", "tuned_cace": "cace:tuned-eviction"}
EVALUATIONS: Final = 20  # of a run
COLUMNS: Final = ("step", "learned_s", *(f"saved_vs_{name}" for name in RIVALS))
