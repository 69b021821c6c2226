"""Nothing that stands in a log gets out of it: a secret in every cell is found in no file, statistic, error or line."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from cace_env.traces import FORMATS, TraceError, guess_format, load_trace, read_trace
from cace_env.traces.config import REQUIRED_COLUMNS
from cace_env.traces.gateways.known import GATEWAYS
from experiments import import_logs
from experiments.yardsticks.gateway_logs import SCHEMAS, calls, flat, write_openwebui
from tests.support.logs import MODELS, json_lines, written

SECRET = "sk-SECRET"
# Names of models are told. In a row of which everything else is right, no secret stands there.
MODEL = (
    *("model", "Model", "model_group", "model_id", "provided_model_name", "request_model", "response_model"),
    *("chute_id", "function_name", "checkpoint_model_version_id", "gen_ai.request.model"),
)
# A good row of each format that is no gateway's.
OTHERS: dict[str, dict[str, Any]] = {
    "azure": {"TIMESTAMP": "2026-03-02 09:00:00", "ContextTokens": 5, "GeneratedTokens": 1},
    "burstgpt": {
        "Timestamp": 1, "Model": "m", "Request tokens": 5, "Response tokens": 1, "Log Type": "API log",
        "Session ID": "s",
    },
    "mooncake": {"timestamp": 1, "input_length": 5, "output_length": 1, "hash_ids": [1]},
    "bailian": {
        "chat_id": 1, "parent_chat_id": -1, "timestamp": 1, "input_length": 5, "output_length": 1, "hash_ids": [1],
    },
    "gentd26": {"gmt_create": "2026-03-02 09:00:00", "groupId": "g", "checkpoint_model_version_id": "m"},
    "claude-code": {
        "session": "s", "agent": "main", "t_s": 1, "model": "m", "in_tokens": 5, "out_tokens": 1,
        "prefix_shared_tokens": 0, "think_time_s": 1, "api_time_s": 1,
    },
    "cups": {"user": "u", "t_s": 1, "state": "Shown", "prompt_chars": 5, "completion_tokens": 1},
    "realhumaneval": {
        "programmer": "p", "t": 1, "model": "m", "prompt_chars": 5, "messages": 1, "response_chars": 5,
    },
    "servegen": {"client": 0, "t": 0, "rate": 0.1, "cv": 1, "pattern": "Gamma", "p1": 1, "p2": 1},
    "cace": {
        "time": 1, "context_tokens": 5, "output_tokens": 1, "new_tokens": 5, "model": "m", "task": "chat", "user": "u",
        "session": "s", "after": -1, "think_s": 0, "ttft_s": 1, "e2e_s": 1, "load_s": 0,
    },
}  # fmt: skip


TELLING = re.compile(r"[Tt]ime|status|call_type|cache_hit|created|_at$|path$|level|^type$|object|_ms$|^key$|^name$")


def good(value: Any, count: Iterator[int], name: str = "") -> Any:
    """A secret of its own in every text that is neither time nor model, nor says what kind of call it was."""
    if isinstance(value, dict):
        if value.get("key") in (*MODEL, "gen_ai.operation.name"):
            return value
        return {inner: good(each, count, inner) for inner, each in value.items()}
    if isinstance(value, list):
        return [good(each, count, name) for each in value]
    kept = name in MODEL or TELLING.search(name) or not isinstance(value, str) or value.isdigit()
    return value if kept else f"{SECRET}-{next(count)}"


def spoilt(value: Any, count: Iterator[int]) -> Iterator[Any]:
    """The row with a secret in one place after the other: as text, list and object, and as a key."""
    if isinstance(value, dict) and value.get("key") not in MODEL:
        for name, each in value.items():
            for wrong in spoilt(each, count):
                if name not in MODEL or not isinstance(wrong, str):
                    yield value | {name: wrong}
            yield {(f"{SECRET}-{next(count)}" if other == name else other): each for other, each in value.items()}
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from ([*value[:place], wrong, *value[place + 1 :]] for wrong in spoilt(each, count))
    yield f"{SECRET}-{next(count)}"
    yield [f"{SECRET}-{next(count)}"]
    yield {f"{SECRET}-{next(count)}": f"{SECRET}-{next(count)}"}


def all_spoilt(value: Any, count: Iterator[int]) -> Any:
    """The row with secrets only."""
    if isinstance(value, dict):
        return {name: all_spoilt(each, count) for name, each in value.items()}
    return f"{SECRET}-{next(count)}"


def attempts(folder: Path, rows: list[dict[str, Any]]) -> Iterator[Path]:
    """The rows as JSON lines, a JSON list, CSV, CSV without a header, and with broken ones."""
    yield json_lines(folder, rows)
    yield written(folder, json.dumps(rows), "log.json")
    yield written(folder, json.dumps({"data": rows})[:-2], "cut.json")
    cells = [{name: None if value is None else str(value) for name, value in flat(row).items()} for row in rows]
    parquet.write_table(pa.Table.from_pylist(cells), folder / "log.parquet")
    yield folder / "log.parquet"
    lines = [",".join(f'"{value}"' for value in flat(row).values()) for row in rows]
    header = ",".join(rows[0])
    yield written(folder, "\n".join([header, *lines]), "log.csv")
    yield written(folder, "\n".join(lines), "headless.csv")
    yield written(folder, "\n".join([header + f",{SECRET}", *lines]), "narrow.csv")
    yield written(folder, "\n".join([header.replace(",", f",{SECRET}", 2), *lines]), "broken.csv")
    yield written(folder, "\n".join([f"{SECRET},{SECRET}", *lines]), "twice.csv")
    yield written(folder, f"{header};{SECRET}\n".replace(",", ";") + "\n".join(lines), "semicolons.csv")
    yield written(folder, "\n".join([header, *(line + f',"{SECRET}' for line in lines)]), "quotes.csv")
    yield written(folder, ("\n".join([header, *lines]) + SECRET).encode("utf-16"), "utf16.csv")


def check(path: Path, format: str, capsys: pytest.CaptureFixture[str], *options: str, **more: Any) -> bool:
    """Import and load a log; True if the import succeeded. No secret may get out."""
    key, out = path.parent / "key", path.parent / "out"
    key.write_text("0123456789abcdef")
    arguments = [str(path), "--format", format, "--key-file", str(key), "--out", str(out), *options]
    done = import_logs.main(arguments)
    assert done in (0, 2)
    if done == 0:
        leaked(out)
        rows = json.loads((out / "audit.json").read_text())["rows"]
        assert rows["in"] == rows["out"] + rows["rejected"]
        shutil.rmtree(out)
    for load in (
        lambda: read_trace(path, format, **more),
        lambda: load_trace(path, format, models=MODELS, tasks="chat", attach="drawn", **more),
        lambda: guess_format(path),
    ):
        try:
            load()
        except TraceError as error:
            assert SECRET not in str(error)
    printed = capsys.readouterr()
    assert SECRET not in printed.out and SECRET not in printed.err
    return done == 0


def leaked(folder: Path) -> None:
    assert SECRET not in (folder / "audit.json").read_text()
    table = parquet.read_table(folder / "requests.parquet")
    for name in set(table.column_names) - {"model"}:
        assert SECRET not in str(table[name].to_pylist()) + str(table.schema)


@pytest.mark.parametrize("format", SCHEMAS)
def test_a_secret_in_every_cell_of_a_gateways_log_gets_nowhere(
    tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    count = iter(range(1_000_000))
    rows = [SCHEMAS[format](call) for call in calls(12) if not call.failed and not call.embedding]
    bad = [wrong for wrong in spoilt(rows[0], count) if isinstance(wrong, dict)]
    assert check(json_lines(tmp_path, [good(row, count) for row in rows]), format, capsys)
    for path in attempts(tmp_path, [*rows, *bad, all_spoilt(rows[0], count)]):
        check(path, format, capsys, "--max-rejects", "1")
    for path in attempts(tmp_path, bad):
        check(path, format, capsys)


@pytest.mark.parametrize("format", OTHERS)
def test_a_secret_in_every_cell_of_another_log_gets_nowhere(
    tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    count = iter(range(1_000_000))
    row, more, options = OTHERS[format], {}, []
    if format == "servegen":
        header = "model,client,in_p10,in_p50,in_p90,in_p99,out_p10,out_p50,out_p90,out_p99"
        tokens = written(tmp_path, f"{header}\nm,0,{SECRET},2,3,4,1,2,3,4\n", "tokens.csv")
        more, options = {"tokens_path": str(tokens)}, ["--tokens", str(tokens)]
    for path in attempts(tmp_path, [row, all_spoilt(row, count)]):
        check(path, format, capsys, *options, **more)
    for bad in spoilt(row, count):
        if isinstance(bad, dict):
            check(json_lines(tmp_path, [row, bad]), format, capsys, *options, **more)


@pytest.mark.parametrize(
    "column", ["", "id", "chat_id", "user_id", "content", "output", "error", "usage", "created_at"]
)
def test_a_secret_in_every_cell_of_a_database_gets_nowhere(
    tmp_path: Path, column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "webui.db"
    write_openwebui(12, path)
    if column:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(f"UPDATE chat_message SET {column} = '{SECRET}'")
    assert check(path, "openwebui", capsys) == (column not in ("error", "usage", "created_at"))


def test_every_format_is_tried() -> None:
    assert set(FORMATS) == {*SCHEMAS, *OTHERS, "openwebui"} and set(GATEWAYS) <= {*SCHEMAS, "openwebui"}
    assert set(OTHERS) == set(REQUIRED_COLUMNS)
