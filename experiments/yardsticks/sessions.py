"""What is seen of sessions in episodes that LRU plays, and how well that foretells the next use of a resident model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np

from cace_env.cases import Case
from cace_env.evaluation import run_episode
from cace_env.forecasting.survival import Seen
from cace_env.kernel.state import CLOCK, REQUEST
from cace_env.observation import SLOT, SLOT_FEATURES, ObservationLayout
from cace_env.policies import contestant_of
from cace_env.sessions import AGAIN_WITHIN_S
from cace_env.simulation import Simulator
from cace_env.tables import FloatArray
from cace_env.workload import Workload
from experiments.reading.roc import auc

POLICY: Final = "lru"  # under which requests finish; how long a pause lasts hardly depends on it
FAR_S: Final = 3600.0  # uses later than this count as this late
RIDGE: Final = 3.0  # regularisation, in questions


def seen_under(case: Case, seed: int) -> Seen:
    """What an orchestrator sees of an episode under LRU."""
    workload = case.workload(seed)
    simulator, _ = run_episode(contestant_of(POLICY), case, workload, seed)
    return seen_of(simulator, workload)


def seen_of(simulator: Simulator, workload: Workload) -> Seen:
    """What an orchestrator has seen of an episode that has been played, until its last arrival."""
    episode = simulator.episode()
    came = (episode.arrival_us <= episode.end_us) & ~episode.refused
    arrival_us, model = episode.arrival_us[came], workload.model[came].astype(np.int64)
    return Seen(
        arrival_us,
        episode.finish_us[came],
        workload.session[came].astype(np.int64) * simulator.tables.num_models + model,
        model,
        workload.task[came].astype(np.int64),
        int(arrival_us.max(initial=0)),
    )


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
        areas.append(auc(_ridge(learn.seen[:, columns], soon, judge.seen[:, columns]), judge.next_s < within_s))
    return Foretold(r2, tuple(areas))


def _ridge(x: FloatArray, y: FloatArray, at: FloatArray) -> FloatArray:
    """A ridge regression of y on x, evaluated elsewhere."""
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread[spread == 0] = 1.0
    x, at = (x - mean) / spread, (at - mean) / spread
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (y - y.mean()))
    guess: FloatArray = at @ weights + y.mean()
    return guess
