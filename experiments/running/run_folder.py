"""What a run leaves on disk: written while it runs, read by the reports, which have every number from here.

run.json         what was run, the commands, versions, seeds, seconds, whether it finished
config.yaml      the options as given; scenarios/NAME.yaml each scenario in full
rows.csv         one row per policy, scenario and seed: every metric of cace_env.simulation.METRICS
windows.csv      of a log, a row more per window: the metrics that single requests have
ttft.csv         histograms of the time to first token by policy, scenario, seed and task, whole episodes, as BIN:COUNT
searches.csv     how the clairvoyant reference was found, where it was looked for
timelines.csv    which model sat where, and waiting.csv how many requests waited, for some policies on the first seed
decisions.csv    why agents and CACE decided so, and factors.csv how much each factor weighed, on the first seed
decisions/       every decision of some policies, where it was asked for (`python -m experiments.why FOLDER`)
report.html      written from the files above (`python -m experiments.report FOLDER`)

What has finished is on disk at once, so a run that is killed loses only the episodes that were being played.
"""

from __future__ import annotations

import csv
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

import cace_env
from cace_env.config import ConfigError, one_line
from cace_env.evaluation import Gain, block_of, mean
from cace_env.evaluation.episodes import metric_gain
from cace_env.evaluation.scores import pooled_gain
from cace_env.policies.contestants import NO_SWAPPING
from cace_env.policies.guard import REASONS
from cace_env.policies.planner import CHANGED
from cace_env.policies.player import ILLEGAL_ACTIONS
from cace_env.simulation import METRICS
from cace_env.simulation.metrics import TTFT_EDGES_S
from cace_env.simulation.windows import WINDOWED
from cace_env.tables import TASKS, FloatArray, Protocol
from experiments.running.run_files import damaged, read_about, read_rows, whole_lines

FALLBACKS: Final = {f"fallback_{reason}": reason for reason in REASONS}  # decisions that a guard took over
BESIDE: Final = ("decision_us", "lower_bound", ILLEGAL_ACTIONS, CHANGED, *FALLBACKS)  # columns that are no metrics
KEYS: Final = ("scenario", "policy", "label", "seed", *BESIDE)
ROWS_HEADER: Final = (*KEYS, *METRICS)
TTFT_HEADER: Final = ("scenario", "policy", "seed", "task", "requests")
WINDOWS_HEADER: Final = ("scenario", "policy", "seed", "window", *WINDOWED)
SEARCH_HEADER: Final = ("scenario", "seed", "base", "base_cost", "cost", "rounds", "replays", "wall_s")
BY_NAME: Final = ("policies", "scenarios", "agents", "fingerprints")  # keys of run.json
Key = tuple[str, str, int]  # scenario, policy, seed
BASELINE: Final = "lru"
NEEDED: Final = frozenset(  # of the columns of rows.csv
    ("scenario", "policy", "seed", *(name for name in METRICS if not name.startswith(TASKS)))
)
PATIENT: Final = "patient-fifo+lru"  # LRU of Swap-v0 drains at once; this one waits, and stands beside it


