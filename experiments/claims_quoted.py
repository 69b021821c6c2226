"""The claims made for CACE, judged for the formula that a review quotes, in every reading: the end of `docs/claims.md`.

    python -m experiments.compare --config configs/experiment/quoted.yaml --out runs/quoted
    python -m experiments.compare --config configs/experiment/quoted-scales.yaml --out runs/quoted-scales
    python -m experiments.compare --policies A,B --seeds 60 --split validation --out runs/quoted-again
    python -m experiments.claims_quoted runs/quoted --scales runs/quoted-scales --again runs/quoted-again --write PAGE

A and B are the readings of the second run for which all claims hold: are they on seeds that did not choose them, too?
Claims, intervals and the rule for verdicts are those of `experiments.claims`; `cace_env.policies.quoted` says what is
read how.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Annotated, Final

import numpy as np
import tyro
from rich.console import Console

from cace_env.config import ConfigError
from cace_env.evaluation import Gain
from cace_env.policies.quoted import PARTS, QUOTED, is_quoted, load_quoted
from experiments.pages.claims import (
    EFFECTS,
    MARK,
    TITLES,
    Claim,
    cell,
    check_policies,
    gain_in,
    pooled,
    usable,
    verdict,
)
from experiments.pages.claims_quoted_plot import draw
from experiments.reading.markdown import table
from experiments.running.run_folder import BASELINE, Run

REFERENCES: Final = ("cace", "cace-output-kept", "gdsf", "omlx", "belady-cost")
COST: Final = Claim("cost", "cost")
WAITING, E2E, COMPLETIONS = EFFECTS[0], EFFECTS[1], EFFECTS[3]
TITLES_OF_GAINS: Final = (*(title if "points" in title else f"{title} [%]" for title in TITLES), "cost [%]")
TITLES_OF_COUNTS: Final = ("of 5 hold", "of 5 confirmed")
PICTURE: Final = "quoted.png"


@dataclass(frozen=True)
class Options:
    """Judge the claims for CACE in every reading of the quoted formula."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder of `experiments.compare` with every reading (configs/experiment/quoted.yaml)."""
    scales: str
    """Run folder with readings that have options behind their names (configs/experiment/quoted-scales.yaml)."""
    again: str
    """Run folder with those of them that reproduce all claims, on other seeds."""
    write: str | None = None
    """Page whose end is written, behind its mark, with the picture in images/ beside it."""


class Judged:
    """What a run says of its policies; every gain is drawn once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.gain = cache(self._gain)

    def _gain(self, policy: str, claim: Claim) -> Gain:
        """Mean over scenarios, over LRU."""
        return pooled(self.run, replace(claim, policy=policy))

    def holds(self, policy: str) -> int:
        """Of how many claims the interval of the mean over scenarios lies above 0."""
        return sum(self.gain(policy, claim).low > 0 for claim in EFFECTS)

    def confirmed(self, policy: str) -> int:
        """How many claims are confirmed by the rule of the page."""
        return sum(
            self.gain(policy, claim).low > 0 and verdict(self.run, replace(claim, policy=policy)) == "confirmed"
            for claim in EFFECTS
        )

    def reproduces(self, policy: str) -> bool:
        """Whether all claims hold on average."""
        return self.holds(policy) == len(EFFECTS)

    def ranked(self, policies: Sequence[str]) -> list[str]:
        """Those for which most claims hold first, then the cheapest."""
        return sorted(policies, key=lambda name: (-self.holds(name), -self.gain(name, COST).percent))

    def place(self, policy: str) -> tuple[float, float]:
        """Where it stands in the picture: TTFT of all requests, and of completions, better than LRU's by [%]."""
        return self.gain(policy, WAITING).percent, self.gain(policy, COMPLETIONS).percent

    def cells(self, policy: str) -> list[str]:
        """Mean gain in each claim and in cost, and how many claims hold and are confirmed."""
        gains = [cell(self.gain(policy, claim)) for claim in (*EFFECTS, COST)]
        return [*gains, f"{self.holds(policy)}", f"{self.confirmed(policy)}"]


def readings() -> list[str]:
    """Those with a name of their own."""
    return list(QUOTED)


