"""The report of `experiments.shifted`: its page, the tables that `docs/agents.md` shows, and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib.pyplot as plt

from cace_env.evaluation.scores import interquartile_mean, relative_cost
from cace_env.files import save_figure
from cace_env.policies.agent import LEARNED
from cace_env.tables import Protocol
from experiments.reading.markdown import table
from experiments.reading.pooled_gains import costs_of, estimate_text
from experiments.reading.style import GROUP_COLOURS, STYLE
from experiments.reading.verdicts import enough, episodes_text, few_seeds, replicates
from experiments.reports.agents import card_text
from experiments.running.run_folder import BASELINE, Run

LOG: Final = "log"  # the regime of real requests
HOW_TO_READ: Final = """\
Cost as a share of LRU's on the same requests, sums over seeds: below 1 is better than LRU. In brackets the 95 %
interval of a paired bootstrap over seeds; **bold** where it leaves out 1, with fewer than 10 seeds nowhere. *Mean* and
*interquartile mean* are over the regimes (stratified bootstrap); a log is in neither, because the regimes change one
thing of the same fleet. Intervals of a log are over windows of it, in blocks. No regime is in suite v1, on which agents
are trained and tuned."""


def page(run: Run) -> str:
    """The report as Markdown."""
    about = run.about
    parts = [
        "# Policies on regimes that they were not made for",
        f"{len(run.scenarios)} regimes, {episodes_text(run)} each, {about['started'][:10]}, "
        f"cace-env {about['versions']['cace-env']}.",
        *([few_seeds(run)] if few_seeds(run) else []),
        HOW_TO_READ,
        *filter(None, (replicates(run, name) for name in run.scenarios if name in run.blocks)),
    ]
    if about["agents"]:
        parts.append("## Who was trained")
        parts += [f"**{name}**\n\n{card_text(row)}" for name, row in about["agents"].items()]
    for env in Protocol:
        scenarios = run.of_env(env)
        if scenarios:
            parts += [f"## {env.env_name}", share_table(run, scenarios), regime_table(run, scenarios)]
    parts += [
        "![Cost as a share of LRU's, by regime](shifted.png)",
        "## How to get these numbers again",
        f"```console\n{about['command']}\n```",
        "`rows.csv` has every metric of every episode, `scenarios/` each regime in full.",
    ]
    return "\n\n".join(parts) + "\n"


def share_table(run: Run, scenarios: Sequence[str]) -> str:
    """Policies by regimes: cost as a share of LRU's."""
    inner = [name for name in scenarios if not name.endswith(f"-{LOG}")]
    rows = []
    for policy in ranked(run, scenarios):
        mine, lru = ({s: costs_of(run, name, [s]) for s in scenarios} for name in (policy, BASELINE))
        cells = [_share_text(relative_cost(mine[s], lru[s], blocks=run.blocks)) for s in scenarios]
        whole, theirs = (costs_of(run, name, inner) for name in (policy, BASELINE))
        means = [relative_cost(whole, theirs), relative_cost(whole, theirs, aggregate=interquartile_mean)]
        cells = [*map(_share_text, means), *cells] if policy != BASELINE else ["1"] * (len(scenarios) + 2)
        sure = all(enough(run, name, policy) for name in scenarios)
        cells = cells if sure else [cell.replace("**", "") for cell in cells]
        rows.append([f"`{policy}`", run.group(policy).lower(), *cells])
    return table(("cost of LRU's", "kind", "mean", "interquartile mean", *map(short, scenarios)), rows, numbers="right")


def regime_table(run: Run, scenarios: Sequence[str]) -> str:
    """What each regime is."""
    rows = []
    for name in scenarios:
        about = run.about["scenarios"][name]
        cards: dict[str, int] = {}
        for accelerator in about["accelerators"]:
            kind = accelerator.rpartition("-")[0]
            cards[kind] = cards.get(kind, 0) + 1
        fleet = ", ".join(f"{count} x {kind}" for kind, count in cards.items())
        lru = {key: run.mean(name, BASELINE, key) for key in ("ttft_mean_s", "decisions")}
        said = about["question"] if not name.endswith(f"-{LOG}") else _about_log(about)
        rows.append(
            [short(name), said, fleet, about["engine"], str(len(about["models"])), f"{lru['ttft_mean_s']:.2f}",
             f"{lru['decisions']:.0f}"]
        )  # fmt: skip
    return table(("regime", "question", "fleet", "engine", "models", "LRU: mean TTFT [s]", "decisions"), rows)


def _about_log(about: Mapping[str, Any]) -> str:
    """What was attached to a log, and whom to name."""
    log = about["log"]
    named = f", {log['attribution']}" if log.get("attribution") else ""
    return f"real requests ({log['source']}): {about['label']}; licence {log['licence']}{named}"


def ranked(run: Run, scenarios: Sequence[str]) -> list[str]:
    """Policies that ran on all of some scenarios, by mean cost."""
    ran = run.everywhere(scenarios)
    lru = costs_of(run, BASELINE, scenarios)
    return sorted(ran, key=lambda policy: relative_cost(costs_of(run, policy, scenarios), lru, blocks=run.blocks).value)


def short(name: str) -> str:
    """A regime without its environment."""
    return name.removeprefix("eviction-").removeprefix("swap-")


def draw(run: Run, path: Path) -> None:
    """A panel per environment: a point per policy and regime."""
    envs = list(dict.fromkeys(run.env(name) for name in run.scenarios))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(envs), figsize=(6.5 * len(envs), 5.5), layout="constrained", squeeze=False)
        for axes, env in zip(panels[0], envs, strict=True):
            scenarios = run.of_env(env)
            _draw_env(run, scenarios, axes)
            axes.set_title(env.env_name)
        save_figure(figure, path, dpi=120)
        plt.close(figure)


def _draw_env(run: Run, scenarios: Sequence[str], axes: Any) -> None:
    policies = [policy for policy in ranked(run, scenarios) if policy != BASELINE]
    palette = [plt.get_cmap("tab10")(at) for at in range(10)]
    rules = [policy for policy in policies if run.group(policy) != LEARNED]
    colours = {policy: palette[at % len(palette)] for at, policy in enumerate(rules)}
    axes.axvline(1, color="black", linewidth=0.8)
    for at, policy in enumerate(policies):
        shift = 0.7 * ((at + 0.5) / len(policies) - 0.5)
        for y, scenario in enumerate(scenarios):
            mine, lru = (costs_of(run, name, [scenario]) for name in (policy, BASELINE))
            share = relative_cost(mine, lru, blocks=run.blocks)
            colour, marker = colours.get(policy, GROUP_COLOURS[LEARNED]), "o" if policy in colours else "*"
            axes.plot([share.low, share.high], [y + shift] * 2, color=colour, linewidth=1.3)
            label = policy if y == 0 else None
            axes.plot(share.value, y + shift, marker, color=colour, markersize=4 if marker == "o" else 8, label=label)
    axes.set_yticks(range(len(scenarios)), [short(name) for name in scenarios])
    axes.set_ylim(len(scenarios) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("cost as a share of LRU's, 95 % interval; left of 1 is better")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False, fontsize=7)


def _share_text(share: Any) -> str:
    """A share; bold where its interval leaves out 1."""
    text = estimate_text(share)
    return f"**{text}**" if share.high < 1 or share.low > 1 else text
