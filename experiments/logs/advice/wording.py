"""The answer in words: one sentence first, then what it was compared with, and what to beware of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from cace_env.evaluation import Gain
from cace_env.evaluation.scores import Estimate
from cace_env.fleets import TaskCost
from cace_env.policies.contestants import NO_SWAPPING
from experiments.logs.advice.contenders import TUNED
from experiments.logs.advice.decision import Answer, Grid, Step, kept, smallest_fleets
from experiments.logs.advice.measured import Latency, times
from experiments.logs.advice.parts import Parts
from experiments.logs.advice.playing import Played, Promise
from experiments.logs.own_log import made_up

FULL: Final = 0.95  # share of the time that channels or GPUs work: above it, queues only grow
BACKLOG: Final = 0.05  # share of an episode after its last arrival: above it, queues have grown
SHORT_H: Final = 8.0  # of the part that judges: less is not even one working day
FEW_DECISIONS: Final = 50  # in a whole log: what a policy saves then is the luck of single decisions
LONGER: Final = 1.05  # times today's longest wait: what is said
BOUND: Final = f"{NO_SWAPPING} (bound)"
BOUND_NOTE: Final = (
    f"{BOUND}: memory with room for every model, so nothing ever leaves. It cannot be deployed on these GPUs; it shows "
    "how much all eviction together costs."
)
MOST_NAMED: Final = 5
NUMBERS: Final = ("No", "One", "Two", "Three", "Four", "Five")


def headline(answer: Answer, doubted: Latency | None = None) -> str:
    """What to do, in one sentence; a second one says what else was possible.

    Args:
        answer: what was found.
        doubted: a measured latency that the simulation does not fit: then nothing is said of hours and of money saved.
    """
    if doubted is not None:
        return _without_money(answer, doubted)
    step = answer.step
    if step.kind == "nothing":
        return _nothing(answer)
    return f"{_what(answer, step)}: {_worth(answer, step)}. {_instead(answer)}".strip()


def _without_money(answer: Answer, doubted: Latency) -> str:
    """Why nothing is said of money, and what steps save as shares."""
    said = [
        f"No hours and no money, as the simulation does not fit this log: its mean {doubted.name} is "
        f"{times(doubted.ratio)} as was measured."
    ]
    if not answer.now.decisions + answer.now.evictions:
        return f"{said[0]} On {answer.now_fleet.name} memory holds all models that are asked for: nothing to decide."
    for step in (answer.steps[kind] for kind in ("policy", "fewer", "more", "both") if kind in answer.steps):
        gpus = f", {'for' if step.gpu_usd > 0 else 'and'} {usd(abs(step.gpu_usd))} of GPUs a month"
        saved = f"saves {share(step.saved)} of the cost of waiting{gpus if step.gpu_usd else ''}"
        said.append(f"{_what(answer, step)} ({_change(answer, step)}) {saved}.")
    return " ".join(said)


def _what(answer: Answer, step: Step) -> str:
    """`Another GPU`, `Another policy`, ..."""
    more = step.fleet.gpus - answer.now_fleet.gpus
    if step.kind == "policy":
        return "Another policy"
    if step.kind == "fewer":
        return f"{_count(-more)} GPU{'s' if more < -1 else ''} fewer" if more < 0 else "Cheaper GPUs"
    gpus = "Another GPU" if more == 1 else f"{more} more GPUs" if more > 1 else "Other GPUs"
    return f"{gpus} and another policy" if step.kind == "both" else gpus


def _count(number: int) -> str:
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def _worth(answer: Answer, step: Step) -> str:
    """What a step is, saves and costs."""
    change = _change(answer, step)
    if step.kind == "fewer":
        return (
            f"{change} saves {usd(-step.gpu_usd)} of GPUs a month and costs {hours(_minus(step.hours))} of waiting "
            f"more, which leaves {money(step.net_usd)}"
        )
    saved = f"{change} saves {share(step.saved)} of the cost of waiting, {hours(step.hours)} a month"
    if step.gpu_usd:
        return f"{saved}, for {usd(step.gpu_usd)} of GPUs: {money(step.net_usd)} left"
    return f"{saved}, worth {money(step.net_usd)} at no extra cost"


def _change(answer: Answer, step: Step) -> str:
    """The fleet and the policy of a step, in place of which."""
    where = f"{step.fleet.name} in place of {answer.now_fleet.name}" if step.fleet != answer.now_fleet else ""
    who = f"{name_of(step.policy)} in place of {name_of(answer.deployed)}" if step.policy != answer.deployed else ""
    return " with ".join(part for part in (where, who) if part)


def _nothing(answer: Answer) -> str:
    """Why nothing is to be done."""
    asked = answer.now.decisions + answer.now.evictions
    if not asked:
        return (
            f"Nothing: on {answer.now_fleet.name} memory holds all models that are asked for, so no policy is ever "
            f"asked. {_gpu(answer)}".strip()
        )
    if answer.uncertain:
        best = max(answer.steps.values(), key=lambda step: step.net_usd.value)
        return (
            f"Nothing that is certain: {_what(answer, best).lower()} would save {share(best.saved)} of the cost of "
            f"waiting and leave {money(best.net_usd)} a month, which a longer log could tell from nothing. "
            f"{_instead(answer, but=best)}".strip()
        )
    return (
        f"Nothing: on {answer.now_fleet.name} with {name_of(answer.deployed)}, waiting costs {usd(answer.waiting_usd)} "
        "a "
        f"month, and no step saves more than it costs. {_instead(answer)}".strip()
    )


def _instead(answer: Answer, but: Step | None = None) -> str:
    """The steps that are not taken, by policy and by GPU."""
    said = []
    taken = {answer.step.kind, *([but.kind] if but else [])}
    if not taken & {"policy", "both"}:
        said.append(_policy(answer))
    if not taken & {"more", "both"}:
        said.append(_gpu(answer))
    return " ".join(part for part in said if part)


def _policy(answer: Answer) -> str:
    step = answer.steps.get("policy")
    if step is None:
        return f"No other policy beats {name_of(answer.deployed)}."
    where = f" on {answer.now_fleet.name}" if answer.step.fleet != answer.now_fleet else ""
    return f"The best policy, {name_of(step.policy)}, saves {share(step.saved)}{where} at no extra cost."


def _gpu(answer: Answer) -> str:
    step = answer.steps.get("more")
    if step is None:
        return ""
    return (
        f"{_what(answer, step)} ({step.fleet.name}) would save {share(step.saved)} of the cost of waiting, worth "
        f"{usd(step.net_usd.value + step.gpu_usd)} a month, for {usd(step.gpu_usd)}."
    )


def anywhere(answer: Answer) -> str:
    """The best of all fleets, where it is another one than the next step."""
    best = answer.best_anywhere
    if any((best.fleet, best.policy) == (step.fleet, step.policy) for step in answer.steps.values()):
        return ""
    if best.net_usd.value <= answer.step.net_usd.value:
        return ""
    return (
        f"Of all fleets that were tried, {best.fleet.name} with {name_of(best.policy)} leaves most: "
        f"{money(best.net_usd)} a month."
    )


def kept_by(grid: Grid, promises: Sequence[Promise], answer: Answer) -> str:
    """The smallest fleet that keeps all promises."""
    if not promises:
        return ""
    what = " and ".join(str(promise) for promise in promises)
    found = {name: fleet for name, fleet in smallest_fleets(grid, promises).items() if name != NO_SWAPPING}
    cheapest = min((fleet.usd_per_hour for fleet in found.values() if fleet is not None), default=None)
    if cheapest is None:
        tried = {key: played for key, played in grid.items() if key[1] != NO_SWAPPING}
        (fleet, name), played = max(tried.items(), key=lambda row: min(kept(row[1])))
        reached = ", ".join(
            f"{100 * value:.3g} % of {promise.task}" for promise, value in zip(promises, kept(played), strict=True)
        )
        return f"No fleet that was tried keeps {what}; {fleet.name} with {name_of(name)} comes closest: {reached}."
    names = [name for name, fleet in found.items() if fleet is not None and fleet.usd_per_hour == cheapest]
    fleet = next(fleet for fleet in found.values() if fleet is not None and fleet.usd_per_hour == cheapest)
    by = "any policy" if len(names) == len(found) else _some(names, answer)
    today = found.get(answer.deployed)
    more = ""
    if today != fleet:
        does = "no fleet that was tried does" if today is None else f"it takes {today.name}"
        more = f"; with {name_of(answer.deployed)} {does}"
    return f"The smallest fleet that keeps {what}: {fleet.name} with {by}{more}."


def _some(names: Sequence[str], answer: Answer) -> str:
    """A few names, the chosen policy first."""
    first = [name for name in (answer.deployed, answer.step.policy) if name in names]
    listed = [name_of(name) for name in dict.fromkeys([*first, *names])]
    return listed[0] if len(listed) == 1 else f"{listed[0]} or {len(listed) - 1} other policies"


def warnings_of(answer: Answer, grid: Grid, parts: Parts, promises: Sequence[Promise]) -> list[str]:
    """What a reader must not overlook."""
    said, now, dropped = [], answer.now, parts.dropped
    if dropped:
        said.append(f"The log is long: its first {dropped:,} requests were left out.")
    if now.refused:
        asked = int(now.requests.sum())
        said.append(
            f"{now.refused:,} of {asked:,} requests are longer than their model's KV cache: refused, in no latency, "
            "and counted as promises that were not kept."
        )
    span_h = now.span_s / 3600
    if span_h < SHORT_H:
        said.append(
            f"Policies were judged on {_time(span_h)} of the log alone. A month is taken to be nothing but such hours, "
            "so money is good for its order of magnitude, and shares for little more than these hours."
        )
    if 0 < now.decisions < FEW_DECISIONS:
        said.append(
            f"On {answer.now_fleet.name} {name_of(answer.deployed)} was asked only {now.decisions} times in the whole "
            "log which model leaves. One such decision may settle for long who shares a GPU with whom: what another "
            "policy saves there is luck, whatever its interval says."
        )
    if max(now.channel_share, now.compute_share) > FULL or now.backlog_share > BACKLOG:
        said.append(
            f"{answer.now_fleet.name} with {name_of(answer.deployed)} cannot keep up with this log: queues grow to its "
            "end. Savings there hang on how long the log is; look at fleets that keep up."
        )
    step = answer.step
    then = grid[step.fleet, step.policy]
    said += [
        f"{promise} is kept today, and would not be: {100 * after:.1f} % after {100 * before:.1f} %."
        for promise, before, after in zip(promises, kept(now), kept(then), strict=True)
        if before >= promise.share > after
    ]
    theirs = then.longest_wait_s
    if step.kind != "nothing" and theirs > LONGER * now.longest_wait_s:
        said.append(
            f"The longest wait is {theirs:.0f} s with what is recommended, and {now.longest_wait_s:.0f} s today: some "
            "wait longer so that all wait less."
        )
    return [*said, *made_up(parts.whole)]


def longer_waits(here: Mapping[str, Played], deployed: str) -> str:
    """Policies that cost less than the deployed one on a fleet, but let a request wait longer; empty without any."""
    if deployed not in here:
        return ""
    now = here[deployed]
    found = sorted(
        (
            (played.longest_wait_s, policy)
            for policy, played in here.items()
            if policy != NO_SWAPPING
            and played.cost.sum() < now.cost.sum()
            and played.longest_wait_s > LONGER * now.longest_wait_s > 0
        ),
        reverse=True,
    )
    if not found:
        return ""
    named = ", ".join(f"{name_of(policy)} {longest_s:,.0f} s" for longest_s, policy in found[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED} more" if found[MOST_NAMED:] else ""
    return (
        f"These save cost, but a single request waits longer than with {name_of(deployed)} ({now.longest_wait_s:,.0f} "
        f"s): {named}{more}."
    )


def weighted(costs: Mapping[str, TaskCost]) -> str:
    """What a weighted hour is, by the weights of the log's tasks."""
    said = []
    for task, cost in costs.items():
        parts = [f"{cost.w_ttft:g} until the first token"] if cost.w_ttft else []
        parts += [f"{cost.w_e2e:g} until the last"] if cost.w_e2e else []
        said += [f"{task} {' and '.join(parts)}"] if parts else []
    return (
        "Weighted hours saved, and so money, count a second of waiting by task, as not all waiting keeps a developer "
        f"from work ({'; '.join(said)}). Waited hours are those saved until first tokens, unweighted: the "
        "two can differ, in sign, too."
    )


