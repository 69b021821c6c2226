"""Every key of a scenario file, from the code: `python -m experiments.scenario_keys --write docs/scenarios.md`."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from pydantic.fields import FieldInfo

from cace_env.config import ConfigError, Frozen
from cace_env.evaluation import load_suite, paired_gain
from cace_env.evaluation.results import published
from cace_env.evaluation.scores import BASELINE, REFERENCE
from cace_env.evaluation.suite import TINY
from cace_env.fleets import REWARDS, Reward, TaskCost
from cace_env.scenarios import SEEDS, Accelerators, Hosted, Rules, Scenario, Split, load_scenario, scenario_names, seeds
from experiments.reading.markdown import table
from experiments.running.command_line import print_or_write

SECTIONS: list[tuple[str, str, type[Frozen]]] = [
    ("Top level", "", Scenario),
    (
        "`fleet`: a list of",
        "Accelerators are numbered from 0 in this order; that is what `pinned_on` refers to.",
        Accelerators,
    ),
    ("`catalogue`: a list of", "A plain name stands for `{model: name}`.", Hosted),
    ("`reward`, where it is not the name of a preset", "", Reward),
    ("One task of `reward`", "", TaskCost),
    ("`rules`", "", Rules),
]

INTRODUCTION = """# Scenarios: every key

Written by `python -m experiments.scenario_keys --write docs/scenarios.md` from `cace_env/scenarios.py`: change that,
not this page. The keys of `workload` stand in `cace_env/generator/draw.py`, each default with its source.

`cace_env.scenarios.load_scenario` takes the name of a shipped scenario, the path of a YAML file, a mapping or a
`Scenario`. Files are strict: an unknown key, a key given twice, a wrong type, a value out of range or a fleet on which
some model can never be loaded is refused with file, key and value. `scenario.replace(pressure=3.0)` is a checked copy.

```yaml
name: two-cards
fleet: [{gpu: l40s, count: 2}]
engine: fast-loader
host_ram_gb: 64
catalogue:  # 131 GB on 96 GB
  - qwen2.5-coder-7b
  - starcoder2-7b
  - granite-code-8b
  - codestral-22b-int4
  - {model: qwen2.5-coder-14b-int4, kv_tokens: 16384}
  - {model: mellum-4b, pinned_on: 0}
  - r1-distill-qwen-7b
workload: {requests: 1000, users: 10, shares: {completion: 0.7, chat: 0.2, reasoning: 0.1, agent: 0}}
reward: ttft
```"""

TINY_TEXT = """## `tiny`: to debug on

Everybody asks once or twice and is gone, so delays die out and few states lead on from any moment: dynamic programming
solves the whole episode ([optimum](reference.md#against-the-optimum)). Five models, 300 requests, some 75 decisions
an episode. It stands in no comparison unless it is named (`compare --scenarios tiny`), and what policies save on it
says nothing of other fleets: it was chosen so that they come apart. The optimum is proven on every validation and test
seed (`python -m experiments.reference tiny`). The costs ship with the suite `tiny-v1`, whose score of 100 is the
optimum.

Cost saved against LRU, 95 % paired intervals:"""

LOAD = """## How hard eviction matters: pressure and load

Two knobs. `pressure` is about memory: how much more is deployed than fits. It decides how many models have to take
turns, and says nothing of how often they do. *Load* is about time: the share of it in which the swap channels load or
unload under LRU (`channel_share` among the [metrics](compare.md)). It follows from `pressure`, the load engine and how
often people ask, so it is no key of its own: `users` in `workload` sets it.

With too little pressure nothing is ever decided: where memory holds all models at once or a single one at a time, or
no more than two may leave, no policy is asked anything in Eviction-v0, and all are equal. Making such an environment
warns and says what to change; so does `evaluate` after episodes without a question, which also finds workloads that ask
for too little.

`python -m experiments.calibrate_load my_fleet.yaml --busy 0.25` searches, on training seeds, for the least number of
users that keeps the channels busy for that share, and prints the lines for the file. Set `pressure` first: with another
pressure, engine, fleet or catalogue the same users are another load. A log (`trace`) brings its own users; there
`time_compression` is the knob."""


def page() -> str:
    """`docs/scenarios.md` as Markdown."""
    parts = [INTRODUCTION, _shipped(), _tiny()]
    for title, note, section in SECTIONS:
        parts.append(f"## {title}" + (f"\n\n{note}" if note else "") + f"\n\n{_keys(section)}")
    return "\n\n".join([*parts, LOAD, _presets(), _seeds()]) + "\n"


def _shipped() -> str:
    scenarios = [(name, load_scenario(name)) for name in scenario_names()]
    rows = [(name, scenario.question, scenario.description) for name, scenario in scenarios]
    return "## Shipped\n\n" + table(("name", "question", "description"), rows)


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
    return TINY_TEXT + "\n\n" + table(header, rows)


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
    note = "Assumptions, all: nobody has published what a second of a developer's waiting is worth by task."
    return f"## Reward presets\n\n{note}\n\n{table(('preset', 'task', 'w_ttft', 'w_e2e', 'SLO'), rows)}"


def _seeds() -> str:
    rows = [(split, f"{known.start:,} to {known.stop - 1:,} ({len(known):,})") for split, known in SEEDS.items()]
    note = "The same for every scenario (`cace_env.scenarios.seeds`)."
    return f"## Seeds\n\n{note}\n\n{table(('split', 'seeds'), rows)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the page, or writes it."""
    print_or_write(page, "experiments.scenario_keys", __doc__, arguments)


if __name__ == "__main__":
    main()
