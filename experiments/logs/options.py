"""A log of one's own and what serves it, as options of commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final

import tyro
from pydantic import Field

from cace_env.config import ConfigError, Frozen
from cace_env.fleets import ENGINES, GPUS
from cace_env.scenarios import Scenario, load_scenario
from experiments.logs.eviction import with_engine
from experiments.logs.model_names import Match, match_models, read_models
from experiments.logs.own_log import OwnLog, on_scenario, open_log, scenario_for
from experiments.running.command_line import metavar
from experiments.running.options import Count, Folder, KeyValues, trace_options

ENGINE: Final = "safetensors"  # where nobody says: how vLLM loads by default
# The scenario of a log by GPUs (None: those that it comes with) and load regime (None: the one asked for).
Serving = Callable[[Sequence[tuple[str, int]] | None, str | None], Scenario]


class LogOnFleet(Frozen):
    """A log, and the fleet that serves it."""

    log: tyro.conf.Positional[Annotated[str | None, metavar("LOG")]] = Field(
        default=None, description="a log, or the folder of an imported one"
    )
    format: Annotated[str | None, metavar("NAME")] = Field(default=None, description="its format; told by its columns")
    trace_option: KeyValues = Field(
        default=(),
        description="how the log is read and what is attached to it, such as users=200 or attach=client-as-model; may "
        "be given several times, see cace_env.traces.TraceConfig",
    )
    models: Annotated[str | None, metavar("FILE.yaml")] = Field(
        default=None, description="what the models of the log are: name, or pattern with * -> catalogue, or ignore"
    )
    scenario: Annotated[str | None, metavar("NAME|FILE.yaml")] = Field(
        default=None, description="a scenario whose models, engine and rules serve the log, in place of --models"
    )
    gpu: Annotated[str | None, metavar("NAME")] = Field(
        default=None, description=f"GPUs that serve it today ({', '.join(GPUS)}); assumed by default, which is said"
    )
    gpus: Annotated[int | None, metavar("N")] = Field(default=None, ge=1, le=64, description="how many; 1 by default")
    engine: Annotated[str | None, metavar("NAME")] = Field(
        default=None, description=f"how models are loaded ({', '.join(ENGINES)}); {ENGINE} by default"
    )
    host_ram_gb: Annotated[float | None, metavar("GB")] = Field(
        default=None, ge=0, description="host cache for weights; 128 GB per GPU by default"
    )
    out: Folder = Field(default=None, description="new or empty; runs/TIME-COMMAND by default")
    workers: Count = Field(default=None, description="threads; as many as there are cores by default")

    def read(self, path: str) -> OwnLog:
        """A log with the options of reading.

        Raises:
            ConfigError, TraceError: as `open_log`.
        """
        return open_log(path, self.format, **trace_options(self.trace_option))

    def serving(
        self, log: OwnLog, said: Sequence[str] = ("engine", "host_ram_gb"), reward: str = "balanced"
    ) -> tuple[Serving, list[Match]]:
        """What makes the scenario of the log, and what its models are.

        Args:
            log: from `read`.
            said: options that --scenario says already.
            reward: a preset, without --scenario.

        Raises:
            ConfigError: options that do not go together; a scenario or file of names that cannot be used; models that
                the catalogue does not know. What is returned raises it where models do not fit.
        """
        names = read_models(self.models) if self.models is not None else {}
        if names and not log.names:
            raise ConfigError(f"--models {self.models}: the log names no models, or others are attached to it")
        if self.scenario is None:
            matches = match_models(log.names, names)

            def built(gpus: Sequence[tuple[str, int]] | None, engine: str | None = None) -> Scenario:
                engine = engine or self.engine or ENGINE
                return scenario_for(log, matches, gpus, engine, host_ram_gb=self.host_ram_gb, reward=reward)

            return built, matches
        for name in said:
            if getattr(self, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} is what --scenario says; leave one of them out")
        given, matches = on_scenario(log, load_scenario(self.scenario), names)

        def placed(gpus: Sequence[tuple[str, int]] | None, engine: str | None = None) -> Scenario:
            if gpus is not None and given.pressure is not None:
                raise ConfigError(
                    f"{self.scenario}: pressure scales the memory of the GPUs, so more of them would be smaller; leave "
                    "it out, and give memory_gb where GPUs have another than their data sheet says"
                )
            fleet = given.fleet if gpus is None else [{"gpu": gpu, "count": count} for gpu, count in gpus]
            return with_engine(given.replace(fleet=fleet), engine or given.engine)

        return placed, matches
