"""How much a planner may think."""

from __future__ import annotations

from typing import Final

from pydantic import Field, field_validator

from cace_env.config import MOST_THREADS, Frozen, Line, parse, parse_yaml

BETWEEN: Final = "@"  # starts an option behind the name of a planner
FEWEST: Final = 8  # futures, before a decision may end for lack of time


class Budget(Frozen):
    """How much a planner may think at each decision."""

    futures: int = Field(default=32, ge=2, le=4096, description="sampled futures; with few of them chance decides")
    horizons: tuple[float, ...] = Field(
        default=(60.0, 300.0), min_length=1, description="times after the decision at which costs are read [s]"
    )
    sure: float = Field(
        default=1.0, ge=0, description="standard errors by which another choice has to be cheaper than the policy's"
    )
    prefetch_sure: float = Field(
        default=2.0,
        ge=0,
        allow_inf_nan=True,
        description="the same for a load that nobody waits for, where a scenario allows them; .inf = never",
    )
    ms: float = Field(
        default=0.0,
        ge=0,
        description="time after which no further futures are begun; 0 = no limit, so that results are reproducible",
    )
    threads: int = Field(default=1, ge=1, le=MOST_THREADS, description="threads over futures; decisions are the same")
    habits: Line = Field(default="", description="folder of habits to sample from; by default those that ship")

    @field_validator("horizons", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(float(part) for part in value.split("+"))
        return (value,) if isinstance(value, int | float) else value

    @field_validator("horizons")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(late > early for early, late in zip((0.0, *value), value, strict=False)) or value[-1] > 86_400:
            raise ValueError("horizons have to ascend from above 0 to at most 86400 s, as in 60+300")
        return value


def budget_of(options: list[str], where: str) -> Budget:
    """Read options as they stand in a planner's name, `futures=64`.

    Raises:
        ConfigError: there is no such option, or its value is out of range.
    """
    given = {key: parse_yaml(value, where) for key, _, value in (option.partition("=") for option in options)}
    return parse(Budget, given, where)
