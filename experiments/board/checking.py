"""What is handed in, judged: every number is played again, and nothing is believed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import tyro
from pydantic import Field
from rich.console import Console

import cace_env
from cace_env.config import ConfigError, Frozen, printable
from cace_env.evaluation import Suite, load_suite, suite_scores
from cace_env.evaluation.episodes import seed_list
from cace_env.evaluation.results import Results, Row, policies_of, published, reference_costs
from cace_env.evaluation.scores import BASELINE, REFERENCE, SuiteScores
from cace_env.evaluation.suite import Entry
from cace_env.policies import Contestant, contestant_of
from cace_env.simulation import lower_bound
from cace_env.tables import Protocol
from experiments.board.folder import Handed, read_folder
from experiments.board.playing import Played, first_seeds, play
from experiments.running.command_line import metavar, screen_table
from experiments.running.contestants import can_answer
from experiments.running.options import Count
from experiments.running.runner import workers_of

ROUNDING: Final = 1e-9  # of a sum of costs, in any order
SHOWN: Final = 8  # problems of a kind that are listed


class Checked(Frozen):
    """Play again what somebody hands in, and print its scores."""

    folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FOLDER")]] = Field(
        description="what `make` has written"
    )
    suite: Annotated[str | None, metavar("VERSION")] = Field(
        default=None, description="version, or a YAML file; what the results name by default"
    )
    policy: Annotated[str | None, metavar("MODULE:OBJECT")] = Field(
        default=None, description="code of your own that is the policy of the folder; without it only LRU is played"
    )
    seeds: Count = Field(default=None, description="only so many test seeds of each entry: a dry run")
    workers: Count = Field(default=None, description="threads; as many as there are cores by default")

    def run(self, console: Console) -> int:
        """See `check`."""
        return check(self, console)


def check(options: Checked, console: Console) -> int:
    """Says what is wrong with a folder, or prints its scores; returns the exit status: 1 where something is wrong.

    Raises:
        ConfigError: the folder is refused before anything is played.
        PolicyError, SimulationError: an episode failed.
    """
    seeds, workers = first_seeds(options.seeds), workers_of(options.workers)
    handed = read_folder(options.folder)
    results = handed.results
    suite = load_suite(options.suite or results.header.suite)
    problems = wrong_with(handed, suite)
    other = contestant_for(handed, options.policy)
    if not problems:
        contestants = [contestant_of(BASELINE)]
        if other is not None and other.name != BASELINE:
            contestants.append(other)
        played = play(dict.fromkeys(Protocol, contestants), entries_of(results, suite), seeds, workers, console)
        problems = not_reproduced(results, suite, played)
    if problems:
        for problem in problems:
            print(f"error: {printable(problem)}", file=sys.stderr)
        return 1
    said = results.header
    kind = "clairvoyant: it is not ranked" if said.clairvoyant else f"trained on: {said.trained_on}"
    console.print(f"{said.policy}: {said.description}")
    console.print(f"{kind}; simulated requests: {said.simulated_requests:,}; code: {said.code}")
    if options.seeds is not None:
        console.print(f"A dry run: {len(seeds)} of {len(seed_list('test'))} test seeds were played again.")
    if other is None:
        console.print("The policy is code, which was not played: only LRU was. Its scores are claimed, not checked.")
    for env in Protocol:
        print_scores(results, suite, env, console)
    return 0


def contestant_for(handed: Handed, address: str | None) -> Contestant | None:
    """The policy of a folder, or the code that was named for it; None where there is neither.

    Raises:
        ConfigError: there is nothing at the address, or another policy.
    """
    if address is None:
        return handed.contestant
    contestant = contestant_of(address)
    if handed.contestant is not None or contestant.name != handed.about.name:
        raise ConfigError(
            f"--policy {address} is {contestant.name!r}; the folder holds results of {handed.about.name!r}"
        )
    return contestant


def entries_of(results: Results, suite: Suite) -> list[Entry]:
    """Entries of a suite that results have rows of, in its order."""
    there = {row.entry for row in results.rows}
    return [entry for entry in suite.all_entries() if entry.id in there]


def wrong_with(handed: Handed, suite: Suite) -> list[str]:
    """Problems that can be seen without a run, one per line; empty if there are none."""
    results = handed.results
    header, source = results.header, results.source
    if header.suite != suite.version:
        return [
            f"{source}: suite is {header.suite!r}; it has to be {suite.version!r}, or name another one with --suite"
        ]
    known = {entry.id: entry for entry in suite.all_entries()}
    there = {row.entry for row in results.rows}
    envs = {known[name].env for name in there & set(known)}
    needed = [entry for entry in suite.entries if entry.env in envs]
    problems = [
        f"{source}: entry {name!r} is not in suite {suite.version}; leave it out" for name in sorted(there - set(known))
    ]
    unknown = sorted({row.policy for row in results.rows} - set(policies_of(header)))
    problems += [
        f"{source}: rows of policy {name!r}; a file holds rows of {' and '.join(policies_of(header))}"
        for name in unknown
    ]
    problems += [
        f"{source}: rows of {env.env_name}, whose questions the policy does not answer; leave them out"
        for env in sorted(envs)
        if handed.contestant is not None and not can_answer(handed.contestant, env)
    ]
    if not envs:
        problems.append(f"{source}: no rows of any entry of suite {suite.version}")
    seeds = seed_list("test")
    same = []
    for entry in [*needed, *(entry for name, entry in known.items() if name in there and entry not in needed)]:
        try:
            results.check_fingerprint(entry)
            same.append(entry)
            for policy in policies_of(header):
                results.column(entry.id, policy, seeds)
        except ConfigError as error:
            problems.append(f"{error}; every entry of {entry.env.env_name} needs all {len(seeds)} test seeds")
    problems += [
        f"{source}: {row.policy} on {row.entry}: seed {row.seed} is no test seed; they are {seeds[0]} to {seeds[-1]}"
        for row in results.rows
        if row.seed not in seeds
    ]
    for row in results.rows:
        where = f"{source}: {row.policy} on {row.entry}, seed {row.seed}"
        if row.e2e_mean_s < row.ttft_mean_s:
            problems.append(
                f"{where}: e2e_mean_s is {row.e2e_mean_s}, which cannot be below ttft_mean_s ({row.ttft_mean_s})"
            )
        if row.longest_wait_s < row.ttft_mean_s:
            said = f"longest_wait_s is {row.longest_wait_s}, which cannot be below ttft_mean_s ({row.ttft_mean_s})"
            problems.append(f"{where}: {said}")
    return shortened(problems + [problem for entry in same for problem in below_bound(results, entry)])


def below_bound(results: Results, entry: Entry) -> list[str]:
    """Rows of an entry that cost less than any policy can."""
    case, problems = entry.case(), []
    # By what the simulator rounds, latencies may be shorter than the rounds they are made of: the bound knows of it.
    bounds = {seed: lower_bound(case.tables, case.workload(seed)).cost for seed in seed_list("test")}
    for row in (row for row in results.rows if row.entry == entry.id):
        least = bounds.get(row.seed, 0.0)
        if row.cost < least * (1 - ROUNDING):
            where = f"{results.source}: {row.policy} on {row.entry}, seed {row.seed}"
            problems.append(
                f"{where}: cost is {row.cost!r}, which cannot be below {least:.7g}, each request alone on the fastest "
                f"accelerator (cace_env.simulation.bounds); run it with cace-env {cace_env.__version__}, unchanged"
            )
    return problems


def not_reproduced(results: Results, suite: Suite, played: Played) -> list[str]:
    """Rows that came out differently here, and LRU's that differ from the costs that ship with the suite."""
    claimed = {row[:3]: row for row in results.rows}
    problems = [
        differs(results.source, claimed[again[:3]], again)
        for rows in played.rows.values()
        for again in rows
        if again[:3] in claimed and again != claimed[again[:3]]
    ]
    return shortened(problems + [differs(results.source, *pair) for pair in unlike_shipped(played, suite)])


