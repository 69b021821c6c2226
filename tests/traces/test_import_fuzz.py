"""Whatever a file holds, an import either ends well, with in = out + rejected, or with an error of ours."""

from __future__ import annotations

import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cace_env.traces import TraceError, guess_format, read_trace
from cace_env.traces.gateways.columns import ColumnMap
from cace_env.traces.gateways.importing import Privacy, import_gateway
from cace_env.traces.gateways.known import GATEWAYS, PLAIN
from cace_env.traces.limits import Limits
from experiments.yardsticks.gateway_logs import SCHEMAS, calls, flat

KEY = Privacy(b"0123456789abcdef")
ROWS = {name: [schema(call) for call in calls(6)] for name, schema in SCHEMAS.items()}
FEW = settings(
    max_examples=int(os.environ.get("CACE_FUZZ", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["", "-1", "now", "nan", "inf", "1e999", "2026-03-02T09:00:00+0200", "0x10", "\x1b[31m", "٣", "1_000"]
    ),
    st.sampled_from(
        ["2026-13-99", "9999-12-31", "0001-01-01T00:00:00Z", 1e308, 10**18, 1_772_442_000.5, "\ud800", "a\x00b"]
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def attempt(content: bytes, format: str, columns: ColumnMap | None = None) -> dict[str, Any] | None:
    """The rows of the audit, or None after an error of ours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(content)
        for read in (lambda: guess_format(path), lambda: read_trace(path, format, max_rejects=1.0)):
            try:
                read()
            except TraceError:
                continue
        try:
            audit = import_gateway(
                path,
                format,
                columns or (GATEWAYS[format].columns if format in GATEWAYS else PLAIN[format]),
                Path(folder) / "out",
                KEY,
                Limits(row_mb=0.01),
                max_rejects=1.0,
                max_span_days=1e6,
                options={},
            ).audit
        except TraceError:
            assert sorted(entry.name for entry in Path(folder).iterdir()) == ["log"]
            return None
        rows: dict[str, Any] = audit["rows"]
        assert rows["in"] == rows["out"] + rows["rejected"]
        assert len(read_trace(Path(folder) / "out")) == rows["out"]
        return rows


@given(st.data())
@FEW
def test_rows_with_any_values_are_kept_or_counted(data: st.DataObject) -> None:
    format = data.draw(st.sampled_from(sorted(SCHEMAS)))
    rows = []
    for row in ROWS[format]:
        names = data.draw(st.lists(st.sampled_from(sorted(row)), max_size=2))
        rows.append(row | {name: data.draw(odd) for name in names})
    shape = data.draw(st.sampled_from(["lines", "list", "csv"]))
    if shape == "lines":
        content = "\n".join(map(json.dumps, rows))
    elif shape == "list":
        content = json.dumps({"data": rows} if data.draw(st.booleans()) else rows)
    else:
        header = ",".join(rows[0])
        lines = [",".join(csv_cell(value) for value in flat(row).values()) for row in rows]
        content = "\n".join([header, *lines])
    told = attempt(content.encode("utf-8", "surrogatepass"), format)
    if told is not None and format not in ("otel", "freeinference"):
        assert told["in"] == len(rows)


def csv_cell(value: Any) -> str:
    return '"' + ("" if value is None else str(value)).replace('"', '""') + '"'


@given(st.data())
@FEW
def test_files_with_bytes_changed_cut_or_added_never_end_in_a_foreign_error(data: st.DataObject) -> None:
    format = data.draw(st.sampled_from([*sorted(SCHEMAS), "azure", "cace"]))
    rows = ROWS.get(format, [{"time": 1.5, "context_tokens": 5, "output_tokens": 1, "user": "u", "TIMESTAMP": 1}])
    content = bytearray("\n".join(map(json.dumps, rows)).encode())
    if data.draw(st.booleans()):
        lines = [",".join(csv_cell(value) for value in flat(row).values()) for row in rows]
        content = bytearray("\n".join([",".join(rows[0]), *lines]).encode())
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=10))
    attempt(bytes(content), format)


@given(st.binary(max_size=300), st.sampled_from([*sorted(GATEWAYS), "azure", "cace"]))
@FEW
def test_any_bytes_are_refused_or_read(content: bytes, format: str) -> None:
    for start in (b"", b"PAR1", b"SQLite format 3\x00", b"\x1f\x8b", b"[{", b'{"data": ['):
        attempt(start + content, format)


def test_columns_of_any_type_in_parquet_are_refused_or_read() -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    kinds = [
        *(pa.array(["1", "x"]), pa.array(["1", None], pa.large_string()), pa.array(["1", None]).dictionary_encode()),
        *(
            pa.array([b"1", b"\xff"]),
            pa.array([b"1", b"\xff"], pa.large_binary()),
            pa.array([b"abcd", None], pa.binary(4)),
        ),
        *(
            pa.array([[1], None]),
            pa.array([{"a": 1}, None]),
            pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
        ),
        *(pa.nulls(2), pa.array([True, None]), pa.array([1.5, float("nan")]), pa.array([2**63, 1], pa.uint64())),
        *(pa.array([20_000, 1], pa.date32()), pa.array([1, 2], pa.time32("s")), pa.array([1, 2], pa.duration("s"))),
        pa.array([1_772_442_000, None], pa.timestamp("s", "Europe/Berlin")),
        pa.array([1_772_442_000_000_000_000, 1]),
        pa.array([1, None], pa.int64()).cast(pa.decimal128(20, 0)),
    ]
    good = {
        "startTime": pa.array([1_772_442_000, 1_772_442_001]),
        "endTime": pa.nulls(2),
        "prompt_tokens": pa.array([5, 6]),
        "completion_tokens": pa.array([1, 2]),
        "model_group": pa.array(["m", "m"]),
        "call_type": pa.nulls(2, pa.string()),
        "user": pa.array(["a", "b"]),
        "metadata": pa.nulls(2, pa.string()),
    }
    own = {
        "time": good["startTime"],
        "context_tokens": good["prompt_tokens"],
        "output_tokens": good["completion_tokens"],
    }
    tries = [("litellm", good, name) for name in ("startTime", "prompt_tokens", "model_group", "metadata")]
    tries += [
        ("cace", own, name) for name in ("time", "output_tokens", "new_tokens", "user", "task", "after", "ttft_s")
    ]
    for format, columns, name in tries:
        for column in kinds:
            file = io.BytesIO()
            parquet.write_table(pa.table(columns | {name: column}), file)
            attempt(file.getvalue(), format)


@given(st.dictionaries(st.sampled_from(sorted(ColumnMap.model_fields)), odd | st.just("a") | st.just(["a", "b.c"])))
@FEW
def test_any_column_map_is_refused_or_used(fields: dict[str, Any]) -> None:
    from cace_env.config import ConfigError, parse

    try:
        columns = parse(ColumnMap, fields, "map.yaml")
    except ConfigError:
        return
    attempt(b'{"a": 1, "b": {"c": "x"}}\n{"a": 1772442000}\n', "columns", columns)


def test_good_rows_are_all_kept() -> None:
    for format, rows in ROWS.items():
        told = attempt("\n".join(map(json.dumps, rows)).encode(), format)
        assert told is not None and told["in"] == len(rows) and told["out"] >= len(rows) - 2, format
