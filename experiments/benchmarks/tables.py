"""The benchmark's figures as tables, for the terminal and for the page in the docs alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from experiments.benchmarks.measures import Figures
from experiments.benchmarks.targets import DEFAULT


class Grid(NamedTuple):
    """A table."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def thousands(rate: float) -> str:
    """A rate in thousands; below ten thousand with one digit after the point."""
    return f"{rate / 1e3:,.1f}" if rate < 1e4 else f"{rate / 1e3:,.0f}"


def targets(figures: Figures) -> Grid:
    """What was promised, what was measured."""
    rows = []
    for row in figures["targets"]:
        unit = f" {row['unit']}" if row["unit"] else ""
        limit = f"{'at least' if row['at_least'] else 'at most'} {_figure(row['limit'], row['unit'])}{unit}"
        met = "yes" if row["met"] else "**no**"
        rows.append((row["what"], _figure(row["measured"], row["unit"]), limit, met))
    return Grid(("target", "measured", "limit", "met"), rows)


def _figure(value: float, unit: str) -> str:
    return f"{value:,.0f}" if unit in ("requests/s", "MB") else f"{value:.1f}" if unit == "s" else f"{value:.2f}"


def policies(scenarios: Figures) -> Grid:
    """Whole episodes of every policy on the default scenario."""
    return _rates((name, row) for name, row in scenarios[DEFAULT]["policies"].items())


def scenario_episodes(scenarios: Figures, policies: Sequence[str]) -> Grid:
    """Whole episodes of a few policies on every scenario."""
    return _rates(
        (f"{name}, {policy}", about["policies"][policy]) for name, about in scenarios.items() for policy in policies
    )


def _rates(rows: Iterable[tuple[str, Figures]]) -> Grid:
    header = ("", "best", "median", "with generation", "decisions/s", "decisions/request")
    cells = [
        (
            name,
            thousands(row["requests_per_s"]["best"]),
            thousands(row["requests_per_s"]["median"]),
            thousands(row["with_generation_per_s"]["median"]),
            thousands(row["decisions_per_s"]["median"]),
            f"{row['decisions_per_request']:.3f}",
        )
        for name, row in rows
    ]
    return Grid(header, cells)


def episode_parts(scenarios: Figures) -> Grid:
    """Where the time of a whole episode goes."""
    default = scenarios[DEFAULT]
    around = default["around_us_per_request"]
    episode_us = 1e6 / default["policies"]["lru"]["requests_per_s"]["median"]
    rows = [
        ("generating the requests", around["generation"]),
        ("laying them out for the kernel, with all checks", around["layout"]),
        ("the episode under LRU, in compiled code, its reset included", episode_us),
        ("results per request and all metrics", around["results"]),
    ]
    return Grid(("part", "us per request"), [(what, f"{us:.3f}") for what, us in rows])


def steps(figures: Figures) -> Grid:
    """One environment beside one CartPole."""
    rows = []
    for key, how in (("made", "as `gymnasium.make` returns them"), ("bare", "`unwrapped`")):
        rates = figures[key]
        eviction, cartpole = rates["eviction_steps_per_s"], rates["cartpole_steps_per_s"]
        cells = (eviction["best"], eviction["median"], cartpole["best"], cartpole["median"])
        rows.append((how, *(f"{rate:,.0f}" for rate in cells), f"{rates['eviction_over_cartpole']:.2f}"))
    return Grid(("", "Eviction-v0 best", "median", "CartPole-v1 best", "median", "ratio"), rows)


def vector(figures: Figures, scenario: str = DEFAULT) -> Grid:
    """Batches on one scenario, however they ran."""
    header = (
        "environments", "threads", "requests from", "choice", "requests/s", "decisions/s", "best",
        "over LRU", "over LRU with generation", "over CartPole",
    )  # fmt: skip
    rows = [
        (
            f"{row['num_envs']:,}",
            str(row["threads"]),
            _source(row),
            row["choice"],
            thousands(row["requests_per_s"]["median"]),
            thousands(row["decisions_per_s"]["median"]),
            thousands(row["decisions_per_s"]["best"]),
            f"{row['over_lru']:.2f}",
            f"{row['over_lru_with_generation']:.2f}",
            f"{row['over_cartpole']:.2f}",
        )
        for row in figures["rows"]
        if row["scenario"] == scenario
    ]
    return Grid(header, rows)


