"""Does a policy still save when the world is another one than the log's: demand, bursts, forecasts, what is known.

Every situation changes the requests after the judging begins, for the recommended and the deployed policy alike. Where
a policy is shown less than there is (no tasks, no users), costs are counted by what is true.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from cace_env.cases import Case
from cace_env.evaluation import Gain
from cace_env.policies import Contestant
from cace_env.tables import TASKS, Int64Array
from cace_env.workload import Workload
from experiments.logs.advice.parts import Parts
from experiments.logs.advice.playing import Promise, play
from experiments.logs.advice.resampling import Draws

BURST: Final = 2.0  # times faster


class Situation(NamedTuple):
    """A change of the requests from row `start` on, on a fleet whose KV caches hold so many tokens."""

    name: str
    what: str
    change: Callable[[Workload, int, Int64Array], Workload]


class Held(NamedTuple):
    """What a policy saves in a situation against the deployed one."""

    situation: Situation
    gain: Gain
    deployed_cost: float  # of the deployed policy there, as a share of its cost on the log as it is
    longest_wait: float  # the policy's over the deployed one's


def held(
    case: Case,
    recommended: Contestant,
    deployed: Contestant,
    parts: Parts,
    draws: Draws,
    tell: Callable[[], None],
) -> list[Held]:
    """Plays both policies in every situation.

    Raises:
        ConfigError, PolicyError: as `play`.
    """
    rows: list[Held] = []
    promises: Sequence[Promise] = ()
    usual: float | None = None
    for situation in SITUATIONS:
        workload = situation.change(parts.whole, parts.judged_from, case.tables.kv_tokens)
        task = parts.whole.task
        ours, theirs = (
            play(case, who, workload, parts.starts, parts.windows, promises, task) for who in (recommended, deployed)
        )
        usual = float(theirs.cost.sum()) if usual is None else usual
        rows.append(
            Held(
                situation,
                draws.gain(theirs.cost, ours.cost),
                float(theirs.cost.sum()) / usual if usual else float("nan"),
                ours.longest_wait_s / theirs.longest_wait_s if theirs.longest_wait_s else float("nan"),
            )
        )
        tell()
    return rows


def _as_it_is(workload: Workload, start: int, kv_tokens: Int64Array) -> Workload:
    del start, kv_tokens
    return workload


def _exchanged(workload: Workload, start: int, kv_tokens: Int64Array) -> Workload:
    """Popularity upside down: the most requested model changes places with the least, and so on.

    A request that is too long for its new model keeps its old one.
    """
    ranked = np.argsort(-np.bincount(workload.model, minlength=len(kv_tokens)), kind="stable")
    used = ranked[np.bincount(workload.model, minlength=len(kv_tokens))[ranked] > 0]
    other = np.arange(len(kv_tokens))
    other[used] = used[::-1]
    model = workload.model.copy()
    model[start:] = other[model[start:]]
    tokens = workload.context_tokens.astype(np.int64) + workload.output_tokens
    too_long = tokens > kv_tokens[model]
    model[too_long] = workload.model[too_long]
    return dataclasses.replace(workload, model=model.astype(np.int32))


def _exchanged_half_way(workload: Workload, start: int, kv_tokens: Int64Array) -> Workload:
    """Popularity turns upside down in the middle: what was counted until then is wrong."""
    return _exchanged(workload, (start + len(workload)) // 2, kv_tokens)


def _burst(workload: Workload, start: int, kv_tokens: Int64Array) -> Workload:
    """The middle third comes at twice the speed."""
    del kv_tokens
    third = (len(workload) - start) // 3
    first, end = start + third, len(workload) - third
    gaps_us = np.diff(workload.arrival_us, prepend=workload.arrival_us[:1])
    think_us = workload.think_us.copy()
    for times_us in (gaps_us, think_us):
        times_us[first:end] = times_us[first:end] // int(BURST)
    return dataclasses.replace(workload, arrival_us=workload.arrival_us[0] + np.cumsum(gaps_us), think_us=think_us)


def _no_tasks(workload: Workload, start: int, kv_tokens: Int64Array) -> Workload:
    """Nobody says what a request is for: all look like chat."""
    del start, kv_tokens
    return dataclasses.replace(workload, task=np.full_like(workload.task, TASKS.index("chat")))


def _no_users(workload: Workload, start: int, kv_tokens: Int64Array) -> Workload:
    """Nobody says whose a request is: every one has a user of its own."""
    del start, kv_tokens
    return dataclasses.replace(workload, user=np.arange(len(workload), dtype=np.int32))


SITUATIONS: Final = (
    Situation("as in the log", "nothing is changed", _as_it_is),
    Situation("demand shift", "the most and the least requested models change places", _exchanged),
    Situation("burst", "the middle third of the requests comes twice as fast", _burst),
    Situation("wrong forecast", "popularity turns upside down half way", _exchanged_half_way),
    Situation("tasks unknown", "every request looks like chat; costs are those of its task", _no_tasks),
    Situation("users unknown", "every request looks like one of another user", _no_users),
)
