"""Folders that are handed in and policies that ship, played and put on record."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Final

import tyro
from pydantic import Field
from rich.console import Console

import cace_env
from cace_env.config import ConfigError, Frozen, did_you_mean, printable
from cace_env.evaluation import Suite, load_suite
from cace_env.evaluation.episodes import seed_list
from cace_env.evaluation.scores import BASELINE, REFERENCE
from cace_env.files import replace_file
from cace_env.policies import POLICIES, READINGS, Contestant, Planner, contestant_of
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.tables import Protocol
from experiments.board.checking import differs, not_reproduced, unlike_shipped, wrong_with
from experiments.board.folder import Handed, read_folder
from experiments.board.page import PAGE, board_table, regions
from experiments.board.playing import PLANNERS, Played, decision_us, first_seeds, play, shipped_names, ships
from experiments.board.records import WHO, Board, Record, changed_since, judged, merged, read_board, write_board
from experiments.pages.regions import DOCS, fill
from experiments.running.command_line import metavar
from experiments.running.contestants import about_policy, about_tuning, can_answer, card_of
from experiments.running.options import Count
from experiments.running.run_folder import PATIENT
from experiments.running.runner import workers_of

FOLDER: Final = "leaderboard"  # of the documentation: what is on record, and what was handed in


class Boarded(Frozen):
    """Play folders that are handed in, or all that is on the board, and write the board and its page."""

    what: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="FOLDER|NAME")]] = Field(
        default=(),
        description="folders that are handed in, or names of policies that ship; all on the board by default",
    )
    suite: Annotated[str, metavar("VERSION")] = Field(
        default="v1", description="version (v1 by default), or a YAML file"
    )
    seeds: Count = Field(
        default=None, description="only so many test seeds of each entry: a dry run; nothing is written"
    )
    docs: Annotated[Path, metavar("FOLDER")] = Field(default=DOCS, description="where the pages are")
    workers: Count = Field(default=None, description="threads; as many as there are cores by default")

    def run(self, console: Console) -> int:
        """See `board`."""
        return board(self, console)


def board(options: Boarded, console: Console) -> int:
    """Plays, judges and writes; returns the exit status: 1 where something does not reproduce, and nothing is written.

    Raises:
        ConfigError: a folder is refused before anything is played, or a name is that of no policy that ships.
        PolicyError, SimulationError: an episode failed; nothing has been written.
    """
    suite, seeds, workers = load_suite(options.suite), first_seeds(options.seeds), workers_of(options.workers)
    home = options.docs / FOLDER
    known = read_board(home / f"{suite.version}.json", suite.version)
    handed, names = asked_for(options.what, known, home)
    ours = [contestant_of(name) for name in dict.fromkeys((BASELINE, PATIENT, *names))]
    problems = [problem for one in handed for problem in wrong_with(one, suite)]
    problems += names_taken(handed, known, ours, home)
    if problems:
        return refused(problems)
    envs = dict.fromkeys(entry.env for entry in suite.entries)
    asked = {*names, *(one.about.name for one in handed)}
    playing = {env: [c for c in ours if can_answer(c, env)] + theirs(handed, suite, env) for env in envs}
    contestants = {env: each for env, each in playing.items() if any(one.name in asked for one in each)}
    entries = [entry for entry in suite.entries if entry.env in contestants]
    played = play(contestants, entries, seeds, workers, console)
    problems = [differs("costs that ship with the suite", *pair) for pair in unlike_shipped(played, suite)]
    problems += [problem for one in handed for problem in not_reproduced(one.results, suite, played)]
    if problems:
        return refused(problems)
    with console.status("scores, and how long decisions take"):
        new = records(suite, played, contestants, handed, names)
    problems = twice(new, known, handed)
    if problems:
        return refused(problems)
    if options.seeds is not None:
        for env in contestants:
            console.print(board_table([record for record in new if record.env == env], env))
        every = len(seed_list("test"))
        console.print(f"A dry run: {len(seeds)} of {every} test seeds of each entry. Nothing has been written.")
        return 0
    for said in changed_since(known, new):
        console.print(said, style="yellow")
    for one in handed:
        kept(one, home / one.about.name)
    found = merged(known, new, keep=bool(options.what))
    write_board(home / f"{suite.version}.json", found)
    fill(options.docs / PAGE, regions(found))
    console.print(f"{len(new)} played; wrote {home / f'{suite.version}.json'} and {options.docs / PAGE}")
    return 0


def refused(problems: Sequence[str]) -> int:
    """Says what is wrong; returns the exit status."""
    for problem in problems:
        print(f"error: {printable(problem)}", file=sys.stderr)
    print("error: nothing has been written", file=sys.stderr)
    return 1


def asked_for(what: Sequence[str], known: Board, home: Path) -> tuple[list[Handed], list[str]]:
    """Folders and names; without any, all that is on the board and all policies that ship.

    Raises:
        ConfigError: a folder is refused, or a name is that of no policy that ships.
    """
    names = [name for name in what if not Path(name).is_dir()]
    folders = [Path(name) for name in what if Path(name).is_dir()]
    if not what:
        names = [*shipped_names(), *(record.name for record in known.records if record.by == WHO)]
        folders = sorted(path for path in home.iterdir() if path.is_dir()) if home.is_dir() else []
    for name in names:
        if not ships(name):
            hint = did_you_mean(name, [*shipped_names(), *PLANNERS])
            raise ConfigError(f"{name!r} is no folder, and no policy that ships with cace-env has such a name{hint}")
        if (home / name).is_dir():
            raise ConfigError(f"{name!r} was handed in; name its folder, {home / name}")
    handed = [read_folder(folder) for folder in folders]
    for one in handed:
        where = one.folder / "submission.yaml"
        if one.contestant is None:
            raise ConfigError(
                f"{where}: the policy {one.about.policy!r} is code. The board never runs code that is handed in: "
                "hand in a trained agent (cace_env.evaluation.save_agent writes one of any network of "
                "cace_env.networks), weights of CACE or a rule that has a name"
            )
    return handed, names


def theirs(handed: Sequence[Handed], suite: Suite, env: Protocol) -> list[Contestant]:
    """Policies that were handed in with results of an environment."""
    entries = {entry.id for entry in suite.entries if entry.env == env}
    return [
        one.contestant
        for one in handed
        if one.contestant is not None and any(row.entry in entries for row in one.results.rows)
    ]


def names_taken(handed: Sequence[Handed], known: Board, ours: Sequence[Contestant], home: Path) -> list[str]:
    """Folders whose name is somebody else's, in capitals or small letters: files are called by it."""
    shipped = {record.name for record in known.records if record.by == WHO} | {contestant.name for contestant in ours}
    shipped |= {*POLICIES, *READINGS, *shipped_names(), REFERENCE, NO_SWAPPING}
    taken = {name.casefold() for name in shipped}
    kept_in = {path.name.casefold(): path.resolve() for path in home.iterdir()} if home.is_dir() else {}
    names = [one.about.name.casefold() for one in handed]
    problems = []
    for one, name in zip(handed, names, strict=True):
        if name in taken or names.count(name) > 1 or kept_in.get(name) not in (None, one.folder.resolve()):
            problems.append(
                f"{one.folder}: the board has a policy called {one.about.name!r} already; give it another name"
            )
    return problems


