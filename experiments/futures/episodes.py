"""Episodes to fit habits on, or to compare futures with: scenarios, entries of a suite, or public logs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError, Frozen, did_you_mean
from cace_env.scenarios import Split, seeds
from cace_env.tables import Protocol
from cace_env.traces.config import Part
from experiments.logs.public import scenarios as public_logs
from experiments.running.cases import chosen
from experiments.running.command_line import metavar, split_names
from experiments.running.options import Names


class Episodes(Frozen):
    """Which episodes."""

    scenarios: Names = Field(
        default=(),
        description="scenarios, suites and entries of them, or YAML files; by default all entries of v1",
    )
    env: Protocol = Field(default=Protocol.EVICTION, description="what is decided")
    logs: Annotated[Path | None, metavar("FOLDER")] = Field(
        default=None, description="public logs in a folder instead of generated requests; see docs/traces.md"
    )
    only: Names = Field(default=(), description="of the logs, only these")
    seeds: int = Field(default=8, ge=1, description="episodes of each; of a log always one")

    def cases(self, part: Part, numbers: Iterable[int]) -> list[tuple[Case, int]]:
        """Every case with every seed.

        Args:
            part: of a log, which is played once: habits are fitted on its first half, and judged on the second.
            numbers: seeds of all other cases.

        Raises:
            ConfigError: no such scenario or log.
        """
        if self.logs is None:
            if self.only:
                raise ConfigError("--only chooses among public logs; say where they are by --logs FOLDER")
            found = [case_of(each.scenario, each.protocol) for each in chosen(split_names(self.scenarios), (self.env,))]
            return [(case, seed) for case in found for seed in numbers]
        logs = public_logs(self.logs, self.env)
        names = split_names(self.only) or tuple(logs)
        unknown = [name for name in names if name not in logs]
        if unknown:
            hint = did_you_mean(unknown[0], logs)
            raise ConfigError(f"no log called {unknown[0]!r} in {self.logs}{hint}; there are {', '.join(logs)}")
        cases = []
        for name in names:
            log = logs[name]
            trace = log.trace.model_copy(update={"part": part}) if log.trace is not None else None
            cases.append((case_of(log.model_copy(update={"name": name, "trace": trace}), self.env), 0))
        return cases


class Judged(Episodes):
    """Which episodes that habits were not fitted on."""

    split: Split = Field(default="validation", description="where the seeds come from")

    def judged(self) -> list[tuple[Case, int]]:
        """Every case with every seed; errors as for `cases`, or there are not so many seeds."""
        return self.cases("test", seeds(self.split, self.seeds))
