"""Fills what code makes in the pages of docs/; all else in them is written by hand.

    python -m experiments.docs                                     tables that follow from code alone
    python -m experiments.docs --check                             says which of them are out of date
    python -m experiments.docs --pictures                          pictures of the environments, animation, horizons
    python -m experiments.docs suite --run runs/suite-v1           tables and pictures of a page, from finished runs
    python -m experiments.docs claims --run runs/suite
    python -m experiments.docs quoted --run runs/quoted --run runs/quoted-scales --run runs/quoted-again
    python -m experiments.docs agents --run runs/agents --run runs/shifted
    python -m experiments.docs real-logs --run runs/logs
    python -m experiments.docs findings --run runs/findings --run runs/suite-v1
    python -m experiments.docs learning-curves --run runs/learning-curves
    python -m experiments.docs suite --run runs/mine --show        the same of a run of yours, on the terminal

`experiments/pages/regions.py` says what a region looks like. Pages whose command measures something are filled by that
command: `experiments.benchmark`, `characterize`, `validate_serving` with --write.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import tyro
from pydantic import Field

from cace_env.config import ConfigError, Frozen
from cace_env.envs import EvictionEnv, SwapEnv
from cace_env.evaluation.held_out import SUITE
from cace_env.observation import CONTEXT_FEATURES, PENDING_FEATURES, SLOT_FEATURES
from cace_env.policies.agent import shipped_agents
from experiments.board import page as board_page
from experiments.board.boarding import FOLDER
from experiments.board.records import read_board
from experiments.pages import catalogue, code_tables, scenarios
from experiments.pages.regions import DOCS, fill, read
from experiments.reading import horizons
from experiments.running.command_line import run_command

Regions = dict[str, str]
OUT_OF_DATE: Final = 1  # exit status of --check

CODE: Final[dict[str, Callable[[], Regions]]] = {
    "environment.md": lambda: {
        "environment": code_tables.environment(EvictionEnv),
        "reward-terms": code_tables.reward_terms_table(),
        "forms": code_tables.forms_table(),
        "slot-features": code_tables.features_table(SLOT_FEATURES),
        "pending-features": code_tables.features_table(PENDING_FEATURES),
        "context-features": code_tables.features_table(CONTEXT_FEATURES),
    },
    "swap.md": lambda: {"environment": code_tables.environment(SwapEnv)},
    "policies.md": lambda: {
        "policies": code_tables.policies_table(),
        "orders": code_tables.orders_table(),
        "quoted-options": code_tables.options_table(),
    },
    "compare.md": lambda: {"metrics": code_tables.metrics_table()},
    "catalogue.md": catalogue.regions,
    "scenarios.md": scenarios.regions,
    "reference.md": horizons.regions,
    "suite.md": lambda: {
        "left-out": code_tables.dropped_table("v1"),
        "header": code_tables.results_header_table(),
    },
    "leaderboard.md": lambda: board_page.regions(read_board(DOCS / FOLDER / f"{SUITE}.json", SUITE)),
    "agents.md": lambda: {"cards": "\n\n".join(code_tables.card(agent) for agent in shipped_agents().values())},
    "learning-curves.md": lambda: {"hyperparameters": code_tables.hyperparameters_table()},
}


class Options(Frozen):
    """What is filled, and from what."""

    page: tyro.conf.Positional[
        Literal["suite", "claims", "quoted", "agents", "real-logs", "findings", "learning-curves"] | None
    ] = Field(default=None, description="tables that finished runs fill; without it those that follow from code alone")
    run: tyro.conf.UseAppendAction[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FOLDER")]] = Field(
        default=(), description="run folders, in the order that is shown above"
    )
    show: bool = Field(default=False, description="print the tables of a run of your own, and change no page")
    check: bool = Field(default=False, description="change nothing; say which tables from code are out of date")
    pictures: bool = Field(
        default=False,
        description="draw the pictures that come from what ships: episodes of the environments, the horizon curve",
    )
    docs: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Field(default=DOCS, description="where the pages are")


def out_of_date(docs: Path) -> list[str]:
    """Regions that differ from what the code makes of them, as `page: region`."""
    found = []
    for page, regions in CODE.items():
        there = read(docs / page)
        found += [f"{page}: {name}" for name, text in regions().items() if there.get(name) != text.strip()]
    return found


Draw = Callable[[Path], None]  # writes pictures into a folder

# Each imports what it needs when it is asked for: these bring matplotlib.


def _suite(run: Path) -> tuple[Regions, Draw]:
    from experiments.pages import suite
    from experiments.reading.suite_scores import SuiteRun

    scored = SuiteRun(run)
    return suite.regions(scored), lambda images: suite.draw(scored, images)


def _claims(run: Path) -> tuple[Regions, Draw]:
    from experiments.pages import claims
    from experiments.running.run_folder import Run

    return claims.regions(Run(run)), lambda images: None


def _quoted(run: Path, scales: Path, again: Path) -> tuple[Regions, Draw]:
    from experiments.pages import quoted
    from experiments.running.run_folder import Run

    judged = quoted.Judged(Run(run))
    found = quoted.regions(judged, *(quoted.Judged(Run(other)) for other in (scales, again)))
    return found, lambda images: quoted.picture(judged, images)


def _agents(run: Path, shifted: Path) -> tuple[Regions, Draw]:
    from experiments.pages import agents
    from experiments.reading.suite_scores import SuiteRun
    from experiments.running.run_folder import Run

    return agents.regions(SuiteRun(run), Run(shifted)), lambda images: None


def _real_logs(run: Path) -> tuple[Regions, Draw]:
    from experiments.logs import public
    from experiments.pages import real_logs
    from experiments.running.run_folder import Run

    logs = Run(run)
    found = real_logs.regions(logs, {name: log.role for name, log in public.LOGS.items()})
    found["log-command"] = f"```console\n{logs.about['command']}\n```"
    return {name: text for name, text in found.items() if not name.endswith("-card")}, lambda images: None


def _findings(run: Path, suite: Path) -> tuple[Regions, Draw]:
    from experiments.pages import findings
    from experiments.reading.suite_scores import SuiteRun
    from experiments.running.findings_grid import read_results
    from experiments.running.run_folder import Run

    results = read_results(Run(run))
    found = findings.regions(results, SuiteRun(suite))
    return found, lambda images: findings.draw(results, images / findings.PICTURE)


def _learning_curves(run: Path) -> tuple[Regions, Draw]:
    from experiments.pages import learning

    return learning.regions(run), lambda images: learning.draw_all(run, images)


# What finished runs fill: how many folders that takes, the page, its tables and pictures.
RUNS: Final[dict[str, tuple[int, str, Callable[..., tuple[Regions, Draw]]]]] = {
    "suite": (1, "suite.md", _suite),
    "claims": (1, "claims.md", _claims),
    "quoted": (3, "claims.md", _quoted),
    "agents": (2, "agents.md", _agents),
    "real-logs": (1, "agents.md", _real_logs),
    "findings": (2, "findings.md", _findings),
    "learning-curves": (1, "learning-curves.md", _learning_curves),
}


def docs(options: Options) -> int:
    """Fills, shows or checks tables; returns the exit status.

    Raises:
        ConfigError: options that do not go together, a folder that holds no such run, or a page without a region.
    """
    if options.page is not None:
        return from_runs(options, *RUNS[options.page])
    if options.run or options.show:
        raise ConfigError(f"--run and --show need to know of what: {', '.join(RUNS)}")
    if options.check:
        found = out_of_date(options.docs)
        for place in found:
            print(f"out of date: {place}")
        if found:
            print("python -m experiments.docs fills them")
        return OUT_OF_DATE if found else 0
    for page, regions in CODE.items():
        if fill(options.docs / page, regions()):
            print(f"filled {options.docs / page}")
    if options.pictures:
        from experiments.pages import pictures

        pictures.draw(options.docs / "images")
        horizons.draw(options.docs / "images" / horizons.PICTURE)
    return 0


def from_runs(options: Options, count: int, page: str, tables: Callable[..., tuple[Regions, Draw]]) -> int:
    """Fills the tables of a page from finished runs and draws its pictures, or shows the tables.

    Raises:
        ConfigError: another number of run folders than the page needs, or as `docs`.
    """
    if len(options.run) != count:
        raise ConfigError(f"{options.page} needs {count} times --run, got {len(options.run)}; --help shows which")
    regions, draw = tables(*options.run)
    if options.show:
        for name, text in regions.items():
            print(f"## {name}\n\n{text}\n")
        return 0
    draw(options.docs / "images")
    fill(options.docs / page, regions)
    print(f"filled {options.docs / page}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_command("docs", Options, lambda options, _: docs(options), arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
