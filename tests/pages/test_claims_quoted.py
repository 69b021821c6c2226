"""What is said of the quoted formula follows from the numbers of its readings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cace_env.config import ConfigError
from cace_env.policies.quoted import QUOTED
from cace_env.tables import Protocol
from experiments import compare
from experiments.pages import quoted
from experiments.pages.claims import EFFECTS, NEEDED
from experiments.pages.quoted import Judged, picture, readings_table, regions
from experiments.pages.regions import DOCS, read
from experiments.running.command_line import read_options
from experiments.running.contestants import contestants_of
from experiments.running.run_folder import BASELINE, Run
from tests.project.test_docs import ROOT

FEW = (  # all that sentences name
    "cace-quoted",
    "cace-quoted-future-small",
    "cace-quoted-queue-no-output",
    "cace-quoted-keep-future-no-output",
    "cace-quoted-keep-age-queue-no-output",
)
CHANGED = "cace-quoted:window=20"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A comparison of three readings and what they are held against."""
    out = tmp_path_factory.mktemp("runs") / "quoted"
    names = ",".join(["lru", *quoted.REFERENCES, *FEW, CHANGED])
    assert compare.main(["--policies", names, "--scenarios", "workstation", "--seeds", "3", "--out", str(out)]) == 0
    return Run(out)


@pytest.fixture(autouse=True)
def _few_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages of the tests know only the readings of their run."""
    monkeypatch.setattr(quoted, "QUOTED", {name: QUOTED[name] for name in FEW})


def made_up(run: Run, **factors: float) -> Run:
    """The run with one reading's metrics set to LRU's times a factor each, a little different from seed to seed."""
    other = Run(run.path)
    for metric, factor in factors.items():
        base = other.columns["workstation", "lru"][metric]
        other.columns["workstation", "cace-quoted"][metric] = base * (factor + 0.0001 * np.arange(len(base)))
    return other


def test_a_reading_reproduces_the_claims_only_if_all_five_hold(run: Run) -> None:
    all_five = dict(waiting_s=0.9, system_s=0.9, evictions=0.9, completion_waiting_s=0.8)
    judged = Judged(made_up(run, **all_five))
    assert judged.reproduces("cace-quoted") and judged.confirmed("cace-quoted") == len(EFFECTS) == 5
    for metric in ("system_s", "evictions"):
        assert Judged(made_up(run, **(all_five | {metric: 1.1}))).holds("cace-quoted") == 4
    # Completions gain, but less than all requests do.
    assert not Judged(made_up(run, **(all_five | {"completion_waiting_s": 0.95}))).reproduces("cace-quoted")


def test_every_reading_has_a_row_and_those_that_hold_most_stand_first(run: Run) -> None:
    judged = Judged(run)
    rows = readings_table(judged).splitlines()[2:]
    held = [int(row.split(" | ")[-2]) for row in rows]
    assert len(rows) == len(FEW) and held == sorted(held, reverse=True)


def test_the_tables_show_every_run_and_the_picture_is_drawn(run: Run, tmp_path: Path) -> None:
    judged = Judged(run)
    tables = regions(judged, judged, judged)
    assert "| 20 | 0.001 | episode |" in tables["quoted-scales"]
    assert tables["quoted-verdicts"].startswith("- **") and "of 5 readings reproduce" in tables["quoted-verdicts"]
    assert tables.keys() < read(DOCS / "claims.md").keys()
    picture(judged, tmp_path / "images")
    assert (tmp_path / "images" / quoted.PICTURE).is_file()


def test_a_run_that_lacks_readings_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    judged = Judged(run)
    with pytest.raises(ConfigError, match="lacks cace-quoted-age, "):
        regions(judged, judged, judged)


def test_the_configurations_name_all_that_the_pages_need() -> None:
    def named(file: str) -> set[str]:
        options: compare.Comparison = read_options(
            compare.Comparison, ["--config", str(ROOT / "configs" / "experiment" / file)], "compare"
        )
        return {contestant.name for contestant in contestants_of(options.policies, (), [Protocol.EVICTION])}

    assert named("claims.yaml") >= NEEDED
    assert {BASELINE, *quoted.REFERENCES, *QUOTED} <= named("quoted.yaml")
    assert any(name.startswith("cace-quoted:window=") for name in named("quoted-scales.yaml"))
