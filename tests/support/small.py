"""A small scenario, and policies for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cace_env.observation import SLOT
from cace_env.scenarios import FOR_DEBUGGING, compared_scenarios

# What ships, without fleets on which every test would take a minute.
EVERYDAY = (*compared_scenarios(), *FOR_DEBUGGING)

SMALL: dict[str, Any] = {
    "name": "small",
    "fleet": [{"gpu": "l40s", "count": 1}],
    "pressure": 2.5,
    "engine": "fast-loader",
    "host_ram_gb": 64,
    "catalogue": [
        "qwen2.5-coder-1.5b",
        "mellum-4b",
        "starcoder2-7b",
        "qwen2.5-coder-7b",
        "deepseek-coder-6.7b",
        "r1-distill-qwen-7b",
    ],
    "workload": {
        "requests": 300,
        "users": 8,
        "shares": {"completion": 0.6, "chat": 0.3, "reasoning": 0.1, "agent": 0.0},
    },
}

# The same without long answers, for which a guard takes over.
SHORT: dict[str, Any] = SMALL | {
    "workload": SMALL["workload"] | {"shares": {"completion": 0.65, "chat": 0.35, "reasoning": 0.0, "agent": 0.0}}
}

# Seven models, so small that a plan of a whole episode is found in a moment.
SEVEN: dict[str, Any] = {
    "name": "small",
    "fleet": [{"gpu": "l40s", "count": 1}],
    "pressure": 2.0,
    "engine": "fast-loader",
    "host_ram_gb": 64,
    "catalogue": [
        "qwen2.5-coder-0.5b",
        "deepseek-coder-1.3b",
        "qwen2.5-coder-1.5b",
        "granite-code-3b",
        "starcoder2-3b",
        "mellum-4b",
        "r1-distill-qwen-7b",
    ],
    "workload": SMALL["workload"],
}


def lru_in_python(features: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """Keeps what was used last, as the built-in rule does."""
    del legal
    return -features[:, SLOT.since_use_s]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path
