"""Fits habits on episodes that LRU plays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import tyro
from pydantic import Field
from rich.console import Console

from cace_env.cases import Case
from cace_env.evaluation import seeds_text
from cace_env.evaluation.held_out import training_seeds
from cace_env.forecasting import HabitsCard, fit_habits, played, save_habits
from cace_env.forecasting.fitting import Played
from cace_env.policies import policy, rule_of
from cace_env.simulation import Simulator
from experiments.futures.episodes import Episodes
from experiments.running.command_line import Session
from experiments.running.progress import progress_bar
from experiments.running.run_folder import check_new

PART: Final = "train"  # of each log


class Fit(Episodes):
    """Count habits in episodes that LRU plays, and save them."""

    seeds: int = Field(default=2, ge=1, description="training seeds: episodes of each; of a log always one")
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Field(description="folder to write; it must not exist")

    def run(self, session: Session) -> int:
        """Fits and saves; the exit status.

        Raises:
            ConfigError: no such scenario or log, or the folder is not empty.
        """
        check_new(self.out)
        numbers, of_logs = training_seeds(self.seeds), self.logs is not None
        cases = self.cases(PART, numbers)
        with progress_bar(Console(stderr=True)) as progress:
            episodes = [lru_episode(case, seed) for case, seed in progress.track(cases, description="episodes")]
        card = HabitsCard(
            fitted_on=tuple(dict.fromkeys(case.name for case, _ in cases)),
            train_seeds="" if of_logs else seeds_text(numbers),
            part=PART if of_logs else "",
            requests=sum(len(episode.task) for episode in episodes),
            command=session.command,
        )
        save_habits(fit_habits(episodes, bursts=of_logs), card, self.out)
        session.console.print(f"{card.requests} requests of {len(episodes)} episodes; wrote {self.out}", soft_wrap=True)
        return 0


def lru_episode(case: Case, seed: int) -> Played:
    """An episode under LRU."""
    workload = case.workload(seed)
    simulator = Simulator(case.tables)
    simulator.run(workload, rule_of(policy("lru"), case.tables))
    return played(workload, simulator)
