"""How pauses of sessions end: fitted to simulated episodes, and judged by how well that foretells the next use.

Lengths of pauses are estimated by Kaplan and Meier (1958): a pause that the end of the episode cuts off counts as long
as it is seen. Rows with few pauses lean on the row of their task, and that on all pauses together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.cases import Case
from cace_env.kernel.state import CLOCK, COLUMN, NONE, REQUEST, requests_of
from cace_env.observation import SLOT, SLOT_FEATURES, ObservationLayout
from cace_env.policies import policy, rule_of
from cace_env.sessions import AGAIN_AGES_S, AGAIN_SHAPE, AGAIN_STEPS, AGAIN_WITHIN_S, DIGITS, AgainTable
from cace_env.simulation import Simulator
from cace_env.tables import TASKS, FloatArray, Int64Array

PLAYED: Final = "lru"  # under which requests finish; how long a pause lasts hardly depends on it
LEAN: Final = 20.0  # pauses that the row above counts for
POINTS: Final = 32  # of a range of ages, at which survival is read
FAR_S: Final = 3600.0  # uses later than this count as this late
RIDGE: Final = 3.0  # regularisation, in questions

Flags = npt.NDArray[np.bool_]


class Pauses(NamedTuple):
    """`N` pauses of sessions at models."""

    task: Int64Array  # (N,) of the last request before
    step: Int64Array  # (N,) its number in the session at the model, 0 ... AGAIN_STEPS - 1
    seen_s: FloatArray  # (N,) how long it lasted, or was seen to last
    ended: Flags  # (N,) whether it ended


def pauses_of(case: Case, seeds: Iterable[int]) -> Pauses:
    """The pauses of some episodes under LRU."""
    simulator, rule = Simulator(case.tables), rule_of(policy(PLAYED), case.tables)
    found = []
    for seed in seeds:
        workload = case.workload(seed)
        simulator.run(workload, rule)
        requests = simulator.state.requests
        pairs = requests_of(workload)[0].columns[:, COLUMN.session_pair].astype(np.int64)
        served = np.flatnonzero(requests[:, REQUEST.finish_us] != NONE)
        arrival_us, finish_us = requests[served, REQUEST.arrival_us], requests[served, REQUEST.finish_us]
        found.append(_pauses(pairs[served], workload.task[served].astype(np.int64), arrival_us, finish_us))
    return joined(found)


def joined(some: Sequence[Pauses]) -> Pauses:
    """All of them."""
    return Pauses(*(np.concatenate(columns) for columns in zip(*some, strict=True)))


def _pauses(pair: Int64Array, task: Int64Array, arrival_us: Int64Array, finish_us: Int64Array) -> Pauses:
    """The pauses between the requests of each pair of session and model."""
    order = np.lexsort((arrival_us, pair))
    pair, task, arrival_us, finish_us = pair[order], task[order], arrival_us[order], finish_us[order]
    first = np.concatenate([[True], pair[1:] != pair[:-1]])
    start = np.maximum.accumulate(np.where(first, np.arange(len(pair)), 0))
    step = np.minimum(np.arange(len(pair)) - start, AGAIN_STEPS - 1)
    # Pairs one after the other on one axis of time: the latest finish so far is that of the pair.
    far = int(finish_us.max()) + 1
    until_us = np.maximum.accumulate(finish_us + pair * far) - pair * far
    end_us = int(arrival_us.max())
    next_us = np.append(arrival_us[1:], end_us)
    ended = ~np.append(first[1:], True)
    next_us = np.where(ended, next_us, np.maximum(end_us, until_us))
    is_pause = next_us >= until_us
    return Pauses(task[is_pause], step[is_pause], ((next_us - until_us) / 1e6)[is_pause], ended[is_pause])


def fitted(pauses: Pauses, source: str) -> AgainTable:
    """The table of probabilities that fits some pauses.

    A pause of an age within a range ends within h with probability `1 - sum S(a + h) / sum S(a)` over ages a of the
    range, `S` being the share of pauses that last longer: each age counts by the pauses that reach it.
    """
    everything = np.ones(len(pauses.task), dtype=np.bool_)
    of_all = _leaning(pauses, everything, np.zeros(AGAIN_SHAPE[2:]))
    again = np.zeros(AGAIN_SHAPE)
    for task in range(len(TASKS)):
        of_task = _leaning(pauses, pauses.task == task, of_all)
        for step in range(AGAIN_STEPS):
            again[task, step] = _leaning(pauses, (pauses.task == task) & (pauses.step == step), of_task)
    rows = np.round(again, DIGITS).reshape(-1, len(AGAIN_WITHIN_S)).tolist()
    return AgainTable(source=source, pauses=len(pauses.task), again=tuple((a, b, c) for a, b, c in rows))


def _leaning(pauses: Pauses, which: Flags, parent: FloatArray) -> FloatArray:
    """Probabilities by age and horizon of some pauses, drawn to `parent` as if it were `LEAN` pauses more."""
    if not which.any():
        return parent
    seen_s, ended = pauses.seen_s[which], pauses.ended[which]
    found = np.zeros_like(parent)
    for age, (least_s, most_s) in enumerate(pairwise(AGAIN_AGES_S)):
        at_s = least_s + (np.arange(POINTS) + 0.5) / POINTS * (most_s - least_s)
        reached = max(_survival(seen_s, ended, at_s).sum(), 1e-12)
        for column, within_s in enumerate(AGAIN_WITHIN_S):
            chance = 1.0 - _survival(seen_s, ended, at_s + within_s).sum() / reached
            count = np.count_nonzero(seen_s >= least_s)
            found[age, column] = (count * min(chance, 1.0) + LEAN * parent[age, column]) / (count + LEAN)
    return found


def _survival(seen_s: FloatArray, ended: Flags, at_s: FloatArray) -> FloatArray:
    """Kaplan and Meier's estimate of the share of pauses that last longer than `at_s`."""
    order = np.argsort(seen_s, kind="stable")
    left = len(order) - np.arange(len(order))
    shares = np.concatenate([[1.0], np.cumprod(1.0 - ended[order] / left)])
    found: FloatArray = shares[np.searchsorted(seen_s[order], at_s, side="right")]
    return found


