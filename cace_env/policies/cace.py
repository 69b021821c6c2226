"""CACE (Context-Aware CodeLLM Eviction, arXiv 2506.18796) as named terms times weights.

This is a reconstruction. The paper names the factors: load time, task-specific latency sensitivity, expected output
length, recent usage, and future demand tracked by a sliding window. How it scales and weights them is not public in the
sources that we could read. Here each factor is one term, min-max scaled over the candidates of the question to [0, 1]
(0 for all if they do not differ), and `keep-score = sum of weight * term`; the lowest score is evicted.

| term | from the feature | direction | why |
|---|---|---|---|
| load_time | reload_s | long: keep | what a wrong eviction costs the next request |
| latency_sensitivity | latency_weight | high: keep | its users lose most per second that they wait |
| output_length | expected_output_tokens | long: evict | a load is a small part of a long answer, most of a short one |
| recency | since_use_s | recent: keep | what was just used is used again soon |
| future_demand | window_requests | many: keep | the last 5 minutes are the forecast of the next ones |

The direction of `output_length` is our reading, and results depend on it (`docs/claims.md`); the other one ships as
`cace-output-kept`. A negative weight reverses a term.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Final, Self

from pydantic import Field, model_validator

from cace_env.config import ConfigError, Frozen, load, shown
from cace_env.kernel import rules
from cace_env.tables import Protocol

TERMS: Final = tuple(rules.CACE_TERMS)  # names, in the order of the kernel's weights


class CaceWeights(Frozen):
    """One weight per term; 0 leaves the term out, a negative one reverses it."""

    load_time: float = Field(ge=-1e6, le=1e6, description="weight of the time to load the model again")
    latency_sensitivity: float = Field(ge=-1e6, le=1e6, description="weight of its requests' latency weight")
    output_length: float = Field(ge=-1e6, le=1e6, description="weight of how short its outputs are")
    recency: float = Field(ge=-1e6, le=1e6, description="weight of how recently it was used")
    future_demand: float = Field(ge=-1e6, le=1e6, description="weight of its requests in the sliding window")

    @model_validator(mode="after")
    def _not_all_zero(self) -> Self:
        if not any(self.row()):
            raise ValueError("all weights are 0, which equals lru; give at least one term another weight")
        return self

    def row(self) -> tuple[float, ...]:
        """The weights in the kernel's order of terms."""
        return tuple(getattr(self, term) for term in TERMS)

    def without(self, term: str) -> CaceWeights:
        """The same weights with 0 for `term`, for a leave-one-out ablation."""
        return CaceWeights(**(self.model_dump() | {term: 0.0}))


class Tuning(Frozen):
    """The record of a search for weights, so that a comparison can state its cost."""

    env: Protocol = Field(description="the environment they were tuned in")
    trained_on: tuple[str, ...] = Field(description="scenarios, entries of a suite, or parts of a log")
    train_seeds: str = Field(description="seeds of the workloads, such as 0-63")
    requests: int = Field(ge=0, description="requests simulated to find them, over all searches")
    order: str | None = Field(default=None, description="in Swap-v0: the order they were tuned with")
    command: str = Field(default="", description="command that finds them again")


class Cace(Frozen):
    """A file of CACE weights."""

    description: str = Field(default="", description="where the weights come from")
    weights: CaceWeights = Field(description="one weight per term, all five")
    tuned: Tuning | None = Field(default=None, description="how they were found; none = set by hand")


def shipped_weights() -> list[str]:
    """Names of the weights that ship."""
    shipped = resources.files("cace_env") / "data" / "cace"
    return sorted(item.name.removesuffix(".yaml") for item in shipped.iterdir() if item.name.endswith(".yaml"))


def load_cace(what: str | Path) -> Cace:
    """Load CACE weights by the name of a shipped file (without suffix), or from your own YAML file.

    Raises:
        ConfigError: there is no such name (the error lists the shipped ones) or file, or its content is not valid.
    """
    names = shipped_weights()
    if what in names:
        with resources.as_file(resources.files("cace_env") / "data" / "cace" / f"{what}.yaml") as path:
            return load(Cace, path)
    if isinstance(what, str) and not what.endswith((".yaml", ".yml")) and not os.path.isfile(what):
        raise ConfigError(f"no CACE weights called {shown(what)}; shipped are {', '.join(names)}, or give a YAML file")
    return load(Cace, what)
