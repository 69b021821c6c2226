"""Measures the horizon curve: the shipped agents with the true future of the next seconds, on the suite's test seeds.

The file has a row for each episode, in the form of the costs that ship with the suite. It is written while the command
runs, so `--resume` goes on where it was stopped, or adds seeds and entries.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

from pydantic import Field
from rich.console import Console

import cace_env
from cace_env.cases import Case
from cace_env.config import MOST_THREADS, ConfigError, Frozen
from cace_env.evaluation import load_suite, run_seed
from cace_env.evaluation.episodes import in_order, seed_result
from cace_env.evaluation.results import Header, Results, Row, read_results, row_of, write_results
from cace_env.planning import play_knowing
from cace_env.policies import Future, contestant_of
from cace_env.policies.agent import shipped_agents
from cace_env.scenarios import seeds
from cace_env.simulation import lower_bound
from cace_env.tables import Protocol
from experiments.reading.horizons import AGENT, HORIZONS_S, KNOWING, SHIPPED, curve, policies, policy_at, score_table
from experiments.running.command_line import metavar, split_names
from experiments.running.options import Names
from experiments.running.progress import progress_bar
from experiments.running.reference_cache import code_digest
from experiments.running.run_folder import surroundings

SUITE: Final = "v1"
EVERY_S: Final = 10.0  # the file is written so often


class Horizon(Frozen):
    """Measure what the true future of the next 5 s to 1 h is worth to the shipped agents."""

    entries: Names = Field(default=(), description="of the suite v1; all by default")
    seeds: int = Field(default=100, ge=1, description="test seeds of each entry")
    workers: int = Field(default=1, ge=1, le=MOST_THREADS, description="threads; an episode each")
    out: Annotated[Path, metavar("FILE")] = Field(
        default=SHIPPED, description="file for the costs; the one that ships with the suite by default"
    )
    resume: bool = Field(default=False, description="go on with that file: play what it lacks, keep the rest")

    def run(self, console: Console) -> int:
        """Plays what is wanted and not there yet, and prints the scores; the exit status.

        Raises:
            ConfigError: an unknown entry, a file in the way, or one that this version does not go on with.
        """
        suite = load_suite(SUITE)
        entries = suite.named(split_names(self.entries))
        kept = self._kept()
        cases = {entry.id: entry.case() for entry in entries}
        jobs = [
            Job(name, case, seed, missing)
            for seed in seeds("test", self.seeds)  # seed by seed, so that a part of the run has all entries
            for name, case in cases.items()
            if (missing := [policy for policy in policies(case.tables.protocol) if (name, policy, seed) not in kept])
        ]
        header = _header({entry.id: entry.fingerprint() for entry in suite.entries})
        written_s = time.monotonic()
        try:
            with progress_bar(Console(stderr=True)) as progress:
                played = in_order(play, jobs, self.workers)
                for rows in progress.track(played, total=len(jobs), description="horizons"):
                    kept |= {row[:3]: row for row in rows}
                    if time.monotonic() - written_s > EVERY_S:
                        write_results(self.out, _results(header, kept))
                        written_s = time.monotonic()
        finally:
            if kept:
                write_results(self.out, _results(header, kept))
        for env in Protocol:
            found = curve(_results(header, kept), env)
            if found is not None:
                console.print(f"\n{env.env_name}\n\n{score_table(found)}", soft_wrap=True, highlight=False)
        return 0

    def _kept(self) -> dict[tuple[str, str, int], Row]:
        """Rows of the file that the command goes on with."""
        if self.out.is_dir():
            raise ConfigError(f"{self.out} is a folder; --out names a file")
        if not self.out.exists():
            return {}
        if not self.resume:
            raise ConfigError(f"{self.out} is there already; --resume goes on with it, --out names another file")
        results = read_results(self.out)
        _check(results, str(self.out))
        return {row[:3]: row for row in results.rows}


class Job(NamedTuple):
    """Episodes of one entry on one seed."""

    entry: str
    case: Case
    seed: int
    policies: list[str]  # which are missing


def play(job: Job) -> list[Row]:
    """Plays the missing policies on the same requests."""
    case, seed = job.case, job.seed
    env = case.tables.protocol
    workload = case.workload(seed)
    future = Future.of(case.tables, workload)
    agent = shipped_agents()[env].policy()
    rows: list[dict[str, Any]] = []
    bound = lower_bound(case.tables, workload).cost
    for horizon_s in HORIZONS_S:
        if policy_at(horizon_s) in job.policies:
            played = play_knowing(case, workload, future, seed, horizon_s=horizon_s, base=agent)
            rows.append(seed_result(policy_at(horizon_s), case, workload, seed, played.simulator, bound).row)
    for name, policy in ((AGENT, agent), (KNOWING[env], KNOWING[env])):
        if name in job.policies:
            rows.append(run_seed(case, [contestant_of(policy)], seed)[0].row | {"policy": name})
    return [row_of(job.entry, row) for row in rows]


def _header(fingerprints: dict[str, str]) -> Header:
    git = surroundings()["git"]
    commit = f", commit {git['commit'][:12]}" if git else ""
    return Header(
        suite=SUITE,
        policy=AGENT,
        description="the shipped agents, alone and with the true future of the next seconds at each decision",
        clairvoyant=True,
        trained_on="see the cards of the agents",
        simulated_requests=0,
        code=f"cace-env {cace_env.__version__}{commit}",
        cace_env=cace_env.__version__,
        fingerprints=fingerprints,
        settings={
            "code_sha256": code_digest(),
            "agents": {name: agent.card.weights_sha256 for name, agent in shipped_agents().items()},
        },
    )


def _results(header: Header, rows: dict[tuple[str, str, int], Row]) -> Results:
    return Results(header, tuple(rows[key] for key in sorted(rows)))


def _check(results: Results, where: str) -> None:
    """Check that rows of a file and new ones are of the same code, agents and entries.

    Of other code the first seed of each entry is played again: it has to cost the same to the last digit.

    Raises:
        ConfigError: they differ.
    """
    there, here = results.header.settings, _header({}).settings
    if there.get("agents") != here["agents"]:
        raise ConfigError(f"{where}: the shipped agents have changed since; remove it, and all is played again")
    suite = load_suite(SUITE)
    first: dict[str, int] = {}
    for row in results.rows:
        first[row.entry] = min(row.seed, first.get(row.entry, row.seed))
    for name, seed in first.items():
        entry = suite.entry(name)
        results.check_fingerprint(entry)
        if there.get("code_sha256") == here["code_sha256"]:
            continue
        kept = {row.policy: row for row in results.rows if (row.entry, row.seed) == (name, seed)}
        for row in play(Job(name, entry.case(), seed, list(kept))):
            if row.cost != kept[row.policy].cost:
                raise ConfigError(
                    f"{where}: {row.policy} on {name}, seed {seed}, costs {kept[row.policy].cost} there and "
                    f"{row.cost} now: the code has changed since; remove it, and all is played again"
                )
