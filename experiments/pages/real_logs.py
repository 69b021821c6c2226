"""Agents on real logs, with and without guard: the report of `experiments.shifted --logs`, and tables of docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.evaluation import Gain
from cace_env.evaluation.intervals import RESAMPLES, seed_draws, widened
from cace_env.evaluation.scores import relative_cost
from cace_env.policies.agent import LEARNED
from cace_env.policies.guard import GUARDED
from cace_env.tables import FloatArray, Protocol
from experiments.reading.markdown import percent, table
from experiments.reading.pooled_gains import costs_of, estimate_text
from experiments.running.run_folder import FALLBACKS, Run

# What costs are shares of: in Swap-v0 the rule that waits for idle victims, as Eviction-v0 does. LRU of Swap-v0 drains.
AGAINST: Final = {Protocol.EVICTION: "lru", Protocol.SWAP: "patient-fifo+lru"}
CARD_RIVALS: Final = ("omlx", "gdsf")
TARGET_RIVALS: Final = (*CARD_RIVALS, "cace:tuned-eviction", "cace:tuned-swap")
# What an agent should keep to on every log [%]: no more above the best of the rules, and above LRU.
MOST_ABOVE_BEST, MOST_ABOVE_LRU = 1.0, 2.0
LEAST_GAIN: Final = 0.01  # of the cost; of a smaller gain no share is told
HOW_TO_READ: Final = """\
Real requests, each log on one fleet and played as a whole. Costs are shares of what LRU costs (in Swap-v0
`patient-fifo+lru`, which is LRU of Eviction-v0), with 95 % intervals over blocks of consecutive windows and over draws
of what is attached; **bold** savings leave out 0. *Kept* is the share of the agent's gain that is left under guard.
*Longest wait* is the longest of a window as a share of LRU's in that window: the median over windows, and the largest.
*By LRU* are the decisions that the guard took over, by reason. *Kept to* says whether the agent costs at most 1 % more
than the best rule of that log and at most 2 % more than LRU: in the mean, and *for sure* where the interval does not
leave it open. Nothing was trained or tuned on these logs. The numbers
of the guard were set on those that are marked *set here*, and what a long answer is on those of *long answers*, too;
the others are held out."""


class Judged(NamedTuple):
    """An agent on the logs of an environment."""

    env: Protocol
    agent: str
    guarded: str
    others: tuple[str, ...]
    logs: tuple[str, ...]  # scenarios


def judged(run: Run, env: Protocol) -> Judged | None:
    """Who is compared in an environment; None if no agent and its guarded form played."""
    logs = tuple(run.of_env(env))
    if not logs:
        return None
    everywhere = run.everywhere(logs)
    agents = [p for p in everywhere if run.group(p) == LEARNED and f"{GUARDED}{p}" in everywhere]
    if not agents or AGAINST[env] not in everywhere:
        return None
    agent, guarded = agents[0], f"{GUARDED}{agents[0]}"
    return Judged(env, agent, guarded, tuple(p for p in everywhere if p not in (agent, guarded, AGAINST[env])), logs)


def page(run: Run, roles: Mapping[str, str]) -> str:
    """The report as Markdown.

    Args:
        run: of the logs.
        roles: by log, whether the numbers of the guard were set on it (`experiments.logs.public`).
    """
    about = run.about
    parts = [
        "# Agents on real logs",
        f"{about['started'][:10]}, cace-env {about['versions']['cace-env']}.",
        HOW_TO_READ,
    ]
    for name, text in regions(run, roles).items():
        parts += [f"## {name}", text]
    parts += ["## How to get these numbers again", f"```console\n{about['command']}\n```"]
    return "\n\n".join(parts) + "\n"


def regions(run: Run, roles: Mapping[str, str]) -> dict[str, str]:
    """Tables by environment: costs, guards and waits, and what each log is."""
    found = {}
    for env in Protocol:
        if (who := judged(run, env)) is not None:
            found[f"{env}-logs"] = costs_table(run, who, roles)
            found[f"{env}-target"] = target_table(run, who, roles)
            found[f"{env}-guard"] = guard_table(run, who, roles)
            found[f"{env}-card"] = card_line(run, who)
    if found:
        found["logs"] = logs_table(run)
    return found


def costs_table(run: Run, who: Judged, roles: Mapping[str, str]) -> str:
    """What the agent and the rules cost on each log."""
    rows = []
    for log in who.logs:
        shares = [_share(run, policy, who, log) for policy in (who.agent, who.guarded, *who.others)]
        cells = [estimate_text(share) for share in shares[:2]] + [f"{share.value:.3f}" for share in shares[2:]]
        saved = (percent(run.gain(log, who.agent, over=rival)) for rival in rivals(who))
        rows.append([_name(log, roles), *cells, *saved])
    header = ("log", *(f"`{policy}`" for policy in (who.agent, who.guarded, *who.others)))
    header += tuple(f"agent saves against `{rival}`" for rival in rivals(who))
    return table(header, rows, numbers="right")


def rivals(who: Judged) -> list[str]:
    """The rules that an agent is held against on its card."""
    return [policy for policy in who.others if policy.rpartition("+")[2] in CARD_RIVALS]


def target_table(run: Run, who: Judged, roles: Mapping[str, str]) -> str:
    """By how much the agent costs more than the best rule of each log, and more than LRU; and whether that is kept to.

    The best rule is that of the same windows, so an agent that is as good as every rule costs a little more than it.
    """
    rules = [policy for policy in who.others if policy.rpartition("+")[2] in TARGET_RIVALS]
    rows, verdicts, better = [], [], 0
    for log in who.logs:
        best = min(rules, key=lambda rule: _share(run, rule, who, log).value)
        limits = {best: MOST_ABOVE_BEST, AGAINST[who.env]: MOST_ABOVE_LRU}
        gains = {rule: run.gain(log, who.agent, over=rule) for rule in limits}
        verdicts.append(verdict_text([(gains[rule], limit) for rule, limit in limits.items()]))
        better += gains[best].percent > 0
        rows.append([_name(log, roles), f"`{best}`", *(above_text(gain) for gain in gains.values()), verdicts[-1]])
    kept = sum(verdict.startswith("yes") for verdict in verdicts)
    rows.append([f"**all {len(who.logs)}**", "", f"less on {better}", "", f"yes on {kept}"])
    header = ("log", "best rule", "agent costs more than it", f"more than `{AGAINST[who.env]}`", "kept to")
    return table(header, rows, numbers="right")


def above_text(gain: Gain) -> str:
    """By how much one costs more than another, from what it saves against it; bold where it costs less for sure."""
    if np.isnan(gain.low):
        return f"{-gain.percent:+.1f} %"
    text = f"{-gain.percent:+.1f} % [{-gain.high:+.1f}, {-gain.low:+.1f}]"
    return f"**{text}**" if gain.low > 0 else text


def verdict_text(held: Sequence[tuple[Gain, float]]) -> str:
    """Whether costs stay below limits [% above those of another policy]: of the mean, and of the interval around it."""
    within = all(-gain.percent <= limit for gain, limit in held)
    if within:
        return "yes, for sure" if all(-gain.low <= limit for gain, limit in held) else "yes"
    return "no, for sure" if any(-gain.high > limit for gain, limit in held) else "no"


def guard_table(run: Run, who: Judged, roles: Mapping[str, str]) -> str:
    """What the guard keeps of the gain and what it catches, log by log and over the logs."""
    rows = []
    for log in who.logs:
        lru, alone, watched = (
            run.columns[log, policy]["cost"] for policy in (AGAINST[who.env], who.agent, who.guarded)
        )
        waits = [_wait_text(run, policy, who, log) for policy in (who.agent, who.guarded)]
        kept = kept_text(lru, alone, watched, run.blocks.get(log))
        rows.append([_name(log, roles), kept, *waits, _fallback_text(run, who.guarded, log)])
    for role in ("set here", "held out"):
        logs = [log for log in who.logs if roles[_short(log)] == role]
        if logs:
            left = [1 - np.mean([_share(run, p, who, log).value for log in logs]) for p in (who.agent, who.guarded)]
            rows.append([f"**{role}**, mean", f"{100 * left[1] / left[0]:.0f} %", "", "", ""])
    header = ("log", "kept", "longest wait, agent", "guarded", "by LRU")
    return table(header, rows, numbers="right")


def card_line(run: Run, who: Judged) -> str:
    """What the card of the agent says: by log its cost as a share of LRU's, that of rules, and its longest wait."""
    texts = []
    for log in who.logs:
        rules = (f"{p.rpartition('+')[2]} {_share(run, p, who, log).value:.2f}" for p in rivals(who))
        waits = _wait_text(run, who.agent, who, log).partition(" ")[0]
        texts.append(f"{_short(log)} {_share(run, who.agent, who, log).value:.2f} ({', '.join(rules)}; waits {waits})")
    return "; ".join(texts)


