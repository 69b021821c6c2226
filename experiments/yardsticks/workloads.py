"""What a workload looks like, as tables and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from cace_env.files import save_figure
from cace_env.tables import TASKS
from cace_env.workload import Workload
from experiments.reading.markdown import number, table
from experiments.yardsticks.workload_statistics import LEVELS, Check, drift, gap_cv, same_as_before, session_gaps_s


def check_table(checks: Iterable[Check]) -> str:
    """Target and generated figures with their errors."""
    rows = []
    for check in checks:
        limit = "reported"
        if check.tolerance is not None:
            limit = f"{'within' if check.holds else 'OUTSIDE'} {check.tolerance:.0%}"
        rows.append([check.what, number(check.target), number(check.value), f"{check.error:+.0%}", limit, check.source])
    return table(["figure", "published", "generated", "error", "tolerance", "source"], rows)


def describe(workload: Workload, names: Sequence[str]) -> str:
    """Tables of a workload: tasks with tokens and gaps, models, users; Markdown."""
    hours = workload.arrival_us[-1] / 3.6e9
    differ, repeat = 1 - same_as_before(workload.model), same_as_before(workload.model, workload.user)
    users, sessions = len(np.unique(workload.user)), len(np.unique(workload.session))
    parts = [
        f"{len(workload):,} requests ({workload.label}) in {hours:.2f} nominal hours: {users} users, "
        f"{sessions} sessions, gap CV {gap_cv(workload.arrival_us):.2f}; consecutive requests differ in model "
        f"{differ:.1%}, the same user repeats his {repeat:.1%}, drift between halves {drift(workload, len(names)):.2f}."
    ]
    rows = []
    for index, task in enumerate(TASKS):
        of_task = workload.task == index
        if not of_task.any():
            continue
        gaps = session_gaps_s(workload, index)
        quantiles = [
            " / ".join(f"{value:,.0f}" for value in np.quantile(values[of_task], LEVELS))
            for values in (workload.context_tokens, workload.new_tokens, workload.output_tokens)
        ]
        within = " / ".join(f"{value:,.1f}" for value in np.quantile(gaps, LEVELS)) if len(gaps) else "-"
        count = len(np.unique(workload.session[of_task]))
        share, cv = f"{of_task.mean():.1%}", f"{gap_cv(workload.arrival_us[of_task]):.2f}"
        rows.append(
            [task, share, f"{of_task.sum() / hours:,.0f}", cv, f"{of_task.sum() / count:.1f}", within, *quantiles]
        )
    header = ["task", "share", "per hour", "gap CV", "requests per session", "gap in session [s]"]
    parts.append("Quantiles are p10 / p50 / p90 / p99.")
    parts.append(table([*header, "context [tokens]", "new [tokens]", "output [tokens]"], rows))
    rows = []
    counts = np.bincount(workload.model, minlength=len(names))
    for model in np.argsort(-counts, kind="stable"):
        of_model = workload.model == model
        tasks = ", ".join(task for index, task in enumerate(TASKS) if (workload.task[of_model] == index).any())
        first = f"{workload.arrival_us[of_model][0] / 6e7:.1f}" if of_model.any() else "-"
        rows.append(
            [names[model], f"{of_model.mean():.2%}", str(len(np.unique(workload.user[of_model]))), first, tasks]
        )
    parts.append(table(["model", "share", "users", "first request [min]", "asked for"], rows))
    return "\n\n".join(parts)


def plot(workload: Workload, names: Sequence[str], path: Path) -> None:
    """Requests over time by task, by model, and the distributions of tokens, as one picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ((rate, popularity), (timeline, tokens)) = plt.subplots(2, 2, figsize=(14, 8), layout="constrained")
    minutes = workload.arrival_us / 6e7
    rate.hist([minutes[workload.task == task] for task in range(len(TASKS))], bins=60, stacked=True, label=TASKS)
    rate.set(xlabel="nominal time [min]", ylabel="requests", title="Requests by task")
    rate.legend()
    counts = np.bincount(workload.model, minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    popularity.bar([names[model] for model in order], counts[order] / len(workload))
    popularity.tick_params(axis="x", rotation=75, labelsize=7)
    popularity.set(ylabel="share of requests", title="Popularity")
    timeline.scatter(minutes, np.argsort(order)[workload.model], s=1, c=[f"C{task}" for task in workload.task])
    timeline.set_yticks(range(len(names)), [names[model] for model in order], fontsize=7)
    timeline.set(xlabel="nominal time [min]", title="Which model when")
    for task, name in enumerate(TASKS):
        for column, style in ((workload.context_tokens, "-"), (workload.output_tokens, ":")):
            values = np.sort(column[workload.task == task])
            tokens.plot(
                values, np.linspace(0, 1, len(values)), style, color=f"C{task}", label=name if style == "-" else None
            )
    tokens.set(xscale="log", xlabel="tokens (context solid, output dotted)", ylabel="share of requests", title="Tokens")
    tokens.legend()
    save_figure(figure, path, dpi=110)
    plt.close(figure)
