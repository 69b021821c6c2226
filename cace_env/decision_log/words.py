"""Decisions in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from cace_env.config import one_line
from cace_env.decision_log.reader import moment
from cace_env.decision_log.record import EVICT, FORCED, KEEP_ALIVE, WAIT, Candidate, Decision
from cace_env.decision_log.writer import Clock
from cace_env.observation import BLOCKS
from cace_env.policies.explanations import BEFORE, Contribution, quantity

FEATURES: Final = {feature.name: feature for block in BLOCKS.values() for feature in block}
COLUMNS: Final = 5  # features in the table; those that decided come first
LEFT: Final = {
    FORCED: "Nobody chose: it was the only model that could leave to make room.",
    KEEP_ALIVE: "Nobody chose: its keep-alive ran out, so it was unloaded.",
}


def in_words(decision: Decision, clock: Clock = "episode", reasons: int = 5) -> str:
    """What was decided, between which candidates, and why, in some lines.

    Args:
        decision: from a log.
        clock: of that log.
        reasons: how many features are named.
    """
    where = [one_line(decision.scenario)] if decision.scenario else []
    where += [f"seed {decision.seed}"] if decision.seed >= 0 else []
    where += [f"decision {decision.decision}"] if decision.decision >= 0 else []
    which = f" ({', '.join(where)})" if where else ""
    chosen = decision.chosen
    if decision.kind in LEFT:
        when = moment(decision.time_us, clock)
        return (
            f"At {when}{which} {one_line(chosen.model)} left {one_line(chosen.accelerator)}. {LEFT[decision.kind]}\n"
            + _who(decision)
        )
    lines = [f"At {moment(decision.time_us, clock)}{which} {_deed(decision)}.", ""]
    lines += [*_table(decision), ""]
    lines += _because(decision, reasons)
    return "\n".join([*lines, _who(decision)])


def _deed(decision: Decision) -> str:
    """What was done, by whom."""
    by, chosen = one_line(decision.decided_by or decision.policy), decision.chosen
    if decision.kind != EVICT:
        return f"{by} chose to wait" if not chosen.model else f"{by} chose to load {one_line(chosen.model)} next"
    room = f" to make room for {one_line(decision.target)}" if decision.target else ""
    if decision.done < 0:
        return f"{by} evicted {_named(chosen)}{room}"
    if decision.done == decision.choice:
        return f"{by} would have evicted {_named(chosen)}{room}, as the watched system did"
    done = _named(decision.candidates[decision.done])
    return f"{by} would have evicted {_named(chosen)}{room}, where the watched system evicted {done}"


def _named(candidate: Candidate) -> str:
    place = f" from {one_line(candidate.accelerator)}" if candidate.accelerator else ""
    return f"{one_line(candidate.model) or WAIT}{place}"


def _because(decision: Decision, most: int) -> list[str]:
    """The sentences on the reasons."""
    lines = []
    if decision.fallback:
        lines.append(
            f"{one_line(decision.policy)} did not decide: {one_line(decision.fallback)}"
            + (f" ({one_line(decision.detail)})." if decision.detail else ".")
        )
    if decision.note:
        lines.append(f"It was {one_line(decision.note)}.")
    if decision.rival >= 0 and decision.reasons:
        total = sum(abs(reason.amount) for reason in decision.reasons)
        rival = decision.candidates[decision.rival]
        lines.append(f"What decided between it and the next best, {one_line(rival.model) or WAIT}:")
        lines += [
            f"  {reason_in_words(reason)}, {abs(reason.amount) / total:.0%}" for reason in decision.reasons[:most]
        ]
        rest = decision.reasons[most:]
        if rest:
            lines.append(f"  {len(rest)} more {sum(reason.amount for reason in rest):+.3g}")
    elif decision.rival >= 0:
        other = one_line(decision.candidates[decision.rival].model) or WAIT
        lines.append(f"Next best was {other}. The score is no sum over features, so none has a share in it.")
    elif not decision.note:
        lines.append("The policy gives no scores, so the candidates above are all there is.")
    return lines


def reason_in_words(reason: Contribution) -> str:
    """A feature, its value for the choice and for the next best, and what it adds to the margin."""
    if reason.feature == BEFORE:
        return f"{BEFORE} {reason.amount:+.3g}"
    name = FEATURES[reason.feature].phrase if reason.feature in FEATURES else one_line(reason.feature)
    values = [] if math.isnan(reason.value) else [quantity(reason.value, reason.unit)]
    values += [] if math.isnan(reason.others) else [f"(next best {quantity(reason.others, reason.unit)})"]
    return " ".join([name, *values, f"{reason.amount:+.3g}"])


def _who(decision: Decision) -> str:
    version = f" ({one_line(decision.version)})" if decision.version else ""
    return f"Policy: {one_line(decision.policy)}{version}."


def _table(decision: Decision) -> list[str]:
    """The candidates, the best first, with their features."""
    said = [reason.feature for reason in decision.reasons]
    names = sorted(decision.features, key=lambda name: said.index(name) if name in said else len(said))[:COLUMNS]
    header = ["", "candidate", "on", "score (highest wins)"]
    header += [FEATURES[name].phrase if name in FEATURES else one_line(name) for name in names]
    places = sorted(range(len(decision.candidates)), key=lambda at: _rank(decision, at))
    rows = []
    for at in places:
        one = decision.candidates[at]
        found = dict(zip(decision.features, one.values, strict=False))  # waiting has no values
        values = [
            quantity(found[name], FEATURES[name].unit if name in FEATURES else "1") for name in names if name in found
        ]
        score = "-" if one.score is None else f"{one.score:.4g}"
        mark = ">" if at == decision.choice else ""
        rows.append([mark, one_line(one.model) or WAIT, one_line(one.accelerator), score, *values])
    return _aligned([header, *rows])


def _rank(decision: Decision, at: int) -> tuple[bool, float, int]:
    """The choice first, then by score."""
    score = decision.candidates[at].score
    return at != decision.choice, math.inf if score is None else -score, at


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, in columns."""
    longest = max(map(len, rows))
    full = [[*row, *[""] * (longest - len(row))] for row in rows]
    widths = [max(len(row[column]) for row in full) for column in range(longest)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in full]