def unlike_shipped(played: Played, suite: Suite) -> list[tuple[Row, Row]]:
    """LRU's rows among those that were played that are not those that ship with the suite, and these."""
    shipped = published(suite.version)
    theirs = {} if shipped is None else {row[:3]: row for row in shipped.rows if row.policy == BASELINE}
    mine = [row for (_, policy), rows in played.rows.items() if policy == BASELINE for row in rows]
    return [(theirs[row[:3]], row) for row in mine if row[:3] in theirs and row != theirs[row[:3]]]


def differs(source: str, row: Row, again: Row) -> str:
    """A row that came out differently, and by what."""
    names = [name for name in Row._fields if getattr(row, name) != getattr(again, name)]
    what = ", ".join(f"{name} is {getattr(row, name)!r}, here {getattr(again, name)!r}" for name in names)
    return (
        f"{source}: {row.policy} on {row.entry}, seed {row.seed}: {what}; equal requests in the same simulator give "
        f"equal numbers: run it with cace-env {cace_env.__version__}, unchanged"
    )


def shortened(problems: Sequence[str]) -> list[str]:
    """The first problems, and how many there are more."""
    rest = len(problems) - SHOWN
    return [*problems[:SHOWN], *([f"and {rest} more"] if rest > 0 else [])]


def scores_of(results: Results, suite: Suite, env: Protocol) -> SuiteScores | None:
    """Scores on the entries of an environment; None where the file has none of them, or no reference costs ship.

    Raises:
        ConfigError: the shipped costs are those of another version of an entry.
    """
    entries = [e for e in suite.entries if e.env == env and any(row.entry == e.id for row in results.rows)]
    if not entries or published(suite.version) is None:
        return None
    seeds, costs = seed_list("test"), {}
    for entry in entries:
        costs[entry.id] = {name: results.column(entry.id, name, seeds) for name in policies_of(results.header)}
        costs[entry.id][REFERENCE] = reference_costs(suite, entry, seeds)
    return suite_scores(costs)


def print_scores(results: Results, suite: Suite, env: Protocol, console: Console) -> None:
    """The scores of a file on one environment, entry by entry, and their interquartile mean."""
    scores = scores_of(results, suite, env)
    if scores is None:
        return
    policy = results.header.policy
    seeds = seed_list("test")
    header = ("entry", "score", "95 %", "headroom [%]", "mean TTFT [s]", "longest wait [s]")
    rows = []
    for name, score in scores.scores[policy].items():
        ttft_s, wait_s = (results.column(name, policy, seeds, column) for column in ("ttft_mean_s", "longest_wait_s"))
        rows.append([
            name + (" (not in the mean)" if name in scores.left_out else ""),
            f"{score.value:.1f}", f"{score.low:.1f} to {score.high:.1f}", f"{scores.headroom[name].percent:.1f}",
            f"{ttft_s.mean():.2f}", f"{wait_s.mean():.0f}",
        ])  # fmt: skip
    mean = scores.means[policy]
    rows.append(["**interquartile mean**", f"{mean.value:.1f}", f"{mean.low:.1f} to {mean.high:.1f}", "", "", ""])
    console.print(screen_table(header, rows, f"{policy} on {env.env_name}, suite {suite.version}"))