def vector_scenarios(figures: Figures, num_envs: int) -> Grid:
    """One size of batch on every scenario."""
    header = (
        "scenario", "requests from", "requests/s", "decisions/s", "decisions/request",
        "over LRU", "over LRU with generation", "over CartPole",
    )  # fmt: skip
    rows = [
        (
            row["scenario"],
            _source(row),
            thousands(row["requests_per_s"]["median"]),
            thousands(row["decisions_per_s"]["median"]),
            f"{row['decisions_per_request']:.3f}",
            f"{row['over_lru']:.2f}",
            f"{row['over_lru_with_generation']:.2f}",
            f"{row['over_cartpole']:.2f}",
        )
        for row in figures["rows"]
        if (row["num_envs"], row["threads"], row["choice"]) == (num_envs, 1, "lowest")
    ]
    return Grid(header, rows)


def _source(row: Figures) -> str:
    return "fresh" if row["bank"] is None else "bank"


def cartpole(figures: Figures) -> Grid:
    """Other people's environments."""
    rows = [
        (
            row["name"],
            f"{row['num_envs']:,}",
            str(row["threads"]),
            thousands(row["steps_per_s"]["best"]),
            thousands(row["steps_per_s"]["median"]),
        )
        for row in figures["rows"]
    ]
    return Grid(("CartPole-v1", "environments", "threads", "best", "median"), rows)


def shares(figures: Figures) -> Grid:
    """Where the time of a batch's step goes."""
    rows = [
        (part, *(f"{row['us'][part]:.2f} ({row['shares'][part]:.0%})" for row in figures["rows"]))
        for part in figures["rows"][0]["us"]
    ]
    rows.append(("**all**", *(f"**{sum(row['us'].values()):.2f}**" for row in figures["rows"])))
    header = ("us of a step of one environment", *(f"{row['num_envs']:,}, {_source(row)}" for row in figures["rows"]))
    return Grid(header, rows)


def training(figures: Figures) -> Grid:
    """Where the time of training goes."""
    parts = ("environment", "vector_env", "adapter", "acting", "learning", "other")
    rows = [
        (
            row["setting"],
            f"{row['num_envs']:,}",
            f"{row['torch_threads']:.0f}",
            *(f"{row[f'{part}_share']:.1%}" for part in parts),
            f"{row['us_per_decision']:.0f}",
        )
        for row in figures["rows"]
    ]
    return Grid(
        ("", "environments", "threads of PyTorch", *(part.replace("_", " ") for part in parts), "us/decision"), rows
    )


def latency(figures: Figures) -> Grid:
    """Who takes how long for a decision."""
    rows = [
        (name, f"{row['p50_us']:.1f}", f"{row['p99_us']:.1f}", f"{row['decisions']:,}")
        if row["decisions"]
        else (name, "-", "-", "0")
        for name, row in figures.items()
    ]
    return Grid(("", "p50 us", "p99 us", "decisions"), rows)


def compiling(figures: Figures) -> Grid:
    """The first compilation."""
    rows = [
        ("importing", figures["import_s"]),
        ("first generated workload", figures["generation_s"]),
        ("first episode under a rule", figures["episode_s"]),
        ("first environment: reset and step", figures["env_s"]),
        ("**first call to last result**, without the import", figures["all_s"]),
        ("the same in processor time", figures["all_cpu_s"]),
    ]
    return Grid(("in an empty cache folder", "s"), [(what, f"{seconds:.1f}") for what, seconds in rows])


START_PARTS: Final = (
    ("`import gymnasium`", "import_gymnasium_s"),
    ("`import cace_env`", "import_cace_env_s"),
    ("`gymnasium.make`, which imports the simulator", "make_s"),
    ("`reset`", "reset_s"),
    ("`step`", "step_s"),
    ("**all**: import to first step", "first_step_s"),
)


