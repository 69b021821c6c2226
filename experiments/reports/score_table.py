"""Scores in the report of a comparison, where the clairvoyant reference ran."""

from __future__ import annotations

import numpy as np

from cace_env.evaluation import suite_scores
from cace_env.evaluation.scores import NO_SCORE, REFERENCE, SMALLEST_HEADROOM_PERCENT, SuiteScores
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.tables import Protocol
from experiments.reading.markdown import score_text
from experiments.reading.verdicts import enough, saved
from experiments.reports.page import Table
from experiments.running.run_folder import Run


def scenarios_with_reference(run: Run, env: Protocol | None = None) -> list[str]:
    """Those on which the reference ran, of one environment or of all."""
    there = run.scenarios if env is None else run.of_env(env)
    return [name for name in there if REFERENCE in run.policies(name)]


def scores_by_env(run: Run) -> dict[Protocol, SuiteScores]:
    """Scores on the scenarios of each environment on which the reference ran; empty where it ran nowhere."""
    scores = {}
    for env in Protocol:
        costs = {
            name: {policy: run.replicates(name, policy) for policy in run.policies(name) if policy != NO_SWAPPING}
            for name in scenarios_with_reference(run, env)
        }
        if costs:
            scores[env] = suite_scores(costs, blocks=run.blocks)
    return scores


def score_tables(run: Run) -> list[Table]:
    """A table of headroom and scores for each environment, the best policy on top."""
    tables = []
    for env, scores in scores_by_env(run).items():
        names = list(scores.headroom)
        sure = all(enough(run, name, REFERENCE) for name in names)
        rows = [["headroom: LRU to reference", "", *(saved(run, name, REFERENCE) for name in names)]]
        means = {policy: mean.value for policy, mean in scores.means.items() if policy != REFERENCE}
        for policy in sorted(means, key=lambda policy: (np.isnan(means[policy]), -means[policy])):
            cells = [score_text(scores.scores[policy].get(name, NO_SCORE), interval=sure) for name in names]
            rows.append([policy, score_text(scores.means[policy], interval=sure), *cells])
        under = f"Headroom under {SMALLEST_HEADROOM_PERCENT:g} %, so in no mean: {', '.join(scores.left_out)}."
        header = ("score", "interquartile mean", *names)
        tables.append(Table(f"Scores in {env.env_name}", header, rows, under if scores.left_out else ""))
    return tables
