"""The held-out protocol: which seeds are for learning, for choosing, and for the final comparison.

    train       gradients, searches, demonstrations: everything that changes a weight
    validation  which checkpoint, which trial, when to stop
    test        the comparison that is reported, once; no function here returns them

Code that trains or tunes takes its seeds from `training_seeds` and `validation_seeds`, or checks seeds from users with
`check_training` and `check_choosing`. `recorded` stores the suite's state in an agent's card, so that `problems_of` can
later tell that an agent was trained on another suite, or on seeds of the comparison.

A log has one past, whatever the seed. It is split by time: training sees its first part alone (`part: train`), in
windows. The first windows are its training seeds, the last ones its validation seeds; the rest of the log judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from cace_env.cases import Case, case_of
from cace_env.config import ConfigError
from cace_env.evaluation.scores import SMALLEST_HEADROOM_PERCENT
from cace_env.evaluation.suite import load_suite, suite_versions
from cace_env.policies import load_agent
from cace_env.policies.agent import AgentCard
from cace_env.scenarios import SEEDS, Scenario, Split, load_scenario, seeds
from cace_env.tables import Protocol
from cace_env.traces import windows_of
from cace_env.workload import Workload

WHOLE_SUITE: Final = "suite"
Chosen = str | Path | Scenario  # an entry of the suite, or what `load_scenario` takes
LOG_WINDOWS: Final = 12  # of the training part of a log, where its scenario does not say
LEARNED_SHARE: Final = 0.75  # of these windows; the last ones choose
FEWEST_WINDOWS: Final = 4
SUITE: Final = "v1"  # default suite for training and comparisons


def training_seeds(count: int, first: int = 0) -> range:
    """Seeds for learning.

    Args:
        count: how many.
        first: the first seed, so that runs can use different ones.

    Raises:
        ConfigError: `count` is below 1, or the seeds exceed the training split.
    """
    known = SEEDS["train"]
    if count < 1 or first < 0 or first + count > len(known):
        raise ConfigError(
            f"{count} training seeds from {first} are not available; there are {len(known):,}, from {known[0]} to "
            f"{known[-1]}"
        )
    return known[first : first + count]


def validation_seeds(count: int) -> range:
    """The first `count` validation seeds, for choosing.

    Raises:
        ConfigError: there are not that many.
    """
    return seeds("validation", count)


def split_of(seed: int) -> Split | None:
    """The split that a seed belongs to, or None."""
    return next((split for split, known in SEEDS.items() if seed in known), None)


def check_training(numbers: Iterable[int]) -> None:
    """Check that all seeds are training seeds.

    Raises:
        ConfigError: a seed is not one; the message names the first and its split.
    """
    _check(numbers, "train", "learned from")


def check_choosing(numbers: Iterable[int]) -> None:
    """Check that all seeds, for choosing a checkpoint or a trial, are validation seeds.

    Raises:
        ConfigError: as for `check_training`.
    """
    _check(numbers, "validation", "chosen by")


def _check(numbers: Iterable[int], wanted: Split, use: str) -> None:
    known = SEEDS[wanted]
    for seed in numbers:
        if seed not in known:
            of = split_of(seed)
            belongs = f"a {of} seed" if of else "a seed of no split"
            raise ConfigError(
                f"seed {seed} is {belongs}: only {wanted} seeds may be {use}, and they are {known[0]} to {known[-1]}"
            )


def seeds_text(numbers: Sequence[int]) -> str:
    """Format seeds as in a card: `0-999`, or `3,5,8-9`."""
    if isinstance(numbers, range) and numbers.step == 1 and len(numbers) > 1:
        return f"{numbers[0]}-{numbers[-1]}"  # a million seeds need no sorting
    parts: list[list[int]] = []
    for seed in sorted(numbers):
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def seeds_of(text: str) -> tuple[range, ...]:
    """Parse the text of `seeds_text` to ranges.

    Raises:
        ConfigError: the text has another form.
    """
    ranges = []
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise ConfigError(f"training seeds are {text!r}; write them like 0-999 or 3,5,8-9")
        ranges.append(range(int(first), int(last or first) + 1))
    return tuple(ranges)


def learned_from(text: str, numbers: Iterable[int]) -> list[int]:
    """The seeds among `numbers` that an agent was trained on.

    Args:
        text: its training seeds, as in its card.
        numbers: seeds of a comparison.

    Raises:
        ConfigError: as for `seeds_of`.
    """
    ranges = seeds_of(text)
    return [seed for seed in numbers if any(seed in known for known in ranges)]


def spent_before(init: str | None) -> int:
    """Requests simulated to train the initial agent, which count in the budget of a training; 0 without one.

    Raises:
        ConfigError: there is no such agent, or it was trained on validation or test seeds.
    """
    if init is None:
        return 0
    card = load_agent(init).card
    for split in ("validation", "test") if card.train_seeds else ():
        known = learned_from(card.train_seeds, SEEDS[split])
        if known:
            raise ConfigError(
                f"init: agent {card.name!r} was trained on {split} seeds (the first is {known[0]}), so an agent that "
                "starts from it would be, too; start from another one"
            )
    return card.requests


def recorded(card: AgentCard, version: str = SUITE) -> AgentCard:
    """Add the suite's current state to a card, because the agent's results depend on it.

    Args:
        card: card of an agent; it is returned unchanged if none of the suite's entries was trained on.
        version: version of the suite.
    """
    if not {name for name, _ in _fingerprints(version, card.env)} & set(card.trained_on):
        return card
    known = {
        "suite": version,
        "fingerprints": dict(_fingerprints(version, card.env)),
        "headroom_cut_percent": SMALLEST_HEADROOM_PERCENT,
    }
    return card.model_copy(update=known)


@lru_cache(maxsize=8)
def _fingerprints(version: str, env: str) -> tuple[tuple[str, str], ...]:
    """Fingerprints of a suite's entries in an environment; cached, because it tabulates scenarios."""
    return tuple((entry.id, entry.fingerprint()) for entry in load_suite(version).entries if entry.env == env)


