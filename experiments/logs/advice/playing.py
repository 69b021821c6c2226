"""One policy on one fleet: an episode of a log, and what each of its windows saw.

A window's numbers are sums over the requests that arrive in it, of one long episode: memory, queues and forecasts go on
from one window to the next, as they do in a real fleet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cace_env.cases import Case
from cace_env.config import ConfigError
from cace_env.evaluation import run_episode
from cace_env.policies import Contestant
from cace_env.simulation.windows import sums_of, window_metrics
from cace_env.tables import TASKS, FloatArray, Int64Array
from cace_env.workload import Workload


class Promise(NamedTuple):
    """A promise to the users of a task."""

    task: str
    share: float  # of its requests
    within_s: float
    on: str = "ttft"  # or "e2e"

    def __str__(self) -> str:
        return f"{100 * self.share:.4g} % of {self.task} within {self.within_s:g} s ({self.on.upper()})"


class Played(NamedTuple):
    """One policy on one fleet; `W` windows that judge, `S` promises. Arrays are sums over the requests of a window."""

    requests: FloatArray  # (W,)
    cost: FloatArray  # (W,) weighted seconds of waiting
    waiting_s: FloatArray  # (W,) until the first token
    answered: FloatArray  # (W,)
    limited: FloatArray  # (W, S) requests that a promise speaks of
    met: FloatArray  # (W, S) of these, those in time
    cost_before: FloatArray  # (V - W,) of the windows before these
    ttft_p95_s: float
    longest_wait_s: float
    refused: int
    decisions: int  # of the whole episode, like those below
    evictions: int
    loads: int
    compute_share: float
    channel_share: float
    span_s: float  # from the first arrival in the windows to the last, as the log has them
    backlog_share: float  # of the episode, from its last arrival to its end: what was queued by then

    @property
    def requests_per_s(self) -> float:
        """The load, which is taken as given: intervals are over what a request costs."""
        return float(self.requests.sum()) / self.span_s

    @property
    def ttft_mean_s(self) -> float:
        return float(self.waiting_s.sum() / max(1.0, self.answered.sum()))


def play(
    case: Case,
    contestant: Contestant,
    workload: Workload,
    starts: Int64Array,
    judging: int,
    promises: Sequence[Promise],
    task: npt.NDArray[np.int8] | None = None,
) -> Played:
    """Plays an episode, and adds up its windows.

    Args:
        case: the fleet.
        contestant: the policy.
        workload: the requests.
        starts: rows where windows begin, and the end, as in `Parts`.
        judging: windows that judge, the last ones.
        promises: of which is counted how often they are kept.
        task: the true task of each request, where the policy was shown another one.

    Raises:
        ConfigError: the episode was cut short, or the policy cannot play this fleet.
        PolicyError: a Python policy failed.
    """
    simulator, _ = run_episode(contestant, case, workload, 0)
    episode = simulator.episode()
    if episode.truncated:
        raise ConfigError(f"{case.name}: max_decisions cut the episode short; leave it out of the scenario")
    task = workload.task if task is None else task
    answered = ~episode.refused
    ttft_s = np.where(answered, (episode.first_token_us - episode.arrival_us) / 1e6, 0.0)
    e2e_s = np.where(answered, (episode.finish_us - episode.arrival_us) / 1e6, 0.0)
    by_window = window_metrics(replace(episode, task=task), case.tables.cost, starts)
    cost = by_window["cost"]
    limited, met = _kept(promises, task, answered, ttft_s, e2e_s)
    first = len(cost) - judging
    judged = slice(int(starts[first]), None)
    of_judged = ttft_s[judged][answered[judged]]
    simulated_us = max(episode.end_us, 1) * case.tables.num_accelerators
    return Played(
        requests=np.diff(starts).astype(np.float64)[first:],
        cost=cost[first:],
        waiting_s=by_window["waiting_s"][first:],
        answered=sums_of(answered, starts)[first:],
        limited=sums_of(limited, starts)[first:],
        met=sums_of(met, starts)[first:],
        cost_before=cost[:first],
        ttft_p95_s=float(np.quantile(of_judged, 0.95)) if len(of_judged) else float("nan"),
        longest_wait_s=float(of_judged.max()) if len(of_judged) else float("nan"),
        refused=int(episode.refused[judged].sum()),
        decisions=episode.decisions,
        evictions=episode.evictions,
        loads=episode.loads,
        compute_share=float(episode.busy_us.sum()) / simulated_us,
        channel_share=float(episode.channel_us.sum()) / simulated_us,
        span_s=max(float(workload.arrival_us.max() - workload.arrival_us[judged.start]) / 1e6, 1e-6),
        backlog_share=1 - float(episode.arrival_us.max()) / max(episode.end_us, 1),
    )


def _kept(
    promises: Sequence[Promise],
    task: npt.NDArray[np.int8],
    answered: npt.NDArray[np.bool_],
    ttft_s: FloatArray,
    e2e_s: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Whether each promise speaks of a request, and whether it was kept; a refused request missed it. `(R, S)` each."""
    limited = np.zeros((len(task), len(promises)))
    met = np.zeros_like(limited)
    for column, promise in enumerate(promises):
        mine = task == TASKS.index(promise.task)
        latency_s = ttft_s if promise.on == "ttft" else e2e_s
        limited[:, column] = mine
        met[:, column] = mine & answered & (latency_s <= promise.within_s)
    return limited, met