def _time(hours_: float) -> str:
    return f"{hours_:.1f} hours" if hours_ >= 1 else f"{60 * hours_:.0f} minutes"


def name_of(policy: str) -> str:
    """How a policy is called in a sentence."""
    return {TUNED: "CACE tuned to this log", NO_SWAPPING: BOUND}.get(policy, policy)


def usd(value: float) -> str:
    """Money, in whole dollars."""
    return f"USD {value:,.0f}" if value >= 0 or round(value) == 0 else f"-USD {-value:,.0f}"


def money(found: Estimate) -> str:
    """Money with its interval."""
    return _bounded(usd(found.value), found.low, found.high, lambda value: f"{value:,.0f}")


def hours(found: Estimate) -> str:
    """Developers' time with its interval."""
    digits = 0 if abs(found.value) >= 10 else 1
    text = f"{found.value:,.{digits}f}"
    return f"{_bounded(text, found.low, found.high, lambda value: f'{value:,.{digits}f}')} weighted developer-hours"


def share(gain: Gain) -> str:
    """A share with its interval, without a sign where there is none to tell."""
    if np.isnan(gain.percent):
        return "nothing"
    digits = 0 if abs(gain.percent) >= 10 else 1
    return _bounded(f"{gain.percent:.{digits}f} %", gain.low, gain.high, lambda value: f"{value:.{digits}f}")


def between(found: Estimate) -> str:
    """A number with its interval, for tables."""
    return "-" if np.isnan(found.value) else _bounded(_short(found.value), found.low, found.high, _short)


def _bounded(text: str, low: float, high: float, said: Callable[[float], str]) -> str:
    return text if np.isnan(low) else f"{text} ({said(low)} to {said(high)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 or value == 0 else f"{value:.2g}"


def _minus(found: Estimate) -> Estimate:
    return Estimate(-found.value, -found.high, -found.low)
