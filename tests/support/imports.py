"""Small LiteLLM logs, and imports that must succeed or fail."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cace_env.traces import Trace
from experiments import import_logs
from tests.support.logs import json_lines

MAYBE = ("model", "user", "session", "ttft_us", "e2e_us", "load_us")
KEY = "0123456789abcdef-a-key-of-mine"
ROW: dict[str, Any] = {
    "request_id": "r1",
    "call_type": "acompletion",
    "startTime": "2026-03-02T09:00:00.000000Z",
    "endTime": "2026-03-02T09:00:04.000000Z",
    "completionStartTime": "2026-03-02T09:00:01.500000Z",
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "model": "openai/m",
    "model_group": "coder",
    "user": "ann@example.org",
    "session_id": "s1",
    "status": "success",
    "messages": [{"role": "user", "content": "def f(): ..."}],
}


def spend(folder: Path, *changes: dict[str, Any]) -> Path:
    """LiteLLM rows, a second apart, each with its changes."""
    rows = []
    for second, change in enumerate(changes):
        stamp = {"startTime": f"2026-03-02T09:00:{second:02d}Z", "endTime": f"2026-03-02T09:01:{second:02d}Z"}
        rows.append(ROW | stamp | change)
    return json_lines(folder, rows)


def imported(path: Path, out: Path, *more: str) -> dict[str, Any]:
    """The audit of an import that must succeed."""
    key = out.parent / "key"
    key.write_text(KEY)
    assert import_logs.main([str(path), "--key-file", str(key), "--out", str(out), *more]) == 0
    audit: dict[str, Any] = json.loads((out / "audit.json").read_text())
    rows = audit["rows"]
    rejected = sum(sum(reasons.values()) for reasons in audit["rejected"].values())
    assert rows["in"] == rows["out"] + rows["rejected"] and rows["rejected"] == rejected
    return audit


def refused(
    path: Path, out: Path, capsys: pytest.CaptureFixture[str], more: Sequence[str] = (), key: str | None = KEY
) -> str:
    """The error of an import that must fail and leave nothing."""
    before = set(out.parent.iterdir())
    file = out.parent / "key"
    if key is not None:
        file.write_text(key)
        more = [*more, "--key-file", str(file)]
    assert import_logs.main([str(path), "--out", str(out), *more]) == 2
    assert set(out.parent.iterdir()) <= before | {file}
    return capsys.readouterr().err


def same(one: Trace, other: Trace) -> None:
    for name in (*("time_us", "context_tokens", "new_tokens", "output_tokens"), *MAYBE):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert one.model_ids == other.model_ids and one.began_us == other.began_us
