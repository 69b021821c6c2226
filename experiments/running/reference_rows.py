"""The clairvoyant reference beside the policies of a run: looked for, or taken from the costs that ship with suites."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from cace_env.cases import Case
from cace_env.config import ConfigError, did_you_mean
from cace_env.evaluation import SeedResult
from cace_env.evaluation.episodes import seed_result
from cace_env.evaluation.results import Results, published
from cace_env.evaluation.scores import REFERENCE
from cace_env.evaluation.suite import suite_versions
from cace_env.planning import find_reference, replay
from cace_env.planning.planner import GAIN, MAX_REPLAYS, MAX_ROUNDS, STARTS
from cace_env.policies import Future
from cace_env.simulation import lower_bound
from cace_env.tables import TASKS
from experiments.running.command_line import key_value

DEFAULTS: Final[dict[str, Any]] = {"gain": GAIN, "max_rounds": MAX_ROUNDS, "max_replays": MAX_REPLAYS, "starts": STARTS}
GROUP: Final = "Reference"
DESCRIPTION: Final = "the cheapest of all rules, clairvoyant or not, and of plans found from them with the true future"
SHIPPED: Final = ("cost", "ttft_mean_s", "e2e_mean_s", "longest_wait_s", "evictions")  # what costs that ship say
# Of all seeds: those that ship with a suite, and looked for where none do; looked for everywhere; none. Or looked for
# on the first so many seeds.
Choice = int | Literal["shipped", "compute", "none"]


@dataclass(frozen=True)
class Reference:
    """Where the costs of the reference come from."""

    choice: Choice
    search: Mapping[str, Any]  # how hard it is looked for
    shipped: Mapping[str, tuple[Results, str]]  # by fingerprint of a case: costs that ship, and the entry they are of

    def wants(self, place: int) -> bool:
        """Whether it is wanted on a seed, by its place among those of a case."""
        return place < self.choice if isinstance(self.choice, int) else self.choice != "none"

    @property
    def settings(self) -> dict[str, Any]:
        """How hard it is, or was, looked for."""
        settings = dict(self.search)
        for results, _ in self.shipped.values():
            settings |= results.header.settings
        return settings

    def about(self) -> dict[str, Any]:
        """What run.json says about it."""
        return {"group": GROUP, "description": DESCRIPTION, "settings": self.settings}


def reference_of(
    choice: Choice, given: Sequence[str], fingerprints: Iterable[str], seeds: Sequence[int]
) -> Reference | None:
    """What was asked for; None: no reference.

    Args:
        choice: see `Choice`.
        given: options KEY=VALUE of `cace_env.planning.find_reference`.
        fingerprints: of the cases.
        seeds: of the episodes.

    Raises:
        ConfigError: an option that is refused, or one where costs ship, so that nothing would be looked for.
    """
    search = reference_options(given)
    if choice in (0, "none"):
        return None
    shipped = {}
    for version in suite_versions() if choice == "shipped" else ():
        results = published(version)
        entries = {} if results is None else {value: name for name, value in results.header.fingerprints.items()}
        for fingerprint in fingerprints:
            if results is not None and fingerprint in entries and _has(results, entries[fingerprint], seeds):
                shipped[fingerprint] = results, entries[fingerprint]
    if shipped and given:
        suite = next(iter(shipped.values()))[0].header.suite
        raise ConfigError(
            f"--reference-option {given[0]}: costs of the reference ship with suite {suite}, so it is not looked for; "
            "--reference compute looks for it"
        )
    return Reference(choice, search, shipped)


def _has(results: Results, entry: str, seeds: Sequence[int]) -> bool:
    try:
        results.column(entry, REFERENCE, seeds)
    except ConfigError:
        return False
    return True


def shipped_result(reference: Reference, fingerprint: str, case: Case, seed: int) -> SeedResult:
    """The row of the reference on an episode as it ships with a suite; `fingerprint` is one of `shipped`."""
    results, entry = reference.shipped[fingerprint]
    row = {name: float(results.column(entry, REFERENCE, [seed], name)[0]) for name in SHIPPED}
    label = {"scenario": case.name, "policy": REFERENCE, "seed": seed, "label": "shipped", "truncated": 0.0}
    return SeedResult(row | label, np.zeros((len(TASKS), 0), dtype=np.int64))


def reference_result(case: Case, seed: int, options: Mapping[str, Any]) -> tuple[SeedResult, dict[str, Any]]:
    """The reference of one episode, as the row of a policy, and how it was found, for searches.csv.

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
    search = {
        "scenario": case.name,
        "seed": seed,
        "base": found.base,
        "base_cost": found.base_cost,
        "cost": found.cost,
        "rounds": len(found.rounds),
        "replays": found.replays,
        "wall_s": round(found.wall_s, 3),
    }
    return seed_result(REFERENCE, case, workload, seed, replay(case, workload, found), bound), search


def reference_options(given: Sequence[str]) -> dict[str, Any]:
    """Options KEY=VALUE as keys of `find_reference`, over its defaults.

    Raises:
        ConfigError: no KEY=VALUE, no such key, or a value of another kind.
    """
    options = dict(DEFAULTS)
    for option in given:
        key, value = key_value("--reference-option", option, "starts=1")
        if key not in DEFAULTS:
            known = ", ".join(DEFAULTS)
            raise ConfigError(
                f"--reference-option {option!r}: no key {key!r}{did_you_mean(key, DEFAULTS)}; known are {known}"
            )
        options[key] = value
        kind = type(options[key])
        if kind is not int and (key, kind) not in (("gain", float), ("max_replays", type(None))):
            number = "number" if key == "gain" else "whole number"
            raise ConfigError(f"--reference-option {option!r}: {value!r} is no {number}")
    return options
