"""Made-up logs in the schemas of gateways, of any size, to measure and try imports with.

    python -m experiments.yardsticks.gateway_logs litellm 1000000 spend_logs.jsonl    writes a log
    python -m experiments.yardsticks.gateway_logs litellm 1000000 .jsonl              measures its import

Rows have the columns and about the size of real ones (LiteLLM: 600 to 900 bytes), texts included. Users have habits and
sessions, arrivals are Poisson, 2 % of the calls fail and 3 % are embeddings. Nothing here claims to be real traffic.
"""

from __future__ import annotations

import csv
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from cace_env.traces import read_trace

BEGAN_S: Final = 1_772_000_000  # 2026-02-25
MODELS: Final = ("qwen2.5-coder-1.5b", "qwen2.5-coder-7b", "qwen2.5-coder-32b", "deepseek-r1-14b", "llama-3.1-8b")
TEXT: Final = 'def area(r):\n    """Area of a circle, "exactly"."""\n    return 3.14159 * r ** 2, \'ok\'\n' * 12
DRAWN: Final = 10_000  # requests at once


class Call(NamedTuple):
    """One request as a gateway sees it."""

    number: int
    start_us: int
    ttft_us: int
    e2e_us: int
    model: str
    user: str
    session: str
    context: int
    cached: int
    output: int
    failed: bool
    embedding: bool
    text: str


def calls(rows: int, seed: int = 0, rate: float = 20.0, users: int = 500) -> Iterator[Call]:
    """Requests in order of time."""
    rng = np.random.default_rng(seed)
    clock = BEGAN_S * 1e6
    favourite = rng.integers(len(MODELS), size=users)
    for first in range(0, rows, DRAWN):
        count = min(DRAWN, rows - first)
        starts = clock + np.cumsum(rng.exponential(1e6 / rate, count))
        clock = starts[-1]
        user = np.minimum((users * rng.random(count) ** 2).astype(int), users - 1)
        model = np.where(rng.random(count) < 0.7, favourite[user], rng.integers(len(MODELS), size=count))
        context = np.exp(rng.normal(6.5, 1.0, count)).astype(int) + 1
        cached = (context * rng.choice([0.0, 0.5, 0.9], count)).astype(int)
        output = np.exp(rng.normal(4.5, 1.0, count)).astype(int) + 1
        ttft = np.exp(rng.normal(12.0, 0.8, count)).astype(int)
        fails, embeds, cuts = rng.random(count) < 0.02, rng.random(count) < 0.03, rng.integers(20, 150, count)
        for i in range(count):
            number = first + i
            yield Call(
                number, int(starts[i]), int(ttft[i]), int(ttft[i] + 12_000 * output[i]), MODELS[model[i]],
                f"dev{user[i]}@example.org", f"{user[i]}-{number // 2000}", int(context[i]), int(cached[i]),
                int(output[i]), bool(fails[i]), bool(embeds[i]), TEXT[: int(cuts[i])],
            )  # fmt: skip


