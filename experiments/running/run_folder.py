"""What a comparison leaves on disk: written while it runs, read by the report, which has every number from here.

run.json         what was compared, the exact command, versions, seeds, whether it finished
config.yaml      the options as given; scenarios/NAME.yaml each scenario in full
rows.csv         one row per policy, scenario and seed: every metric of cace_env.simulation.METRICS
ttft.csv         histograms of the time to first token by policy, scenario and task, all whole episodes
timelines.csv    which model sat where, for some policies on the first seed
decisions.csv    why agents decided so, for some decisions on the first seed; only where an agent took part
report.md        and plots/, written from the files above (`python -m experiments.report FOLDER`)
"""

from __future__ import annotations

import csv
import json
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

import cace_env
from cace_env.config import ConfigError
from cace_env.evaluation import Gain, SeedResult, mean
from cace_env.evaluation.episodes import metric_gain
from cace_env.policies.guard import REASONS
from cace_env.policies.player import ILLEGAL_ACTIONS
from cace_env.simulation import METRICS
from cace_env.simulation.metrics import TTFT_EDGES_S
from cace_env.tables import TASKS

FloatArray = npt.NDArray[np.float64]

FALLBACKS: Final = {f"fallback_{reason}": reason for reason in REASONS}  # decisions that a guard took over
BESIDE: Final = ("decision_us", "lower_bound", ILLEGAL_ACTIONS, *FALLBACKS)  # columns that are no metrics
KEYS: Final = ("scenario", "policy", "label", "seed", *BESIDE)
ROWS_HEADER: Final = (*KEYS, *METRICS)
TTFT_HEADER: Final = ("scenario", "policy", "task", "from_s", "to_s", "requests")
BASELINE: Final = "lru"


class Span(NamedTuple):
    """A model on an accelerator for a while; a row of timelines.csv."""

    scenario: str
    policy: str
    seed: int
    accelerator: str
    model: str
    state: str  # loading, resident or unloading
    from_s: float
    to_s: float