class Uses(NamedTuple):
    """`N` resident models that could be evicted at questions to LRU."""

    seen: FloatArray  # (N, len(SLOT_FEATURES)) features, scaled as in observations
    next_s: FloatArray  # (N,) until the next request for the model; infinite if there is none


def uses_of(case: Case, seeds: Iterable[int]) -> Uses:
    """What is seen of resident models, and when each is used next."""
    simulator = Simulator(case.tables)
    seen, next_s = [], []
    for seed in seeds:
        workload = case.workload(seed)
        asked, episode = simulator.reset(workload), []
        layout = ObservationLayout(simulator.max_slots, 0)
        while asked:
            legal = np.flatnonzero(simulator.state.legal)
            slots = layout.split(simulator.observation(layout)).slots[legal]
            episode.append((simulator.row.item(CLOCK), simulator.state.slots[legal].copy(), slots))
            asked = simulator.answer(int(legal[slots[:, SLOT.since_use_s].argmax()]))
        arrival_us = simulator.state.requests[:, REQUEST.arrival_us]
        order = np.lexsort((arrival_us, workload.model))
        models, times_us = workload.model[order], arrival_us[order]
        for now_us, residents, slots in episode:
            for m, row in zip(residents.tolist(), slots, strict=True):
                first, end = np.searchsorted(models, [m, m + 1])
                at = first + np.searchsorted(times_us[first:end], now_us, side="right")
                next_s.append((times_us[at] - now_us) / 1e6 if at < end else np.inf)
                seen.append(row)
    return Uses(np.array(seen, dtype=np.float64), np.array(next_s))


class Foretold(NamedTuple):
    """How well a linear regression over some features foretells the next use."""

    r2: float  # of ln(1 + seconds until it), an hour at most
    auc: tuple[float, ...]  # of a use within each of `AGAIN_WITHIN_S`


def foretold(learn: Uses, judge: Uses, groups: Sequence[str]) -> Foretold:
    """Fit on some, judged on others.

    Args:
        learn: what the regression is fitted on.
        judge: what it is judged by; of other seeds.
        groups: the groups of features it has.
    """
    columns = [at for at, feature in enumerate(SLOT_FEATURES) if feature.group in groups]
    wanted, actual = (np.log1p(np.minimum(uses.next_s, FAR_S)) for uses in (learn, judge))
    guess = _ridge(learn.seen[:, columns], wanted, judge.seen[:, columns])
    r2 = 1.0 - float(((actual - guess) ** 2).sum() / ((actual - wanted.mean()) ** 2).sum())
    areas = []
    for within_s in AGAIN_WITHIN_S:
        soon = (learn.next_s < within_s).astype(np.float64)
        areas.append(_auc(judge.next_s < within_s, _ridge(learn.seen[:, columns], soon, judge.seen[:, columns])))
    return Foretold(r2, tuple(areas))


def _ridge(x: FloatArray, y: FloatArray, at: FloatArray) -> FloatArray:
    """A ridge regression of y on x, evaluated elsewhere."""
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread[spread == 0] = 1.0
    x, at = (x - mean) / spread, (at - mean) / spread
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (y - y.mean()))
    guess: FloatArray = at @ weights + y.mean()
    return guess


def _auc(positive: Flags, score: FloatArray) -> float:
    """Probability that a positive one scores higher than a negative one; NaN without either."""
    rank = np.empty(len(score))
    rank[np.argsort(score, kind="stable")] = np.arange(len(score))
    yes, no = np.count_nonzero(positive), np.count_nonzero(~positive)
    return float((rank[positive].sum() - yes * (yes - 1) / 2) / (yes * no)) if yes and no else float("nan")
