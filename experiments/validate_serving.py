"""The fluid serving model of the simulator against continuous batching one forward pass at a time.

`python -m experiments.validate_serving` serves the Azure 2023 traces by both, one and two models resident from the
start and nothing swapped, and prints how far times to first token (TTFT) and end-to-end times (E2E) are apart. Errors
are tolerated or not against the loop that follows the simulator's own rule of scheduling (`batch="head"`), and
reported against one that gives out tokens as vLLM does (`"budget"`). `--write docs/serving.md` fills its tables. Traces
that are not there are replaced by generated requests with their published quantiles, and labelled so.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import numpy as np

from experiments.pages.regions import fill
from experiments.yardsticks.iteration_level import Batch
from experiments.yardsticks.serving import (
    LOADS,
    ONE,
    TRACES,
    TWO,
    compare,
    count_held,
    effect_of_slices,
    error_table,
    find,
    fleet,
    largest_misses,
    latency_table,
    requests_of,
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.validate_serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for source in TRACES:
        parser.add_argument(f"--{source.name}", type=Path, metavar="FILE", help=f"Azure 2023 {source.name} trace")
    parser.add_argument("--generated", action="store_true", help="generated requests even where the traces are there")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="fill the tables of docs/serving.md")
    arguments = parser.parse_args()

    labels, head_cases, budget_cases, turn_cases = [], [], [], []
    slice_effect = 0.0
    for source in TRACES:
        path = None if arguments.generated else getattr(arguments, source.name) or find(source)
        for names in (ONE, TWO):
            tables, workload = fleet(names), requests_of(source, names, path)
            if names == ONE:
                span_min = np.ptp(workload.arrival_us) / 60e6
                origin = "generated" if path is None else path.name
                labels.append(f"{source.name}: {len(workload):,} requests, {span_min:.0f} minutes ({origin})")
            for load in LOADS:
                head_cases.append(compare(tables, workload, load, source.name, batch="head"))
                budget_cases.append(compare(tables, workload, load, source.name, batch="budget"))
                if names == TWO:
                    turn_cases.append(compare(tables, workload, load, source.name, batch="head", slice_us=None))
                    effects = (effect_of_slices(tables, workload, load, batch) for batch in get_args(Batch))
                    slice_effect = max(slice_effect, *effects)
    measured = {
        "traces": f"Requests: {'; '.join(labels)}.",
        "slices": f"A time slice a quarter or four times as long changes no figure of either loop by more than "
        f"{slice_effect:.1%}.",
        "latencies": latency_table(head_cases),
        "held": f"**{count_held(head_cases)} cases hold.**",
        "head": error_table(head_cases, judged=True),
        "budget": error_table(budget_cases, judged=False),
        "misses": "The mean TTFT is off by more than 5 % (negative: the fluid is too fast) in "
        f"{largest_misses(budget_cases)}.",
        "turns": error_table(turn_cases, judged=False),
    }
    for name, text in measured.items():
        print(f"{name}\n{text}\n")
    if arguments.write:
        fill(arguments.write, measured)


if __name__ == "__main__":
    main()
