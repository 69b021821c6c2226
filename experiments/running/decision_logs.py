"""Logs of the decisions of a comparison: which are asked for, and how they are written."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from cace_env.config import ConfigError, Frozen, did_you_mean
from cace_env.decision_log import DecisionLog
from cace_env.decision_log.reader import FOLDER
from cace_env.decision_log.writer import files_of, import_parquet
from cace_env.evaluation import run_episode
from cace_env.evaluation.episodes import in_order
from cace_env.policies import Contestant
from experiments.running.cases import PreparedCase
from experiments.running.command_line import Session, metavar, split_names
from experiments.running.options import Names
from experiments.running.progress import progress_bar

MOST_MB: Final = 256.0  # as of `DecisionLog`


class DecisionLogged(Frozen):
    """A log of decisions."""

    decision_log: bool = Field(
        default=False,
        description=f"write every decision, its candidates and reasons to {FOLDER}/ in the run folder; "
        "`python -m experiments.why FOLDER` reads it",
    )
    decision_log_policies: Names = Field(default=(), description="only of these policies; by default of all")
    decision_log_seeds: Annotated[int | None, metavar("N")] = Field(
        default=None, ge=1, description="of the first N seeds; 1 by default"
    )
    decision_log_mb: Annotated[float | None, metavar("MB")] = Field(
        default=None, gt=0, description=f"most megabytes of the log, the oldest files go; {MOST_MB:g} by default"
    )

    def check_decision_log(self, cases: Sequence[PreparedCase]) -> None:
        """Refuses options that are in vain.

        Raises:
            ConfigError: an option of a log without the log, a policy that does not take part, or pyarrow is missing.
        """
        if not self.decision_log:
            for key in ("decision_log_policies", "decision_log_seeds", "decision_log_mb"):
                if getattr(self, key):
                    raise ConfigError(f"--{key.replace('_', '-')} is for a log of decisions; add --decision-log")
            return
        import_parquet()
        known = list(dict.fromkeys(one.name for case in cases for one in case.contestants if one.swaps))
        for name in split_names(self.decision_log_policies):
            if name not in known:
                raise ConfigError(
                    f"--decision-log-policies: {name!r} does not take part{did_you_mean(name, known)}; there are "
                    + ", ".join(known)
                )


def log_decisions(
    cases: Sequence[PreparedCase], options: DecisionLogged, path: Path, workers: int, session: Session
) -> None:
    """Plays the episodes whose decisions are asked for once more, and writes them to a new log in the run folder."""
    named = split_names(options.decision_log_policies)
    episodes = [
        (case, contestant, seed)
        for case in cases
        for contestant in case.contestants
        if contestant.swaps and (not named or contestant.name in named)
        for seed in case.seeds[: options.decision_log_seeds or 1]
    ]
    folder = path / FOLDER
    for file in files_of(folder) if folder.is_dir() else ():
        file.unlink()
    began_s = time.process_time()
    with DecisionLog(folder, max_mb=options.decision_log_mb or MOST_MB) as log, progress_bar(session.console) as bars:
        bar = bars.add_task("writing decisions", total=len(episodes))

        def play(episode: tuple[PreparedCase, Contestant, int]) -> None:
            prepared, contestant, seed = episode
            run_episode(contestant, prepared.case, prepared.case.workload(seed), seed, decision_log=log)

        for _ in in_order(play, episodes, workers):
            bars.update(bar, advance=1)
    spent_s = time.process_time() - began_s
    each = f", {1e6 * spent_s / log.written:.0f} us of processor time each" if log.written else ""
    session.console.print(
        f"{log.written:,} decisions and other evictions written{each}; "
        f"python -m experiments.why {shlex.quote(str(path))} --list shows them",
        soft_wrap=True,
    )
