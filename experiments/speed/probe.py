"""Runs one probe in a process of its own, on the package of any checkout.

    PYTHONPATH=CHECKOUT python -P experiments/speed/probe.py episodes

Prints one JSON array: what was measured, its value and its unit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Final

if __name__ == "__main__":
    # These probes, whatever CHECKOUT has in its own folder of experiments.
    package = ModuleType("experiments")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["experiments"] = package

from experiments.speed.common import Effort, Rows
from experiments.speed.peers import cartpole, libcachesim
from experiments.speed.rates import ablation, batches, episodes, latency, states, step
from experiments.speed.resources import batch_memory, compiling, growth, memory, sb3, start

PROBES: Final[dict[str, Callable[[Effort], Rows]]] = {
    probe.__name__: probe
    for probe in (
        episodes,
        batches,
        step,
        states,
        latency,
        growth,
        ablation,
        start,
        compiling,
        memory,
        batch_memory,
        sb3,
        cartpole,
        libcachesim,
    )
}


if __name__ == "__main__":
    name, *flags = sys.argv[1:]
    print(json.dumps([list(row) for row in PROBES[name](Effort(quick="--quick" in flags))]))
