"""What a log may not do: never end, unpack to anything, nest without bottom, or take all day."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from cace_env.traces import TraceError, guess_format, load_trace, read_trace
from cace_env.traces.limits import Limits, opened
from experiments import import_logs
from tests.support.logs import AZURE, MODELS, ROWS, written

FORMATS = ("litellm", "azure", "cace")
BOMB_MB = 300


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zeros, a thousand times smaller on disk."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.gz"
    with gzip.open(path, "wb", 9) as file:
        for _ in range(BOMB_MB):
            file.write(bytes(1 << 20))
    return path


def refused_everywhere(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> set[str]:
    """What the import and the loaders say."""
    said = set()
    for format in FORMATS:
        with pytest.raises(TraceError) as error:
            load_trace(path, format, models=MODELS, tasks="chat")
        said.add(str(error.value))
        out = path.parent / "never"
        arguments = [str(path), "--format", format, "--out", str(path.parent / "never"), *options]
        assert import_logs.main(arguments) == 2 and not out.exists()
        said.add(capsys.readouterr().err)
    return said


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_devices_and_pipes_are_no_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TraceError, match="is not a regular file"):
        read_trace("/dev/zero", "azure")
    os.mkfifo(tmp_path / "pipe")
    assert all("is not a regular file" in said for said in refused_everywhere(tmp_path / "pipe", capsys))
    with pytest.raises(TraceError, match="is not a regular file"):
        guess_format(tmp_path / "pipe")


def test_a_gzip_bomb_is_given_up(bomb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bomb.stat().st_size < 1_000_000
    with opened(bomb) as file, pytest.raises(TraceError, match=r"as a gzip bomb does.*gunzip -k"):
        while file.read(1 << 20):
            pass
    refused_everywhere(bomb, capsys)


def test_a_log_that_packs_well_is_no_bomb(tmp_path: Path) -> None:
    packed = written(tmp_path, gzip.compress((ROWS + ROWS.removeprefix(AZURE) * 5_000).encode()), "log.gz")
    assert len(read_trace(packed, "azure", sort=True)) == 20_004


def test_a_log_that_grows_meanwhile_ends_where_it_ended(tmp_path: Path) -> None:
    path = written(tmp_path, "a" * 100)
    with opened(path) as file, path.open("ab") as more:
        more.write(b"b" * 100)
        more.flush()
        assert file.read() == b"a" * 100


def test_rows_longer_than_allowed_are_bad_rows_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdef")
    row = {"startTime": "2026-03-02T09:00:00Z", "endTime": None, "prompt_tokens": 5, "completion_tokens": 1}
    row |= {"model_group": "m", "call_type": "", "messages": ""}
    lines = [json.dumps(row), json.dumps(row | {"messages": "x" * 500_000}), json.dumps(row)]
    header = ",".join(row)
    good = "2026-03-02T09:00:00Z,,5,1,m,,"
    files = [
        written(tmp_path, "\n".join(lines), "log.jsonl"),
        written(tmp_path, "\n".join([header, good, good + '"' + "x\n" * 250_000 + '"', good]), "log.csv"),
        written(tmp_path, "\n".join([header, good, good + '"never closed', good, good]), "open.csv"),
    ]
    for path in files:
        out = tmp_path / f"{path.name}.out"
        options = ["--row-mb", "0.1", "--max-rejects", "1", "--out", str(out)]
        assert import_logs.main([str(path), "--key-file", str(tmp_path / "key"), *options]) == 0
        audit = json.loads((out / "audit.json").read_text())
        assert audit["rows"]["out"] >= 2 and audit["rows"]["in"] == audit["rows"]["out"] + audit["rows"]["rejected"]
        assert any("is longer than 0.1 MB" in reason for reason in audit["rejected"]["bad"]), path.name


def test_an_endless_line_is_refused_by_the_other_loaders(tmp_path: Path) -> None:
    path = written(tmp_path, AZURE + "1," + "2" * 17_000_000)
    with pytest.raises(TraceError, match="line 2 is longer than 16 MB"):
        read_trace(path, "azure")


@pytest.mark.parametrize(
    "line",
    [
        "[" * 1_000_000,
        '{"timestamp": ' * 200_000,
        '{"timestamp": 0, "input_length": ' + "9" * 5_000 + ', "output_length": 1, "hash_ids": []}',
        '{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": ["\\ud800"]}',
        '{"timestamp": 0, "input_length": "\\udfff", "output_length": 1, "hash_ids": []}',
        '{"timestamp": 1e400, "input_length": 1, "output_length": 1, "hash_ids": []}',
    ],
)
def test_deep_or_huge_json_is_an_error_of_ours(tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, line, "log.jsonl")
    with pytest.raises(TraceError):
        read_trace(path, "mooncake")
    for shape in (line, f"[{line}]", f'{{"data": [{line}]}}'):
        for format in ("litellm", "otel", "freeinference"):
            with pytest.raises(TraceError):
                read_trace(written(tmp_path, shape, "log.json"), format)
    refused_everywhere(path, capsys)


def test_reading_ends_at_its_deadline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, ROWS)
    assert import_logs.main([str(path), "--seconds", "1e-9", "--out", str(tmp_path / "out")]) == 2
    assert "reading took longer than" in capsys.readouterr().err
    with pytest.raises(TraceError, match="took longer"), opened(path, Limits(seconds=1e-9)) as file:
        file.read()


def test_paths_that_are_none_are_named(tmp_path: Path) -> None:
    for path in ("a\x00b", str(tmp_path / ("x" * 300)), str(tmp_path / "no" / "such" / "file")):
        for format in ("litellm", "azure", None):
            with pytest.raises(TraceError):
                read_trace(path, format)
