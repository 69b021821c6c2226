"""What a comparison recommends, in one sentence: who saves how much against whom, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cace_env.evaluation import Gain
from cace_env.evaluation.scores import REFERENCE
from cace_env.policies.built_in import CLAIRVOYANT
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.tables import Protocol
from experiments.reading.cautions import against_patience
from experiments.reading.verdicts import enough, nothing_to_decide, seeds_behind
from experiments.running.run_folder import BASELINE, PATIENT, Run


class Best(NamedTuple):
    """The policy of an environment that costs least among those that can be deployed."""

    policy: str
    gain: Gain  # against LRU, of the mean over scenarios
    second: str  # the next best; empty where there is none
    lead: Gain | None  # of the first over the second
    scenarios: list[str]

    @property
    def sure(self) -> bool:
        """Whether its interval leaves out 0."""
        return self.gain.low > 0


def scenarios_of(run: Run, env: Protocol) -> list[str]:
    """Those of one environment in which something is decided."""
    return [name for name in run.of_env(env) if not nothing_to_decide(run, name)]


def everywhere(run: Run, scenarios: Sequence[str]) -> list[str]:
    """Policies that ran on every one of some scenarios, without the run in which nothing is swapped."""
    return [policy for policy in run.everywhere(scenarios) if policy != NO_SWAPPING]


def best_of(run: Run, env: Protocol) -> Best | None:
    """Who costs least of those that could be deployed, LRU left out; None where nobody ran, or nothing is decided."""
    scenarios = scenarios_of(run, env)
    if not scenarios:
        return None
    gains = {}
    for policy in everywhere(run, scenarios):
        if policy in (BASELINE, REFERENCE) or run.group(policy) == CLAIRVOYANT:
            continue
        gain = run.pooled_gain(policy, scenarios)
        if np.isfinite(gain.percent):
            gains[policy] = gain
    ranking = sorted(gains, key=lambda policy: -gains[policy].percent)
    if not ranking:
        return None
    first, second = ranking[0], ranking[1] if len(ranking) > 1 else ""
    lead = run.pooled_gain(first, scenarios, second) if second else None
    return Best(first, gains[first], second, lead, scenarios)


def _bounds(gain: Gain) -> str:
    return f"{gain.low:.1f} to {gain.high:.1f}"


def recommendation(run: Run) -> str:
    """A sentence or two for each environment."""
    said = []
    envs = [env for env in Protocol if run.of_env(env)]
    several = len(envs) > 1
    for env in envs:
        prefix = f"{env.env_name}: " if several else ""
        best = best_of(run, env)
        if best is None:
            nothing = not scenarios_of(run, env)
            why = "no policy is ever asked, so all cost the same" if nothing else "only LRU ran, so nothing is compared"
            said.append(f"{prefix}{'Nothing to decide' if nothing else 'Nothing to compare'}: {why}.")
            continue
        said.append(prefix + _sentence(run, best))
    return "\n\n".join(said)


def _sentence(run: Run, best: Best) -> str:
    count = len(best.scenarios)
    where = f"over {count} scenarios" if count > 1 else f"in {best.scenarios[0]}"
    gain = best.gain
    if not all(enough(run, scenario, best.policy) for scenario in best.scenarios):
        least = min(best.scenarios, key=lambda scenario: seeds_behind(run, scenario, best.policy))
        seeds, what = seeds_behind(run, least, best.policy), "window" if least in run.blocks else "seed"
        few = f"{seeds} {what}s are" if seeds > 1 else f"one {what} is"
        less = f"`{best.policy}` costs {abs(gain.percent):.1f} % {'less' if gain.percent > 0 else 'more'} than LRU"
        return f"No verdict yet: {less} {where}, but {few} too few to tell luck from merit."
    interval = f"95 % interval {_bounds(gain)}"
    if not best.sure:
        return (
            f"**No clear winner**: none of what can be deployed is surely cheaper than LRU {where}; the best, "
            f"`{best.policy}`, saves {gain.percent:.1f} % ({interval})."
        )
    text = f"**`{best.policy}` saves {gain.percent:.1f} % of LRU's cost** {where} ({interval})"
    if PATIENT not in (best.policy, best.second) and all(
        against_patience(run, scenario) for scenario in best.scenarios
    ):
        patient = run.pooled_gain(best.policy, best.scenarios, PATIENT)
        text += f" and {patient.percent:.1f} % of that of patient FIFO with LRU ({_bounds(patient)})"
    if best.lead is None:
        return f"{text}."
    if best.lead.low > 0:
        lead = f"{best.lead.percent:.1f} % below the next best, `{best.second}`"
        return f"{text}, {lead} ({_bounds(best.lead)})."
    return f"{text}; the next best, `{best.second}`, cannot be told apart from it."
