"""What is searched, in the format of a W&B sweep: the same file serves `wandb sweep` and `python -m experiments.tune`.

    parameters:
      algorithm: {value: maskable-ppo}                                            # fixed
      hidden: {values: [32, 64, 128]}                                             # one of these
      learning_rate: {distribution: log_uniform_values, min: 1.0e-5, max: 1.0e-2} # a number
      epochs: {min: 1, max: 10}                                                   # a whole number: both bounds are

Other keys of a sweep (program, command, method, metric, ...) are for W&B and are left alone here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

import optuna
from pydantic import Field, model_validator

from cace_env.config import ConfigError, Frozen, did_you_mean, parse, read_yaml

FOR_WANDB: Final = (
    "program", "command", "method", "metric", "early_terminate", "name", "description", "project", "entity", "run_cap",
)  # fmt: skip
Value = bool | int | float | str | None


class Parameter(Frozen):
    """One number or choice."""

    value: Value | list[Any] = Field(default=None, description="fixed")
    values: tuple[Value, ...] = Field(default=(), description="one of these")
    min: float | int | None = Field(default=None, description="least")
    max: float | int | None = Field(default=None, description="greatest")
    distribution: (
        Literal["constant", "categorical", "uniform", "int_uniform", "q_uniform", "log_uniform_values"] | None
    ) = Field(default=None, description="as W&B names them; by default what the other keys say")
    q: float | int | None = Field(default=None, gt=0, description="q_uniform: steps of the grid")

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        kinds = {"value": "value" in self.model_fields_set, "values": bool(self.values), "min and max": self.is_range}
        said = [kind for kind, there in kinds.items() if there]
        if len(said) != 1:
            raise ValueError(f"give one of value, values, or min and max; got {' and '.join(said) or 'none'}")
        if self.min is not None and self.max is not None:
            if self.min >= self.max:
                raise ValueError(f"min is {self.min} and max {self.max}; min has to be less")
            if self.distribution == "log_uniform_values" and self.min <= 0:
                raise ValueError(f"min is {self.min}; a logarithmic range begins above 0")
        if self.distribution == "q_uniform" and self.q is None:
            raise ValueError("q_uniform needs q, the steps of its grid")
        return self

    @property
    def is_range(self) -> bool:
        """Whether both bounds are there."""
        return self.min is not None and self.max is not None

    @property
    def is_searched(self) -> bool:
        """Whether there is anything to choose."""
        return "value" not in self.model_fields_set and len(self.values) != 1

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """The value for a trial.

        Raises:
            ConfigError: the parameter has neither a value nor bounds.
        """
        if "value" in self.model_fields_set:
            return self.value
        if self.values:
            return trial.suggest_categorical(name, self.values) if len(self.values) > 1 else self.values[0]
        least, most = self.min, self.max
        if least is None or most is None:  # `_says_one_thing` refuses it
            raise ConfigError(f"parameter {name!r} has no bounds; give it min and max")
        if self.distribution in (None, "int_uniform") and isinstance(least, int) and isinstance(most, int):
            return trial.suggest_int(name, least, most)
        if self.distribution == "q_uniform":
            return trial.suggest_float(name, least, most, step=self.q)
        return trial.suggest_float(name, least, most, log=self.distribution == "log_uniform_values")


class Space(Frozen):
    """What is searched."""

    parameters: dict[str, Parameter] = Field(min_length=1, description="by name: keys of the agent's configuration")

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """A configuration for a trial."""
        return {name: parameter.suggest(trial, name) for name, parameter in self.parameters.items()}

    def searched(self) -> list[str]:
        """Names of what is not fixed."""
        return [name for name, parameter in self.parameters.items() if parameter.is_searched]

    def with_value(self, name: str, value: Any) -> Space:
        """The same space with one parameter fixed."""
        return Space(parameters={**self.parameters, name: Parameter(value=value)})


def read_space(path: str | Path) -> Space:
    """A search space from a YAML file.

    Raises:
        ConfigError: no such file, or its content is refused; nothing in it is searched.
    """
    content: Mapping[str, Any] = read_yaml(path)
    unknown = [key for key in content if key not in (*FOR_WANDB, "parameters")]
    if unknown:
        known = ("parameters", *FOR_WANDB)
        raise ConfigError(f"{path}: {unknown[0]}: unknown key{did_you_mean(unknown[0], known)}")
    space = parse(Space, {key: value for key, value in content.items() if key == "parameters"}, str(path))
    if not space.searched():
        raise ConfigError(f"{path}: every parameter is fixed: there is nothing to search")
    return space