def clairvoyant(reading: str) -> bool:
    """Whether it knows the true future."""
    return QUOTED[reading].upcoming == "future"


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def readings_table(judged: Judged) -> str:
    """Every reading: those for which most claims hold first, then the cheapest."""
    rows = []
    for name in judged.ranked(readings()):
        options = QUOTED[name]
        rows.append(
            [options.evicts, options.last_use, options.upcoming, f"{options.output_weight:g}", *judged.cells(name)]
        )
    return table(["evicts the", "t", "i from", "w_1", *TITLES_OF_GAINS, *TITLES_OF_COUNTS], rows)


def references_table(judged: Judged) -> str:
    """Other policies on the same requests."""
    rows = [[f"`{name}`", *judged.cells(name)] for name in REFERENCES]
    return table(["policy", *TITLES_OF_GAINS, *TITLES_OF_COUNTS], rows)


def families_table(judged: Judged) -> str:
    """Readings by what decides most: the direction, and where upcoming requests are known from."""
    rows = []
    for evicts in PARTS["evicts"].values():
        for upcoming in PARTS["upcoming"].values():
            names = [n for n in readings() if (QUOTED[n].evicts, QUOTED[n].upcoming) == (evicts, upcoming)]
            if not names:
                continue
            costs = [judged.gain(name, COST).percent for name in names]
            rows.append(
                [
                    str(evicts),
                    str(upcoming),
                    f"{sum(judged.reproduces(name) for name in names)} of {len(names)}",
                    f"{max(judged.holds(name) for name in names)} of {len(EFFECTS)}",
                    *(f"{max(judged.gain(name, claim).percent for name in names):+.1f}" for claim in EFFECTS),
                    f"{min(costs):+.1f} to {max(costs):+.1f}",
                ]
            )
    best = [f"best {title}" for title in TITLES_OF_GAINS[:-1]]
    return table(["evicts the", "i from", "reproduce all", "most that hold", *best, "cost, worst to best [%]"], rows)


def scales_table(judged: Judged) -> str:
    """Readings with options behind their names, by window and weight."""
    rows = []
    for name in changed(judged):
        options = load_quoted(name)
        clock = "Unix" if options.clock_start_s else "episode"
        weight = np.format_float_positional(options.output_weight, trim="-")
        rows.append([f"{options.window}", weight, clock, *judged.cells(name)])
    return table(["w", "w_1", "clock", *TITLES_OF_GAINS, *TITLES_OF_COUNTS], rows)


def changed(judged: Judged) -> list[str]:
    """Readings with options behind their names, in the order in which they ran."""
    return [name for name in judged.run.policies(judged.run.scenarios[0]) if is_quoted(name) and ":" in name]


def scenarios_table(judged: Judged, policy: str) -> str:
    """One reading, scenario by scenario."""
    rows = []
    for name in judged.run.scenarios:
        claims = [replace(claim, policy=policy) for claim in (*EFFECTS, COST)]
        cells = [
            cell(gain_in(judged.run, name, claim)) if name in usable(judged.run, claim) else "-" for claim in claims
        ]
        rows.append([name, *cells])
    return table(["scenario", *TITLES_OF_GAINS], rows)


# ---------------------------------------------------------------------------------------------------------------------
# The section


def verdicts(judged: Judged, scales: Judged) -> str:
    """Which readings reproduce the claims, in sentences."""
    whole = [name for name in judged.ranked(readings()) if judged.reproduces(name)]
    knowing = [name for name in whole if clairvoyant(name)]
    past = [name for name in readings() if not clairvoyant(name)]
    kept = [name for name in readings() if QUOTED[name].evicts == "lowest"]
    all_confirmed = [name for name in whole if judged.confirmed(name) == len(EFFECTS)]
    others = changed(scales)
    more = [name for name in others if scales.reproduces(name)]
    return "\n".join(
        [
            f"- **{len(whole)} of {len(readings())} readings reproduce the claims** (all five hold): {listed(whole)}.",
            f"- Of those that do, {len(knowing)} know the true future. Of the {len(past)} readings that know the past "
            f"only, {len(whole) - len(knowing)} do; at most {max(map(judged.holds, past))} of the five hold.",
            f"- Of the {len(kept)} that keep the highest, {sum(judged.reproduces(name) for name in kept)} do; at most "
            f"{max(map(judged.holds, kept))} of the five hold.",
            f"- Readings for which all five are confirmed: {listed(all_confirmed)}.",
            f"- With {len(others)} other windows, weights and clocks for the forecast, {len(more)} do: {listed(more)}.",
        ]
    )


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return ", ".join(f"`{name}`" for name in names) if names else "none"


