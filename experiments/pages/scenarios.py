"""Tables of scenarios: those that ship, every key of a file, presets of rewards, seeds."""

from __future__ import annotations

import types
import typing
from typing import Any, Final, Literal

from pydantic.fields import FieldInfo

from cace_env.config import ConfigError, Frozen
from cace_env.evaluation import load_suite, paired_gain
from cace_env.evaluation.results import published
from cace_env.evaluation.scores import BASELINE, REFERENCE
from cace_env.evaluation.suite import TINY
from cace_env.fleets import REWARDS, Reward, TaskCost
from cace_env.fleets.measured import Measured
from cace_env.fleets.rules import Rules
from cace_env.scenarios import SEEDS, Accelerators, Hosted, Scenario, Split, load_scenario, scenario_names, seeds
from experiments.reading.markdown import table

SECTIONS: Final[tuple[type[Frozen], ...]] = (Scenario, Accelerators, Hosted, Measured, Reward, TaskCost, Rules)


def regions() -> dict[str, str]:
    """Regions of `docs/scenarios.md`."""
    keys = {f"keys-{section.__name__.lower()}": _keys(section) for section in SECTIONS}
    return {"shipped": _shipped(), "tiny": _tiny(), **keys, "presets": _presets(), "seeds": _seeds()}


def _shipped() -> str:
    scenarios = [(name, load_scenario(name)) for name in scenario_names()]
    rows = [(name, scenario.question, scenario.description) for name, scenario in scenarios]
    return table(("name", "question", "description"), rows)


def _tiny() -> str:
    """What policies save on the scenario `tiny`, from the costs that ship with its suite."""
    suite, results = load_suite(TINY), published(TINY)
    if results is None:
        raise ConfigError(f"no costs ship with suite {TINY}; python -m experiments.reference tiny computes them")
    entry = suite.entries[0].id
    names = ("cace", "cace:tuned-eviction", REFERENCE)
    rows = []
    splits: tuple[Split, ...] = ("validation", "test")
    for split in splits:
        lru, *others = (results.column(entry, name, seeds(split)) for name in (BASELINE, *names))
        gains = [paired_gain(lru, cost) for cost in others]
        rows.append((split, f"{lru.mean():.1f}", *map(str, gains)))
    header = ("100 seeds", "cost of LRU", "`cace`", "`cace:tuned-eviction`", "optimum")
    return table(header, rows)


def _keys(section: type[Frozen]) -> str:
    hints = typing.get_type_hints(section)
    rows = [
        (f"`{info.alias or name}`", _type(hints[name]), _default(info), info.description or "")
        for name, info in section.model_fields.items()
    ]
    return table(("key", "type", "default", "meaning"), rows)


def _type(hint: Any) -> str:
    """A type as a reader of YAML would say it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(each) for each in arguments if each is not type(None))
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"{_type(arguments[0])} to {_type(arguments[1])}"
    if isinstance(hint, type) and issubclass(hint, Frozen):
        return "section"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(hint, str(hint))


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.default
    if value is None or value in ((), ""):
        return "none"
    if isinstance(value, Frozen | dict):
        return "its defaults"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _presets() -> str:
    rows = []
    for name, reward in REWARDS.items():
        for task, cost in reward.tasks().items():
            slo = "none" if cost.slo_s is None else f"{cost.slo_s:g} s on {cost.slo_on}"
            rows.append((name, task, f"{cost.w_ttft:g}", f"{cost.w_e2e:g}", slo))
    return table(("preset", "task", "w_ttft", "w_e2e", "SLO"), rows)


def _seeds() -> str:
    rows = [(split, f"{known.start:,} to {known.stop - 1:,} ({len(known):,})") for split, known in SEEDS.items()]
    return table(("split", "seeds"), rows)
