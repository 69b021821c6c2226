"""Fits the survival curves of pauses that ship, on training seeds of the suite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console

import cace_env
from cace_env.cases import Case
from cace_env.config import Frozen
from cace_env.evaluation import load_suite, run_episode
from cace_env.forecasting.survival import SHIPPED, Seen, fit_survival, write_survival
from cace_env.policies import contestant_of
from cace_env.scenarios import seeds
from cace_env.simulation import Simulator
from cace_env.tables import Protocol
from cace_env.workload import Workload
from experiments.running.progress import progress_bar

POLICY: Final = "lru"  # whoever decides, users pause alike


class Fit(Frozen):
    """Fit the survival curves of sessions' pauses on training seeds of the suite's Eviction-v0."""

    seeds: int = Field(default=8, ge=1, description="training seeds of each entry")
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Field(
        default=Path(cace_env.__file__).parent / "data" / SHIPPED,
        description="file for the curves, replaced; the one that ships by default",
    )

    def run(self, console: Console) -> int:
        """Fits and writes; the exit status."""
        cases = load_suite("v1").cases(Protocol.EVICTION)
        jobs = [(case, seed) for case in cases.values() for seed in seeds("train", self.seeds)]
        with progress_bar(Console(stderr=True)) as progress:
            episodes = (seen_under(case, seed) for case, seed in progress.track(jobs, description="sessions"))
            source = f"{self.seeds} training seeds of each entry of suite v1, Eviction-v0, under {POLICY}"
            survival = fit_survival(episodes, source)
        write_survival(survival, self.out)
        console.print(f"{survival.pauses:,} pauses of {len(jobs)} episodes; wrote {self.out}", soft_wrap=True)
        return 0


def seen_under(case: Case, seed: int, policy: str = POLICY) -> Seen:
    """What an orchestrator sees of an episode that a policy plays."""
    workload = case.workload(seed)
    simulator, _ = run_episode(contestant_of(policy), case, workload, seed)
    return seen_of(simulator, workload)


def seen_of(simulator: Simulator, workload: Workload) -> Seen:
    """What an orchestrator has seen of an episode that has been played."""
    episode = simulator.episode()
    came = episode.arrival_us <= episode.end_us
    finish = np.where(episode.refused, episode.arrival_us, episode.finish_us)
    session = workload.session.astype(np.int64) * simulator.tables.num_models + workload.model
    model, task = workload.model.astype(np.int64), workload.task.astype(np.int64)
    return Seen(episode.arrival_us[came], finish[came], session[came], model[came], task[came], int(episode.end_us))
