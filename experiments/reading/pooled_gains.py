"""Two policies over several scenarios, from a run folder: how much one saves against the other, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cace_env.evaluation import Gain
from cace_env.evaluation.scores import (
    NO_BLOCKS,
    Blocks,
    ByScenario,
    Estimate,
    interquartile_mean,
    pooled_gain,
    probability_of_improvement,
    relative_cost,
)
from experiments.running.run_folder import Run


class Pooled(NamedTuple):
    """One policy against another one over several scenarios."""

    cost: Estimate  # share of LRU's cost, mean over scenarios
    typical: Estimate  # the same, interquartile mean over scenarios
    gain: Gain  # what it saves against the other one [%], of the mean over scenarios
    chance: Estimate  # that it is cheaper on the same requests, mean over scenarios


def costs_of(run: Run, policy: str, scenarios: Sequence[str]) -> dict[str, Any]:
    """Costs of a policy by scenario, as `Run.replicates` has them."""
    return {scenario: run.replicates(scenario, policy) for scenario in scenarios}


def pooled(policy: ByScenario, over: ByScenario, baseline: ByScenario, blocks: Blocks = NO_BLOCKS) -> Pooled:
    """One policy against another one, costs by scenario; LRU's make scenarios comparable, `blocks` are of logs."""
    return Pooled(
        relative_cost(policy, baseline, blocks=blocks),
        relative_cost(policy, baseline, aggregate=interquartile_mean, blocks=blocks),
        pooled_gain(policy, over, baseline, blocks=blocks),
        probability_of_improvement(policy, over, blocks=blocks),
    )


def estimate_text(estimate: Estimate, digits: int = 3) -> str:
    """A number with its interval; `-` where there is none."""
    if estimate.value != estimate.value:
        return "-"
    if estimate.low != estimate.low:
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
