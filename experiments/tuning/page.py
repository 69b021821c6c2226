"""The report of a search, written from its folder: what was found, what it cost to find, and what mattered."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import optuna
import optuna.visualization.matplotlib as plots
from optuna.trial import TrialState

from cace_env.files import save_figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from experiments.reading.markdown import number, table
from experiments.tuning.search_space import Space

LEAST: Final = 10  # whole trials for importances


def draw(study: optuna.Study, space: Space, folder: Path) -> bool:
    """The value of every trial (`history.png`), and with enough of them what mattered (`importance.png`).

    What mattered is how much each parameter decides whether a trial is among the better ones: PED-ANOVA (Watanabe,
    Bansal and Hutter, IJCAI 2023), as Optuna computes it.

    Returns:
        Whether there were enough trials to say what mattered.
    """
    whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    varied = [name for name in space.searched() if len({str(trial.params.get(name)) for trial in whole}) > 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        _save(plots.plot_optimization_history(study, target_name="pooled cost, of LRU's"), folder / "history.png")
        if len(whole) < LEAST or len(varied) < 2:
            return False
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        _save(plots.plot_param_importances(study, evaluator=evaluator, params=varied), folder / "importance.png")
    return True


def _save(axes: Any, path: Path) -> None:
    save_figure(axes.figure, path, dpi=120, bbox_inches="tight")
    plt.close(axes.figure)


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
