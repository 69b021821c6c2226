"""The traps in the logs of each gateway, on a few rows made by hand."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cace_env.tables import NONE
from cace_env.traces import Trace, TraceError, guess_format, read_trace
from cace_env.traces.gateways.known import GATEWAYS
from tests.support.logs import json_lines, written

START = 1_772_442_000  # 2026-03-02 09:00:00 UTC
NO_COMPLETION = "no completion (embeddings, images, ...)"


def read(path: Path, gateway: str, **options: Any) -> Trace:
    """The log, whose format must be guessed right."""
    assert guess_format(path) == gateway
    return read_trace(path, **options)


def seconds(column: Any) -> list[float | None]:
    """A measured column in seconds, None where it is not known."""
    assert column is not None
    return [None if us == NONE else us / 1e6 for us in column.tolist()]


def numbers(column: Any) -> list[int]:
    assert column is not None
    found: list[int] = column.tolist()
    return found


# --- LiteLLM


def litellm(**changes: Any) -> dict[str, Any]:
    return {
        "request_id": "r",
        "call_type": "acompletion",
        "startTime": "2026-03-02T09:00:00Z",
        "endTime": "2026-03-02T09:00:05Z",
        "completionStartTime": "2026-03-02T09:00:01Z",
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "model": "openai/deployment-7",
        "model_group": "coder",
        "api_key": "hash",
        "user": "default_user_id",
        "end_user": "",
        "status": "success",
    } | changes


def test_litellm_has_a_first_token_only_where_it_is_not_the_last(tmp_path: Path) -> None:
    whole = litellm(completionStartTime="2026-03-02T09:00:05Z")
    messages = litellm(call_type="anthropic_messages")  # its startTime is about that of the first byte
    trace = read(json_lines(tmp_path, [litellm(), whole, messages]), "litellm")
    assert seconds(trace.ttft_us) == [1.0, None, None]
    assert seconds(trace.e2e_us) == [5.0, 5.0, None]


def test_litellm_names_models_by_group_and_users_by_what_tells_them_apart(tmp_path: Path) -> None:
    rows = [litellm(), litellm(end_user="ann"), litellm(user="bob"), litellm(api_key="other"), litellm(model_group="")]
    trace = read(json_lines(tmp_path, rows), "litellm")
    assert trace.model_ids == ("coder", "openai/deployment-7")
    assert numbers(trace.user) == [0, 1, 2, 3, 0]


def test_litellm_pages_of_the_api_are_read(tmp_path: Path) -> None:
    page = {"data": [litellm(), litellm(status="failure")], "total": 2, "page": 1}
    trace = read(written(tmp_path, json.dumps(page), "page.json"), "litellm")
    assert len(trace) == 1 and trace.dropped == {"failed": 1}


def test_litellm_finds_cached_tokens_in_json_and_in_text_of_json(tmp_path: Path) -> None:
    metadata = {"usage_object": {"prompt_tokens_details": {"cached_tokens": 60}}, "note": "x" * 50}
    rows = [litellm(metadata=metadata), litellm(metadata=json.dumps(metadata)), litellm(metadata={})]
    assert numbers(read(json_lines(tmp_path, rows), "litellm").new_tokens) == [40, 40, 100]


# --- llama-swap


def activity(**changes: Any) -> dict[str, Any]:
    tokens = {"cache_tokens": 30, "input_tokens": 70, "output_tokens": 9}
    row = {"id": 1, "timestamp": "2026-03-02T09:00:10+02:00", "model": "coder", "req_path": "/v1/chat/completions"}
    return row | {"resp_status_code": 200, "tokens": tokens, "duration_ms": 2500, "error_msg": ""} | changes


def test_llama_swap_counts_back_from_the_end_and_adds_what_was_cached(tmp_path: Path) -> None:
    unknown = activity(tokens={"cache_tokens": -1, "input_tokens": 50, "output_tokens": 5})
    nothing = activity(tokens={"cache_tokens": -1, "input_tokens": -1, "output_tokens": -1})
    rows = [activity(), unknown, nothing, activity(req_path="/v1/embeddings"), activity(resp_status_code=502)]
    trace = read(written(tmp_path, json.dumps({"data": rows, "page": 1}), "activity.json"), "llama-swap")
    assert trace.began_us == (START - 7200 + 7) * 1_000_000 + 500_000
    assert numbers(trace.context_tokens) == [100, 50] and numbers(trace.new_tokens) == [70, 50]
    assert seconds(trace.e2e_us) == [2.5, 2.5] and trace.ttft_us is None and trace.user is None
    assert trace.dropped == {"failed": 1, NO_COMPLETION: 1, "context_tokens not known": 1}


def test_llama_swap_in_sqlite_equals_its_api(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as database, database:
        columns = "id, ts_created, model_id, req_path, resp_status_code, cache_tokens, input_tokens, output_tokens"
        database.execute(f"CREATE TABLE activity ({columns}, duration_ms, error_msg, metadata_json)")
        row = (1, START * 1000 + 10_000, "coder", "/v1/messages", 200, 30, 70, 9, 2500, "", "{}")
        database.execute(f"INSERT INTO activity VALUES ({','.join('?' * len(row))})", row)
    trace = read(path, "llama-swap")
    assert trace.began_us == START * 1_000_000 + 7_500_000
    assert numbers(trace.context_tokens) == [100] and numbers(trace.new_tokens) == [70]


# --- Open WebUI


def webui(folder: Path, rows: list[dict[str, Any]], columns: str = "output, content,") -> Path:
    path = folder / "webui.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            f"CREATE TABLE chat_message (chat_id, user_id, role, {columns} model_id, error, usage, created_at)"
        )
        for row in rows:
            names = ", ".join(row)
            database.execute(f"INSERT INTO chat_message ({names}) VALUES ({','.join('?' * len(row))})", [*row.values()])
    return path


def answer(**changes: Any) -> dict[str, Any]:
    usage = {
        "input_tokens": 100,
        "output_tokens": 9,
        "load_duration": 4_000_000_000,
        "prompt_eval_duration": 500_000_000,
    }
    usage |= {"total_duration": 6_000_000_000}
    row = {"chat_id": "c", "user_id": "u", "role": "assistant", "model_id": "coder", "error": None}
    return row | {"usage": json.dumps(usage), "created_at": START} | changes


def test_open_webui_gives_measured_loads_but_none_where_tools_took_turns(tmp_path: Path) -> None:
    tools = answer(output=json.dumps([{"type": "function_call"}]), created_at=START + 5)
    rows = [{"role": "user", "chat_id": "c", "created_at": START}, answer(content="secret"), tools]
    rows += [answer(error='{"content": "x"}'), answer(usage=None)]
    trace = read(webui(tmp_path, rows), "openwebui")
    assert numbers(trace.context_tokens) == [100, 100] and trace.model_ids == ("coder",)
    assert seconds(trace.load_us) == [4.0, None] and seconds(trace.ttft_us) == [4.5, None]
    assert seconds(trace.e2e_us) == [6.0, None]
    assert trace.dropped == {"no answer of a model": 1, "failed": 1, "no token counts": 1}


def test_open_webui_without_ollama_has_tokens_and_no_times(tmp_path: Path) -> None:
    usage = json.dumps({"prompt_tokens": 50, "completion_tokens": 4, "prompt_n": 10})
    trace = read(webui(tmp_path, [answer(usage=usage)], ""), "openwebui")
    assert numbers(trace.context_tokens) == [50] and trace.load_us is None and trace.ttft_us is None


def test_a_database_is_read_without_a_file_beside_it(tmp_path: Path) -> None:
    path = webui(tmp_path, [answer()])
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
    assert len(read(path, "openwebui")) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["webui.db"]


def test_a_database_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no SQLite database"):
        read_trace(written(tmp_path, b"SQLite format 3\x00" + b"x" * 500, "webui.db"), "openwebui")


# --- OpenTelemetry


def span(name: str = "chat coder", code: int | None = None, **values: Any) -> dict[str, Any]:
    kinds = {str: "stringValue", int: "intValue", float: "doubleValue"}
    attributes = [{"key": key.replace("__", "."), "value": {kinds[type(v)]: v}} for key, v in values.items()]
    times = {"startTimeUnixNano": str(START * 10**9), "endTimeUnixNano": str(START * 10**9 + 3 * 10**9)}
    return {"name": name, **times, "attributes": attributes, "status": {} if code is None else {"code": code}}


def otlp(*spans: dict[str, Any]) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": [each]} for each in spans]}]}


NEW = {
    "gen_ai__operation__name": "chat",
    "gen_ai__request__model": "coder",
    "gen_ai__usage__input_tokens": 100,
    "gen_ai__usage__output_tokens": 9,
    "gen_ai__usage__cache_read__input_tokens": 40,
    "gen_ai__response__time_to_first_chunk": 0.5,
    "gen_ai__conversation__id": "c1",
}
OLD = {
    "llm__request__type": "chat",
    "gen_ai__request__model": "coder",
    "gen_ai__usage__prompt_tokens": "100",
    "gen_ai__usage__completion_tokens": 9,
    "gen_ai__user": "ann",
}
VLLM = {
    "gen_ai__response__model": "coder",
    "gen_ai__usage__prompt_tokens": 100,
    "gen_ai__usage__completion_tokens": 9,
    "gen_ai__latency__time_to_first_token": 0.25,
    "gen_ai__latency__e2e": 2.5,
}


def test_otel_reads_both_generations_of_names_and_the_span_of_vllm(tmp_path: Path) -> None:
    others = (span(**(NEW | {"gen_ai__operation__name": "embeddings"})), span("execute_tool", x=1), span(code=2, **NEW))
    lines = [otlp(span(**NEW), *others), otlp(span(**OLD)), otlp(span("llm_request", **VLLM))]
    trace = read(json_lines(tmp_path, lines), "otel")
    assert numbers(trace.context_tokens) == [100] * 3 and numbers(trace.new_tokens) == [60, 100, 100]
    assert seconds(trace.ttft_us) == [0.5, None, 0.25] and seconds(trace.e2e_us) == [3.0, 3.0, 2.5]
    assert trace.model_ids == ("coder",) and trace.rows_read == 6
    assert trace.dropped == {"no call of a model (embeddings, tools, agents, ...)": 2, "failed": 1}
    one = written(tmp_path, json.dumps(otlp(span(**NEW), span(**OLD)), indent=1), "one.json")
    assert len(read(one, "otel")) == 2


# --- Langfuse, Helicone


def test_langfuse_blobs_and_api_say_the_same(tmp_path: Path) -> None:
    blob = {
        "id": "1", "trace_id": "t", "type": "GENERATION", "level": "DEFAULT", "provided_model_name": "coder",
        "start_time": "2026-03-02 09:00:00.000000", "end_time": "2026-03-02 09:00:05.500000",
        "completion_start_time": "2026-03-02 09:00:01.250000", "user_id": "ann", "session_id": "",
        "usage_details": {"input": 60, "input_cached_tokens": 40, "output": 9, "total": 109},
    }  # fmt: skip
    camel = {
        "id": "1", "traceId": "t", "type": "GENERATION", "level": "DEFAULT", "model": "coder",
        "startTime": "2026-03-02T09:00:00.000Z", "endTime": "2026-03-02T09:00:05.500Z",
        "completionStartTime": "2026-03-02T09:00:01.250Z", "userId": "ann",
        "usageDetails": {"input": 60, "input_cached_tokens": 40, "output": 9, "total": 109},
    }  # fmt: skip
    rows = [blob, blob | {"type": "SPAN"}, blob | {"level": "ERROR"}]
    api = {"data": [camel, camel | {"type": "EVENT"}, camel | {"level": "ERROR"}], "meta": {"page": 1}}
    for path in (json_lines(tmp_path, rows), written(tmp_path, json.dumps(api), "api.json")):
        trace = read(path, "langfuse")
        assert trace.began_us == START * 1_000_000
        assert numbers(trace.context_tokens) == [100] and numbers(trace.new_tokens) == [60]
        assert seconds(trace.ttft_us) == [1.25] and seconds(trace.e2e_us) == [5.5]
        assert trace.dropped == {"no generation": 1, "failed": 1}


def test_langfuse_parquet_with_a_map_of_usage_is_read(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    usage = pa.array([[("input", 60), ("output", 9)]], pa.map_(pa.string(), pa.int64()))
    times = pa.array([START * 1_000_000], pa.timestamp("us"))
    columns = {
        "start_time": times,
        "end_time": times,
        "provided_model_name": pa.array(["coder"]),
        "usage_details": usage,
    }
    parquet.write_table(pa.table(columns), tmp_path / "observations.parquet")
    trace = read(tmp_path / "observations.parquet", "langfuse")
    assert numbers(trace.context_tokens) == [60] and numbers(trace.output_tokens) == [9]


def test_helicone_adds_what_its_prompt_tokens_leave_out(tmp_path: Path) -> None:
    row = {
        "request_created_at": "2026-03-02T09:00:00.5Z", "response_status": 200, "request_model": "coder",
        "request_path": "https://oai.helicone.ai/v1/chat/completions", "request_user_id": "ann",
        "request_properties": {"Helicone-Session-Id": "s"}, "delay_ms": 4000, "time_to_first_token": 300,
        "prompt_tokens": 60, "prompt_cache_read_tokens": 40, "prompt_cache_write_tokens": 0, "completion_tokens": 9,
    }  # fmt: skip
    rows = [row, row | {"response_status": 429}, row | {"request_path": "https://x/v1/embeddings"}]
    trace = read(json_lines(tmp_path, rows), "helicone")
    assert numbers(trace.context_tokens) == [100] and numbers(trace.new_tokens) == [60]
    assert seconds(trace.ttft_us) == [0.3] and seconds(trace.e2e_us) == [4.0]
    assert trace.session is not None and trace.dropped == {"failed": 1, NO_COMPLETION: 1}


# --- public traces and access logs


def test_freeinference_sessions_become_their_requests(tmp_path: Path) -> None:
    def step(number: int, **changes: Any) -> dict[str, Any]:
        start = START * 1000 + 5_000 * number
        row = {"step": number, "start_ms": start, "end_ms": start + 3_000, "ttft_ms": 800, "model": "glm-5.1"}
        return row | {"provider_tokens": {"prompt": 100, "completion": 9, "cached": 60}} | changes

    session = {"week": "w", "day": "d", "session_id": "s", "user_id": "u", "harness": "cline", "requests": [step(0)]}
    other = session | {"session_id": "t", "requests": [step(1), step(2, provider_tokens=None), "no request"]}
    trace = read(json_lines(tmp_path, [session, other]), "freeinference", max_rejects=0.5)
    assert trace.time_us.tolist() == [0, 5_000_000] and numbers(trace.session) == [0, 1]
    assert numbers(trace.new_tokens) == [40, 40] and seconds(trace.ttft_us) == [0.8, 0.8]
    assert trace.dropped == {"provider_tokens.prompt: is empty": 1, "is no object": 1}


def test_chutes_users_are_told_apart_by_their_round_too(tmp_path: Path) -> None:
    row = {
        "chute_id": "c", "function_name": "chat", "user_id": "u", "rehash_round": 1, "it": 100, "ot": 9, "ct": 10,
        "started_at": "2026-03-02 09:00:00.5", "completed_at": "2026-03-02 09:00:02.5", "ttft": 0.25,
    }  # fmt: skip
    trace = read(json_lines(tmp_path, [row, row | {"rehash_round": 2}, row]), "chutes")
    assert numbers(trace.user) == [0, 1, 0]
    assert seconds(trace.e2e_us) == [2.0] * 3 and numbers(trace.new_tokens) == [90] * 3


def test_an_access_log_with_usage_is_read(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 40}}
    row = {"created": START, "model": "coder", "object": "chat.completion", "usage": usage, "duration_ms": 900.5}
    rows = [row, row | {"status": 500}, row | {"object": "list"}, row | {"usage": usage | {"completion_tokens": 0}}]
    trace = read(json_lines(tmp_path, rows), "openai-access")
    assert numbers(trace.new_tokens) == [60] and seconds(trace.e2e_us) == [0.9005]
    assert trace.dropped == {"failed": 1, NO_COMPLETION: 1, "output_tokens is 0": 1}


# --- all of them


def test_no_two_gateways_are_mistaken_for_each_other() -> None:
    for name, gateway in GATEWAYS.items():
        for marks in gateway.marks:
            fits = [other for other, known in GATEWAYS.items() if any(set(m) <= set(marks) for m in known.marks)]
            assert fits == [name], marks


def test_nothing_known_as_unread_is_read() -> None:
    for gateway in GATEWAYS.values():
        tops = {column.partition(".")[0] for column in gateway.columns.columns()}
        assert not tops & set(gateway.never_read) - {"metadata"}
