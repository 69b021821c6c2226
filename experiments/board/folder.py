"""A folder that somebody hands in: the policy as names and numbers, and the results that are claimed for it.

    submission.yaml   who hands in what
    results.csv       every episode of the policy and of LRU (`cace_env.evaluation.results`)
    cace.yaml         weights of CACE, or
    agent.json, weights.npz      a trained agent, without pickle; neither of them for a rule that has a name

Nothing in a folder is ever executed. A policy of Python code is named in a folder at most; who checks the results says
where that code is.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from cace_env.config import ConfigError, Frozen, Line, Name, did_you_mean, dump, load, one_line, parse, shown
from cace_env.evaluation.held_out import learned_from, problems_of
from cace_env.evaluation.results import Results, read_results, write_results
from cace_env.evaluation.scores import BASELINE, REFERENCE
from cace_env.files import replace_file
from cace_env.policies import ORDERS, POLICIES, READINGS, Contestant, Policy, load_agent, write_agent
from cace_env.policies.agent import CARD_FILE, MOST_BYTES, PREFIX, WEIGHTS_FILE, AgentCard
from cace_env.policies.cace import Cace, Tuning, load_cace
from cace_env.policies.orders import split_order
from cace_env.scenarios import SEEDS
from experiments.board.records import WHO
from experiments.running.contestants import CACE_PREFIX

ABOUT_FILE: Final = "submission.yaml"
RESULTS_FILE: Final = "results.csv"
CACE_FILE: Final = "cace.yaml"
# Files that a folder may hold, and the most bytes of each.
LARGEST: Final = {
    ABOUT_FILE: 1 << 16,
    RESULTS_FILE: 1 << 24,
    CACE_FILE: 1 << 16,
    CARD_FILE: 1 << 20,
    WEIGHTS_FILE: MOST_BYTES,
}
OF_POLICY: Final[Mapping[str, tuple[str, ...]]] = {CACE_FILE: (CACE_FILE,), CARD_FILE: (CARD_FILE, WEIGHTS_FILE)}
LONGEST: Final = 60  # letters of what a policy was fitted to, on the board
_MARKUP: Final = re.compile(r"[<>\[\]|`\\]")
_LINK: Final = re.compile(r"https://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._~/%+=?#-]*)?")


def plain_text(text: str) -> str:
    """The text, if it has no markup: it will stand on a page.

    Raises:
        ValueError: it has.
    """
    found = _MARKUP.search(text)
    if found:
        raise ValueError(f"it has {found[0]!r}, which is markup on a page: leave out < > [ ] | ` and backslashes")
    return text


def _link(text: str) -> str:
    if text and not _LINK.fullmatch(text):
        raise ValueError("a link is an address that begins with https://, of letters, digits and . _ ~ / % + = ? # -")
    return text


Text = Annotated[Line, AfterValidator(plain_text)]


class Submission(Frozen):
    """The file `submission.yaml`."""

    name: Name = Field(description="how the policy is called on the board and in results.csv")
    policy: Text = Field(
        min_length=1,
        description=f"what plays: the name of a rule, {CACE_FILE} or {CARD_FILE} for the files beside this one; "
        "MODULE:OBJECT for code, which never comes onto the board",
    )
    order: Text | None = Field(default=None, description="of Swap-v0: the order in which models are loaded, by name")
    contact: Text = Field(default="", description="who hands it in: a person or a group, and how to reach them")
    link: Annotated[Line, AfterValidator(_link)] = Field(
        default="", description="where to read more; an address that begins with https://"
    )
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\d$", description="when the results were made, such as '2026-11-30'")

    @model_validator(mode="after")
    def _names_of_its_own(self) -> Self:
        name = self.name.casefold()
        is_lru = (self.name, self.policy, self.order) == (BASELINE, BASELINE, None)
        if name == REFERENCE or (name == BASELINE and not is_lru):
            raise ValueError(f"name is {self.name!r}, which scores are measured by: give another one")
        if name.endswith(".json"):
            raise ValueError(f"name is {self.name!r}, and files of the board end in .json: give another one")
        if not self.contact.strip():
            raise ValueError("contact is empty: say who hands it in (make --contact)")
        if self.contact.strip().casefold() == WHO:
            raise ValueError(f"contact is {self.contact!r}, which stands for what ships: say who hands it in")
        return self

    @property
    def is_code(self) -> bool:
        """Whether it is a policy of Python code."""
        return ":" in self.policy


@dataclass(frozen=True)
class Handed:
    """A folder that was handed in, read but not judged yet."""

    folder: Path
    about: Submission
    results: Results
    contestant: Contestant | None  # None: Python code
    content: str  # hash of what plays: equal policies have equal ones
    card: AgentCard | None = None
    tuned: Tuning | None = None

    @property
    def learned_from(self) -> str:
        """What the policy was fitted to, in a few words: its own record's, or those of who hands it in."""
        seeds = self.card.train_seeds if self.card is not None else self.tuned.train_seeds if self.tuned else ""
        return one_line(f"training seeds {seeds}" if seeds else self.results.header.trained_on, LONGEST)


