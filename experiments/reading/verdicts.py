"""What a comparison says in a sentence: who costs less, and where the numbers do not carry that."""

from __future__ import annotations

from typing import Final

import numpy as np

from cace_env.evaluation.intervals import FEWEST_WINDOWS
from cace_env.evaluation.scores import REFERENCE
from cace_env.fleets.nothing_to_decide import MORE_PRESSURE, MORE_VICTIMS
from cace_env.policies.agent import LEARNED
from cace_env.policies.contestants import NO_SWAPPING
from experiments.reading.markdown import percent
from experiments.running.contestants import ORDERED
from experiments.running.run_folder import BASELINE, Run, share_of_cost

FEW_SEEDS: Final = 10  # below, a bootstrap hardly knows more than the least and the greatest value: no verdicts
TUNED: Final = "cace:"  # in the names of CACE with other weights
NOTHING_TO_DECIDE: Final = "nothing to decide here: no policy is ever asked"
TO_CHANGE_THAT: Final = (
    f"All policies are equal, so this compares nothing; to change that, {MORE_PRESSURE}; or if memory holds one model "
    f"at a time, {MORE_VICTIMS}."
)


def own_policies(run: Run) -> list[str]:
    """Learned policies, Python policies and other files of weights, in the order in which they ran."""
    return [policy for policy, about in run.about["policies"].items() if about["group"] in (LEARNED, "Your own")]


def notable(run: Run, scenario: str) -> list[str]:
    """The baseline, CACE, the cheapest rule of each kind, own and learned policies: few enough for lines and labels."""
    groups = ("Deployed", "Proposed", "Caching", "Forecast", ORDERED, "Clairvoyant", "Reference")
    best = [run.cheapest(scenario, group) for group in groups]
    wanted = {BASELINE, "cace", *best, NO_SWAPPING}
    return [p for p in run.policies(scenario) if p in wanted or run.group(p) in (LEARNED, "Your own")]


def looked_at(run: Run, scenario: str) -> list[str]:
    """Policies whose first episode is looked at more closely: the notable ones that swap, and CACE with other weights.

    The reference is a plan of its own for each seed, and decides nothing by a rule.
    """
    policies = [*notable(run, scenario), *(name for name in run.policies(scenario) if TUNED in name)]
    return [name for name in dict.fromkeys(policies) if name not in (NO_SWAPPING, REFERENCE)]


def seeds_behind(run: Run, scenario: str, policy: str, over: str = BASELINE) -> int:
    """Seeds, or windows of a log, that neither of two policies cut short."""
    return run.costs(scenario, policy, over).shape[1]


def enough(run: Run, scenario: str, policy: str = BASELINE, over: str = BASELINE) -> bool:
    """Whether seeds, or windows of a log, are not too few for a verdict."""
    return seeds_behind(run, scenario, policy, over) >= (FEWEST_WINDOWS if scenario in run.blocks else FEW_SEEDS)


def saved(run: Run, scenario: str, policy: str, metric: str = "cost", over: str = BASELINE) -> str:
    """A gain with its interval; bold where that leaves out 0 and seeds are not too few to say so."""
    text = percent(run.gain(scenario, policy, metric, over))
    return text if enough(run, scenario, policy, over) else text.replace("**", "")


def nothing_to_decide(run: Run, scenario: str) -> bool:
    """Whether no policy was asked anything in any episode."""
    columns = [run.episodes[scenario, policy] for policy in run.policies(scenario)]
    return all(((each["decisions"] == 0) | np.isnan(each["truncated"])).all() for each in columns)  # NaN: did not run


def floor(run: Run, scenario: str) -> str:
    """What no policy can cost less than, and what is left without swapping; empty where the folder does not say."""
    least = run.least_cost(scenario)
    if np.isnan(least):
        return ""
    said = (
        f"No policy can cost less than {least:.1f} % of LRU's cost: each request alone on the fastest accelerator, its "
        "model resident, its prefix cached."
    )
    if NO_SWAPPING not in run.policies(scenario):
        return said
    lru, without = run.episodes[scenario, BASELINE]["cost"], run.episodes[scenario, NO_SWAPPING]["cost"]
    return (
        f"{said} Without swapping it is {share_of_cost(without, lru):.1f} %, which is no bound: models that are "
        "resident together slow each other down."
    )