def problems_of(card: AgentCard, judged_by: Iterable[int] = ()) -> list[str]:
    """Reasons why results of an agent are not held out, or not of the suite it names; empty if there are none.

    Args:
        card: the agent's.
        judged_by: seeds of the comparison.
    """
    problems = problems_of_seeds(card.train_seeds, judged_by)
    return problems + changed_since(card) if card.train_seeds else problems


def problems_of_seeds(text: str, judged_by: Iterable[int] = (), who: str = "it was") -> list[str]:
    """Reasons why results of what learned from some seeds are not held out; empty if there are none.

    Args:
        text: the seeds, as in a card.
        judged_by: seeds of the comparison.
        who: learned, with its verb.
    """
    if not text:
        return [f"its card does not say which seeds {who} trained on"]
    problems = []
    try:
        for split in ("validation", "test"):
            known = learned_from(text, SEEDS[split])
            if known:
                problems.append(f"{who} trained on {len(known)} {split} seeds (the first is {known[0]})")
        seen = learned_from(text, judged_by)
        if seen and not problems:
            problems.append(f"{who} trained on {len(seen)} of the seeds that it is judged by (the first is {seen[0]})")
    except ConfigError as error:
        problems.append(str(error))
    return problems


def changed_since(card: AgentCard) -> list[str]:
    """Differences between the suite that an agent was trained on and the one that ships now."""
    if not card.suite or not card.fingerprints:
        return []
    if card.suite not in suite_versions():
        return [f"it was trained on suite {card.suite!r}, which does not ship"]
    problems, now = [], recorded(card, card.suite)
    changed = [name for name, known in card.fingerprints.items() if now.fingerprints.get(name) != known]
    if changed:
        problems.append(f"these entries of suite {card.suite} have changed since it was trained: {', '.join(changed)}")
    if card.headroom_cut_percent != now.headroom_cut_percent:
        cuts = f"{card.headroom_cut_percent:g} % then and {now.headroom_cut_percent:g} % now"
        problems.append(f"the least headroom of entries in means has changed: {cuts}")
    return problems


