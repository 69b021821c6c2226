"""What a reader of a comparison must not overlook: who waits longer than under LRU, and what the requests are."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from cace_env.evaluation.scores import REFERENCE
from cace_env.policies.built_in import CLAIRVOYANT
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.tables import Protocol
from experiments.reading.verdicts import enough, nothing_to_decide
from experiments.running.run_folder import BASELINE, PATIENT, Run

LONGER: Final = 1.05  # of the longest wait under LRU: less than that is the luck of a draw
ASSUMED: Final = "not in the log, and so assumed"
WAITS_TITLE: Final = "Saves cost, but lets single requests wait longer than LRU does"
BASELINES: Final = (
    f"In Swap-v0 `{BASELINE}` goes by first come, first served and drains a busy model at once where no idle one "
    f"suffices. `{PATIENT}` is the same but waits up to 30 s for an idle victim, as Eviction-v0 does: a fairer "
    "yardstick for whatever else waits."
)


class Wait(NamedTuple):
    """A policy that the comparison praises, and what it costs whom."""

    policy: str
    scenario: str
    mine_s: float  # longest wait for a first token, mean over seeds
    baseline_s: float  # the same under LRU

    @property
    def times(self) -> float:
        return self.mine_s / self.baseline_s


def praised(run: Run, scenario: str) -> list[str]:
    """Deployable policies that look good on a scenario: the cheapest, and all that surely cost less than LRU."""
    if nothing_to_decide(run, scenario):
        return []
    others = [
        policy
        for policy in run.ranking(scenario)
        if policy not in (BASELINE, NO_SWAPPING, REFERENCE) and run.group(policy) != CLAIRVOYANT
    ]
    return [
        policy
        for place, policy in enumerate(others)
        if (place == 0 and run.gain(scenario, policy).percent > 0)
        or (run.gain(scenario, policy).low > 0 and enough(run, scenario, policy))
    ]


def longer_waits(run: Run) -> list[Wait]:
    """Praised policies whose longest wait is above LRU's, the worst first."""
    found = []
    for scenario in run.scenarios:
        for policy in praised(run, scenario):
            mine, theirs = (run.mean(scenario, who, "longest_wait_s") for who in (policy, BASELINE))
            if theirs > 0 and mine > LONGER * theirs:
                found.append(Wait(policy, scenario, mine, theirs))
    return sorted(found, key=lambda wait: -wait.times)


def wait_text(wait: Wait) -> str:
    """The longest waits of a policy and of LRU."""
    return f"{wait.policy} on {wait.scenario}: {wait.mine_s:,.0f} s, LRU {wait.baseline_s:,.0f} s (x{wait.times:.1f})"


def about_requests(run: Run, scenario: str) -> str:
    """Refused requests, what of a log is made up, and time compression; empty where there is nothing of it."""
    about = run.about["scenarios"][scenario]
    log, said = about["log"], []
    refused = run.mean(scenario, BASELINE, "refused") / run.mean(scenario, BASELINE, "requests")
    if np.isfinite(refused) and refused > 0:
        said.append(
            f"{100 * refused:.{0 if refused >= 0.1 else 1}f} % of the requests are refused (longer than their model's "
            "KV cache), and are in no latency"
        )
    dropped = sum(log.get("dropped", {}).values())
    if dropped:
        share = 100 * dropped / max(log["rows_read"], 1)
        said.append(f"{share:.{0 if share >= 10 else 1}f} % of the log's rows were left out on reading")
    if about["label"].startswith("composite"):
        said.append(f"{ASSUMED}: {', '.join(log['attached'])}")
    if log and log["time_compression"] != 1:
        said.append(f"times divided by {log['time_compression']:g}, not as recorded")
    return f"{scenario}: {'; '.join(said)}." if said else ""


def against_patience(run: Run, scenario: str) -> bool:
    """Whether savings of a scenario stand beside patient FIFO, too: in Swap-v0, where LRU does not wait."""
    return run.env(scenario) == Protocol.SWAP and PATIENT in run.policies(scenario)
