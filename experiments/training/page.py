"""The report of a training, from its run folder alone: how good the agent became, and by when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cace_env.evaluation.tracking import Row
from cace_env.policies.agent import LEARNED
from cace_env.tables import Protocol
from experiments.reading.style import GROUP_COLOURS
from experiments.reports.page import INK, MUTED, Cell, Figure, Page, Section, Table, plot, write_page
from experiments.training.folder import TrainingFolder, read_metrics
from experiments.training.tracking import COST, VALIDATION

MEAN: Final = "mean of all cases"
NO_CURVES: Final = ("global_step", "is_best", "interval")
HOW_TO_READ: Final = """\
- **Cost saved against LRU**: `100 x (LRU's cost - the agent's) / LRU's cost` on the validation seeds, sums over seeds;
  above 0 the agent is better. The mean counts every case alike.
- The **best agent** is the one with the least mean cost so far. It was chosen by these very numbers, so they flatter
  it: what it is worth is said by a comparison on test seeds, which nothing was chosen by.
- **Requests** are those simulated in training, evaluations left out: what a comparison of budgets counts."""


def write_training_report(folder: Path) -> Path:
    """Writes report.html in the folder of a training; returns its path.

    Raises:
        ConfigError: the folder holds no training.
    """
    return write_page(training_page(TrainingFolder(folder)), folder / "report.html")


def training_page(folder: TrainingFolder) -> Page:
    """The report; of a training that has evaluated nothing, it says so."""
    about, rows = folder.about, read_metrics(folder.path)
    title = f"Training by the algorithm {about['algorithm']}"
    steps = f"{about['steps']:,} {about.get('step_unit', 'steps')}"
    cases, started = about.get("cases", []), about.get("started", "")[:10]
    subtitle = f"{steps}, {len(cases)} case{'s' if len(cases) != 1 else ''}, {started}, cace-env {_version(about)}"
    if not rows:
        return Page(title, "Nothing was evaluated yet, so there is nothing to report.", _state(about, rows),
                    [_again(folder)], subtitle)  # fmt: skip
    best = min(rows, key=lambda row: row[COST])
    sections = [
        Section("Learning curves", tables=[_cases(about, rows, best)], figures=_curves(about, rows, best)),
        Section("Every number", tables=[_numbers(rows)], figures=_other_curves(rows)),
        Section("How to read it", [HOW_TO_READ]),
        _again(folder),
    ]
    return Page(title, _headline(about, best), [*_state(about, rows), *_weak(about, best)], sections, subtitle)


def _version(about: dict[str, Any]) -> str:
    return str(about.get("versions", {}).get("cace-env", "of unknown version"))


def _headline(about: dict[str, Any], best: Row) -> str:
    mine, cace = best[COST], about["cace_vs_lru"]
    first, last = about["validation_seeds"]
    word = "less" if mine <= 1 else "more"
    beside = "less" if mine <= cace else "more"
    return (
        f"**The best agent (step {best['global_step']:,}) costs {abs(100 * (1 - mine)):.1f} % {word} than LRU** and "
        f"{abs(100 * (1 - mine / cace)):.1f} % {beside} than CACE, on the {last - first + 1} validation seeds that "
        "chose it, so there is no interval."
    )


def _state(about: dict[str, Any], rows: Sequence[Row]) -> list[str]:
    """That it has not finished."""
    status = about.get("status", "running")
    if status == "finished":
        return []
    step = rows[-1]["global_step"] if rows else 0
    state = "is running, or was killed" if status == "running" else f"was {status}"
    return [f"**This training {state}**: it got to step {step:,} of {about['steps']:,}. `--resume` goes on with it."]


def _weak(about: dict[str, Any], best: Row) -> list[str]:
    """That what was learned is worth little."""
    if best[COST] >= 1:
        return ["**No agent of this training is cheaper than LRU** on the validation seeds."]
    if best[COST] >= about["cace_vs_lru"]:
        return ["**No agent of this training is cheaper than CACE** on the validation seeds."]
    return []


def _saved(share: float) -> float:
    """Cost saved against LRU [%], of a share of its cost."""
    return 100 * (1 - share)


def _curves(about: dict[str, Any], rows: Sequence[Row], best: Row) -> list[Figure]:
    """Cost saved against LRU by step, of all cases together and of each."""
    shares = {MEAN: (COST, about["cace_vs_lru"])}
    cace = about.get("cace_by_case", {})
    shares |= {case: (f"{VALIDATION}{case}", cace.get(case)) for case in about["cases"]}
    figures = {
        case: _curve(rows, best, column, share) for case, (column, share) in shares.items() if column in rows[-1]
    }
    caption = "Validation seeds, evaluated after every interval; the star is the agent that was kept as the best."
    return [Figure("Cost saved against LRU", figures, caption, by=("case",))]


def _curve(rows: Sequence[Row], best: Row, column: str, cace: float | None) -> dict[str, Any]:
    there = [row for row in rows if column in row]
    steps = [row["global_step"] for row in there]
    hover = "step %{x:,}: saves %{y:.2f} %<br>%{customdata:,} requests simulated<extra></extra>"
    line = {
        "type": "scatter", "mode": "lines+markers", "name": "agent", "x": steps, "marker": {"size": 5},
        "y": [_saved(row[column]) for row in there], "customdata": [row.get("requests", 0) for row in there],
        "line": {"color": GROUP_COLOURS[LEARNED], "width": 2.4}, "hovertemplate": hover,
    }  # fmt: skip
    star = {
        "type": "scatter", "mode": "markers", "name": "best agent", "x": [best["global_step"]],
        "y": [_saved(best[column])], "customdata": [best.get("requests", 0)], "hovertemplate": hover,
        "marker": {"symbol": "star", "size": 15, "color": GROUP_COLOURS[LEARNED]},
    }  # fmt: skip
    ends, data = [steps[0], steps[-1]], [line, star]
    if cace is not None:
        data.append({
            "type": "scatter", "mode": "lines", "name": "CACE", "x": ends, "y": [_saved(cace)] * 2,
            "line": {"color": GROUP_COLOURS["CACE"], "width": 2},
            "hovertemplate": "CACE saves %{y:.2f} %<extra></extra>",
        })  # fmt: skip
    data.append({
        "type": "scatter", "mode": "lines", "name": "LRU", "x": ends, "y": [0, 0], "hoverinfo": "skip",
        "line": {"color": INK, "width": 1.4, "dash": "dash"},
    })  # fmt: skip
    return plot(data, "step", "cost saved against LRU [%]", height=420, yaxis={"zeroline": False})


def _other_curves(rows: Sequence[Row]) -> list[Figure]:
    """What the trainer said of itself, one number at a time."""
    every = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in every if name not in NO_CURVES and not name.startswith(VALIDATION)]
    figures = {}
    for name in names:
        there = [row for row in rows if name in row]
        line = {
            "type": "scatter", "mode": "lines+markers", "x": [row["global_step"] for row in there],
            "y": [row[name] for row in there], "line": {"color": MUTED}, "showlegend": False,
        }  # fmt: skip
        figures[name] = plot([line], "step", name, height=320)
    return [Figure("What the training said of itself", figures, by=("number",))] if figures else []


def _cases(about: dict[str, Any], rows: Sequence[Row], best: Row) -> Table:
    """What CACE, the last and the best agent save on each case."""
    cace = about.get("cace_by_case", {})
    lines: list[list[Cell]] = []
    for case in about["cases"]:
        column, theirs = f"{VALIDATION}{case}", cace.get(case)
        mine = [_saved(row[column]) if column in row else None for row in (rows[-1], best)]
        lines.append([case, None if theirs is None else _saved(theirs), *mine])
    lines.append([MEAN, _saved(about["cace_vs_lru"]), _saved(rows[-1][COST]), _saved(best[COST])])
    header = ("case", "CACE [%]", "last agent [%]", "best agent [%]")
    return Table("Cost saved against LRU, case by case", header, lines)


def _numbers(rows: Sequence[Row]) -> Table:
    """metrics.csv."""
    header = list(dict.fromkeys(name for row in rows for name in row))
    return Table("Every evaluation", header, [[row.get(name) for name in header] for row in rows], folded=True)


def _again(folder: TrainingFolder) -> Section:
    """Commands, versions, what comes next."""
    about = folder.about
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    env = folder.config().get("env", Protocol.EVICTION)
    commands = [*about.get("commands", [])]
    compare = f"python -m experiments.compare --env {env} --policies lru,cace,agent:{folder.path / 'best'} --seeds 100"
    texts = ["What it is worth on seeds that nothing was chosen by:", f"```\n{compare}\n```"]
    texts += ["It was trained by:", "```\n" + "\n".join(commands) + "\n```"] if commands else []
    texts += [f"{versions}; {about.get('platform', '')}; {about.get('wall_s', 0):,.0f} s."] if versions else []
    texts += ["`config.yaml` has every option as resolved, `metrics.csv` every number above."]
    return Section("What comes next, and how it came about", texts)
