"""Options that several commands have, each said once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro
from pydantic import Field

from cace_env.config import ConfigError, Frozen
from cace_env.policies import Contestant
from cace_env.policies.python import Illegal
from cace_env.scenarios import Split
from cace_env.tables import Protocol
from cace_env.traces import Part, guess_format
from experiments.running.cases import REDRAWS
from experiments.running.command_line import key_value, metavar, split_names
from experiments.running.contestants import agent_names, contestants_of
from experiments.running.executors.execution import Execution, Kind
from experiments.running.reference_rows import Choice
from experiments.running.run_writer import check_goes_on
from experiments.running.runner import workers_of

Names = Annotated[tuple[str, ...], metavar("A,B")]
Folder = Annotated[str | None, metavar("FOLDER")]
Count = Annotated[int | None, metavar("N")]
KeyValues = tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")]]
Env = Protocol | Literal["both"]
ENV: Final = metavar("eviction|swap|both")


def folder_of(out: str | None, kind: str) -> Path:
    """The folder that was named, or else a new one under runs/ named after the time and a kind of run."""
    if out is not None:
        return Path(out)
    path = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{kind}"
    return path if not path.exists() else path.with_name(f"{path.name}-{os.getpid()}")


class Placed(Frozen):
    """Where it is played."""

    executor: Annotated[Kind, metavar("local|ray")] = Field(
        default="local",
        description="local (default): threads of this machine; ray: processes of a Ray cluster, see docs/scale.md. The "
        "results are the same",
    )
    ray_address: Annotated[str | None, metavar("HOST:PORT|auto")] = Field(
        default=None,
        description="a Ray cluster that this machine is part of; by default that of RAY_ADDRESS, or one of this "
        "machine that lasts as long as the command",
    )

    def placed(self, threads: int | None) -> Execution:
        """Which executor was asked for; a cluster has the cores it has.

        Args:
            threads: of this machine; None: as many as there are cores.

        Raises:
            ConfigError: an address of no use.
        """
        if self.ray_address is not None and self.executor != "ray":
            raise ConfigError("--ray-address is for --executor ray; give that, too")
        return Execution(self.executor, threads if self.executor == "local" else None, self.ray_address)


class Executed(Placed):
    """Where it is played, and how much side by side."""

    workers: Count = Field(
        default=None,
        description="threads, or with --executor ray processes; as many as there are cores by default",
    )

    def execution(self) -> Execution:
        """Which executor was asked for.

        Raises:
            ConfigError: no number of workers, or an address of no use.
        """
        workers = workers_of(self.workers)
        return self.placed(None)._replace(workers=None if self.workers is None else workers)


class Running(Executed):
    """How much is played, and where it is kept."""

    seeds: Count = Field(
        default=None,
        description="episodes of each policy on each scenario; on a log, how often what is attached to it is drawn "
        f"({REDRAWS} by default)",
    )
    split: Split = Field(default="test", description="where the seeds come from")
    out: Folder = Field(
        default=None, description="run folder: new, empty, or to go on with; named after the time by default"
    )

    def folder(self, kind: str) -> Path:
        """--out, or a new folder under runs/ named after the time.

        Raises:
            ConfigError: --out holds something that is no run.
        """
        path = folder_of(self.out, kind)
        check_goes_on(path)
        return path


class TakingPart(Frozen):
    """Who plays."""

    policies: Names = Field(
        default=(),
        description="built-in policies; by default all but the readings of the quoted formula ('cace-quoted*'); "
        "cace:FILE.yaml is CACE with other weights; wsjf+cace loads by the order wsjf (Swap-v0); lru always runs",
    )
    policy: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODULE:OBJECT")]] = Field(
        default=(), description="a Python policy f(features, legal) -> keep-scores, besides; may be given several times"
    )
    illegal: Annotated[Illegal, metavar("error|replace")] = Field(
        default="error",
        description="what becomes of an action of a Python policy that is not legal: error (default) stops; replace "
        "takes the legal one of lowest index, as the environments do, and counts: for policies that know no masks",
    )
    agent: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME|FOLDER")]] = Field(
        default=(), description="a trained agent, shipped or in a folder; the same as agent:... among the policies"
    )

    @property
    def named(self) -> list[str]:
        """Built-in policies and agents, by name."""
        return [*split_names(self.policies), *agent_names(self.agent)]

    def contestants(self, protocols: Sequence[Protocol], default: Sequence[str] = ()) -> list[Contestant]:
        """Those who were asked for (`contestants_of`).

        Args:
            protocols: that are run.
            default: names of the policies that play where none are given.

        Raises:
            ConfigError: as `contestants_of`.
        """
        names = self.named or ([] if self.policy else list(default))
        return contestants_of(names, self.policy, protocols, self.illegal)


def trace_options(given: Sequence[str]) -> dict[str, Any]:
    """Options of the form KEY=VALUE, values as YAML.

    Raises:
        ConfigError: one has no `=`, or its value is not YAML.
    """
    return dict(key_value("--trace-option", one, "users=200") for one in given)


class Logged(Frozen):
    """A log of real requests."""

    trace: Annotated[str | None, metavar("LOG")] = Field(
        default=None, description="a log of real requests, or the folder of an imported one; see docs/traces.md"
    )
    format: Annotated[str | None, metavar("NAME")] = Field(
        default=None, description="its format; guessed from the names of its columns by default"
    )
    trace_options: Annotated[dict[str, Any], tyro.conf.Suppress] = Field(
        default={}, description="other keys of cace_env.traces.TraceConfig"
    )
    trace_option: KeyValues = Field(
        default=(),
        description="how the log is read and what is attached to it, such as users=200 or time_compression=10; may be "
        "given several times, see cace_env.traces.TraceConfig",
    )

    windows: Annotated[int | None, metavar("N")] = Field(
        default=None,
        ge=1,
        description="windows by which the results on a log are told apart, in order of time: what intervals are over; "
        "by default as many as leave LRU enough decisions in each",
    )
    part: Annotated[Part | None, metavar("all|train|test")] = Field(
        default=None,
        description="part of the log: all of it (default), train (the first half, which `tune cace` reads), or test",
    )

    def section(self) -> dict[str, Any] | None:
        """The log as a section of `cace_env.traces.TraceConfig`, or None.

        Raises:
            ConfigError: options of a log without one, or an option that is no KEY=VALUE.
            TraceError: the format cannot be guessed.
        """
        if self.trace is None:
            for key in ("format", "trace_options", "trace_option", "windows", "part"):
                if getattr(self, key):
                    raise ConfigError(f"{key} is for a log; name the log with --trace FILE")
            return None
        format = self.format or guess_format(self.trace)
        section: dict[str, Any] = {"path": self.trace, "format": format, **self.trace_options}
        section |= trace_options(self.trace_option)
        given = {"windows": self.windows, "part": self.part}
        return section | {key: value for key, value in given.items() if value is not None}


class Referenced(Frozen):
    """The clairvoyant reference."""

    reference: Annotated[Choice | None, metavar("shipped|compute|none|N")] = Field(
        default=None,
        description="costs of the clairvoyant reference, by which scores are measured: those that ship with suites, "
        "and looked for where none do; looked for everywhere; none; or looked for on the first N seeds of each "
        "scenario (seconds to half a minute each)",
    )
    reference_option: KeyValues = Field(
        default=(),
        description="how hard it is looked for, such as starts=2; keys of cace_env.planning.find_reference",
    )
