"""Scores from the run folder of a suite."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from cace_env.config import ConfigError
from cace_env.evaluation import Suite, load_suite, suite_scores
from cace_env.evaluation.episodes import seed_list
from cace_env.evaluation.results import Header, Results, Row, row_of
from cace_env.evaluation.scores import BASELINE, REFERENCE, SuiteScores
from cace_env.evaluation.suite import Entry, MemorySweep, suite_versions
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.simulation import lower_bound
from cace_env.tables import FloatArray, Protocol
from experiments.running.run_folder import Run, share_of_cost


@dataclass(frozen=True)
class SuiteRun:
    """A finished run of a suite.

    Raises:
        ConfigError: the folder holds no run of a suite.
    """

    path: Path

    def __post_init__(self) -> None:
        if not (self.path / "suite.yaml").is_file():
            raise ConfigError(f"{self.path} has no suite.yaml: it is no folder of `python -m experiments.suite`")

    @cached_property
    def run(self) -> Run:
        """Its rows."""
        return Run(self.path)

    @cached_property
    def suite(self) -> Suite:
        """What was run; as it ships where the entries are those, because its prose may have been mended since."""
        ran = load_suite(self.path / "suite.yaml")
        shipped = load_suite(ran.version) if ran.version in suite_versions() else ran
        same = (ran.entries, ran.memory_sweeps) == (shipped.entries, shipped.memory_sweeps)
        return shipped if same else ran

    @cached_property
    def envs(self) -> list[Protocol]:
        """Environments of which anything ran, in the order of the suite."""
        return list(dict.fromkeys(entry.env for entry in self.suite.entries if entry.id in self.run.scenarios))

    def entries(self, env: Protocol) -> list[Entry]:
        """Entries of an environment that ran, without memory sweeps."""
        return [entry for entry in self.suite.entries if entry.env == env and entry.id in self.run.scenarios]

    def sweeps(self, env: Protocol) -> list[MemorySweep]:
        """Memory sweeps of an environment that ran."""
        there = set(self.run.scenarios)
        return [s for s in self.suite.memory_sweeps if s.env == env and {e.id for e in s.entries()} <= there]

    def policies(self, env: Protocol) -> list[str]:
        """Those that ran on any entry of an environment, in the order in which they ran."""
        return list(dict.fromkeys(policy for entry in self.entries(env) for policy in self.run.policies(entry.id)))

    def costs(self, entry: str) -> dict[str, FloatArray]:
        """Cost of every policy on the same seeds, each `(seeds,)`; NaN where an episode is missing or was cut short."""
        return {policy: self.run.columns[entry, policy]["cost"] for policy in self.run.policies(entry)}

    def searches(self) -> list[dict[str, str]]:
        """searches.csv: how references were found; empty where they were all shipped."""
        path = self.path / "searches.csv"
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def cost_per_request(self, entry: str, policy: str) -> float:
        """Mean cost over mean requests; costs of the reference that ship come without their requests."""
        requests = self.run.mean(entry, BASELINE, "requests")
        return self.run.mean(entry, policy, "cost") / requests

    def least_cost(self, entry: Entry) -> float:
        """What no policy can cost less than, as a share of LRU's cost [%]; computed where the rows do not say.

        Raises:
            ConfigError: the rows do not say, and the entry has changed since the run.
        """
        share = self.run.least_cost(entry.id)
        if np.isfinite(share):
            return share
        if self.run.about["fingerprints"][entry.id] != entry.fingerprint():
            raise ConfigError(
                f"{self.path}: entry {entry.id!r} has changed since the run, whose rows have no lower bounds: run the "
                "suite again"
            )
        case, columns = entry.case(), self.run.columns[entry.id, BASELINE]
        bounds = [lower_bound(case.tables, case.workload(int(seed))).cost for seed in columns["seed"]]
        return share_of_cost(np.array(bounds), columns["cost"])

    def scores(self, env: Protocol) -> SuiteScores:
        """Scores on the entries of an environment.

        Raises:
            ConfigError: the reference did not run on one of them.
        """
        return suite_scores({entry.id: self._scored(entry.id) for entry in self.entries(env)})

    def sweep_scores(self, sweep: MemorySweep) -> SuiteScores:
        """Scores along a memory sweep; its mean is of no use.

        Raises:
            ConfigError: as `scores`.
        """
        return suite_scores({entry.id: self._scored(entry.id) for entry in sweep.entries()})

    def _scored(self, entry: str) -> dict[str, FloatArray]:
        costs = self.costs(entry)
        if REFERENCE not in costs or np.isnan(costs[REFERENCE]).any():
            raise ConfigError(
                f"{self.path}: the reference has not run on every seed of {entry!r}; `python -m experiments.suite` "
                "in the same folder, without --reference none, goes on with it"
            )
        return costs

    def ranking(self, scores: SuiteScores) -> list[str]:
        """Policies from the best mean score to the worst; those without one stand last, the reference nowhere."""
        means = {policy: mean.value for policy, mean in scores.means.items() if policy not in (REFERENCE, NO_SWAPPING)}
        return sorted(means, key=lambda policy: (np.isnan(means[policy]), -means[policy]))

    def published(self) -> Results:
        """LRU and the reference on every entry and test seed, as the costs that ship with the suite.

        Raises:
            ConfigError: the run is of another split or did not finish, or an episode of the two is missing.
        """
        for key, wanted in (("split", "test"), ("status", "finished")):
            if self.run.about[key] != wanted:
                raise ConfigError(
                    f"{self.path}: the {key} of the run is {self.run.about[key]}; costs that ship have to be of a run "
                    f"whose {key} is {wanted}"
                )
        seeds = seed_list("test")
        rows: list[Row] = []
        for entry in self.suite.all_entries():
            if entry.id not in self.run.scenarios:
                raise ConfigError(f"{self.path}: entry {entry.id!r} has not run; the costs that ship are those of all")
            for policy, costs in self._scored(entry.id).items():
                if policy not in (BASELINE, REFERENCE):
                    continue
                whole = set(self.run.columns[entry.id, policy]["seed"][np.isfinite(costs)])
                if whole != set(seeds):
                    raise ConfigError(
                        f"{self.path}: {policy} has finished {len(whole)} of {len(seeds)} test seeds of {entry.id!r}; "
                        "the costs that ship are those of all: python -m experiments.suite without --quick and --seeds"
                    )
                columns = self.run.columns[entry.id, policy]
                for at in range(len(columns["seed"])):
                    rows.append(row_of(entry.id, {"policy": policy} | {name: columns[name][at] for name in columns}))
        about = self.run.about
        git = about["git"]
        header = Header(
            suite=self.suite.version,
            policy=REFERENCE,
            description=about["policies"][REFERENCE]["description"],
            clairvoyant=True,
            trained_on="nothing",
            simulated_requests=0,
            code=f"cace-env {about['versions']['cace-env']}" + (f", commit {git['commit'][:12]}" if git else ""),
            cace_env=about["versions"]["cace-env"],
            fingerprints=about["fingerprints"],
            settings=about["policies"][REFERENCE].get("settings", {}),
        )
        return Results(header, tuple(rows), str(self.path))
