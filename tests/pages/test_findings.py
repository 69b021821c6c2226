"""The grid of ingredients: what differs between two policies of a contrast, and what becomes of the results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cace_env.config import ConfigError
from cace_env.policies import contestant_of
from cace_env.policies.built_in import Policy
from cace_env.tables import Protocol
from experiments import findings
from experiments.pages import findings as findings_page
from experiments.pages.regions import DOCS, read
from experiments.running import findings_grid
from experiments.running.command_line import Console, Session
from experiments.running.executors.execution import Execution
from experiments.running.findings_grid import (
    CELLS,
    CONTESTANTS,
    CONTRASTS,
    KEPT,
    PREFETCHES,
    Cell,
    Results,
    read_results,
    scenario_of,
)
from experiments.running.options import Running
from experiments.running.run_folder import Run
from experiments.running.runner import Plan, play


def test_every_contrast_is_between_two_policies_that_are_run() -> None:
    for contrasts in CONTRASTS.values():
        for contrast in contrasts:
            names = [contestant_of(one).name for one in CONTESTANTS[contrast.protocol]]
            assert contrast.policy in names and contrast.over in names


def test_contrasts_of_order_and_waiting_differ_in_nothing_else() -> None:
    policies = {contestant_of(one).name: contestant_of(one).policy for one in CONTESTANTS[Protocol.SWAP]}
    for group, fixed in (("Order", "patience_s"), ("Waiting for an idle victim", "kind")):
        for contrast in CONTRASTS[group]:
            mine, other = policies[contrast.policy], policies[contrast.over]
            assert isinstance(mine, Policy) and isinstance(other, Policy)
            assert mine.order is not None and other.order is not None
            assert mine.weights == other.weights
            assert getattr(mine.order, fixed) == getattr(other.order, fixed)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_every_cell_can_be_simulated(cell: Cell) -> None:
    scenario = scenario_of(cell)
    assert (scenario.engine, scenario.pressure) == (cell.engine, cell.pressure)
    assert scenario.tables().prefetch_limit == PREFETCHES


def made_up() -> Results:
    """Costs of three seeds: the policies of each protocol cost 100, 101, ... in the order in which they stand."""
    return {
        (cell.name, protocol, contestant_of(one).name): {name: np.full(3, 100.0 + k) for name in KEPT}
        for cell in CELLS
        for protocol, policies in CONTESTANTS.items()
        for k, one in enumerate(policies)
    }


def test_tables_show_every_contrast_and_the_picture_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("_in_suite", "_reference"):
        monkeypatch.setattr(findings_page, table, lambda suite: "of the suite")
    tables = findings_page.regions(made_up(), None)  # type: ignore[arg-type]
    assert all(f"| {contrast.what} |" in tables["overview"] for row in CONTRASTS.values() for contrast in row)
    assert "**-1.0 % [-1.0, -1.0]**" in tables["cells-victims"]  # GDSF, which costs 101, for LRU, which costs 100
    assert tables.keys() == read(DOCS / "findings.md").keys()
    findings_page.draw(made_up(), tmp_path / findings_page.PICTURE)
    assert (tmp_path / findings_page.PICTURE).stat().st_size > 10_000


def test_results_of_another_grid_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert findings.main(["--results", str(tmp_path)]) == 2
    assert "has no run.json" in capsys.readouterr().err
    with monkeypatch.context() as smaller:
        smaller.setattr(findings_grid, "CELLS", CELLS[:1])
        smaller.setattr(findings_grid, "CONTESTANTS", {Protocol.EVICTION: ("lru",)})
        cases = findings_grid.grid_cases([0])
    play(
        Plan(tmp_path / "run", cases, Running(), "test", Execution(workers=1), by_task=False),
        Session(Console(), "test"),
        "playing",
    )
    with pytest.raises(ConfigError, match=r"has no cold-engine at 1\.5 / eviction / gdsf"):
        read_results(Run(tmp_path / "run"))
