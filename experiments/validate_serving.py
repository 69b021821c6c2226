"""The fluid serving model of the simulator against continuous batching one forward pass at a time.

`python -m experiments.validate_serving` serves the Azure 2023 traces by both, one and two models resident from the
start and nothing swapped, and prints how far times to first token (TTFT) and end-to-end times (E2E) are apart. Errors
are tolerated or not against the loop that follows the simulator's own rule of scheduling (`batch="head"`), and
reported against one that gives out tokens as vLLM does (`"budget"`). `--write docs/serving.md` fills its tables. Traces
that are not there are replaced by generated requests with their published quantiles, and labelled so.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
from pydantic import Field

from cace_env.config import Frozen
from experiments.pages.regions import fill
from experiments.running.command_line import Session, metavar, run_command
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


class Options(Frozen):
    """Where the traces are, and where the page goes."""

    code: Annotated[Path | None, metavar("FILE")] = Field(
        default=None, description="Azure 2023 trace of code completion; looked for where the tests keep it by default"
    )
    conversation: Annotated[Path | None, metavar("FILE")] = Field(
        default=None, description="Azure 2023 trace of conversations; as --code"
    )
    generated: bool = Field(default=False, description="generated requests even where the traces are there")
    write: Annotated[Path | None, metavar("FILE.md")] = Field(
        default=None, description="fill the tables of docs/serving.md"
    )


def validate(options: Options, session: Session) -> None:
    """Serves the traces by both models, prints how far they are apart, and fills the page."""
    labels, head_cases, budget_cases, turn_cases = [], [], [], []
    whole_head_cases, whole_cases = [], []  # prompts join at whole rounds
    slice_effect = 0.0
    for source in TRACES:
        path = None if options.generated else getattr(options, source.name) or find(source)
        for names in (ONE, TWO):
            tables, workload = fleet(names), requests_of(source, names, path)
            whole = tables.replace(whole_rounds=True)
            if names == ONE:
                span_min = np.ptp(workload.arrival_us) / 60e6
                origin = "generated" if path is None else path.name
                labels.append(f"{source.name}: {len(workload):,} requests, {span_min:.0f} minutes ({origin})")
            for load in LOADS:
                head_cases.append(compare(tables, workload, load, source.name, batch="head"))
                budget_cases.append(compare(tables, workload, load, source.name, batch="budget"))
                whole_head_cases.append(compare(whole, workload, load, source.name, batch="head"))
                whole_cases.append(compare(whole, workload, load, source.name, batch="budget"))
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
        "whole": error_table(whole_cases, judged=True),
        "whole-held": f"**{count_held(whole_cases)} cases are within the tolerance.** Against the loop of the same "
        f"rule no mean TTFT is off by more than {max(abs(case.errors[0]) for case in whole_head_cases):.1%}.",
        "turns": error_table(turn_cases, judged=False),
    }
    for name, text in measured.items():
        session.console.print(f"{name}\n{text}\n", soft_wrap=True)
    if options.write:
        fill(options.write, measured)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("validate_serving", Options, validate, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