def start(figures: Figures) -> Grid:
    """From a new process to the first step."""
    rows = [(what, f"{figures['best'][key]:.3f}", f"{figures['median'][key]:.3f}") for what, key in START_PARTS]
    return Grid(("from a new process on", "best s", "median s"), rows)


def memory(figures: Figures) -> Grid:
    """Peak memory of one long episode."""
    rows = (
        ("imports, scenario", "after_import_mb"),
        ("the requests generated", "after_generation_mb"),
        ("the episode simulated", "after_episode_mb"),
        ("metrics computed", "peak_mb"),
    )
    return Grid(("so far", "peak MB"), [(what, f"{figures[key]:.0f}") for what, key in rows])


def environments(figures: Figures) -> Grid:
    """Memory of batches."""
    rows = [
        (f"{row['num_envs']:,}", _source(row | {"bank": row["bank"] or None}), f"{row['all_mb']:,.0f}",
         f"{row['per_env_kb']:,.0f}")
        for row in figures["rows"]
    ]  # fmt: skip
    return Grid(("environments", "requests from", "all MB", "kB per environment"), rows)


def protocols(figures: Figures) -> Grid:
    """Whole episodes of both environments."""
    rows = [
        (row["env"], row["policy"], *(f"{row['requests_per_s'][key] / 1e3:,.0f}" for key in ("best", "median")),
         f"{row['decisions_per_request']:.3f}", f"{row['over_eviction']:.2f}")
        for row in figures["rows"]
    ]  # fmt: skip
    return Grid(("env", "policy", "best", "median", "decisions per request", "over LRU in Eviction-v0"), rows)


def states(figures: Figures) -> Grid:
    """States taken and put back."""
    rows = [
        (row["scenario"], f"{row['requests']:,}", f"{row['get_and_set_us']['best']:.1f}",
         f"{row['get_and_set_us']['median']:.1f}", f"{row['state_kb']:.0f}", f"{row['requests_kb']:.0f}",
         f"{row['pickled_kb']:.0f}")
        for row in figures["rows"]
    ]  # fmt: skip
    header = ("scenario", "requests", "best us", "median us", "kB of a state", "kB of its requests", "kB pickled")
    return Grid(header, rows)


def growth(figures: Figures) -> Grid:
    """Times by the size of the fleet, and the exponents."""
    rows = []
    for name, series in figures.items():
        for point in series["points"]:
            size = (str(point[key]) for key in ("slots", "models", "accelerators"))
            per_decision = f"{point['requests_per_decision']:.1f}"
            rows.append((name, *size, per_decision, *(f"{point[key]:.2f}" for key in GROWING)))
        exponents = (f"**{series['exponents'][key]:.2f}**" for key in GROWING)
        rows.append((f"**{name}: exponent**", "", "", "", "", *exponents))
    header = ("what grows", "slots", "models", "accelerators", "requests/decision", *GROWING.values())
    return Grid(header, rows)


GROWING: Final = {"step_us": "us/decision", "observation_us": "us/observation", "request_us": "us/request"}

# What the terminal shows, of the parts that were measured.
SHOWN: Final[tuple[tuple[str, str, Callable[[Figures], Grid]], ...]] = (
    ("scenarios", "Whole episodes on the default scenario, thousand requests/s", policies),
    ("scenarios", "Whole episodes on every scenario", lambda part: scenario_episodes(part, ("lru", "cace"))),
    ("protocols", "Whole episodes of both environments, thousand requests/s", protocols),
    ("steps", "One environment, steps/s", steps),
    ("vector", "Batches on the default scenario, thousand per second", vector),
    ("vector", "Batches of 64 on every scenario", lambda part: vector_scenarios(part, 64)),
    ("shares", "Where the time of a batch goes", shares),
    ("cartpole", "CartPole, thousand steps/s", cartpole),
    ("latency", "One decision", latency),
    ("growth", "Growth", growth),
    ("sb3", "Training with Stable-Baselines3", training),
    ("environments", "Memory of a batch", environments),
    ("states", "States taken and put back", states),
)
