"""The report of an ablation: what each part is worth, or what other weights of the cost change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np

from cace_env.files import save_figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from cace_env.evaluation import Gain, paired_gain
from cace_env.evaluation.scores import Blocks
from cace_env.policies.built_in import CLAIRVOYANT
from experiments.reading.markdown import percent, table
from experiments.reading.pooled_gains import costs_of, estimate_text, pooled
from experiments.reading.reweighed import AS_STATED, Weighing, judged
from experiments.reading.style import STYLE
from experiments.reading.verdicts import enough, episodes_text, few_seeds, saved
from experiments.running.run_folder import BASELINE, Run

HOW_TO_READ: Final = """\
- **Cost of LRU's**: the policy's cost over LRU's, sums over seeds, mean over the scenarios, so that each counts alike
  whatever its costs are; below 1 is better than LRU. **Interquartile mean**: the same without the lowest and the
  highest quarter of the scenarios (with fewer than four it is the mean).
- **Full saves**: by how much the full policy's cost is below the variant's, of the mean over scenarios. Above 0: what
  was left out is worth that much. **Bold**: the interval leaves out 0.
- **Full is cheaper**: on how large a share of the seeds the full policy costs less on the same requests (ties count
  half), mean over scenarios: 0.5 is no difference. The probability of improvement of Agarwal et al. (NeurIPS 2021), for
  policies that met the same requests.
