"""Results of a policy on a suite, made and written into a folder that can be handed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from pathlib import Path, PurePath
from typing import Annotated

import tyro
from pydantic import Field
from rich.console import Console

import cace_env
from cace_env.config import ConfigError, Frozen
from cace_env.evaluation import Suite, load_suite
from cace_env.evaluation.results import Header, Results
from cace_env.evaluation.scores import BASELINE
from cace_env.evaluation.suite import Entry
from cace_env.policies import Contestant, contestant_of
from cace_env.policies.agent import PREFIX
from cace_env.policies.contestants import BY_FORECAST, NO_SWAPPING
from cace_env.policies.guard import GUARDED
from cace_env.policies.orders import JOINT
from cace_env.policies.planner import PLANNER
from cace_env.policies.quoted import is_quoted
from cace_env.tables import Protocol
from experiments.board.folder import submission_of, write_folder
from experiments.board.playing import first_seeds, play
from experiments.running.command_line import metavar
from experiments.running.contestants import (
    CACE_PREFIX,
    about_policy,
    about_tuning,
    agent_names,
    can_answer,
    card_of,
    order_of,
)
from experiments.running.options import Count
from experiments.running.run_folder import surroundings
from experiments.running.runner import workers_of


class Made(Frozen):
    """Play a policy on the test seeds and write a folder that can be handed in."""

    policy: Annotated[str | None, metavar("NAME|MODULE:OBJECT")] = Field(
        default=None, description="a rule by its name, or a policy of your own (which never comes onto the board)"
    )
    weights: Annotated[str | None, metavar("FILE.yaml")] = Field(default=None, description="or weights of CACE")
    agent: Annotated[str | None, metavar("NAME|FOLDER")] = Field(
        default=None, description="or a trained agent; its card says what it was trained on"
    )
    order: Annotated[str | None, metavar("NAME")] = Field(
        default=None, description="in which models are loaded in Swap-v0, such as wsjf"
    )
    out: Annotated[Path, metavar("FOLDER")] = Field(description="folder to write; it must not exist")
    name: Annotated[str | None, metavar("TEXT")] = Field(
        default=None, description="how it is called on the board; by default as the policy is"
    )
    suite: Annotated[str, metavar("VERSION")] = Field(
        default="v1", description="version (v1 by default), or a YAML file"
    )
    env: Annotated[Protocol | None, metavar("eviction|swap")] = Field(
        default=None, description="only the entries of one environment; all by default, of an agent its own"
    )
    description: Annotated[str | None, metavar("TEXT")] = Field(
        default=None, description="what it does, in a line; its docstring's first by default"
    )
    trained_on: Annotated[str | None, metavar("TEXT")] = Field(
        default=None, description='seeds, scenarios, logs it was fitted to, or "nothing"'
    )
    simulated_requests: int = Field(default=0, ge=0, description="to fit it, over all trials")
    code: Annotated[str | None, metavar("TEXT")] = Field(
        default=None, description="where its code is: a release, a commit, an address"
    )
    contact: Annotated[str, tyro.conf.arg(metavar="TEXT")] = Field(description="who hands it in, and how to reach them")
    link: Annotated[str, metavar("ADDRESS")] = Field(
        default="", description="where to read more: an address that begins with https://"
    )
    workers: Count = Field(default=None, description="threads; as many as there are cores by default")

    @property
    def contestant(self) -> str:
        """The policy by the name that `contestant_of` takes.

        Raises:
            ConfigError: none was named, or several.
        """
        weights = [f"{CACE_PREFIX}{self.weights}"] if self.weights else []
        named = [name for name in (self.policy, *weights, *agent_names([self.agent or ""])) if name and name != PREFIX]
        if len(named) != 1:
            raise ConfigError("one policy makes the results: give one of --policy, --weights and --agent")
        return named[0] if self.order is None else f"{self.order}{JOINT}{named[0]}"

    def run(self, console: Console) -> int:
        """See `make`."""
        return make(self, console)


def make(options: Made, console: Console) -> int:
    """Plays LRU and a policy on the test seeds of every entry, and writes the folder; returns the exit status.

    Raises:
        ConfigError: an option that cannot be used; nothing has been run.
        PolicyError, SimulationError: an episode failed; nothing has been written.
    """
    suite, out = load_suite(options.suite), options.out
    refuse_what_no_folder_holds(options.contestant)
    contestant, workers = contestant_of(options.contestant), workers_of(options.workers)
    if out.exists():
        raise ConfigError(f"{out} exists; results are never overwritten: give another --out")
    card = card_of(contestant)
    env = card.env if card is not None and options.env is None else options.env
    entries = [entry for entry in suite.entries if env in (None, entry.env)]
    if card is not None and not all(can_answer(contestant, entry.env) for entry in entries):
        raise ConfigError(f"agent {card.name!r} was trained for {card.env.env_name}; make results of --env {card.env}")
    if order_of(contestant) is not None and any(entry.env != Protocol.SWAP for entry in entries):
        raise ConfigError(
            f"policy {contestant.name!r} has an order, and Eviction-v0 asks for none; make results of --env swap"
        )
    name = options.name or default_name(contestant)
    about = submission_of(options.contestant, name, options.contact, options.link, f"{date.today()}")
    header = header_of(options, suite, contestant, name, entries)
    named = replace(contestant, name=name)
    playing = [named] if name == BASELINE else [contestant_of(BASELINE), named]
    played = play(dict.fromkeys(Protocol, playing), entries, first_seeds(None), workers, console)
    rows = tuple(row for entry in entries for one in playing for row in played.rows[entry.id, one.name])
    write_folder(out, options.contestant, about, Results(header, rows, str(out)))
    console.print(f"wrote {out}; now: python -m experiments.submission check {out}")
    return 0


def refuse_what_no_folder_holds(name: str) -> None:
    """Refuses policies that are neither code, nor a bare name, nor a file of numbers.

    Raises:
        ConfigError: it is one.
    """
    victims = name.rpartition(JOINT)[2]
    wrapped = any(part.startswith((GUARDED, PLANNER)) for part in (name, victims))
    if wrapped or BY_FORECAST in victims or name == NO_SWAPPING or (is_quoted(victims) and ":" in victims):
        raise ConfigError(
            f"{name!r} cannot be handed in: a folder holds the name of a rule, weights of CACE or a trained agent, "
            "without guard, planner, forecast or options: hand in the policy that decides (python -m "
            "experiments.submission board planner:NAME plays a planner that ships)"
        )


def default_name(contestant: Contestant) -> str:
    """How a policy is called that was given no name: without the folder or the file that it comes from."""
    order, plus, policy = contestant.name.rpartition(JOINT)
    card = card_of(contestant)
    if card is not None:
        policy = card.name
    elif policy.startswith(CACE_PREFIX):
        policy = PurePath(policy.removeprefix(CACE_PREFIX)).stem
    return f"{order}{plus}{policy}"


def header_of(options: Made, suite: Suite, contestant: Contestant, name: str, entries: Iterable[Entry]) -> Header:
    """What the file says of the policy: the options, and what is known of a built-in one.

    Raises:
        ConfigError: a policy of the user's own that does not say what it was fitted to, or where its code is.
    """
    policy = contestant.built_in
    git = surroundings()["git"]
    known = {"trained_on": options.trained_on or "", "code": options.code or ""}
    card = card_of(contestant)
    if card is not None:
        seeds = f", seeds {card.train_seeds}" if card.train_seeds else ""
        known["trained_on"] = known["trained_on"] or f"{', '.join(card.trained_on) or 'unknown'}{seeds}"
    tuned = about_tuning(contestant).get("tuned")
    if tuned is not None:
        known["trained_on"] = known["trained_on"] or f"{', '.join(tuned['trained_on'])}, seeds {tuned['train_seeds']}"
    weights = contestant.name.rpartition(JOINT)[2].startswith(CACE_PREFIX)
    if policy is not None and not (weights and tuned is None):
        known["trained_on"] = known["trained_on"] or ("requests of training seeds" if policy.trained else "nothing")
    if policy is not None:
        commit = f", commit {git['commit'][:12]}" if git else ""
        known["code"] = known["code"] or f"cace-env {cace_env.__version__}{commit}"
    for key, value in known.items():
        if not value:
            option = f"--{key.replace('_', '-')}"
            what = {"trained_on": 'what it was fitted to, or "nothing"', "code": "a release, a commit or an address"}[
                key
            ]
            raise ConfigError(f"{option} is needed for a policy or weights of your own: {what}")
    spent = card.requests if card is not None else tuned["requests"] if tuned is not None else 0
    return Header(
        suite=suite.version,
        policy=name,
        description=options.description or about_policy(contestant)["description"],
        clairvoyant=policy is not None and policy.clairvoyant,
        trained_on=known["trained_on"],
        simulated_requests=options.simulated_requests or spent,
        code=known["code"],
        cace_env=cace_env.__version__,
        fingerprints={entry.id: entry.fingerprint() for entry in entries},
    )
