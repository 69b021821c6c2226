"""What one is told while one writes a map of columns: what the log holds by it, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cace_env.traces.gateways.durations import unlikely_times
from experiments import import_logs
from tests.support.logs import written

MAP = """time: {columns: ts, unit: ms}
context_tokens: in_tok
output_tokens: out_tok
ttft: {columns: ttfb_ms, unit: ms}
user: who
"""
HEADER = "ts,in_tok,out_tok,ttfb_ms,who\n"
ROWS = "".join(f"{1_772_442_000_000 + 60_000 * row},100,10,325,u{row % 3}\n" for row in range(20))


def told(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    log: str | bytes = HEADER + ROWS,
    columns: str = MAP,
    status: int = 0,
    more: tuple[str, ...] = (),
) -> str:
    """What a dry run prints."""
    files = written(folder, log), written(folder, columns, "map.yaml")
    assert import_logs.main([str(files[0]), "--columns", str(files[1]), *more]) == status
    said = capsys.readouterr()
    return said.err if status else said.out


def test_a_map_is_tried_without_a_key_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(tmp_path, capsys)
    assert "times in ts  numbers, ms since 1970" in said and "users                          3" in said
    assert "0.33 / 0.33" in said and "warning" not in said
    assert {path.name for path in tmp_path.iterdir()} == {"log.csv", "map.yaml"}


def test_a_wrong_column_names_the_key_of_the_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(tmp_path, capsys, columns=MAP.replace("in_tok", "input_tok"), status=2)
    assert "has no column 'input_tok', which the map of columns names for 'context_tokens'; mend the map" in said


def test_a_missing_map_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, HEADER + ROWS)
    assert import_logs.main([str(path), "--columns", str(tmp_path / "no.yaml")]) == 2
    said = capsys.readouterr().err
    assert said == f"error: {tmp_path / 'no.yaml'}: cannot be read (No such file or directory)\n"


def test_another_separator_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(tmp_path, capsys, log=(HEADER + ROWS).replace(",", ";"), status=2)
    assert "separated by ';', not by commas" in said


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_another_encoding_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str) -> None:
    said = told(tmp_path, capsys, log=(HEADER + ROWS).encode(encoding), status=2)
    assert "is UTF-16 text; convert it first: iconv" in said


def test_another_format_than_was_named_says_that_there_are_maps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, HEADER + ROWS)
    assert import_logs.main([str(path), "--format", "litellm"]) == 2
    assert "--columns MAP.yaml" in capsys.readouterr().err


def test_a_wrong_unit_of_times_says_which_one_fits_and_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ROWS.replace(",100,", ",many,", 1)
    said = told(tmp_path, capsys, log=HEADER + rows, columns=MAP.replace("unit: ms", "unit: s", 1), status=2)
    assert "As ms the times of column 'ts' would fit: say unit: ms." in said
    assert "Such as row 2, column 'ts'" in said  # of the most frequent reason; row 1 has another one


@pytest.mark.parametrize("out", [True, False], ids=["imported", "tried"])
def test_milliseconds_taken_for_seconds_are_doubted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: bool
) -> None:
    key = written(tmp_path, "0123456789abcdef-key", "import.key")
    more = ("--key-file", str(key), "--out", str(tmp_path / "out")) if out else ()
    said = told(tmp_path, capsys, columns=MAP.replace("ttfb_ms, unit: ms", "ttfb_ms"), more=more)
    assert "warning: more than half of the times to the first token are above 60 s: are these milliseconds?" in said
    if out:
        assert len(json.loads((tmp_path / "out" / "audit.json").read_text())["warnings"]) == 1


def test_answers_that_outlast_the_log_are_doubted_unless_they_are_rare() -> None:
    def warnings(long: int) -> list[str]:
        return unlikely_times([{"e2e_s": np.repeat([2_000.0, 5.0, np.nan], [long, 300 - long, 50])}], 1_000.0)

    assert warnings(3) == []
    assert warnings(4)[0].startswith("4 requests took longer than the whole log spans, 1,000 s")
