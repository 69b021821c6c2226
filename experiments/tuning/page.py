"""The report of a search, written from its folder: what was found, what it cost to find, and what mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import optuna
from optuna.trial import TrialState

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from experiments.reading.markdown import number, table
from experiments.reading.style import STYLE
from experiments.tuning.search_space import Space

LEAST: Final = 10  # whole trials for importances


def importances(study: optuna.Study, space: Space) -> dict[str, float]:
    """How much each parameter decides whether a trial is among the better ones; empty with few trials.

    PED-ANOVA (Watanabe, Bansal and Hutter, IJCAI 2023), as Optuna computes it.
    """
    whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    varied = [name for name in space.searched() if len({str(trial.params.get(name)) for trial in whole}) > 1]
    if len(whole) < LEAST or len(varied) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)
    return dict(found)


def draw_history(study: optuna.Study, path: Path) -> None:
    """The value of every trial, and the best so far."""
    by_state: dict[TrialState, dict[int, float]] = {TrialState.COMPLETE: {}, TrialState.PRUNED: {}}
    for trial in study.get_trials(deepcopy=False, states=tuple(by_state)):
        if trial.value is not None:
            by_state[trial.state][trial.number] = trial.value
    whole, pruned = by_state.values()
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
        axes.plot(list(pruned), list(pruned.values()), "x", color="#bbbbbb", label="pruned")
        axes.plot(list(whole), list(whole.values()), "o", color="#0072B2", markersize=4, label="whole")
        best = np.minimum.accumulate(np.array(list(whole.values())))
        axes.step(list(whole), best, where="post", color="#D55E00", label="best so far")
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(xlabel="trial", ylabel="pooled cost, of LRU's")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside upper center", ncols=3, frameon=False)
        figure.savefig(path, dpi=120)
        plt.close(figure)


def draw_importances(found: Mapping[str, float], path: Path) -> None:
    """A bar per parameter."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 1.0 + 0.3 * len(found)), layout="constrained")
        names = sorted(found, key=lambda name: found[name])
        axes.barh(names, [found[name] for name in names], color="#0072B2")
        axes.set_xlabel("share of what decides whether a trial is among the better ones (PED-ANOVA)")
        figure.savefig(path, dpi=120)
        plt.close(figure)


def search_page(
    study: optuna.Study, space: Space, about: Mapping[str, Any], finalists: Sequence[Mapping[str, Any]]
) -> str:
    """The report as Markdown.

    Args:
        study: all trials.
        space: what was searched.
        about: run.json.
        finalists: trial, value and validation of the best trials, the chosen one first.
    """
    states = {state: len(study.get_trials(deepcopy=False, states=(state,))) for state in TrialState}
    searched = sum(trial.user_attrs.get("requests", 0) for trial in study.get_trials(deepcopy=False))
    best = finalists[0]
    parts = [
        "# A search for the numbers of a policy",
        f"{states[TrialState.COMPLETE]} whole trials, {states[TrialState.PRUNED]} pruned, {states[TrialState.FAIL]} "
        f"broken off, {about['started'][:10]}, cace-env {about['versions']['cace-env']}. **Budget: {searched:,} "
        "simulated requests in training**, over all trials, pruned ones too; "
        f"{about['judging_requests']:,} more to choose among the finalists.",
        f"Trial {best['trial']} was chosen: pooled cost {best['validation']:.4f} of LRU's on "
        f"{about['finalist_seeds']} validation seeds. That number chose it, so it flatters it: "
        "`python -m experiments.compare` on test seeds says how good it is.",
        "```yaml\n" + about["best_config"].strip() + "\n```",
        "## The best trials",
    ]
    names = space.searched()
    rows = []
    params = {trial.number: trial.params for trial in study.get_trials(deepcopy=False)}
    for row in finalists:
        values = [_text(params[row["trial"]].get(name, "-")) for name in names]
        rows.append([str(row["trial"]), f"{row['value']:.4f}", f"{row['validation']:.4f}", *values])
    header = ("trial", "value in the search", "on all validation seeds", *(f"`{name}`" for name in names))
    parts += [table(header, rows), "![Value of every trial](history.png)"]
    if about["importances"]:
        parts += ["## What mattered", "![Importance of each parameter](importance.png)"]
    parts += ["## How to get these numbers again", f"```console\n{about['command']}\n```"]
    parts += ["`trials.csv` has every trial, `study.db` is Optuna's (SQLite), `search.yaml` what was searched."]
    return "\n\n".join(parts) + "\n"


def _text(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)
