"""Claims about `live validate` from end to end, over a server with known delays and the real router."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from cace_env.config import ConfigError
from cace_env.live.backends import BackendError
from cace_env.live.calibration import Sample
from cace_env.tables import FleetTables
from experiments import live
from experiments.calibration.outputs import Sizes
from experiments.validation import playing
from experiments.validation import validate as machinery
from experiments.validation.evaluating import AFTER, evaluate
from experiments.validation.playing import play
from experiments.validation.records import Run, read_runs, write_run
from experiments.validation.simulating import BUSIEST, pace_for, simulate, tables_of
from experiments.validation.workloads import make
from tests.calibration.test_calibration import measured
from tests.calibration.virtual_server import VirtualServer
from tests.validation.fake_server import DELAYS, PromptServer

QUICK = ["--requests", "16", "--repeats", "1", "--simulations", "3", "--memory-gb", "2.5", "--pace", "0.05"]
QUICK += ["--workloads", "agents", "--policies", "lru", "gdsf"]


@cache
def calibrated() -> list[Sample]:
    """Of that server, in time that jumps: no waiting, and no drift."""
    return measured(VirtualServer(DELAYS))


async def measured_before(*_: Any) -> AsyncIterator[Sample]:
    """In place of a calibration that takes half a minute."""
    for sample in calibrated():
        yield sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole validation."""
    out = tmp_path_factory.mktemp("validation") / "out"
    server = PromptServer()
    calibrated()  # not inside the loop of the command
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machinery, "make_backend", lambda *_, **__: server)
        patch.setattr(machinery, "measure", measured_before)
        assert live.main(["validate", "fake:server", "--out", str(out), *QUICK]) == 0
    assert server.closed
    return out


def test_a_validation_leaves_everything_in_its_folder(folder: Path):
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "plan.json", "agents.csv", "before/samples.csv", "after/samples.csv", "runs/agents-1-lru.json",
        "runs/agents-1-gdsf.json", "requests.csv", "validation.json", "report.html",
    } <= names  # fmt: skip
    result = json.loads((folder / "validation.json").read_text())
    assert result["counts"]
    assert {row["policy"] for row in result["rows"]} == {"lru", "gdsf"}
    assert {one["fitted_on"] for one in result["crossed"]} == {"lru", "gdsf"}
    assert len((folder / "requests.csv").read_text().splitlines()) == 1 + 2 * 2 * 16


def test_the_real_runs_kept_the_memory_and_gave_what_was_asked_for(folder: Path):
    for run in read_runs(folder):
        assert len(run.asked) == 16
        assert all(one.sent <= one.admitted <= one.first <= one.finish for one in run.asked)
        assert run.count("load") >= 3 or run.count("unload") == 0
        there: set[int] = set()
        for move in sorted(run.moves, key=lambda move: move.end):
            assert move.begin <= move.end
            there = there | {move.model} if move.what == "load" else there - {move.model}
            assert len(there) <= 2  # of three models of a GB


def test_a_report_can_be_made_again_without_a_server(folder: Path, capsys: pytest.CaptureFixture[str]):
    before = (folder / "validation.json").read_text()
    assert live.main(["validate", "--from", str(folder)]) == 0
    assert (folder / "validation.json").read_text() == before
    assert "agents, gdsf" in capsys.readouterr().out


