"""What a workload looks like, as tables and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

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
    figure.savefig(path, dpi=110)
    plt.close(figure)


PAGE = """# Generated workloads against published figures

Written by `python -m experiments.characterize --write docs/workloads.md`: change that, not this page.

`cace_env.generator` makes the requests of a company of developers. Every key of `WorkloadConfig` states its unit, its
range and where its default comes from; what has no public figure is labelled assumed, above all the shares of tasks,
roles and languages, the day's start and the size of company-wide bursts.

## How

- **Tracks.** Every user has one track for completions (one in flight) and one or more for chat, reasoning and agents,
  so many that none would be busy more than 60 % of the time. A track alternates between sessions and breaks. A break
  ends by a hazard that follows the day curve and bursts that the whole company shares. Users differ in activity
  (log-normal) and role.
- **Marginals.** A published distribution is its four quantiles: the logarithm is piecewise linear in the normal score
  of the level (pieces of log-normals), with the slopes of the outer pieces kept outside up to the 99.95 % quantile.
- **Prompts.** Chat and reasoning: the prompts of a session are sorted draws of the published distribution, so they
  grow and the marginal of all turns stays exact. Agents: a first context, then tokens added step by step, until a
  compaction. Completions: a fresh prompt where the cursor lands; while it stays (80 %), the part before the cursor is
  kept.
- **Gaps** run from arrival to arrival. The think time of a closed-loop request is the gap less the nominal service of
  the request before (rough speed of its model, alone, prefix cached), at least 0.1 s: on a fleet without contention
  the published gaps come out again, on a slow fleet people wait and then think as long as they would have.
- **Models.** Shares by rank follow rank^-0.87 exp(-rank / 12): the Zipf slope of Chutes with a cut-off fitted to the
  shares of GenTD26's most popular models (0.03 off at most). Ranks are drawn per seed where the scenario gives no hint.
  Iterative proportional fitting brings them together with the shares of tasks and languages and with what each model
  serves (where one model has to serve a whole task, the task wins). Popularity drifts linearly over the episode. New
  models (drawn by popularity; assumed) are deployed in its middle half. A new session keeps its user's model for that
  task and language with a chance of 72 %.
- **At time 0** tracks are met in their steady state: in the middle of sessions and gaps, long ones more often.
- **Seeds.** Every part draws from its own stream (`cace_env.generator.streams.STREAMS`): changing chat leaves the
  tokens, gaps and models of completions as they were.

## Against the published figures

Models: the whole catalogue at H100 speed, with room for any prompt (a real fleet cuts contexts to what its models
take). "Reported" figures are not fitted and not tested.

{checks}

What falls short, and why:

- The gap CV of 13 of the Azure code service is that of a service whose clients stop and start together, at 2.6
  requests a second. Independent people who wait for their answers cannot do that: bursts move the ends of breaks, not
  what happens within a session. `bursts.spread` raises the CV as far as the table shows. Traces (`cace_env.traces`)
  keep it.
- The gap CV by model of 4 (GenTD26, weeks) is not reached within an hour's episode of 2,000 requests.
- Whole-list slopes and top-k shares cannot both be right for one law: Chutes' -0.87 is the slope over all of a list
  of 53, GenTD26's ten most popular models fall faster. The law keeps the exponent and cuts off the tail.
- The gaps of agents are longer than published where the model is slow: on one that needs 45 ms per token, many steps
  take longer than the published gap from step to step.
- Drift reaches 0.08 of the 0.10 asked for: users who stick to their models follow late.
- The 99 % quantile of tokens that an agent adds is higher than asked, because a compacted context is new; its
  contexts depend on quantiles adjusted to match (`agent.first_tokens`, `agent.compact_tokens`).
- The 0.48 % of model switches within an agent's session are here all changes of one agent's model; in the sessions of
  the public file most of them are alternations between an agent and its sub-agents, which come on top.

## The requests of the scenario `default`

Seed 0 (`python -m experiments.characterize --workload default`):

{default}
"""