def kept_text(baseline: FloatArray, agent: FloatArray, guarded: FloatArray, block: int | None) -> str:
    """The share of an agent's gain that is left under guard, with an interval; `-` where there is no gain for sure."""
    draws = seed_draws(len(baseline), RESAMPLES, block=block)
    gain, left = draws @ (baseline - agent), draws @ (baseline - guarded)
    total = float((baseline - agent).sum())
    kept = float((baseline - guarded).sum()) / total
    if total < LEAST_GAIN * baseline.sum() or np.quantile(widened(gain, total, len(baseline), block, 0.95), 0.025) <= 0:
        return "-"
    low, high = np.quantile(widened(left / gain, kept, len(baseline), block, 0.95), [0.025, 0.975])
    return f"{100 * kept:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def logs_table(run: Run) -> str:
    """What each log is, and on which fleet."""
    rows: dict[str, list[str]] = {}
    for name in run.scenarios:
        about = run.about["scenarios"][name]
        cards: dict[str, int] = {}
        for accelerator in about["accelerators"]:
            kind = accelerator.rpartition("-")[0]
            cards[kind] = cards.get(kind, 0) + 1
        lru = AGAINST[Protocol(about["env"])]
        decisions = f"{np.nansum(run.columns[name, lru]['decisions']):,.0f}"
        row = rows.setdefault(_short(name), [
            _short(name), f"{about['log']['source']}: {about['label']}", f"{about['engine']}, {len(about['models'])}",
            ", ".join(f"{count} x {kind}" for kind, count in cards.items()), str(len(run.columns[name, lru]["cost"])),
            f"{run.mean(name, lru, 'ttft_mean_s'):.1f}", f"{100 * run.mean(name, lru, 'compute_share'):.0f} %",
            f"{100 * run.mean(name, lru, 'channel_share'):.0f} %",
        ])  # fmt: skip
        row.append(decisions)
    header = ("log", "file: what is attached", "engine, models", "fleet", "windows", "LRU: mean TTFT [s]", "computing",
              "channels taken", *(f"decisions, {env.env_name}" for env in Protocol))  # fmt: skip
    width = max(len(row) for row in rows.values())
    return table(header[:width], [row + [""] * (width - len(row)) for row in rows.values()])


def _share(run: Run, policy: str, who: Judged, log: str) -> Any:
    mine, lru = (costs_of(run, name, [log]) for name in (policy, AGAINST[who.env]))
    return relative_cost(mine, lru, blocks=run.blocks)


def _wait_text(run: Run, policy: str, who: Judged, log: str) -> str:
    mine, lru = (run.columns[log, name]["longest_wait_s"] for name in (policy, AGAINST[who.env]))
    ratios = mine / lru
    return f"{np.nanmedian(ratios):.1f} ({np.nanmax(ratios):.1f})"


def _fallback_text(run: Run, guarded: str, log: str) -> str:
    columns = run.columns[log, guarded]
    decisions = np.nansum(columns["decisions"])
    shares = {reason: 100 * np.nansum(columns[name]) / decisions for name, reason in FALLBACKS.items()}
    return ", ".join(f"{reason} {share:.1f} %" for reason, share in shares.items() if share) or "none"


def _name(log: str, roles: Mapping[str, str]) -> str:
    return f"{_short(log)} ({roles[_short(log)]})"


def _short(log: str) -> str:
    return log.partition("-")[2]
