"""A validation in short: a screen, the tables of the documentation, and all results as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from rich.console import Console

from experiments.reading.markdown import table
from experiments.running.command_line import screen_table
from experiments.validation.evaluating import Validation, mean_errors
from experiments.validation.judging import Row, percent
from experiments.validation.page import machine

SHORT: Final = ("TTFT mean", "TTFT p95", "E2E mean", "E2E p95", "evictions", "loads")
MOST_MISSES: Final = 5  # that are printed; the page has them all


def _pair(row: Row) -> str:
    return f"{row.real:.3g} {row.simulated:.3g} {row.error_percent:+.0f}%"


def _by_policy(found: Validation) -> dict[tuple[str, str], Mapping[str, Row]]:
    return {
        key: {row.figure: row for row in found.rows if (row.workload, row.policy) == key} for key in found.simulated
    }


def _order_lines(found: Validation) -> list[str]:
    return [
        f"{one.workload}: {one.worse} costs {one.simulated_percent:+.0f} % more than {one.better}, simulated, and "
        f"{one.real_percent:+.0f} %, measured; that order in {one.simulated_share:.0%} of the simulations and "
        f"{one.real_share:.0%} of the real pairs" + (", too close to claim one" if one.holds is None else "")
        for one in found.orders
    ]


def say(found: Validation, console: Console) -> None:
    """One screen."""
    rows = [
        [f"{name}, {policy}", *(_pair(rows[figure]) for figure in SHORT)]
        for (name, policy), rows in _by_policy(found).items()
    ]
    console.print(screen_table(["real, simulated, error", *SHORT], rows))
    for line in _order_lines(found):
        console.print(line, soft_wrap=True)
    errors = [abs(one.error_percent) for one in found.crossed if one.figure.endswith("mean")]
    if errors:
        console.print(
            f"one policy's means from the other's runs: off by {np.mean(errors):.0f} % on average, "
            f"{max(errors):.0f} % at most"
        )
    console.print(machine(found), soft_wrap=True)
    for line in found.misses[:MOST_MISSES]:
        console.print(line, style="yellow", soft_wrap=True)
    if len(found.misses) > MOST_MISSES:
        console.print(f"and {len(found.misses) - MOST_MISSES} more are outside their limits", style="yellow")
    for problem in found.problems:
        console.print(problem, style="red", soft_wrap=True)
    if found.problems:
        console.print("These numbers do not count: measure again on a machine that nobody else uses.", style="red")


def regions_of(found: Validation) -> dict[str, str]:
    """The generated regions of docs/validation.md."""
    plan = found.plan
    compared = table(
        ["workload", "policy", *SHORT],
        [
            [name, f"`{policy}`", *(_pair(rows[figure]) for figure in SHORT)]
            for (name, policy), rows in _by_policy(found).items()
        ],
    )
    spread = table(
        ["workload", "policy", *SHORT],
        [
            [name, f"`{policy}`", *(f"{rows[f].spread_percent:.0f} %; {_band(rows[f])}" for f in SHORT)]
            for (name, policy), rows in _by_policy(found).items()
        ],
    )
    crossed = table(
        ["workload", "fitted on", "predicted", *SHORT],
        [
            [name, f"`{one}`", f"`{other}`", *(
                f"{c.error_percent:+.0f} %" for f in SHORT for c in found.crossed
                if (c.workload, c.fitted_on, c.predicted, c.figure) == (name, one, other, f)
            )]
            for name, one, other in dict.fromkeys((c.workload, c.fitted_on, c.predicted) for c in found.crossed)
        ],
    )  # fmt: skip
    variants = table(
        ["variant", *SHORT],
        [[name, *(f"{errors[figure]:.1f}" for figure in SHORT)] for name, errors in mean_errors(found.variants)],
    )
    limits = [*found.problems, *(f"{miss}." for miss in found.misses)] or ["Every figure is within its limit."]
    return {
        "measured": f"`{plan['command']}`, {plan['measured']}, {len(found.runs)} runs of {plan['requests']} requests. "
        f"{machine(found)}",
        "compared": compared,
        "spread": spread,
        "orders": "\n".join(f"- {line}." for line in _order_lines(found)),
        "crossed": crossed,
        "variants": variants,
        "limits": "\n".join(f"- {line}" for line in limits),
    }


def _band(row: Row) -> str:
    return f"{percent(row.low, row.real):+.0f} to {percent(row.high, row.real):+.0f} %" if row.real else "-"


def document_of(found: Validation) -> dict[str, Any]:
    """All results as plain data."""
    return {
        "plan": found.plan,
        "drift_percent": found.drift,
        "changed_percent": found.changed,
        "jitter": None if found.jitter is None else found.jitter._asdict(),
        "counts": not found.problems,
        "problems": found.problems,
        "misses": found.misses,
        "rows": [
            {
                **row._asdict(),
                "error_percent": row.error_percent,
                "spread_percent": row.spread_percent,
                "holds": row.holds,
            }
            for row in found.rows
        ],
        "orders": [{**one._asdict(), "holds": one.holds} for one in found.orders],
        "crossed": [{**one._asdict(), "error_percent": one.error_percent} for one in found.crossed],
        "missing": found.missing,
        "variants": [one._asdict() for one in found.variants],
    }