def few_seeds(run: Run) -> str:
    """A warning about intervals of few seeds or windows; empty where there are enough everywhere."""
    counts = {scenario: len(run.columns[scenario, BASELINE]["seed"]) for scenario in run.scenarios}
    said = []
    few = {name: count for name, count in counts.items() if name not in run.blocks and count < FEW_SEEDS}
    if few:
        where = "" if len(few) == len(counts) else f" (in {', '.join(few)})"
        least, most = min(few.values()), max(few.values())
        counted = f"{most}" if least == most else f"{least} to {most}"
        if most == 1:
            said.append(f"1 seed has no interval{where}: a difference may be the luck of one draw of requests.")
        else:
            said.append(
                f"{counted} seeds are too few for an interval to mean much{where}; {FEW_SEEDS} are the least, 100 are "
                "better."
            )
    few = {name: count for name, count in counts.items() if name in run.blocks and count < FEWEST_WINDOWS}
    if few:
        where = f"{', '.join(few)}: "
        said.append(
            f"{where}{' or '.join(sorted({str(count) for count in few.values()}))} window"
            f"{'' if set(few.values()) == {1} else 's'} of the log: no intervals, which take {FEWEST_WINDOWS}. Another "
            f"day may say otherwise; a longer log or --windows {FEWEST_WINDOWS} gives intervals."
        )
    return " ".join(said)


def episodes_text(run: Run) -> str:
    """How many replicates every scenario has: seeds of a split, or windows of a log."""
    said = []
    for kind, names in (
        (f"{run.about['split']} seed", [name for name in run.scenarios if name not in run.blocks]),
        ("window", [name for name in run.scenarios if name in run.blocks]),
    ):
        counts = sorted({len(run.columns[name, BASELINE]["seed"]) for name in names})
        if counts:
            said.append(
                f"{' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} {kind}" + "s" * (counts != [1])
            )
    return " or ".join(said)


def replicates(run: Run, scenario: str) -> str:
    """What intervals on a log are over, in a sentence or two; empty for generated requests, which have seeds."""
    if scenario not in run.blocks:
        return ""
    log, block = run.about["scenarios"][scenario]["log"], run.blocks[scenario]
    redraws, count = log["redraws"], log["windows"]
    if count < FEWEST_WINDOWS:
        said = f"{count} window{'s' if count > 1 else ''} of the log, about {log['window_requests']:,} requests each"
        over = f"; fewer than {FEWEST_WINDOWS}, so no interval is shown"
    else:
        said = f"{count} windows of the log, one after the other, about {log['window_requests']:,} requests each"
        over = f"; intervals are over these, in blocks of {block}"
    drawn = f", and over the {redraws} draws of what is attached" if redraws > 1 and count >= FEWEST_WINDOWS else ""
    return f"The log is played as a whole. Replicates: {said}{over}{drawn}."


def against_lru(run: Run, policy: str) -> str:
    """What a policy costs against LRU, scenario by scenario, without a full stop; empty where nothing is to be said."""
    kinds = ("costs less in", "costs more in", "cannot be told apart in")
    sure: dict[str, list[str]] = {kind: [] for kind in kinds}
    single: list[tuple[str, str]] = []
    few: dict[str, list[str]] = {"seeds": [], "windows": []}
    for scenario in run.scenarios:
        if policy not in run.policies(scenario) or nothing_to_decide(run, scenario):
            continue
        gain, seeds = run.gain(scenario, policy), seeds_behind(run, scenario, policy)
        if np.isnan(gain.percent):
            continue
        if seeds == 1:
            single.append((f"{abs(gain.percent):.1f} % {'less' if gain.percent > 0 else 'more'}", scenario))
        elif not enough(run, scenario, policy):
            what = "windows" if scenario in run.blocks else "seeds"
            few[what].append(f"{scenario} ({saved(run, scenario, policy)}, {seeds} {what})")
        else:
            kind = kinds[0] if gain.low > 0 else kinds[1] if gain.high < 0 else kinds[2]
            sure[kind].append(f"{scenario} ({percent(gain)})")
    parts = [f"{kind} {', '.join(names)}" for kind, names in sure.items() if names]
    parts += [f"too few {what} for a verdict in {', '.join(names)}" for what, names in few.items() if names]
    if single and len(run.scenarios) == 1:
        parts.append(f"costs {single[0][0]} on this one episode (no interval)")
    elif single:
        parts.append(f"on one episode each (no interval) costs {', '.join(f'{how} in {name}' for how, name in single)}")
    return "; ".join(parts)


def in_short(run: Run) -> list[str]:
    """Sentences for a reader in a hurry: CACE and every own policy against LRU, and where nothing is decided."""
    lines = []
    named = {"cace": "CACE", "patient-wsjf+lru": "Patient WSJF"} | {policy: policy for policy in own_policies(run)}
    for policy, name in named.items():
        said = against_lru(run, policy) if policy in run.about["policies"] else ""
        lines += [f"**{name} against LRU**: {said}."] if said else []
    quiet = [scenario for scenario in run.scenarios if nothing_to_decide(run, scenario)]
    lines += [f"**{', '.join(quiet)}**: {NOTHING_TO_DECIDE}."] if quiet else []
    return lines