def section(judged: Judged, scales: Judged, again: Judged) -> str:
    """The end of the page."""
    run = judged.run
    seeds = len(run.columns[run.scenarios[0], BASELINE]["seed"])
    ranked = judged.ranked(readings())
    shown = [ranked[0], *[name for name in ranked if not clairvoyant(name)][:1]]
    by_scenario = "\n\n".join(f"`{name}`:\n\n{scenarios_table(judged, name)}" for name in dict.fromkeys(shown))
    return f"""## The formula as a review quotes it

    EvictionScore = 1 / (1 + ln t) + 1 / (1 + l / 100) + i / w + w_1 o

**Source: a machine-written review of the paper; it could not be checked against the paper.** t is the timestamp of
the last use, l the load time in seconds, i the index in the window of *upcoming* requests, w its size, o the
expected output length. Which direction evicts, where upcoming requests are known from, and the scale of w_1 are
open. So the claims are judged in {len(readings())} readings: the highest or the lowest score is evicted, t is a
timestamp or an age, upcoming requests are those that wait now, those that the last five minutes let expect, or the
true next ones, and w_1 is 0, 0.0001 or 0.001 per token, with either sign
([options](policies.md#cace-as-quoted-a-formula-from-a-review)). `cace` above is and stays our reconstruction.

{len(run.scenarios)} scenarios, {seeds} test seeds each; intervals and verdicts as above. A claim *holds* if the
interval of the mean over scenarios lies above zero; it is *confirmed* if those of two thirds of the scenarios do,
too. Made by

```console
python -m experiments.compare --config configs/experiment/quoted.yaml --out runs/quoted
python -m experiments.compare --config configs/experiment/quoted-scales.yaml --out runs/quoted-scales
python -m experiments.compare --seeds 60 --split validation --out runs/quoted-again \\
  --policies 'cace-quoted:window=50;output_weight=0.00003,cace-quoted:window=100;output_weight=0.00003'
python -m experiments.claims_quoted runs/quoted --scales runs/quoted-scales --again runs/quoted-again \\
  --write docs/claims.md
```

### What follows

{verdicts(judged, scales)}

{meaning(judged, scales, again)}

![TTFT of all requests against that of completions, one mark per reading](images/{PICTURE})

{families_table(judged)}

Other policies on the same requests: a rule need neither weigh nor foresee anything to do all of this (`omlx`).

{references_table(judged)}

### Every reading

{readings_table(judged)}

### Other windows and scales of w_1

`cace-quoted` (evicts the highest, t a timestamp, forecast) with other w and w_1.

{scales_table(scales)}

Those for which all five hold, on seeds of the split "{again.run.about["split"]}":

{scales_table(again)}

### Two readings by scenario

The one for which most claims hold, and the same of those that know the past only.

{by_scenario}
"""


def between(scales: Judged, again: Judged) -> str:
    """Where between the two ends of the trade all claims hold, and whether they do on seeds that did not choose it."""
    found = [name for name in changed(scales) if scales.reproduces(name)]
    if not found:
        return "At no scale below do all five hold."
    confirmed = sum(scales.confirmed(name) for name in found)
    counts = " and ".join(f"{again.holds(name)}" for name in found)
    three = [scales.gain(name, claim).percent for name in found for claim in EFFECTS[:3]]
    completions = [scales.gain(name, COMPLETIONS).percent for name in found]
    return (
        f"In between all five hold for {listed(found)}, by {min(three):.1f} to {max(three):.1f} % for TTFT, E2E and "
        f"evictions and {min(completions):.1f} to {max(completions):.1f} % for completions; {confirmed or 'none'} of "
        f"them is confirmed in two thirds of the scenarios. On seeds that did not choose these readings, {counts} of "
        "the five hold."
    )


