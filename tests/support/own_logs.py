"""Small logs of a gateway of one's own, in which it is known what helps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.support.logs import written

HEADER = "time,context_tokens,output_tokens,model,task,user,ttft_s,e2e_s"
# Alike in size and in how long they take to load: which of them leaves makes little difference.
ALIKE = ("qwen2.5-coder-7b", "starcoder2-7b", "r1-distill-qwen-7b", "deepseek-coder-6.7b")
LARGE = "qwen2.5-coder-14b"
SMALL = ("starcoder2-3b", "granite-code-3b", "mellum-4b", "qwen2.5-coder-3b")


def log_of(
    folder: Path,
    models: Sequence[str],
    gaps_s: Sequence[float],
    name: str = "log.csv",
    ttft_s: Sequence[float] | None = None,
) -> Path:
    """A log with one chat request for each model named, in this order, so many seconds after the one before."""
    times = np.cumsum(gaps_s)
    measured = [f"{value:.6f}" for value in ttft_s] if ttft_s is not None else [""] * len(models)
    body = "".join(
        f"{time:.3f},{100 + row},{20 + row % 7},{model},chat,u{row % 5},{ttft},\n"
        for row, (time, model, ttft) in enumerate(zip(times, models, measured, strict=True))
    )
    return written(folder, f"{HEADER}\n{body}", name)


def scarce(folder: Path, requests: int = 700) -> Path:
    """Models that are alike, asked for at random: memory is short, and no policy can know more than another."""
    rng = np.random.default_rng(0)
    return log_of(folder, rng.choice(ALIKE, requests).tolist(), rng.exponential(20.0, requests).tolist())


def fitting(folder: Path, requests: int = 700) -> Path:
    """Two small models."""
    rng = np.random.default_rng(0)
    return log_of(folder, rng.choice(SMALL[:2], requests).tolist(), rng.exponential(5.0, requests).tolist())


def one_is_dear(folder: Path, requests: int = 700) -> Path:
    """Small models in turn and a large one in between: the least recently used is always the one that comes next."""
    turn = [*SMALL, LARGE]
    rng = np.random.default_rng(0)
    models = [turn[row % len(turn)] for row in range(requests)]
    return log_of(folder, models, rng.uniform(20.0, 40.0, requests).tolist())
