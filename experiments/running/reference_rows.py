"""The clairvoyant reference beside the policies of a comparison: what was found for an episode, as a row of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from cace_env.cases import Case
from cace_env.config import ConfigError, did_you_mean
from cace_env.evaluation import SeedResult
from cace_env.evaluation.episodes import seed_result
from cace_env.evaluation.scores import REFERENCE
from cace_env.planning import Reference, find_reference, replay
from cace_env.planning.planner import GAIN, MAX_REPLAYS, MAX_ROUNDS, STARTS
from cace_env.policies import Future
from cace_env.simulation import lower_bound

DEFAULTS: Final[dict[str, Any]] = {"gain": GAIN, "max_rounds": MAX_ROUNDS, "max_replays": MAX_REPLAYS, "starts": STARTS}
GROUP: Final = "Reference"
DESCRIPTION: Final = "the cheapest of all rules, clairvoyant or not, and of plans found from them with the true future"


def reference_result(case: Case, seed: int, options: Mapping[str, Any]) -> tuple[SeedResult, Reference]:
    """The reference of one episode, as the row of a policy, and how it was found.

    Args:
        case: the fleet and its requests.
        seed: of the episode.
        options: of `cace_env.planning.find_reference`, see `reference_options`.

    Raises:
        ConfigError: options out of range.
    """
    workload = case.workload(seed)
    found = find_reference(case, workload, Future.of(case.tables, workload), seed, **options)
    bound = lower_bound(case.tables, workload).cost
    return seed_result(REFERENCE, case, workload, seed, replay(case, workload, found), bound), found


def reference_options(given: Sequence[str]) -> dict[str, Any]:
    """Options KEY=VALUE as keys of `find_reference`, over its defaults.

    Raises:
        ConfigError: no KEY=VALUE, no such key, or a value of another kind.
    """
    options = dict(DEFAULTS)
    for option in given:
        key, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"--reference-option {option!r} has to be KEY=VALUE, such as starts=1")
        if key not in DEFAULTS:
            known = ", ".join(DEFAULTS)
            raise ConfigError(
                f"--reference-option {option!r}: no key {key!r}{did_you_mean(key, DEFAULTS)}; known are {known}"
            )
        options[key] = yaml.safe_load(value)
        kind = type(options[key])
        if kind is not int and (key, kind) not in (("gain", float), ("max_replays", type(None))):
            number = "number" if key == "gain" else "whole number"
            raise ConfigError(f"--reference-option {option!r}: {value!r} is no {number}")
    return options


def about_reference(options: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says about it."""
    return {"group": GROUP, "description": DESCRIPTION, "settings": dict(options)}