def iso(time_us: int, blank: str = "T", zone: str = "Z") -> str:
    """A time in UTC as text."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime(f"%Y-%m-%d{blank}%H:%M:%S.%f") + zone


def litellm(call: Call) -> dict[str, Any]:
    """A row of LiteLLM_SpendLogs."""
    end = iso(call.start_us + call.e2e_us)
    return {
        "request_id": f"chatcmpl-{call.number:032x}", "call_type": "aembedding" if call.embedding else "acompletion",
        "api_key": f"{zlib.crc32(call.user.encode()):064x}", "spend": 0.00012,
        "total_tokens": call.context + call.output,
        "prompt_tokens": call.context, "completion_tokens": 0 if call.failed else call.output,
        "startTime": iso(call.start_us), "endTime": end,
        "completionStartTime": end if call.number % 3 == 0 else iso(call.start_us + call.ttft_us),
        "model": f"openai/{call.model}", "model_group": call.model, "api_base": "http://10.0.0.7:8000/v1",
        "user": call.user, "metadata": {"usage_object": {"prompt_tokens_details": {"cached_tokens": call.cached}}},
        "cache_hit": "False", "end_user": "", "requester_ip_address": "10.1.2.3",
        "messages": [{"role": "user", "content": call.text}], "response": {"content": call.text[:40]},
        "session_id": call.session, "status": "failure" if call.failed else "success",
    }  # fmt: skip


def llama_swap(call: Call) -> dict[str, Any]:
    """An entry of the activity API; its time is the end of the request."""
    return {
        "id": call.number, "timestamp": iso(call.start_us + call.e2e_us), "model": call.model,
        "req_path": "/v1/embeddings" if call.embedding else "/v1/chat/completions",
        "resp_content_type": "text/event-stream",
        "resp_status_code": 502 if call.failed else 200,
        "tokens": {
            "cache_tokens": call.cached if call.number % 2 else -1, "input_tokens": call.context - call.cached,
            "output_tokens": call.output, "draft_tokens": 0, "prompt_per_second": 900.0, "tokens_per_second": 83.0,
        },
        "duration_ms": call.e2e_us // 1000, "has_capture": False, "error_msg": "", "metadata": {},
    }  # fmt: skip


def langfuse(call: Call) -> dict[str, Any]:
    """An observation of the blob export."""
    return {
        "id": f"{call.number:032x}", "trace_id": call.session, "project_id": "p", "environment": "default",
        "type": "EMBEDDING" if call.embedding else "GENERATION", "start_time": iso(call.start_us, " ", ""),
        "end_time": iso(call.start_us + call.e2e_us, " ", ""), "name": "chat",
        "level": "ERROR" if call.failed else "DEFAULT", "input": call.text, "output": call.text[:50],
        "provided_model_name": call.model, "model_parameters": {"temperature": 0.2},
        "usage_details": {
            "input": call.context - call.cached, "output": call.output, "total": call.context + call.output,
            "input_cached_tokens": call.cached,
        },
        "completion_start_time": iso(call.start_us + call.ttft_us, " ", ""), "latency": call.e2e_us / 1e6,
        "time_to_first_token": call.ttft_us / 1e6, "metadata": {}, "user_id": call.user, "session_id": call.session,
    }  # fmt: skip


def helicone(call: Call) -> dict[str, Any]:
    """An exported HeliconeRequest."""
    return {
        "response_id": f"r{call.number}", "response_created_at": iso(call.start_us + call.e2e_us),
        "response_status": 500 if call.failed else 200, "response_model": call.model, "request_id": f"q{call.number}",
        "request_created_at": iso(call.start_us), "request_user_id": call.user,
        "request_path": "https://x/v1/embeddings" if call.embedding else "https://x/v1/chat/completions",
        "request_properties": {"Helicone-Session-Id": call.session}, "request_model": call.model, "provider": "CUSTOM",
        "delay_ms": call.e2e_us // 1000, "time_to_first_token": call.ttft_us // 1000,
        "prompt_tokens": call.context - call.cached, "prompt_cache_read_tokens": call.cached,
        "completion_tokens": call.output, "request_body": call.text,
    }  # fmt: skip


def openai_access(call: Call) -> dict[str, Any]:
    """A line of an access log with the usage of the response."""
    return {
        "id": f"chatcmpl-{call.number}", "object": "list" if call.embedding else "chat.completion",
        "created": call.start_us // 1_000_000, "model": call.model, "status": 500 if call.failed else 200,
        "usage": {
            "prompt_tokens": call.context, "completion_tokens": call.output,
            "prompt_tokens_details": {"cached_tokens": call.cached},
        },
        "user": call.user, "session_id": call.session, "duration_ms": call.e2e_us / 1e3, "ttft_ms": call.ttft_us / 1e3,
        "messages": call.text,
    }  # fmt: skip


def otel(call: Call) -> dict[str, Any]:
    """A line of OTLP JSON with one span: of a client, or of vLLM."""
    old = call.number % 2
    values = {
        "gen_ai.operation.name": "embeddings" if call.embedding else "chat", "gen_ai.request.model": call.model,
        f"gen_ai.usage.{'prompt_tokens' if old else 'input_tokens'}": call.context,
        f"gen_ai.usage.{'completion_tokens' if old else 'output_tokens'}": call.output,
        "gen_ai.conversation.id": call.session, "gen_ai.response.time_to_first_chunk": call.ttft_us / 1e6,
        "gen_ai.input.messages": call.text, "user.id": call.user,
    }  # fmt: skip
    kinds: dict[type, Callable[[Any], dict[str, Any]]] = {
        str: lambda value: {"stringValue": value},
        int: lambda value: {"intValue": str(value)},
        float: lambda value: {"doubleValue": value},
    }
    span = {
        "traceId": f"{call.number:032x}", "spanId": f"{call.number:016x}", "name": f"chat {call.model}", "kind": 3,
        "startTimeUnixNano": str(call.start_us * 1000), "endTimeUnixNano": str((call.start_us + call.e2e_us) * 1000),
        "attributes": [{"key": key, "value": kinds[type(value)](value)} for key, value in values.items()],
        "status": {"code": 2} if call.failed else {},
    }  # fmt: skip
    return {"resourceSpans": [{"resource": {"attributes": []}, "scopeSpans": [{"scope": {}, "spans": [span]}]}]}


def chutes(call: Call) -> dict[str, Any]:
    """An invocation of the public trace."""
    return {
        "invocation_id": f"i{call.number}", "function_name": "chat", "chute_id": call.model, "user_id": call.user,
        "rehash_round": 1, "instance_id": "x", "started_at": iso(call.start_us), "it": call.context,
        "completed_at": iso(call.start_us + call.e2e_us), "ot": call.output, "ct": call.cached,
        "ttft": call.ttft_us / 1e6,
    }  # fmt: skip


def freeinference(call: Call) -> dict[str, Any]:
    """A session of one request."""
    start_ms, end_ms = call.start_us // 1000, (call.start_us + call.e2e_us) // 1000
    step = {
        "step": 0, "start_ms": start_ms, "end_ms": end_ms, "ttft_ms": call.ttft_us // 1000, "model": call.model,
        "provider": "B", "stream": True,
        "provider_tokens": {"prompt": call.context, "completion": call.output, "cached": call.cached},
    }  # fmt: skip
    return {
        "week": "w", "day": "d", "session_id": call.session, "user_id": call.user, "harness": "cline",
        "start_ms": start_ms, "end_ms": end_ms, "requests": [step],
    }  # fmt: skip


SCHEMAS: Final[dict[str, Callable[[Call], dict[str, Any]]]] = {
    "litellm": litellm,
    "llama-swap": llama_swap,
    "langfuse": langfuse,
    "helicone": helicone,
    "openai-access": openai_access,
    "otel": otel,
    "chutes": chutes,
    "freeinference": freeinference,
}


def write_log(schema: str, rows: int, path: Path, seed: int = 0) -> None:
    """Write a log; the suffix says how: .jsonl, .json (a list), .csv or .parquet."""
    records = (SCHEMAS[schema](call) for call in calls(rows, seed))
    if path.suffix == ".parquet":
        _write_parquet(records, path)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            writer: Any = None
            for record in records:
                writer = writer or csv.writer(file, lineterminator="\n")
                if file.tell() == 0:
                    writer.writerow(record)
                writer.writerow(flat(record).values())
        elif path.suffix == ".json":
            for number, record in enumerate(records):
                file.write(("[" if number == 0 else ",\n") + json.dumps(record))
            file.write("]\n")
        else:
            file.writelines(json.dumps(record) + "\n" for record in records)


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record with JSON text in place of lists and objects, as databases export it."""
    return {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in record.items()}