def meaning(judged: Judged, scales: Judged, again: Judged) -> str:
    """What decides, with the numbers that say so."""

    def gain(policy: str, claim: Claim) -> str:
        return f"{judged.gain(policy, claim).percent:+.1f} %"

    def ahead(evicts: str, sign: int) -> str:
        names = [n for n in readings() if QUOTED[n].evicts == evicts and QUOTED[n].output_weight * sign > 0]
        return f"{sum(judged.gain(name, EFFECTS[4]).low > 0 for name in names)} of {len(names)}"

    def any_of_first_three(evicts: str) -> str:
        names = [name for name in readings() if QUOTED[name].evicts == evicts]
        helped = [name for name in names if any(judged.gain(name, claim).low > 0 for claim in EFFECTS[:3])]
        return f"{len(helped)} of {len(names)}"

    known = "cace-quoted-future-small"
    bullets = [
        "**What reproduces them is knowing the future.** With the true next requests i / w is close to "
        f"Belady's rule, as the other terms differ little between models. `{known}` saves about what `belady-cost` "
        f"does ({gain(known, COST)} and {gain('belady-cost', COST)} of the cost). A replayed log has such a window; a "
        "server that has to decide now has none.",
        "**From the past, the formula does what our reconstruction does.** `cace-quoted` helps completions "
        f"({gain('cace-quoted', COMPLETIONS)} TTFT) at the expense of the rest (TTFT over all "
        f"{gain('cace-quoted', WAITING)}, E2E {gain('cace-quoted', E2E)}). So does `cace` "
        f"({gain('cace', COMPLETIONS)}, {gain('cace', WAITING)}, {gain('cace', E2E)}).",
        "**The scale of w_1 moves along that trade.** The smaller it is, the better for all and the worse for "
        f"completions. {between(scales, again)}",
        '**"Most for completion" needs long answers to leave.** Completions gain more than all requests do for '
        f"{ahead('highest', 1)} readings that evict the highest with w_1 > 0, and for {ahead('highest', -1)} with "
        f"w_1 < 0; for {ahead('lowest', -1)} that evict the lowest with w_1 < 0, and for {ahead('lowest', 1)} with "
        "w_1 > 0.",
        '**"Keep the highest" helps completions at best.** TTFT over all, E2E or evictions get better for '
        f"{any_of_first_three('lowest')} such readings: what is needed first leaves, and what loads slowest. With the "
        f"true future and without outputs it costs most of all ({gain('cace-quoted-keep-future-no-output', COST)}). It "
        "comes near LRU where i says nothing and t is an age "
        f"({gain('cace-quoted-keep-age-queue-no-output', COST)}).",
        "**The queue is no window of upcoming requests here.** A request for an idle model is admitted at once, so i "
        "is w for every idle candidate. What loads fast leaves then, the small models of completions (their TTFT "
        f"{gain('cace-quoted-queue-no-output', COMPLETIONS)}).",
        "**A timestamp says little.** By the clock of Unix the term is the same for all, and the means hardly change. "
        "As an age where the highest is evicted, what was just used leaves.",
    ]
    return "\n".join(fill(f"- {bullet}", 116, subsequent_indent="  ", break_on_hyphens=False) for bullet in bullets)


# ---------------------------------------------------------------------------------------------------------------------
# The command


def needed() -> set[str]:
    """Policies that the section is about."""
    return {BASELINE, *REFERENCES, *readings()}


def main(options: Options) -> None:
    """Prints which readings reproduce the claims, and writes the end of the page.

    Raises:
        ConfigError: a run lacks a policy that the section is about, or the second has no reading with options.
    """
    judged, scales, again = (Judged(Run(Path(folder))) for folder in (options.run, options.scales, options.again))
    check_policies(judged.run, needed())
    if not changed(scales):
        raise ConfigError(f"{options.scales} has no reading with options, such as 'cace-quoted:window=20'; name some")
    check_policies(again.run, [name for name in changed(scales) if scales.reproduces(name)])
    Console(highlight=False, soft_wrap=True).print(verdicts(judged, scales), markup=False)
    if options.write is None:
        return
    path = Path(options.write)
    above = (path.read_text(encoding="utf-8") if path.is_file() else "").partition(MARK)[0].rstrip()
    path.write_text(f"{above}\n\n{MARK}\n\n{section(judged, scales, again)}", encoding="utf-8")
    drawn, others = ({name: judged.place(name) for name in names} for names in (readings(), REFERENCES))
    draw(drawn, others, path.parent / "images" / PICTURE)


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, prog="python -m experiments.claims_quoted", description=__doc__))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