def read_folder(folder: Path) -> Handed:
    """Read a folder; its form is checked, its numbers are not.

    Raises:
        ConfigError: it holds something else than a submission does, a file is too large or damaged, the policy cannot
            be what it says, or it learned from seeds that it would be judged by.
    """
    there = _files(folder)
    about = load(Submission, folder / ABOUT_FILE)
    results = read_results(folder / RESULTS_FILE)
    needed = {ABOUT_FILE, RESULTS_FILE, *OF_POLICY.get(about.policy, ())}
    for name in sorted(needed ^ there):
        problem = "is missing" if name in needed else "is not needed: leave it out"
        raise ConfigError(f"{folder}: {name} {problem}; the policy is {shown(about.policy)}")
    header = results.header
    for key in ("description", "trained_on", "code"):
        try:
            plain_text(getattr(header, key))
        except ValueError as error:
            raise ConfigError(f"{folder / RESULTS_FILE}: {key}: {error}") from None
    if header.policy != about.name:
        raise ConfigError(f"{folder}: {ABOUT_FILE} is about {about.name!r}, {RESULTS_FILE} about {header.policy!r}")
    handed = Handed(folder, about, results, None, _content(folder, about))
    return handed if about.is_code else _with_policy(handed)


def _files(folder: Path) -> set[str]:
    """Names of the files of a folder, all of which a submission may have."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; python -m experiments.submission make writes one")
    found = set()
    for path in folder.iterdir():
        status = path.lstat()
        if path.name not in LARGEST or not stat.S_ISREG(status.st_mode):
            raise ConfigError(
                f"{folder}: holds {one_line(path.name)!r}, and a submission holds nothing but the files "
                f"{', '.join(LARGEST)}; leave it out"
            )
        if status.st_size > LARGEST[path.name]:
            raise ConfigError(f"{path}: has {status.st_size} bytes; the most of such a file is {LARGEST[path.name]}")
        found.add(path.name)
    return found


def _content(folder: Path, about: Submission) -> str:
    """Hash of all that says how the policy decides."""
    made = hashlib.sha256(f"{about.policy}\n{about.order}\n".encode())
    for name in OF_POLICY.get(about.policy, ()):
        made.update((folder / name).read_bytes())
    return made.hexdigest()[:16]


def _with_policy(handed: Handed) -> Handed:
    """The same, with the policy that is in the folder."""
    folder, about = handed.folder.resolve(), handed.about  # a whole path is never taken for the name of what ships
    card, tuned = None, None
    if about.policy == CARD_FILE:
        agent = load_agent(folder)
        policy, card = agent.policy(), agent.card
        problems = problems_of(card)
    elif about.policy == CACE_FILE:
        weights = load_cace(folder / CACE_FILE)
        policy, tuned = replace(POLICIES["cace"], weights=weights.weights.row()), weights.tuned
        problems = _problems_of_tuning(weights)
    else:
        policy, problems = _rule(about.policy, handed.folder), []
    if problems:
        raise ConfigError(f"{handed.folder}: its results would not be held out: {'; '.join(problems)}")
    if about.order is not None:
        if about.order not in ORDERS:
            raise ConfigError(f"{handed.folder}: no order called {about.order!r}{did_you_mean(about.order, ORDERS)}")
        if policy.order is not None:
            raise ConfigError(f"{handed.folder}: the policy has an order of its own, so leave out the key order")
        policy = replace(policy, order=ORDERS[about.order])
    if policy.clairvoyant != handed.results.header.clairvoyant:
        raise ConfigError(
            f"{handed.folder / RESULTS_FILE}: clairvoyant is {handed.results.header.clairvoyant}, but the policy "
            f"{'knows' if policy.clairvoyant else 'does not know'} the future"
        )
    contestant = Contestant(about.name, replace(policy, name=about.name))
    return replace(handed, contestant=contestant, card=card, tuned=tuned)


def _rule(name: str, folder: Path) -> Policy:
    known = {**POLICIES, **READINGS}
    if name not in known:
        raise ConfigError(
            f"{folder / ABOUT_FILE}: no rule called {name!r}{did_you_mean(name, known)}; a policy is one of "
            f"python -m experiments.compare --list, {CACE_FILE} or {CARD_FILE}"
        )
    return known[name]


def _problems_of_tuning(weights: Cace) -> list[str]:
    """Splits that weights were tuned on and must not have been."""
    problems = []
    for split in ("validation", "test"):
        seen = learned_from(weights.tuned.train_seeds, SEEDS[split]) if weights.tuned is not None else []
        if seen:
            problems.append(f"the weights were tuned on {len(seen)} {split} seeds (the first is {seen[0]})")
    return problems


def submission_of(contestant: str, name: str, contact: str, link: str, date: str) -> Submission:
    """What `submission.yaml` says of a policy.

    Args:
        contestant: the policy, by a name that `cace_env.policies.contestants.contestant_of` takes.
        name: as `Submission`, like those that follow.
        contact: who.
        link: where.
        date: when.

    Raises:
        ConfigError: a text that cannot stand on a page.
    """
    order, policy = split_order(contestant)
    if policy.startswith((PREFIX, CACE_PREFIX)):
        policy = CARD_FILE if policy.startswith(PREFIX) else CACE_FILE
    by = order.name if order is not None else None
    content = {"name": name, "policy": policy, "order": by, "contact": contact, "link": link, "date": date}
    return parse(Submission, content, "what is handed in")


def write_folder(folder: Path, contestant: str, about: Submission, results: Results) -> None:
    """Write a folder, the results last.

    Args:
        folder: made where it is missing.
        contestant: as for `submission_of`.
        about: made by it.
        results: of the policy under its name there.
    """
    _, policy = split_order(contestant)
    if about.policy == CARD_FILE:
        write_agent(load_agent(policy.removeprefix(PREFIX)), folder)
    elif about.policy == CACE_FILE:
        replace_file(folder / CACE_FILE, dump(load_cace(policy.removeprefix(CACE_PREFIX))))
    replace_file(folder / ABOUT_FILE, dump(about))
    write_results(folder / RESULTS_FILE, results)
