"""Policies on fleets that they were not made for: one table, policies by regimes, cost as a share of LRU's.

    python -m experiments.shifted                                       rules of each kind, both environments
    python -m experiments.shifted --agent NAME_OR_FOLDER --policies cace,cace:tuned.yaml
    python -m experiments.shifted --trace requests.csv --format azure --trace-option users=200

The regimes are the entries of suite `shifted-v1`: other pressure, engine, size and generation of the fleet, strong
drift, and several at once; a log of real requests is one more. Nothing is trained, tuned or chosen on them.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import matplotlib
import tyro
from pydantic import Field
from rich.console import Console

from cace_env.agent import LEARNED
from cace_env.config import Frozen
from cace_env.contestants import Contestant, contestant_of
from cace_env.evaluation import seed_list
from cace_env.markdown import table
from cace_env.scenarios import Split, load_scenario, seeds
from cace_env.scores import interquartile_mean, relative_cost
from experiments.cases import PreparedCase
from experiments.command_line import exit_status, split_names
from experiments.compare import Comparison, trace_section
from experiments.lineup import ENV_OF, EVICTION, SWAP, able, about_agents, agent_names, contestants_of
from experiments.plots import GROUP_COLOURS, STYLE
from experiments.pooled import costs_of, estimate_text
from experiments.report_agents import card_text
from experiments.run_folder import BASELINE, Run, check_new
from experiments.studies import PROTOCOLS, Chosen, chosen, prepared, run_cases
from experiments.verdicts import FEW_SEEDS, few_seeds

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SUITE: Final = "shifted-v1"
LOG: Final = "log"  # the regime of real requests
DEFAULT_SEEDS: Final = 100
# By default: what is compared with in every environment; rules without an order load by `fifo` in Swap-v0.
POLICIES: Final = {
    EVICTION: ("cace", "gdsf", "omlx", "belady-cost"),
    SWAP: ("cace", "wsjf+cace", "patient-wsjf+gdsf", "very-patient-wsjf+cace", "very-patient-wsjf+belady-cost"),
}
HOW_TO_READ: Final = """\
Cost as a share of LRU's on the same requests, sums over seeds: below 1 is better than LRU. In brackets the 95 %
interval of a paired bootstrap over seeds; **bold** where it leaves out 1, with fewer than 10 seeds nowhere. *Mean* and
*interquartile mean* are over the regimes (stratified bootstrap); a log is in neither, because its seeds differ in
nothing but what is attached to it. No regime is in suite v1, on which agents are trained and tuned."""


class Options(Frozen):
    """Who is judged, and on what."""

    agent: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME|FOLDER")]] = Field(
        default=(), description="a trained agent, shipped or in a folder; may be given several times"
    )
    policies: Annotated[tuple[str, ...], tyro.conf.arg(metavar="A,B", help_behavior_hint="")] = Field(
        default=(), description="built-in policies; some of each kind by default, lru always"
    )
    policy: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODULE:OBJECT")]] = Field(
        default=(), description="a Python policy besides; may be given several times"
    )
    env: Annotated[Literal["eviction", "swap", "both"], tyro.conf.arg(metavar="eviction|swap|both")] = Field(
        default="both", description="Eviction-v0, Swap-v0 or both"
    )
    suite: Annotated[str, tyro.conf.arg(metavar="VERSION")] = Field(
        default=SUITE, description="the regimes: a suite that ships, its entries, or scenarios"
    )
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = Field(default=DEFAULT_SEEDS, description="episodes of each")
    split: Split = Field(default="test", description="where the seeds come from")
    trace: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = Field(
        default=None, description="a log of real requests: one more regime, see docs/traces.md"
    )
    format: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = Field(
        default=None, description="its format"
    )
    trace_option: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")]] = Field(
        default=(), description="how the log is read and what is attached to it; may be given several times"
    )
    trace_fleet: Annotated[str, tyro.conf.arg(metavar="SCENARIO")] = Field(
        default="default", description="whose fleet and models serve the log"
    )
    out: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = Field(
        default=None, description="run folder, new or empty; runs/<time>-shifted by default"
    )
    workers: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = Field(
        default=None, description="threads; as many as there are cores by default"
    )


def judge(options: Options, command: str, console: Console) -> int:
    """Runs every policy on every regime and writes the report; returns the exit status.

    Raises:
        ConfigError, TraceError: options or a log that cannot be used; nothing has been written.
        PolicyError, SimulationError: an episode failed.
    """
    path = Path(options.out or f"runs/{datetime.now():%Y%m%d-%H%M%S}-shifted")
    check_new(path)
    protocols = PROTOCOLS[options.env]
    numbers = seed_list(seeds(options.split, options.seeds))
    log = trace_section(Comparison(trace=options.trace, format=options.format, trace_option=options.trace_option))
    named = [*split_names(options.policies), *agent_names(options.agent)]
    cases: list[PreparedCase] = []
    regimes: list[Chosen] = []
    with console.status("preparing: scenarios, requests, compiled code"):
        for protocol in protocols:
            contestants = contestants_of_regime(options, named, protocols, protocol)
            here = chosen([options.suite], [protocol])
            regimes += here
            cases += prepared(here, contestants, numbers)
            if log is not None:
                served = Chosen(f"{protocol}-{LOG}", load_scenario(options.trace_fleet), protocol)
                regimes.append(served)
                cases += prepared([served], contestants, numbers, log)
    run = run_cases(
        path,
        regimes,
        cases,
        options,
        title="shifted",
        split=options.split,
        command=command,
        workers=options.workers or os.cpu_count() or 1,
        console=console,
        agents=about_agents({c.name: c for case in cases for c in case.contestants}.values(), numbers),
    )
    if run is None:
        return 130
    draw(run, path / "shifted.png")
    report = path / "report.md"
    report.write_text(page(run), "utf-8")
    console.print(f"Report: [bold]{report}[/bold]", highlight=False)
    return 0


def contestants_of_regime(
    options: Options, named: Sequence[str], protocols: Sequence[str], protocol: str
) -> list[Contestant]:
    """Who takes part in an environment: LRU, those that were named and can answer there, or some of each kind."""
    everybody = contestants_of([*named], options.policy, protocols) if named or options.policy else []
    own = [one for one in able(everybody, protocol) if one.swaps]
    rules = [] if options.policies else [contestant_of(name) for name in POLICIES[protocol]]
    both = [contestant_of(BASELINE), *own, *rules]
    return list({contestant.name: contestant for contestant in both}.values())


def page(run: Run) -> str:
    """The report as Markdown."""
    about = run.about
    counts = sorted({len(run.columns[scenario, BASELINE]["seed"]) for scenario in run.scenarios})
    seeds_said = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    parts = [
        "# Policies on regimes that they were not made for",
        f"{len(run.scenarios)} regimes, {seeds_said} {about['split']} seeds each, {about['started'][:10]}, "
        f"cace-env {about['versions']['cace-env']}.",
        *([few_seeds(run)] if few_seeds(run) else []),
        HOW_TO_READ,
    ]
    if about["agents"]:
        parts.append("## Who was trained")
        parts += [f"**{name}**\n\n{card_text(row)}" for name, row in about["agents"].items()]
    for env in ENV_OF.values():
        scenarios = [name for name in run.scenarios if about["scenarios"][name]["env"] == env]
        if scenarios:
            parts += [f"## {env}", share_table(run, scenarios), regime_table(run, scenarios)]
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
        cells = [_share_text(relative_cost(mine[s], lru[s])) for s in scenarios]
        whole, theirs = (costs_of(run, name, inner) for name in (policy, BASELINE))
        means = [relative_cost(whole, theirs), relative_cost(whole, theirs, aggregate=interquartile_mean)]
        least = min(len(run.columns[name, policy]["seed"]) for name in scenarios)
        cells = [*map(_share_text, means), *cells] if policy != BASELINE else ["1"] * (len(scenarios) + 2)
        cells = cells if least >= FEW_SEEDS else [cell.replace("**", "") for cell in cells]
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
    ran = [p for p in run.policies(scenarios[0]) if all(p in run.policies(s) for s in scenarios)]
    lru = costs_of(run, BASELINE, scenarios)
    return sorted(ran, key=lambda policy: relative_cost(costs_of(run, policy, scenarios), lru).value)


def short(name: str) -> str:
    """A regime without its environment."""
    return name.removeprefix("eviction-").removeprefix("swap-")


def draw(run: Run, path: Path) -> None:
    """A panel per environment: a point per policy and regime."""
    envs = list(dict.fromkeys(run.about["scenarios"][name]["env"] for name in run.scenarios))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(envs), figsize=(6.5 * len(envs), 5.5), layout="constrained", squeeze=False)
        for axes, env in zip(panels[0], envs, strict=True):
            scenarios = [name for name in run.scenarios if run.about["scenarios"][name]["env"] == env]
            _draw_env(run, scenarios, axes)
            axes.set_title(env)
        figure.savefig(path, dpi=120)
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
            share = relative_cost(costs_of(run, policy, [scenario]), costs_of(run, BASELINE, [scenario]))
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    sys.path.insert(0, os.getcwd())  # where --policy module:object is looked for first
    options: Options = tyro.cli(
        Options,
        args=arguments,
        prog="python -m experiments.shifted",
        description=__doc__,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands),
    )
    return exit_status(lambda: judge(options, shlex.join(["python", "-m", "experiments.shifted", *arguments]), console))


if __name__ == "__main__":
    sys.exit(main())
