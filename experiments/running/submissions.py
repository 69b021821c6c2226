"""Results on a suite that others can check: made, checked, scored."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console

import cace_env
from cace_env.cases import Case
from cace_env.config import MOST_SEED, ConfigError, Frozen
from cace_env.evaluation import Suite, load_suite, run_seed, suite_scores
from cace_env.evaluation.episodes import in_order, seed_list
from cace_env.evaluation.results import (
    Header,
    Results,
    Row,
    policies_of,
    published,
    read_results,
    reference_costs,
    row_of,
    write_results,
)
from cace_env.evaluation.scores import BASELINE, REFERENCE, SuiteScores
from cace_env.evaluation.suite import Entry
from cace_env.policies import Contestant, contestant_of
from cace_env.policies.agent import PREFIX
from cace_env.simulation import lower_bound
from cace_env.tables import Protocol
from experiments.running.command_line import metavar, screen_table
from experiments.running.contestants import about_policy, agent_names, can_answer, card_of, order_of
from experiments.running.options import Count
from experiments.running.progress import progress_bar
from experiments.running.run_folder import surroundings
from experiments.running.runner import workers_of

SPOTS: Final = 10  # episodes that `check` runs again
ROUNDING: Final = 1e-9  # of a sum of costs, in any order
SHOWN: Final = 8  # problems of a kind that are listed


class Made(Frozen):
    """Run a policy on the test seeds and write its results."""

    policy: Annotated[str | None, metavar("NAME|MODULE:OBJECT")] = Field(
        default=None, description="a built-in policy or your own"
    )
    agent: Annotated[str | None, metavar("NAME|FOLDER")] = Field(
        default=None, description="or a trained agent; its card says what it was trained on"
    )
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Field(description="file to write; it must not exist")
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
    simulated_requests: int = Field(default=0, ge=0, description="to fit it, all trials")
    code: Annotated[str | None, metavar("TEXT")] = Field(
        default=None, description="where its code is: a release, a commit, an address"
    )
    workers: Count = Field(default=None, description="threads; as many as there are cores by default")

    def run(self, console: Console) -> int:
        """See `make`."""
        return make(self, console)


class Checked(Frozen):
    """Check a results file and print its scores."""

    file: tyro.conf.Positional[Path] = Field(description="results file")
    suite: Annotated[str | None, metavar("VERSION")] = Field(
        default=None, description="version, or a YAML file; what the file names by default"
    )
    policy: Annotated[str | None, metavar("MODULE:OBJECT")] = Field(
        default=None, description="run this again, too: the policy of the file"
    )
    spots: int = Field(default=SPOTS, ge=0, le=1_000_000, description="episodes to run again, drawn at random")
    spot_seed: Count = Field(default=None, ge=0, le=MOST_SEED, description="draws the same episodes each time")

    def run(self, console: Console) -> int:
        """See `check`."""
        return check(self, console)


def make(options: Made, console: Console) -> int:
    """Runs LRU and a policy on the test seeds of every entry, and writes the file; returns the exit status.

    Raises:
        ConfigError: an option that cannot be used; nothing has been run.
        PolicyError, SimulationError: an episode failed; nothing has been written.
    """
    suite = load_suite(options.suite)
    named = [name for name in (options.policy, *agent_names([options.agent or ""])) if name and name != PREFIX]
    if len(named) != 1:
        raise ConfigError("one policy makes the results: give either --policy or --agent")
    contestant, out, workers = contestant_of(named[0]), options.out, workers_of(options.workers)
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
    header = header_of(options, suite, contestant, entries)
    contestants = [contestant_of(name) for name in (BASELINE,)] + ([contestant] if contestant.name != BASELINE else [])
    cases = {entry.id: entry.case() for entry in entries}
    seeds = seed_list("test")
    jobs = [(name, seed) for name in cases for seed in seeds]
    rows: list[Row] = []
    with progress_bar(console) as progress:
        bar = progress.add_task(contestant.name, total=len(jobs))
        work = in_order(lambda job: run_seed(cases[job[0]], contestants, job[1]), jobs, workers)
        for (name, _), results in zip(jobs, work, strict=True):
            rows += [row_of(name, result.row) for result in results]
            progress.update(bar, advance=1, description=name)
    write_results(out, Results(header, tuple(rows), str(out)))
    console.print(f"wrote {out}; now: python -m experiments.submission check {out}")
    return 0


def header_of(options: Made, suite: Suite, contestant: Contestant, entries: Iterable[Entry]) -> Header:
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
    if policy is not None:
        known["trained_on"] = known["trained_on"] or ("requests of training seeds" if policy.trained else "nothing")
        commit = f", commit {git['commit'][:12]}" if git else ""
        known["code"] = known["code"] or f"cace-env {cace_env.__version__}{commit}"
    for key, value in known.items():
        if not value:
            option = f"--{key.replace('_', '-')}"
            what = {"trained_on": 'what it was fitted to, or "nothing"', "code": "a release, a commit or an address"}[
                key
            ]
            raise ConfigError(f"{option} is needed for a policy of your own: {what}")
    return Header(
        suite=suite.version,
        policy=contestant.name,
        description=options.description or about_policy(contestant)["description"],
        clairvoyant=policy is not None and policy.clairvoyant,
        trained_on=known["trained_on"],
        simulated_requests=options.simulated_requests or (card.requests if card is not None else 0),
        code=known["code"],
        cace_env=cace_env.__version__,
        fingerprints={entry.id: entry.fingerprint() for entry in entries},
    )


def check(options: Checked, console: Console) -> int:
    """Says what is wrong with a file, or prints its scores; returns the exit status: 1 where something is wrong.

    Raises:
        ConfigError: no results file at all.
    """
    results = read_results(options.file)
    suite = load_suite(options.suite or results.header.suite)
    problems = wrong_with(results, suite)
    if not problems:
        with console.status("running episodes again"):
            problems = not_reproduced(results, suite, options)
    if problems:
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        return 1
    said = results.header
    kind = "clairvoyant: it is not ranked" if said.clairvoyant else f"trained on: {said.trained_on}"
    console.print(f"{said.policy}: {said.description}")
    console.print(f"{kind}; simulated requests: {said.simulated_requests:,}; code: {said.code}")
    for env in Protocol:
        print_scores(results, suite, env, console)
    return 0


def wrong_with(results: Results, suite: Suite) -> list[str]:
    """Problems that can be seen without a run, one per line; empty if there are none."""
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


def not_reproduced(results: Results, suite: Suite, options: Checked) -> list[str]:
    """Rows that come out differently here: some of LRU, and of the policy where it can be run."""
    random = np.random.default_rng(options.spot_seed)
    mine = [row for row in results.rows if row.policy == BASELINE]
    spots = [mine[at] for at in random.choice(len(mine), size=min(options.spots, len(mine)), replace=False)]
    contestants = [contestant_of(BASELINE)]
    other = runnable(results.header.policy, options.policy)
    if other is not None and other.name != BASELINE:
        contestants.append(other)
    rows = {row[:3]: row for row in results.rows}
    problems = []
    cases: dict[str, Case] = {}
    for spot in spots:
        case = cases.setdefault(spot.entry, suite.entry(spot.entry).case())
        for result in run_seed(case, contestants, spot.seed):
            again = row_of(spot.entry, result.row)
            if again != rows[again[:3]]:
                problems.append(differs(results.source, rows[again[:3]], again))
    shipped = published(suite.version)
    if shipped is not None and shipped.source != results.source:
        theirs = {row[:3]: row for row in shipped.rows if row.policy == BASELINE}
        problems += [
            differs(results.source, row, theirs[row[:3]])
            for row in mine
            if row[:3] in theirs and row != theirs[row[:3]]
        ]
    return shortened(problems)


def differs(source: str, row: Row, again: Row) -> str:
    """A row that came out differently, and by what."""
    names = [name for name in Row._fields if getattr(row, name) != getattr(again, name)]
    what = ", ".join(f"{name} is {getattr(row, name)!r}, here {getattr(again, name)!r}" for name in names)
    return (
        f"{source}: {row.policy} on {row.entry}, seed {row.seed}: {what}; equal requests in the same simulator give "
        f"equal numbers: run it with cace-env {cace_env.__version__}, unchanged"
    )


def runnable(name: str, address: str | None) -> Contestant | None:
    """The policy of a file, if it is built in or its address was given.

    Raises:
        ConfigError: there is nothing at the address, or another policy.
    """
    if address is not None:
        contestant = contestant_of(address)
        if contestant.name != name:
            raise ConfigError(f"--policy {address} is {contestant.name!r}; the file holds results of {name!r}")
        return contestant
    try:
        return contestant_of(name)
    except ConfigError:
        return None


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
