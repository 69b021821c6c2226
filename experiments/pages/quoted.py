"""Tables of the claims made for CACE, judged for the formula that a review quotes, in every reading.

Claims, intervals and the rule for verdicts are those of `experiments.pages.claims`; `cace_env.policies.quoted` says
what is read how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from cace_env.config import ConfigError
from cace_env.evaluation import Gain
from cace_env.policies.quoted import PARTS, QUOTED, is_quoted, load_quoted
from experiments.pages.claims import EFFECTS, TITLES, Claim, cell, check_policies, gain_in, pooled, usable, verdict
from experiments.pages.quoted_plot import draw
from experiments.reading.markdown import table
from experiments.running.run_folder import BASELINE, Run

REFERENCES: Final = ("cace", "cace-output-kept", "gdsf", "omlx", "belady-cost")
COST: Final = Claim("cost", "cost")
WAITING, COMPLETIONS = EFFECTS[0], EFFECTS[3]
TITLES_OF_GAINS: Final = (*(title if "points" in title else f"{title} [%]" for title in TITLES), "cost [%]")
TITLES_OF_COUNTS: Final = ("of 5 hold", "of 5 confirmed")
PICTURE: Final = "quoted.png"


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


def regions(judged: Judged, scales: Judged, again: Judged) -> dict[str, str]:
    """Regions of `docs/claims.md` about the quoted formula.

    Args:
        judged: every reading (configs/experiment/quoted.yaml).
        scales: readings that have options behind their names (configs/experiment/quoted-scales.yaml).
        again: those of them that reproduce all claims, on other seeds.

    Raises:
        ConfigError: a run lacks a policy that the tables are about, or the second has no reading with options.
    """
    check_policies(judged.run, needed())
    if not changed(scales):
        raise ConfigError(f"{scales.run.path} has no reading with options, such as 'cace-quoted:window=20'; name some")
    check_policies(again.run, [name for name in changed(scales) if scales.reproduces(name)])
    run = judged.run
    seeds = len(run.columns[run.scenarios[0], BASELINE]["seed"])
    ranked = judged.ranked(readings())
    shown = [ranked[0], *[name for name in ranked if not clairvoyant(name)][:1]]
    by_scenario = [f"`{name}`:\n\n{scenarios_table(judged, name)}" for name in dict.fromkeys(shown)]
    return {
        "quoted-run": f"{len(run.scenarios)} scenarios, {seeds} test seeds each.",
        "quoted-verdicts": verdicts(judged, scales),
        "quoted-families": families_table(judged),
        "quoted-others": references_table(judged),
        "quoted-readings": readings_table(judged),
        "quoted-scales": scales_table(scales),
        "quoted-again": scales_table(again),
        "quoted-by-scenario": "\n\n".join(by_scenario),
    }


def picture(judged: Judged, images: Path) -> None:
    """Draws every reading by what it does to whom."""
    drawn, others = ({name: judged.place(name) for name in names} for names in (readings(), REFERENCES))
    draw(drawn, others, images / PICTURE)


def needed() -> set[str]:
    """Policies that the tables are about."""
    return {BASELINE, *REFERENCES, *readings()}