class RunFolder:
    """Writes a run folder.

    Args:
        path: a folder that does not exist, or is empty.

    Raises:
        ConfigError: it holds something already.
    """

    def __init__(self, path: Path) -> None:
        check_new(path)
        self._made = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._about: dict[str, Any] = {}
        self._ttft: dict[tuple[str, str], npt.NDArray[np.int64]] = {}

    def describe(self, **about: Any) -> None:
        """Adds to run.json."""
        self._about |= about
        (self.path / "run.json").write_text(json.dumps(self._about, indent=2, allow_nan=False) + "\n", "utf-8")

    def write(self, name: str, text: str) -> None:
        """A text file in the folder."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")

    def append(self, results: Iterable[SeedResult]) -> None:
        """Adds finished episodes; they are on disk when this returns."""
        path = self.path / "rows.csv"
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ROWS_HEADER, restval="nan")
            if fresh:
                writer.writeheader()
            for result in results:
                writer.writerow(result.row)
                key = result.row["scenario"], result.row["policy"]
                self._ttft[key] = self._ttft.get(key, 0) + result.whole_ttft_counts

    def discard(self) -> None:
        """Removes what was written: nothing finished that is worth keeping."""
        shutil.rmtree(self.path / "scenarios", ignore_errors=True)
        for path in self.path.iterdir():
            path.unlink()
        if self._made:
            self.path.rmdir()

    def finish(self, spans: Sequence[Span], **about: Any) -> None:
        """Writes histograms and timelines, and what is to be said at the end."""
        with (self.path / "ttft.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(TTFT_HEADER)
            for (scenario, policy), counts in self._ttft.items():
                for task, bin_ in zip(*np.nonzero(counts), strict=True):
                    edges = (f"{edge:.6g}" for edge in TTFT_EDGES_S[bin_ : bin_ + 2])
                    writer.writerow([scenario, policy, TASKS[task], *edges, counts[task, bin_]])
        with (self.path / "timelines.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Span._fields)
            writer.writerows(spans)
        self.describe(**about)


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
        ConfigError: it is none, or holds no finished episode.
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
        about: dict[str, Any] = json.loads((self.path / "run.json").read_text("utf-8"))
        return about

    @cached_property
    def columns(self) -> dict[tuple[str, str], dict[str, FloatArray]]:
        """By (scenario, policy): seed, those of `BESIDE` that the file has and every metric, each `(seeds,)`.

        The columns of all policies of a scenario belong together seed by seed: where one did not run all is NaN but
        `seed`, and where its episode was cut short, which is no result, all but `seed` and `truncated`.
        """
        gathered: dict[tuple[str, str], list[FloatArray]] = {}
        with (self.path / "rows.csv").open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            header = next(rows)
            scenario, policy = header.index("scenario"), header.index("policy")
            names = [name for name in ("seed", *BESIDE, *METRICS) if name in header]
            places = [header.index(name) for name in names]
            for cells in rows:
                numbers = np.array([float(cells[place]) for place in places])
                gathered.setdefault((cells[scenario], cells[policy]), []).append(numbers)
        seeds: dict[str, set[float]] = {}
        for (name, _), numbers_of in gathered.items():
            seeds.setdefault(name, set()).update(float(numbers[0]) for numbers in numbers_of)
        columns = {}
        for key, numbers_of in gathered.items():
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
    def ttft(self) -> dict[tuple[str, str, str], FloatArray]:
        """By (scenario, policy, task): answered requests per bin of TTFT_EDGES_S."""
        counts: dict[tuple[str, str, str], FloatArray] = {}
        for row in self._table("ttft.csv"):
            key = row["scenario"], row["policy"], row["task"]
            counts.setdefault(key, np.zeros(len(TTFT_EDGES_S) - 1))
            bin_ = int(np.argmin(np.abs(TTFT_EDGES_S - float(row["from_s"]))))
            counts[key][bin_] += float(row["requests"])
        return counts

    @cached_property
    def spans(self) -> list[Span]:
        """timelines.csv."""
        return [
            Span(
                row["scenario"],
                row["policy"],
                int(row["seed"]),
                row["accelerator"],
                row["model"],
                row["state"],
                float(row["from_s"]),
                float(row["to_s"]),
            )
            for row in self._table("timelines.csv")
        ]

    def _table(self, name: str) -> list[dict[str, str]]:
        path = self.path / name
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @property
    def scenarios(self) -> list[str]:
        """Those with finished episodes, in the order in which they ran."""
        return list(dict.fromkeys(scenario for scenario, _ in self.columns))

    def policies(self, scenario: str) -> list[str]:
        """Those that ran on a scenario, in the order in which they ran."""
        return [policy for name, policy in self.columns if name == scenario]

    def group(self, policy: str) -> str:
        """What kind of policy it is."""
        return str(self.about["policies"][policy]["group"])

    def mean(self, scenario: str, policy: str, metric: str) -> float:
        """A metric's mean over the seeds whose episode is whole; NaN where none is."""
        return mean(self.columns[scenario, policy][metric])

    def gain(self, scenario: str, policy: str, metric: str = "cost", over: str = BASELINE) -> Gain:
        """By how much a policy does better than another one [%], over the seeds that neither cut short."""
        return metric_gain(metric, self.columns[scenario, over][metric], self.columns[scenario, policy][metric])

    def least_cost(self, scenario: str) -> float:
        """What no policy can cost less than, as a share of the baseline's cost [%]; NaN in folders that do not say."""
        columns = self.columns[scenario, BASELINE]
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
            columns = self.columns[scenario, policy]
            replaced = int(np.nansum(columns.get(ILLEGAL_ACTIONS, 0.0)))
            if replaced:
                counts[policy] = replaced, int(np.nansum(columns["decisions"]))
        return counts

    def cut_short(self, scenario: str) -> dict[str, int]:
        """Episodes that the limit on decisions ended, by policy; those without any are left out."""
        counts = {
            policy: int((self.columns[scenario, policy]["truncated"] == 1).sum()) for policy in self.policies(scenario)
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
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed_files": len(git("status", "--porcelain").splitlines())}
    except (OSError, subprocess.SubprocessError):
        return None