def _write_parquet(records: Iterator[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    writer: Any = None
    waiting: list[dict[str, Any]] = []
    for record in records:
        waiting.append(flat(record))
        if len(waiting) == 5 * DRAWN:
            table = pa.Table.from_pylist(waiting)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
            waiting = []
    if waiting:
        table = pa.Table.from_pylist(waiting)
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def write_openwebui(rows: int, path: Path, seed: int = 0) -> None:
    """Write webui.db with its table chat_message: a question and an answer for each request."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE chat_message (id TEXT, chat_id TEXT, user_id TEXT, role TEXT, content TEXT, output TEXT, "
            "model_id TEXT, error TEXT, usage TEXT, created_at INTEGER, updated_at INTEGER)"
        )
        for call in calls(rows, seed):
            usage = {
                "input_tokens": call.context, "output_tokens": call.output,
                "load_duration": 1_000_000 * (call.number % 3), "prompt_eval_duration": call.ttft_us * 1000,
                "total_duration": call.e2e_us * 1000 + 2_000_000,
            }  # fmt: skip
            common = (call.session, call.user)
            stamp = call.start_us // 1_000_000
            question = (f"{call.number}-q", *common, "user", call.text, None, None, None, None, stamp, stamp)
            answer = (
                f"{call.number}-a", *common, "assistant", call.text, None, call.model,
                '"x"' if call.failed else None, json.dumps(usage), stamp, stamp,
            )  # fmt: skip
            database.executemany(f"INSERT INTO chat_message VALUES ({','.join('?' * 11)})", (question, answer))


def measure(schema: str, rows: int, suffix: str) -> str:
    """Import a made-up log in a process of its own: its speed and its peak of memory, in words."""
    with tempfile.TemporaryDirectory() as folder:
        path, key, out = Path(folder) / f"log{suffix}", Path(folder) / "key", Path(folder) / "out"
        write_log(schema, rows, path)
        key.write_text("a key of sixteen bytes or more")
        asked = [str(path), "--format", schema, "--key-file", str(key), "--out", str(out)]
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "experiments.import_logs", *asked], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        imported_s = time.perf_counter()
        requests = len(read_trace(out))
        read_s = time.perf_counter() - imported_s
        return (
            f"{schema}{suffix}: {rows:,} rows of {path.stat().st_size / rows:,.0f} bytes imported in {seconds:.1f} s "
            f"({used.ru_utime + used.ru_stime:.1f} CPU s, {rows / seconds:,.0f} rows/s), at most "
            f"{used.ru_maxrss / 1e3:,.0f} MB; {requests:,} requests read back in {read_s:.1f} s"
        )


def main(arguments: Sequence[str]) -> int:
    """Command line: SCHEMA ROWS FILE, or SCHEMA ROWS SUFFIX to measure."""
    schema, rows, path = arguments
    if path.startswith(".") and Path(path).suffix == "":
        print(measure(schema, int(rows), path))
    elif schema == "openwebui":
        write_openwebui(int(rows), Path(path))
    else:
        write_log(schema, int(rows), Path(path))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