def check_new(path: Path) -> None:
    """Refuses a place where something is already.

    Raises:
        ConfigError: a file, or a folder that is not empty.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} exists and is not empty; results are never overwritten: give another --out")


@dataclass(frozen=True)
class Run:
    """Reads a run folder.

    Raises:
        ConfigError: the folder holds no run, or no finished episode.
    """

    path: Path

    def __post_init__(self) -> None:
        for name in ("run.json", "rows.csv"):
            if not (self.path / name).is_file():
                raise ConfigError(
                    f"{self.path} has no {name}: it is no folder of a comparison, or nothing finished there"
                )

    @cached_property
    def about(self) -> dict[str, Any]:
        """run.json."""
        return read_about(self.path / "run.json")

    @cached_property
    def episodes(self) -> dict[tuple[str, str], dict[str, FloatArray]]:
        """By (scenario, policy): seed, those of `BESIDE` that the file has and every metric, each `(seeds,)`.

        The columns of all policies of a scenario belong together seed by seed: where one did not run all is NaN but
        `seed`, and where its episode was cut short, which is no result, all but `seed` and `truncated`.
        """
        names, gathered = read_rows(self.path / "rows.csv", ("seed", *BESIDE, *METRICS), NEEDED)
        for name, policy_name in gathered:
            known = name in self.about["scenarios"] and policy_name in self.about["policies"]
            if not known or (name, BASELINE) not in gathered:
                raise ConfigError(
                    f"{self.path / 'rows.csv'}: {one_line(policy_name)} on {one_line(name)}: run.json does not name "
                    f"them, or {BASELINE} has no row there; the files were changed: run it again"
                )
        for name in {name for name, _ in gathered} if NO_SWAPPING in self.about["policies"] else ():
            gathered.setdefault((name, NO_SWAPPING), [])  # it runs last: a run may be killed just before
        seeds: dict[str, set[float]] = {}
        for (name, _), numbers_of in gathered.items():
            seeds.setdefault(name, set()).update(float(numbers[0]) for numbers in numbers_of)
        columns = {}
        order = {key: {name: at for at, name in enumerate(self.about[key])} for key in ("scenarios", "policies")}
        for key in sorted(gathered, key=lambda key: (order["scenarios"][key[0]], order["policies"][key[1]])):
            numbers_of = gathered[key]
            by_seed = {float(numbers[0]): numbers for numbers in numbers_of}
            missing = np.full(len(names) - 1, np.nan)
            table = [by_seed.get(seed, np.array([seed, *missing])) for seed in sorted(seeds[key[0]])]
            columns[key] = dict(zip(names, np.array(table).T.copy(), strict=True))
        for by_name in columns.values():
            cut = by_name["truncated"] == 1
            for name in names:
                if name not in ("seed", "truncated"):
                    by_name[name][cut] = np.nan
        return columns

    @cached_property
    def columns(self) -> dict[tuple[str, str], dict[str, FloatArray]]:
        """What intervals are over: `episodes`; on a log its windows, each the mean over draws of what was attached.

        A metric that windows do not have stands in the first window, for the whole log, and is NaN in the others: so it
        has a value and no interval.
        """
        return {
            (scenario, policy): self._of_log(scenario, policy) if scenario in self.windows else by_name
            for (scenario, policy), by_name in self.episodes.items()
        }

    def _of_log(self, scenario: str, policy: str) -> dict[str, FloatArray]:
        """Columns of a policy on a log, `(windows,)` each."""
        count, episodes = self.windows[scenario], self.episodes[scenario, policy]
        found = {"seed": np.arange(count, dtype=np.float64)}
        for name in [name for name in episodes if name != "seed"]:
            found[name] = np.full(count, np.nan)
            found[name][0] = episodes[name].mean()
        means = self._drawn(scenario, policy).mean(axis=0)
        return found | dict(zip(WINDOWED, means.T.copy(), strict=True))

    def _drawn(self, scenario: str, policy: str) -> FloatArray:
        """What the windows of a log had, `(draws, windows, metrics of WINDOWED)`; NaN where an episode is missing."""
        missing = np.full((self.windows[scenario], len(WINDOWED)), np.nan)
        seeds = self.episodes[scenario, policy]["seed"]
        return np.array([self._windows.get((scenario, policy, int(seed)), missing) for seed in seeds])

    @cached_property
    def _windows(self) -> dict[Key, FloatArray]:
        """By episode, the metrics of `WINDOWED`, `(windows, metrics)`."""
        gathered: dict[Key, list[list[float]]] = {}
        with damaged(self.path / "windows.csv"):
            for row in self._table("windows.csv"):
                key = row["scenario"], row["policy"], int(row["seed"])
                gathered.setdefault(key, []).append([float(row[name]) for name in WINDOWED])
            for (scenario, _, _), rows in gathered.items():
                if len(rows) != self.windows.get(scenario):
                    raise ValueError(f"{len(rows)} windows of {one_line(scenario)}")
        return {key: np.array(rows) for key, rows in gathered.items()}

    @cached_property
    def windows(self) -> dict[str, int]:
        """By scenario whose requests are a log: how many windows that has."""
        logs = {name: about["log"].get("windows") for name, about in self.about["scenarios"].items()}
        return {name: windows for name, windows in logs.items() if windows is not None}

    @cached_property
    def blocks(self) -> dict[str, int]:
        """By scenario whose requests are a log: how many consecutive windows an interval draws together."""
        return {name: block_of(windows) for name, windows in self.windows.items()}

    def gains_by_draw(self, scenario: str, policy: str, metric: str = "cost", over: str = BASELINE) -> FloatArray:
        """The gain by draw of what was attached to a log [%], `(draws,)`; without a log or several draws, none."""
        mine, theirs = self.episodes[scenario, policy][metric], self.episodes[scenario, over][metric]
        if scenario not in self.windows or len(mine) < 2:
            return np.zeros(0)
        return np.asarray(100 * (1 - mine / theirs) * (1 if METRICS[metric].better == "less" else -1))

    def replicates(self, scenario: str, policy: str, metric: str = "cost") -> FloatArray:
        """What an interval of a metric is over: `(seeds,)`, or on a log `(draws, windows)` of what was attached."""
        if scenario not in self.windows or metric not in WINDOWED:
            return self.columns[scenario, policy][metric]
        return self._drawn(scenario, policy)[:, :, WINDOWED.index(metric)]

    @cached_property
    def ttft(self) -> dict[tuple[str, str, str], FloatArray]:
        """By (scenario, policy, task): answered requests per bin of TTFT_EDGES_S."""
        counts: dict[tuple[str, str, str], FloatArray] = {}
        with damaged(self.path / "ttft.csv"):
            for row in self._table("ttft.csv"):
                mine = counts.setdefault((row["scenario"], row["policy"], row["task"]), np.zeros(len(TTFT_EDGES_S) - 1))
                for cell in row["requests"].split():
                    bin_, _, count = cell.partition(":")
                    mine[int(bin_)] += int(count)
        return counts

    def _table(self, name: str) -> list[dict[str, str]]:
        return list(csv.DictReader(whole_lines(self.path / name)))

    @cached_property
    def scenarios(self) -> list[str]:
        """Those with finished episodes, in the order in which they ran."""
        return list(dict.fromkeys(scenario for scenario, _ in self.columns))

    def env(self, scenario: str) -> Protocol:
        """The environment of a scenario."""
        return Protocol(self.about["scenarios"][scenario]["env"])

    def of_env(self, env: Protocol) -> list[str]:
        """The scenarios of one environment."""
        return [scenario for scenario in self.scenarios if self.env(scenario) == env]

    def policies(self, scenario: str) -> list[str]:
        """Those that ran on a scenario, in the order in which they ran."""
        return [policy for name, policy in self.columns if name == scenario]

    def everywhere(self, scenarios: Sequence[str]) -> list[str]:
        """Policies that ran on every one of some scenarios."""
        return [p for p in self.policies(scenarios[0]) if all(p in self.policies(scenario) for scenario in scenarios)]

    def group(self, policy: str) -> str:
        """What kind of policy it is."""
        return str(self.about["policies"][policy]["group"])

    def mean(self, scenario: str, policy: str, metric: str) -> float:
        """A metric's mean over the seeds whose episode is whole; NaN where none is."""
        return mean(self.episodes[scenario, policy][metric])

    def gain(self, scenario: str, policy: str, metric: str = "cost", over: str = BASELINE) -> Gain:
        """By how much a policy does better than another one [%], over the seeds that neither cut short."""
        key = scenario, policy, metric, over
        if key not in self._gains:
            mine, theirs = (self.replicates(scenario, who, metric) for who in (policy, over))
            self._gains[key] = metric_gain(metric, theirs, mine, self.blocks.get(scenario))
        return self._gains[key]

    def pooled_gain(self, policy: str, scenarios: Sequence[str], over: str = BASELINE) -> Gain:
        """By how much a policy's cost is below another one's [%], of the mean over scenarios of LRU's cost shares.

        So each scenario counts alike, whatever a second costs there.
        """
        key = "\n".join(scenarios), policy, "pooled cost", over
        if key not in self._gains:
            mine, theirs, lru = ({s: self.replicates(s, who) for s in scenarios} for who in (policy, over, BASELINE))
            self._gains[key] = pooled_gain(mine, theirs, lru, blocks=self.blocks)
        return self._gains[key]

    @cached_property
    def _gains(self) -> dict[tuple[str, str, str, str], Gain]:
        """Gains that were asked for before: each takes a bootstrap."""
        return {}

    def least_cost(self, scenario: str) -> float:
        """What no policy can cost less than, as a share of the baseline's cost [%]; NaN in folders that do not say."""
        columns = self.episodes[scenario, BASELINE]
        if "lower_bound" not in columns:
            return float("nan")
        return share_of_cost(columns["lower_bound"], columns["cost"])

    def costs(self, scenario: str, *policies: str) -> FloatArray:
        """Cost of each policy on the seeds that none of them cut short, `(policies, seeds)`."""
        costs = np.stack([self.columns[scenario, policy]["cost"] for policy in policies])
        return costs[:, np.isfinite(costs).all(axis=0)]

    def ranking(self, scenario: str) -> list[str]:
        """Policies by their share of the baseline's cost on the seeds of both, the cheapest first.

        Those without a whole episode in common with the baseline stand last.
        """
        rank = {}
        for policy in self.policies(scenario):
            costs = self.costs(scenario, BASELINE, policy)
            theirs, mine = costs.sum(axis=1)
            rank[policy] = not costs.size, mine / theirs if theirs else mine
        return sorted(rank, key=lambda policy: rank[policy])

    def cheapest(self, scenario: str, group: str) -> str | None:
        """The first of a group in `ranking`; None where the group has no whole episode."""
        members = [policy for policy in self.ranking(scenario) if self.group(policy) == group]
        return next((policy for policy in members if self.costs(scenario, BASELINE, policy).size), None)

    def replaced(self, scenario: str) -> dict[str, tuple[int, int]]:
        """By policy, actions that were not legal and were replaced, and all decisions; only where there are any."""
        counts = {}
        for policy in self.policies(scenario):
            columns = self.episodes[scenario, policy]
            replaced = int(np.nansum(columns.get(ILLEGAL_ACTIONS, 0.0)))
            if replaced:
                counts[policy] = replaced, int(np.nansum(columns["decisions"]))
        return counts

    def cut_short(self, scenario: str) -> dict[str, int]:
        """Episodes that the limit on decisions ended, by policy; those without any are left out."""
        counts = {
            policy: int((self.episodes[scenario, policy]["truncated"] == 1).sum()) for policy in self.policies(scenario)
        }
        return {policy: count for policy, count in counts.items() if count}


def share_of_cost(part: FloatArray, cost: FloatArray) -> float:
    """A part of a cost [%], both `(seeds,)` and summed over the seeds that have both; NaN where there is none."""
    both = np.isfinite(part) & np.isfinite(cost)
    total = float(cost[both].sum())
    return 100 * float(part[both].sum()) / total if total else float("nan")


def surroundings() -> dict[str, Any]:
    """Versions of what matters, and the state of the checkout if there is one."""
    packages = ("numpy", "numba", "gymnasium", "pydantic")
    versions = {"cace-env": cace_env.__version__, "python": platform.python_version()}
    versions |= {package: metadata.version(package) for package in packages}
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "git": _git_state(Path(__file__).resolve().parents[2]),
    }


def _git_state(checkout: Path) -> Mapping[str, Any] | None:
    """Commit, and whether files differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed_files": len(git("status", "--porcelain").splitlines())}
    except (OSError, subprocess.SubprocessError):
        return None