- In brackets 95 % intervals: within each scenario seeds are drawn again 10,000 times, the same for both policies
  (stratified, paired bootstrap). They say how much a number depends on the requests that were drawn. The scenarios are
  given."""

WEIGHTS: Final = """\
The weights of the cost are assumptions. Below the same episodes are judged by others: cost saved against LRU, of the
mean over scenarios, with 95 % intervals. {acted} Named is the cheapest of those that do not know the future, LRU
among them."""
ACTED_BEFORE: Final = (
    "Every policy acted by the weights that the scenarios state, whatever it is judged by (some read them: CACE's "
    "latency term, the order WSJF)."
)
ACTED_TOLD: Final = "Every policy was told the weights that it is judged by, and ran again under them."


def variants_page(run: Run, full: str, variants: Mapping[str, str], title: str, about: str) -> str:
    """The report of leave-one-out and one-in.

    Args:
        run: the finished run.
        full: name of the policy from which something is left out.
        variants: what is said of each variant -> its name in the run.
        title: of the page.
        about: what was left out, and how.
    """
    parts = [f"# {title}", _what_ran(run), about]
    parts += [few_seeds(run)] if few_seeds(run) else []
    rows = {"*the full policy*": full, **variants, "*lru*": BASELINE}
    lines = []
    for said, name in rows.items():
        numbers = _against(run, full, name)
        cells = [estimate_text(numbers.cost), estimate_text(numbers.typical)]
        cells += ["", ""] if name == full else [_percent(run, numbers.gain), estimate_text(numbers.chance, 2)]
        lines.append([said, *cells])
    header = ("", "cost of LRU's", "interquartile mean", "full saves", "full is cheaper")
    parts += ["## Over all scenarios", table(header, lines, numbers="right"), "![What each part is worth](parts.png)"]
    parts += ["## Scenario by scenario", "What the full policy saves against each variant."]
    lines = [[said, *(saved(run, s, full, over=name) for s in run.scenarios)] for said, name in variants.items()]
    parts += [table(("", *run.scenarios), lines, numbers="right"), "## How to read it", HOW_TO_READ, _again(run)]
    return "\n\n".join(parts) + "\n"


def weighings_page(
    title: str, run: Run, weighings: Sequence[Weighing], costs: Mapping[str, Mapping[str, Any]], *, told: bool
) -> str:
    """The report of other weights.

    Args:
        title: of the page.
        run: the run that the costs are from.
        weighings: ways to judge, in the order of the rows.
        costs: by weighing, then by policy, then by scenario: `(seeds,)`.
        told: whether the policies knew the weights.
    """
    policies = [name for name in costs[AS_STATED] if name != BASELINE]
    count = len(costs[AS_STATED][BASELINE])
    parts = [f"# {title}", _what_ran(run, count), WEIGHTS.format(acted=ACTED_TOLD if told else ACTED_BEFORE)]
    parts += [few_seeds(run)] if few_seeds(run) else []
    lines = []
    for weighing in weighings:
        by_policy = costs[weighing.name]
        lru = by_policy[BASELINE]
        gains = {name: pooled(by_policy[name], lru, lru, run.blocks).gain for name in policies}
        saves = {name: gain.percent for name, gain in gains.items() if run.group(name) != CLAIRVOYANT}
        known = {BASELINE: 0.0} | {name: value for name, value in saves.items() if np.isfinite(value)}
        best = max(known, key=lambda name: known[name])
        lines.append([weighing.name, *(_percent(run, gain) for gain in gains.values()), f"`{best}`"])
    header = ("weights", *(f"`{name}`" for name in policies), "cheapest")
    parts += [table(header, lines, numbers="right"), "![Cost saved under other weights](weights.png)"]
    parts += ["## Scenario by scenario"]
    for scenario in next(iter(costs[AS_STATED].values())):
        lines = []
        for weighing in weighings:
            by_policy = costs[weighing.name]
            lru = by_policy[BASELINE][scenario]
            gains_of = [paired_gain(lru, by_policy[n][scenario], block=run.blocks.get(scenario)) for n in policies]
            lines.append([weighing.name, *(_percent(run, gain) for gain in gains_of)])
        parts += [f"### {scenario}", table(("weights", *(f"`{name}`" for name in policies)), lines, numbers="right")]
    return "\n\n".join([*parts, _again(run)]) + "\n"


def judged_costs(run: Run, weighings: Sequence[Weighing]) -> dict[str, dict[str, dict[str, Any]]]:
    """Costs of the policies that ran on every scenario: by weighing, policy and scenario.

    Raises:
        ConfigError: the run has no numbers by task.
    """
    return {
        weighing.name: {
            name: {s: judged(run.columns[s, name], weighing.by_scenario[s]) for s in run.scenarios}
            for name in run.everywhere(run.scenarios)
        }
        for weighing in weighings
    }


def draw_variants(run: Run, full: str, variants: Mapping[str, str], path: Path) -> None:
    """What the full policy saves against each variant, over all scenarios."""
    draw_gains({said: _against(run, full, name).gain for said, name in variants.items()}, path, "the full policy saves")


def draw_gains(gains: Mapping[str, Gain], path: Path, what: str) -> None:
    """Gains with their intervals, the first on top."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 1.1 + 0.26 * len(gains)), layout="constrained")
        axes.axvline(0, color="black", linewidth=0.8)
        for y, gain in enumerate(gains.values()):
            sure = gain.low > 0 or gain.high < 0
            axes.plot([gain.low, gain.high], [y, y], color="#D55E00", linewidth=1.6)
            axes.plot(gain.percent, y, "o", color="#D55E00", markerfacecolor="#D55E00" if sure else "white")
        axes.set_yticks(range(len(gains)), list(gains))
        axes.set_ylim(len(gains) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
        axes.set_xlabel(f"{what} [%], over all scenarios; hollow: the 95 % interval holds 0")
        save_figure(figure, path, dpi=120)
        plt.close(figure)


def draw_weighings(
    weighings: Sequence[Weighing], costs: Mapping[str, Mapping[str, Any]], path: Path, blocks: Blocks
) -> None:
    """Cost saved against LRU of every policy, by the weights it is judged by."""
    policies = [name for name in costs[AS_STATED] if name != BASELINE]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 1.4 + 0.35 * len(weighings)), layout="constrained")
        axes.axvline(0, color="black", linewidth=0.8)
        colours = plt.get_cmap("tab10")
        for at, name in enumerate(policies):
            shift = 0.6 * ((at + 0.5) / len(policies) - 0.5)
            for y, weighing in enumerate(weighings):
                lru = costs[weighing.name][BASELINE]
                gain = pooled(costs[weighing.name][name], lru, lru, blocks).gain
                axes.plot([gain.low, gain.high], [y + shift] * 2, color=colours(at % 10), linewidth=1.2)
                label = name if y == 0 else None
                axes.plot(gain.percent, y + shift, "o", color=colours(at % 10), markersize=4, label=label)
        axes.set_yticks(range(len(weighings)), [weighing.name for weighing in weighings])
        axes.set_ylim(len(weighings) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
        axes.set_xlabel("cost less than LRU's [%], mean over scenarios, 95 % interval")
        figure.legend(loc="outside upper center", ncols=4, frameon=False)
        save_figure(figure, path, dpi=120)
        plt.close(figure)


def _against(run: Run, full: str, name: str) -> Any:
    """The full policy against a variant over all scenarios, with the variant's own cost."""
    mine, other, lru = (costs_of(run, policy, run.scenarios) for policy in (full, name, BASELINE))
    numbers = pooled(mine, other, lru, run.blocks)
    own = pooled(other, lru, lru, run.blocks)
    return numbers._replace(cost=own.cost, typical=own.typical)


def _percent(run: Run, gain: Gain) -> str:
    """A gain; nothing is bold where seeds are too few to say so."""
    sure = all(enough(run, scenario) for scenario in run.scenarios)
    return percent(gain) if sure else percent(gain).replace("**", "")


def _what_ran(run: Run, scenarios: int | None = None) -> str:
    """How much ran: scenarios that differ in their weights alone count once."""
    about, scenarios = run.about, scenarios or len(run.scenarios)
    return (
        f"{scenarios} scenario{'s' if scenarios > 1 else ''}, {episodes_text(run)} each, "
        f"{about['started'][:10]}, cace-env {about['versions']['cace-env']}."
    )


def _again(run: Run) -> str:
    """The command, and what else is in the folder."""
    return (
        f"## How to get these numbers again\n\n```console\n{run.about['command']}\n```\n\n`rows.csv` has every metric "
        "of every episode, `config.yaml` the options, `scenarios/` each scenario in full."
    )