def records(
    suite: Suite,
    played: Played,
    contestants: dict[Protocol, list[Contestant]],
    handed: Sequence[Handed],
    names: Sequence[str],
) -> list[Record]:
    """Records of those that were asked for."""
    by_name = {one.about.name: one for one in handed}
    found = []
    for env, playing in contestants.items():
        wanted = [contestant for contestant in playing if contestant.name in (*names, *by_name)]
        numbers = judged(suite, env, played, [contestant.name for contestant in wanted])
        entries = sorted(
            (entry for entry in suite.entries if entry.env == env), key=lambda entry: entry.id != f"{env}-default"
        )
        case = entries[0].case()
        for contestant in wanted:
            one = by_name.get(contestant.name)
            found.append(
                Record.model_validate(
                    about(contestant, one)
                    | numbers[contestant.name]
                    | {
                        "name": contestant.name,
                        "env": env,
                        "version": cace_env.__version__,
                        "date": f"{date.today()}",
                        "seeds": len(played.seeds),
                        "decision_us": tuple(round(us, 1) for us in decision_us(contestant, case, played.seeds[0])),
                    }
                )
            )
    return found


def about(contestant: Contestant, handed: Handed | None) -> dict[str, object]:
    """What a record says besides numbers."""
    policy = contestant.built_in
    clairvoyant = policy is not None and policy.clairvoyant
    if handed is not None:
        kinds = {"agent.json": "agent", "cace.yaml": "CACE, other weights"}
        return {
            "kind": kinds.get(handed.about.policy, "rule"),
            "by": handed.about.contact,
            "link": handed.about.link,
            "learned_from": handed.learned_from,
            "clairvoyant": clairvoyant,
            "content": handed.content,
        }
    card, tuned = card_of(contestant), about_tuning(contestant).get("tuned")
    habits = contestant.policy.habits_card if isinstance(contestant.policy, Planner) else None
    learned = card or habits
    seeds = learned.train_seeds if learned is not None else tuned["train_seeds"] if tuned is not None else ""
    said = f"{contestant.name} {policy.weights if policy else ''} {card.weights_sha256 if card else ''}"
    said += f" {habits.arrays_sha256}" if habits is not None else ""
    group = about_policy(contestant)["group"].lower().replace("cace", "CACE")
    fitted = habits is not None or (policy is not None and policy.trained)
    return {
        "kind": "planner" if habits is not None else group if tuned is None else "CACE, tuned",
        "by": WHO,
        "learned_from": f"training seeds {seeds}".strip() if seeds or fitted else "nothing",
        "clairvoyant": clairvoyant,
        "content": hashlib.sha256(said.encode()).hexdigest()[:16],
    }


def twice(new: Sequence[Record], known: Board, handed: Sequence[Handed]) -> list[str]:
    """Policies that were handed in and decide as another one does in every episode, on the board or among them."""
    folders = {one.about.name: one.folder for one in handed}
    rest = [record for record in (*known.records, *new) if record.name not in folders]
    others = {(record.env, record.costs): record.name for record in rest}
    before = {(record.env, record.name) for record in known.records}
    problems = []
    for record in sorted(new, key=lambda record: (record.env, record.name) not in before):  # the newcomer is refused
        if record.name not in folders:
            continue
        other = others.setdefault((record.env, record.costs), record.name)
        if other != record.name:
            problems.append(
                f"{folders[record.name]}: costs what {other!r} costs in every episode of {record.env.env_name}, to the "
                "last bit, and the board has each policy once"
            )
    return problems


def kept(handed: Handed, home: Path) -> None:
    """Copies a folder to where the board keeps it, so that it can be played again."""
    if handed.folder.resolve() == home.resolve():
        return
    for path in sorted(handed.folder.iterdir()):
        replace_file(home / path.name, path.read_bytes())