def copied(folder: Path, to: Path) -> Path:
    for path in folder.rglob("*"):
        if path.is_file():
            (to / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (to / path.relative_to(folder)).write_bytes(path.read_bytes())
    return to


def test_a_machine_that_drifted_is_refused_and_everything_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    there = copied(folder, tmp_path)
    header, *rows = (there / AFTER / "samples.csv").read_text().splitlines()
    slower = []
    for row in rows:
        cells = row.split(",")
        slower.append(",".join([*cells[:3], f"{1.12 * float(cells[3]):.9f}", *cells[4:]]))
    (there / AFTER / "samples.csv").write_text("\n".join([header, *slower]) + "\n")
    assert live.main(["validate", "--from", str(there)]) == 1
    said = capsys.readouterr().out
    assert "do not count" in said
    assert "+12.0 % between the two calibrations" in said
    assert not json.loads((there / "validation.json").read_text())["counts"]
    assert "do not count" in (there / "report.html").read_text()


def test_one_that_was_broken_off_has_a_report_of_what_is_there_and_says_so(folder: Path, tmp_path: Path):
    there = copied(folder, tmp_path)
    (there / AFTER / "samples.csv").unlink()
    (there / "runs" / "agents-1-gdsf.json").unlink()
    found = evaluate(there)
    assert {row.policy for row in found.rows} == {"lru"}
    assert any("broken off" in problem for problem in found.problems)
    assert any("1 of 2 runs" in problem for problem in found.problems)
    (there / "runs" / "agents-1-lru.json").unlink()
    with pytest.raises(ConfigError, match="0 runs"):
        evaluate(there)


def test_the_tables_of_the_documentation_are_filled(folder: Path, tmp_path: Path):
    page = tmp_path / "page.md"
    names = ("measured", "compared", "spread", "orders", "crossed", "variants", "limits")
    page.write_text("\n\n".join(f"<!-- generated: {name} -->\n<!-- end -->" for name in names))
    assert live.main(["validate", "--from", str(folder), "--write", str(page)]) == 0
    text = page.read_text()
    assert "| agents | `lru` |" in text
    assert "as fitted" in text


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--policies", "lru"], "one policy is compared with nothing; name two at least"),
        (["--policies", "lru", "nobody"], "nobody"),
        (["--policies", "lru", "lru"], "--policies has 'lru' twice"),
        (["--policies", "lru", "guarded:lru"], "without its guard"),
        (["--policies", "lru", "belady"], "the future of real requests is unknown"),
        (["--workloads", "chats"], "completions, agents"),
        (["--workloads", "agents", "agents"], "--workloads has 'agents' twice"),
    ],
)
def test_who_cannot_decide_and_what_cannot_be_drawn_is_said_before_a_server_starts(
    options: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert live.main(["validate", f"llama.cpp:{tmp_path}", "--out", str(tmp_path / "out"), *options]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "cell", "value", "problem"),
    [
        ("before/samples.csv", (2, 3), "fast", "row 2, column 'seconds' is no number"),
        ("before/samples.csv", (1, 4), "1.5", "row 1, column 'batch' is no whole number"),
        ("before/samples.csv", (3, 7), "1,1", "row 3 has 9 cells, the header 8"),
        ("after/samples.csv", (0, 0), "at_ms", "other columns"),
        ("agents.csv", (1, 5), "", "row 1, column 'context_tokens' is no whole number"),
        ("agents.csv", (1, 5), "0", "workload column 'context_tokens', row 0: 0 is not at least 1"),
    ],
)
def test_a_damaged_file_is_refused_with_row_and_column(
    name: str, cell: tuple[int, int], value: str, problem: str, folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    path = copied(folder, tmp_path) / name
    rows = [line.split(",") for line in path.read_text().splitlines()]
    rows[cell[0]][cell[1]] = value
    path.write_text("".join(f"{','.join(row)}\n" for row in rows))
    assert live.main(["validate", "--from", str(tmp_path)]) == 2
    assert f"{path}: {problem}" in capsys.readouterr().err


def test_a_workload_that_has_lost_its_last_request_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = copied(folder, tmp_path) / "agents.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert live.main(["validate", "--from", str(tmp_path)]) == 2
    assert "has 16 requests, and agents.csv 15" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["nowhere", "."])
def test_a_folder_without_a_validation_is_refused(missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert live.main(["validate", "--from", str(tmp_path / missing)]) == 2
    said = capsys.readouterr().err
    assert "no validation lies here" in said and "name the folder that --out got" in said


@pytest.mark.parametrize(
    ("memory_gb", "said"),
    [("3", "3 GB holds all models at once (3 GB)"), ("1.9", "1.9 GB holds one model at a time"), ("2", "")],
)
def test_where_no_policy_can_be_asked_it_is_said_before_anything_is_measured(
    memory_gb: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def not_measured(*_: Any) -> AsyncIterator[Sample]:
        raise BackendError(500, "enough")

    monkeypatch.setattr(machinery, "make_backend", lambda *_, **__: PromptServer())
    monkeypatch.setattr(machinery, "measure", not_measured)
    arguments = ["validate", "fake:server", "--out", str(tmp_path / "out"), *QUICK, "--memory-gb", memory_gb]
    assert live.main(arguments) == 2
    printed = capsys.readouterr().out
    assert said in printed and ("No policy will be asked" in printed) == bool(said)


def test_a_folder_with_something_in_it_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert live.main(["validate", "fake:server", "--out", str(folder)]) == 2
    assert "new folder" in capsys.readouterr().err


def fleet() -> FleetTables:
    sizes = {name: Sizes(10**9, 10**9, 4096, 4, 256) for name in ("small", "middle", "large")}
    return tables_of(calibrated(), sizes, 2_500_000_000, 5.0)


def played(server: PromptServer) -> Run:
    workload = make("completions", [0, 1, 2], 10, 0, longest=300, pace=0.01)
    return asyncio.run(play(workload, fleet(), server, "lru", 1))


def test_an_answer_of_another_length_is_an_error():
    with pytest.raises(ConfigError, match="another length"):
        played(PromptServer(short=True))


class Fails(PromptServer):
    """Has no answers."""

    async def generate(self, name: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        raise BackendError(500, "out of memory")
        yield b""


def test_a_server_that_fails_ends_the_run_with_the_request_and_its_status():
    with pytest.raises(ConfigError, match=r"request \d+: the answer is not whole \(status 500\)"):
        played(Fails())


def test_an_answer_that_takes_too_long_ends_the_run_with_the_request(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(playing, "REQUEST_S", 0.001)
    with pytest.raises(ConfigError, match=r"request \d+: the answer is not whole \(\w*Timeout"):
        played(PromptServer())


def test_what_is_written_of_a_run_is_read_again(folder: Path, tmp_path: Path):
    for run in read_runs(folder):
        write_run(run, tmp_path)
    assert read_runs(tmp_path) == read_runs(folder)


def test_the_pace_leaves_queues_and_no_overload():
    tables = fleet()

    def draw(pace: float) -> Any:
        return make("agents", [0, 1, 2], 60, 0, longest=300, pace=pace)

    pace = pace_for(draw, tables, ("lru", "gdsf"))
    assert max(simulate(draw(pace), tables, policy).busy for policy in ("lru", "gdsf")) <= BUSIEST
    assert max(simulate(draw(pace / 2), tables, policy).busy for policy in ("lru", "gdsf")) > BUSIEST