def training_scenarios(
    what: Chosen | Sequence[Chosen], env: Protocol, *, with_logs: bool = False
) -> dict[str, Scenario]:
    """The scenarios to train on, by the names that the user gave, which the card records.

    Args:
        what: "suite" for all its entries of the environment, or names of entries, scenarios or scenario files, or
            scenarios themselves; one or several.
        env: environment of the entries and actions.
        with_logs: whether a scenario may take its requests from the training part of a log (`training_cases`).

    Raises:
        ConfigError: no name is given, one is unknown or given twice, an entry is for the other environment, or a
                scenario takes its requests from a log: every seed of it is the log itself, so it has no training split.
    """
    suite = load_suite(SUITE)
    entries = {entry.id: entry for entry in suite.all_entries()}
    whole = [entry.id for entry in suite.entries if entry.env == env]
    given = what if isinstance(what, Sequence) and not isinstance(what, str) else [what]
    scenarios: dict[str, Scenario] = {}
    for name in [each for one in given for each in (whole if one == WHOLE_SUITE else [one])]:
        entry = entries.get(name) if isinstance(name, str) else None
        if entry is not None and entry.env != env:
            raise ConfigError(
                f"{name!r} is an entry for {entry.env.env_name}, but the agent is trained for {env.env_name}"
            )
        scenario = entry.load() if entry is not None else load_scenario(name)
        if scenario.name in {other.name for other in scenarios.values()}:
            raise ConfigError(f"{scenario.name!r} is given twice as a training scenario; give it once")
        if scenario.trace is not None and not with_logs:
            raise ConfigError(
                f"{scenario.name!r} takes its requests from a log, and this training needs requests that are drawn "
                "anew; algorithms imitation, linear and network train on a log with part: train"
            )
        scenarios[scenario.name if isinstance(name, Scenario) else str(name)] = scenario
    if not scenarios:
        raise ConfigError('nothing to train on; give "suite" or names of scenarios')
    return scenarios


def training_cases(what: Chosen | Sequence[Chosen], env: Protocol) -> dict[str, Case]:
    """The training scenarios as cases, by name; arguments and errors as for `training_scenarios`.

    A scenario with a log has to have its training part, whose windows are the episodes.
    """
    scenarios = training_scenarios(what, env, with_logs=True)
    return {
        name: case_of(scenario, env) if scenario.trace is None else _windows_of_log(scenario, env)
        for name, scenario in scenarios.items()
    }


def _windows_of_log(scenario: Scenario, env: Protocol) -> Case:
    """The training part of a log as a case: training and validation seeds are different windows of it.

    Seeds go through the windows of their split in order of time, and begin again; then what the log lacks is drawn
    anew.
    """
    trace = scenario.trace
    assert trace is not None
    if trace.part != "train":
        raise ConfigError(
            f"{scenario.name!r} takes its requests from a log: training may see its first part alone, so that the rest "
            "can judge; add `part: train` to its trace section"
        )
    count = trace.windows or LOG_WINDOWS
    if count < FEWEST_WINDOWS:
        raise ConfigError(f"{scenario.name!r}: windows is {count}; training takes {FEWEST_WINDOWS} or more of a log")
    whole = scenario.model_copy(update={"trace": trace.model_copy(update={"windows": None})})
    learned = round(LEARNED_SHARE * count)
    places = {"train": range(learned), "validation": range(learned, count)}

    @lru_cache(maxsize=2)
    def windows(draw: int) -> list[Workload]:
        return windows_of(whole.workload(draw), count)

    def workload(seed: int) -> Workload:
        split = split_of(seed)
        if split is None or split not in places:
            raise ConfigError(f"seed {seed} is not for training or choosing, and {scenario.name!r} is a log for these")
        draw, number = divmod(SEEDS[split].index(seed), len(places[split]))
        return windows(draw)[places[split][number]]

    return replace(case_of(scenario, env), workload=workload, training=None)
