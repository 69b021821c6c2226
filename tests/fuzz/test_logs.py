"""Whatever stands in a log: it is read, or refused without showing a cell."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cace_env.traces import load_trace
from tests.fuzz.mutations import JUNK, fuzzed, mutated_bytes, mutated_text
from tests.fuzz.test_configs import said_or_done

SECRET = "sk-1234567890"
LOGS: dict[str, list[dict[str, Any]]] = {
    "azure": [{"TIMESTAMP": 1.0 + row, "ContextTokens": 100, "GeneratedTokens": 10} for row in range(4)],
    "mooncake": [
        {"timestamp": 1000 * row, "input_length": 900, "output_length": 5, "hash_ids": [1, row]} for row in range(4)
    ],
    "cace": [
        {
            "time": 1.0 + row,
            "context_tokens": 9,
            "output_tokens": 5,
            "model": f"m{row % 2}",
            "user": "u",
            "task": "chat",
        }
        for row in range(4)
    ],
    "burstgpt": [
        {"Timestamp": row, "Model": "GPT-4", "Request tokens": 9, "Response tokens": 5, "Log Type": "API log"}
        for row in range(4)
    ],
}


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows as CSV, lists quoted."""
    cells = [[json.dumps(cell) if isinstance(cell, list) else str(cell) for cell in row.values()] for row in rows]
    quoted = [",".join(f'"{cell}"' if "," in cell else cell for cell in row) for row in cells]
    return "\n".join([",".join(rows[0]), *quoted]) + "\n"


@pytest.mark.parametrize("form", LOGS)
@given(data=st.data())
@fuzzed
def test_a_log_is_read_or_refused(form: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [dict(row) for row in LOGS[form]]
    for _ in range(data.draw(st.integers(0, 2))):
        row = data.draw(st.sampled_from(rows))
        row[data.draw(st.sampled_from(list(row)))] = data.draw(st.one_of(JUNK, st.just(SECRET)))
    as_lines = "\n".join(map(json.dumps, rows)) + "\n"
    text = as_lines if data.draw(st.booleans()) else as_csv(rows)
    content = (data.draw(mutated_text(text)) if data.draw(st.booleans()) else text).encode("utf-8", "backslashreplace")
    if data.draw(st.booleans()):
        content = data.draw(mutated_bytes(gzip.compress(content, mtime=0)))
    path = tmp_path_factory.getbasetemp() / f"log-{form}"
    path.write_bytes(content)

    def read() -> None:
        try:
            load_trace(path, form)
        except ValueError as error:
            assert SECRET not in str(error)
            raise

    said_or_done(read)
