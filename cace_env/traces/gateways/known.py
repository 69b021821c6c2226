"""The gateways whose logs are known here: their column maps, and what tells them apart.

Names are those of the systems' own source (see `docs/traces.md` for versions). Where a log holds the same twice, the
first column that is not empty counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cace_env.traces.gateways.columns import ColumnMap
from cace_env.traces.gateways.nested import spans_of, steps_of

_SERVED: Final = {"matches": "(success)?", "reason": "failed"}
_OK: Final = {"matches": r"(2\d\d)?", "reason": "failed"}


@dataclass(frozen=True)
class Gateway:
    """A gateway's log, and what users must know about it."""

    columns: ColumnMap
    marks: tuple[tuple[str, ...], ...]  # a log is this gateway's if it has all columns of one of these
    where: str  # how to get such a log
    lacks: str
    never_read: tuple[str, ...] = ()  # columns that are known and not looked at
    table: str = ""  # of its SQLite file
    select: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)  # made column: (SQL, its columns)
    licence: str = "yours"
    attribution: str = "yours"
    explode: Any = None  # where an element of the log holds several rows: element -> rows


def _map(**given: Any) -> ColumnMap:
    return ColumnMap.model_validate(given)


GATEWAYS: Final[Mapping[str, Gateway]] = {
    "litellm": Gateway(
        _map(
            time="startTime",
            end="endTime",
            first_token="completionStartTime",
            context_tokens="prompt_tokens",
            output_tokens="completion_tokens",
            cached_tokens="metadata.usage_object.prompt_tokens_details.cached_tokens",
            model={"columns": ["model_group", "model"]},
            user={"columns": ["end_user", "user", "api_key"], "unknown": ["default_user_id"]},
            session="session_id",
            keep=(
                {"columns": ["status"], **_SERVED},
                {
                    "columns": ["call_type"],
                    "matches": "(a?(text_)?completion|a?responses|anthropic_messages|a?generate_content(_stream)?)?",
                    "reason": "no completion (embeddings, images, ...)",
                },
                {"columns": ["cache_hit"], "matches": "(?:|false|none|null)", "reason": "answered from the cache"},
            ),
            timing=(
                {
                    "columns": ["call_type"],
                    "matches": "(a?(text_)?completion|a?responses|a?generate_content(_stream)?)?",
                    "reason": "startTime of /v1/messages is that of the first byte",
                },
            ),
        ),
        (("startTime", "endTime", "prompt_tokens", "completion_tokens", "call_type"),),
        "table LiteLLM_SpendLogs as JSON lines, CSV or Parquet, or GET /spend/logs/v2",
        "tasks, loads; TTFT of what is not streamed",
        (
            "messages",
            "response",
            "proxy_server_request",
            "request_tags",
            "requester_ip_address",
            "cache_key",
            "api_base",
            "request_id",
            "spend",
            "total_tokens",
            "model_id",
            "custom_llm_provider",
            "team_id",
            "organization_id",
            "agent_id",
            "mcp_namespaced_tool_name",
            "request_duration_ms",
        ),
    ),
    "llama-swap": Gateway(
        _map(
            end={"columns": ["timestamp", "ts_created"]},
            e2e={"columns": ["duration_ms"], "unit": "ms", "unknown": ["-1"]},
            context_tokens={
                "columns": ["tokens.input_tokens", "input_tokens"],
                "plus": ["tokens.cache_tokens", "cache_tokens"],
                "unknown": ["-1"],
            },
            output_tokens={"columns": ["tokens.output_tokens", "output_tokens"], "unknown": ["-1"]},
            cached_tokens={"columns": ["tokens.cache_tokens", "cache_tokens"], "unknown": ["-1"]},
            model={"columns": ["model", "model_id"]},
            keep=(
                {"columns": ["resp_status_code"], **_OK},
                {
                    "columns": ["req_path"],
                    "matches": r"(.*/(completions?|messages|responses|infill|generate|chat))?",
                    "reason": "no completion (embeddings, images, ...)",
                },
            ),
        ),
        (("req_path", "tokens", "duration_ms"), ("req_path", "input_tokens", "output_tokens", "duration_ms")),
        "GET /api/metrics/activity, or the SQLite file of store.path",
        "users, sessions, tasks, TTFT; its durations contain the wait for a swap",
        ("error_msg", "metadata", "metadata_json", "resp_content_type", "draft_tokens", "draft_acc_tokens"),
        table="activity",
    ),
    "openwebui": Gateway(
        _map(
            time="created_at",
            load={"columns": ["usage.load_duration"], "unit": "ns"},
            ttft={"columns": ["usage.load_duration"], "plus": ["usage.prompt_eval_duration"], "unit": "ns"},
            e2e={"columns": ["usage.total_duration"], "unit": "ns"},
            context_tokens={"columns": ["usage.input_tokens", "usage.prompt_tokens", "usage.prompt_eval_count"]},
            output_tokens={"columns": ["usage.output_tokens", "usage.completion_tokens", "usage.eval_count"]},
            model="model_id",
            user="user_id",
            session="chat_id",
            keep=(
                {"columns": ["role"], "matches": "assistant", "reason": "no answer of a model"},
                {"columns": ["failed"], "matches": "0?", "reason": "failed"},
                {"columns": ["has_usage"], "matches": "1?", "reason": "no token counts"},
            ),
            timing=(
                {"columns": ["tool_turns"], "matches": "0?", "reason": "tool turns: timings of the last one only"},
            ),
        ),
        (("chat_id", "role", "model_id", "usage"),),
        "webui.db, table chat_message",
        "tasks; TTFT but of Ollama, where it leaves out the queue; times are whole seconds",
        ("content", "output", "files", "sources", "embeds", "meta", "status_history", "error", "context_summary"),
        table="chat_message",
        select={
            "failed": ("error IS NOT NULL AND error NOT IN ('', 'null')", ("error",)),
            "has_usage": ("usage IS NOT NULL AND usage NOT IN ('', 'null', '{}')", ("usage",)),
            "tool_turns": (
                "instr(coalesce(output, ''), 'function_call') > 0 OR instr(coalesce(content, ''), 'tool_calls') > 0",
                ("output", "content"),
            ),
        },
    ),
    "otel": Gateway(
        _map(
            time={"columns": ["startTimeUnixNano"], "unit": "ns"},
            end={"columns": ["endTimeUnixNano"], "unit": "ns"},
            ttft={"columns": ["gen_ai.latency.time_to_first_token", "gen_ai.response.time_to_first_chunk"]},
            e2e="gen_ai.latency.e2e",
            context_tokens={"columns": ["gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"]},
            output_tokens={"columns": ["gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"]},
            cached_tokens={"columns": ["gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens"]},
            model={"columns": ["gen_ai.request.model", "gen_ai.response.model"]},
            user={"columns": ["gen_ai.user", "llm.user", "user.id", "enduser.id"]},
            session={"columns": ["gen_ai.conversation.id", "session.id"]},
            keep=(
                {
                    "columns": ["operation"],
                    "matches": "chat|text_completion|completion|generate_content|llm_request",
                    "reason": "no call of a model (embeddings, tools, agents, ...)",
                },
                {"columns": ["status"], "matches": "([01]|STATUS_CODE_UNSET|STATUS_CODE_OK)?", "reason": "failed"},
                {"columns": ["error.type"], "matches": "", "reason": "failed"},
            ),
        ),
        (("resourceSpans",),),
        "OTLP JSON, such as the file exporter of the collector writes it",
        "tasks, loads; users and sessions where no attribute names them",
        explode=spans_of,
    ),
    "langfuse": Gateway(
        _map(
            time={"columns": ["start_time", "startTime"]},
            end={"columns": ["end_time", "endTime"]},
            first_token={"columns": ["completion_start_time", "completionStartTime"]},
            ttft={"columns": ["time_to_first_token", "timeToFirstToken"]},
            e2e="latency",
            context_tokens={
                "columns": [
                    "usage_details.input",
                    "usageDetails.input",
                    "usage.input",
                    "usage.promptTokens",
                    "promptTokens",
                ],
                "plus": ["usage_details.input_cached_tokens", "usageDetails.input_cached_tokens"],
            },
            output_tokens={
                "columns": [
                    "usage_details.output",
                    "usageDetails.output",
                    "usage.output",
                    "usage.completionTokens",
                    "completionTokens",
                ]
            },
            cached_tokens={"columns": ["usage_details.input_cached_tokens", "usageDetails.input_cached_tokens"]},
            model={"columns": ["provided_model_name", "providedModelName", "model"]},
            user={"columns": ["user_id", "userId"]},
            session={"columns": ["session_id", "sessionId", "trace_id", "traceId"]},
            keep=(
                {"columns": ["type"], "matches": "(GENERATION)?", "reason": "no generation"},
                {"columns": ["level"], "matches": "(DEFAULT|DEBUG|WARNING)?", "reason": "failed"},
            ),
        ),
        (
            ("start_time", "end_time", "provided_model_name", "usage_details"),
            ("startTime", "endTime", "traceId", "usageDetails"),
            ("startTime", "endTime", "traceId", "usage"),
        ),
        "blob export observations_v2 (Parquet, CSV, JSON lines), or GET /api/public/observations",
        "tasks, loads",
        (
            "input",
            "output",
            "metadata",
            "id",
            "project_id",
            "environment",
            "parent_observation_id",
            "name",
            "model_parameters",
            "total_cost",
            "trace_name",
            "model_id",
        ),
    ),
    "helicone": Gateway(
        _map(
            time="request_created_at",
            e2e={"columns": ["delay_ms"], "unit": "ms"},
            ttft={"columns": ["time_to_first_token"], "unit": "ms"},
            context_tokens={
                "columns": ["prompt_tokens"],
                "plus": ["prompt_cache_read_tokens", "prompt_cache_write_tokens"],
            },
            output_tokens="completion_tokens",
            cached_tokens="prompt_cache_read_tokens",
            model={"columns": ["request_model", "model_override", "response_model"]},
            user="request_user_id",
            session="request_properties.Helicone-Session-Id",
            keep=(
                {"columns": ["response_status"], **_OK},
                {
                    "columns": ["request_path"],
                    "matches": r"(.*(/(completions?|messages|responses)|:(stream)?generateContent)/?(\?.*)?)?",
                    "reason": "no completion (embeddings, images, ...)",
                },
            ),
        ),
        (("request_created_at", "delay_ms", "prompt_tokens", "completion_tokens"),),
        "npx @helicone/export (JSON lines, JSON, CSV)",
        "tasks, loads",
        (
            "request_body",
            "response_body",
            "request_id",
            "response_id",
            "provider",
            "total_tokens",
            "response_created_at",
        ),
    ),
    "freeinference": Gateway(
        _map(
            time={"columns": ["start_ms"], "unit": "ms"},
            end={"columns": ["end_ms"], "unit": "ms"},
            ttft={"columns": ["ttft_ms"], "unit": "ms"},
            context_tokens="provider_tokens.prompt",
            output_tokens="provider_tokens.completion",
            cached_tokens="provider_tokens.cached",
            model="model",
            user="user_id",
            session="session_id",
        ),
        (("session_id", "harness", "requests"),),
        "freeinference_agentic_trace on Hugging Face, as JSON lines",
        "loads; a task: all of it is work of agents",
        ("week", "day", "harness"),
        licence="CC BY 4.0",
        attribution="FreeInference Agentic Trace, Harvard MadSys",
        explode=steps_of,
    ),
    "chutes": Gateway(
        _map(
            time="started_at",
            end="completed_at",
            ttft="ttft",
            context_tokens="it",
            output_tokens="ot",
            cached_tokens="ct",
            model={"columns": ["chute_id", "function_name"]},
            user={"columns": ["user_id"], "plus": ["rehash_round"]},
        ),
        (("chute_id", "function_name", "started_at", "it", "ot"),),
        "the public invocation trace, Parquet",
        "names of models, sessions, tasks, loads",
        ("invocation_id", "instance_id"),
        licence="CC BY 4.0",
        attribution="Chutes invocation trace; Nixon et al.",
    ),
    "openai-access": Gateway(
        _map(
            time={"columns": ["created", "timestamp", "time", "ts"]},
            e2e={"columns": ["duration_ms", "latency_ms"], "unit": "ms"},
            ttft={"columns": ["ttft_ms", "time_to_first_token_ms"], "plus": ["queue_time_ms"], "unit": "ms"},
            context_tokens={"columns": ["usage.prompt_tokens", "usage.input_tokens"]},
            output_tokens={"columns": ["usage.completion_tokens", "usage.output_tokens"]},
            cached_tokens={
                "columns": [
                    "usage.prompt_tokens_details.cached_tokens",
                    "usage.input_tokens_details.cached_tokens",
                ]
            },
            model="model",
            user={"columns": ["user", "user_id"]},
            session={"columns": ["session_id", "conversation_id", "conversation"]},
            keep=(
                {"columns": ["status", "status_code"], "matches": r"(2\d\d|ok|success|completed)?", "reason": "failed"},
                {
                    "columns": ["object"],
                    "matches": r"(chat\.completion(\.chunk)?|text_completion|response)?",
                    "reason": "no completion (embeddings, images, ...)",
                },
            ),
        ),
        (("created", "model", "usage"), ("timestamp", "model", "usage"), ("time", "model", "usage")),
        "JSON lines, one response (or access log line) with its `usage` each",
        "tasks, loads; what your server does not write",
        ("id", "choices", "messages", "system_fingerprint", "output", "input"),
    ),
}

# Open-loop formats of requests that are not a gateway's, which an import can read row by row like one.
PLAIN: Final[Mapping[str, ColumnMap]] = {
    "azure": _map(time="TIMESTAMP", context_tokens="ContextTokens", output_tokens="GeneratedTokens", clock="any"),
    "burstgpt": _map(
        time={"columns": ["Timestamp"], "unit": "s"},
        context_tokens="Request tokens",
        output_tokens="Response tokens",
        model="Model",
        task={"columns": ["Log Type"], "values": {"Conversation log": "chat"}},
        session="Session ID",
        clock="any",
    ),
    "cace": _map(
        time="time",
        ttft="ttft_s",
        e2e="e2e_s",
        load="load_s",
        clock="any",
        **{
            name: name for name in ("context_tokens", "output_tokens", "new_tokens", "model", "task", "user", "session")
        },
    ),
}
