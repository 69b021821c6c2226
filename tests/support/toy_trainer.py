"""A trainer that learns next to nothing, quickly: for claims about what happens around a trainer.

python -m tests.support.toy_trainer OPTIONS    `experiments.train` with the algorithm `toy`
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from agents import algorithms as trainer
from cace_env.config import ConfigError, Frozen
from cace_env.policies import Agent
from cace_env.policies.agent import AgentCard
from cace_env.policies.network import Network, weight_shapes
from cace_env.tables import Protocol


class ToyConfig(Frozen):
    algorithm: Literal["toy"] = "toy"
    env: Protocol = Protocol.EVICTION
    train_on: str = "workstation"
    seed: int = Field(default=0, ge=0)
    scale: float = Field(default=1.0, gt=0, description="of a random step")
    batch: int = Field(default=1, ge=1, description="steps that are learned at once")
    pause_s: float = Field(default=0.0, ge=0, description="per step")
    interrupt_at: int | None = Field(default=None, description="as if Ctrl-C were typed at this step")
    interrupts: int = Field(default=1, description="and how many times")


class ToyTrainer:
    """A random walk of the weights of a linear policy."""

    def __init__(self, config: ToyConfig) -> None:
        self.config = config
        self.protocol = config.env
        self.step = self.requests = 0
        self.batch = config.batch
        self.rng = np.random.default_rng(config.seed)
        shapes = weight_shapes(self.protocol, 0)
        self.weights = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}

    def learn(self, steps: int, tick: Callable[[int], None]) -> dict[str, float]:
        for _ in range(-(-steps // self.batch) * self.batch):
            for weight in self.weights.values():
                weight += np.float32(self.config.scale) * self.rng.standard_normal(weight.shape, dtype=np.float32)
            self.step += 1
            self.requests += 10
            time.sleep(self.config.pause_s)
            if self.step == self.config.interrupt_at:
                for _ in range(self.config.interrupts):
                    signal.raise_signal(signal.SIGINT)
            tick(self.step)
        return {"norm": float(sum(float(np.square(weight).sum()) for weight in self.weights.values()))}

    def agent(self) -> Agent:
        card = AgentCard(
            name="toy",
            env=self.config.env,
            algorithm="toy",
            hidden=0,
            description="A random walk.",
            trained_on=(self.config.train_on,),
            train_seeds="0-9",
            requests=self.requests,
        )
        return Agent(card, Network(self.protocol, 0, {name: weight.copy() for name, weight in self.weights.items()}))

    def save(self, folder: Path) -> None:
        np.savez(folder / "weights.npz", **self.weights)
        state = {"step": self.step, "requests": self.requests, "generator": self.rng.bit_generator.state}
        (folder / "state.json").write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        state = json.loads((folder / "state.json").read_text())
        if not isinstance(state.get("step"), int):
            raise ConfigError(f"{folder} is of another trainer")
        self.step, self.requests = state["step"], state["requests"]
        self.rng.bit_generator.state = state["generator"]
        with np.load(folder / "weights.npz") as file:
            self.weights = dict(file)


def add() -> None:
    """Makes `toy` an algorithm like the others, in this process."""
    home = "tests.support.toy_trainer"  # also where this module runs as a command
    trainer.ALGORITHMS["toy"] = trainer.Algorithm(f"{home}:ToyConfig", f"{home}:ToyTrainer", 8, "steps", "a toy")


if __name__ == "__main__":
    from experiments.train import main

    add()
    sys.exit(main())
