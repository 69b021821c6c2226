"""One loader per log format. Each has its columns, what it lacks, its licence and the authors to credit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cace_env.tables import NONE, TASKS
from cace_env.traces.config import REQUIRED_COLUMNS, TraceConfig
from cace_env.traces.gateways import require
from cace_env.traces.gateways.known import GATEWAYS
from cace_env.traces.limits import TraceError
from cace_env.traces.reading import Table, read_table
from cace_env.traces.schema import read_cace
from cace_env.traces.servegen import read_servegen
from cace_env.traces.trace import (
    Int64Array,
    Trace,
    absolute,
    chain,
    codes,
    in_order,
    keep_positive,
    place,
    prefix_groups,
    stream,
)

COMPLETION, CHAT, AGENT = TASKS.index("completion"), TASKS.index("chat"), TASKS.index("agent")
CHARS_PER_TOKEN = 3.53  # measured: characters per token over the 1,150 completions shown in the CUPS file


def read_azure(path: Path, config: TraceConfig) -> Trace:
    """Azure LLM inference traces 2023 and 2024; a count of 0 drops the row."""
    table = read_table(path, REQUIRED_COLUMNS["azure"], (), config.skip, config.limit)
    counts = {name: table.integers(name) for name in ("ContextTokens", "GeneratedTokens")}
    time_us = table.times_us("TIMESTAMP")
    rows, dropped = _usable(table, "TIMESTAMP", time_us, counts, config)
    return _open_loop(table, time_us, rows, dropped, *counts.values())


def read_burstgpt(path: Path, config: TraceConfig) -> Trace:
    """BurstGPT; a response of 0 tokens is a failed call and drops the row."""
    table = read_table(path, REQUIRED_COLUMNS["burstgpt"], ("Session ID",), config.skip, config.limit)
    counts = {name: table.integers(name) for name in ("Request tokens", "Response tokens")}
    time_us = table.times_us("Timestamp")
    rows, dropped = _usable(table, "Timestamp", time_us, counts, config)
    trace = _open_loop(table, time_us, rows, dropped, *counts.values())
    trace.model, trace.model_ids = codes(_texts(table, "Model", rows))
    kinds = np.asarray(_texts(table, "Log Type", rows))
    trace.task = np.where(kinds == "Conversation log", CHAT, NONE).astype(np.int64)
    if "Session ID" in table.columns:
        names = _texts(table, "Session ID", rows)
        trace.session, _ = codes([name or f"row {row}" for name, row in zip(names, rows, strict=True)])
    return trace


def read_mooncake(path: Path, config: TraceConfig) -> Trace:
    """Mooncake: `timestamp` in ms, ids of blocks of 512 prompt tokens; a count of 0 drops the row."""
    table = read_table(path, REQUIRED_COLUMNS["mooncake"], (), config.skip, config.limit)
    time_us = table.times_us("timestamp", "ms")
    trace, rows = _hashed(table, time_us, config)
    assert trace.context_tokens is not None
    blocks = _blocks(table, rows)
    trace.session, trace.new_tokens = prefix_groups(blocks, trace.context_tokens, 512, None)
    trace.task = np.full(len(trace), CHAT)
    trace.notes = ("a session is a group of requests that share more than half of their prompt blocks",)
    return trace


def read_bailian(path: Path, config: TraceConfig) -> Trace:
    """Qwen-Bailian: `timestamp` in s, chat turns, ids of blocks of 16 prompt tokens; a count of 0 drops the row."""
    table = read_table(path, REQUIRED_COLUMNS["bailian"], (), config.skip, config.limit)
    time_us = table.times_us("timestamp")
    trace, rows = _hashed(table, time_us, config)
    assert trace.context_tokens is not None
    root: dict[int, int] = {}  # chat -> first chat of its conversation
    chats, parents = table.integers("chat_id"), table.integers("parent_chat_id", least=-1)
    for row in rows:
        chat, parent = int(chats[row]), int(parents[row])
        root[chat] = chat if parent < 0 else root.get(parent, parent)  # a parent before the window is a root
    trace.session, _ = codes([str(root[int(chats[row])]) for row in rows])
    _, trace.new_tokens = prefix_groups(_blocks(table, rows), trace.context_tokens, 16, trace.session)
    return trace


def read_gentd26(path: Path, config: TraceConfig) -> Trace:
    """Alibaba GenTD26, image models: order, timing and stickiness; rows without a model are dropped."""
    table = read_table(path, REQUIRED_COLUMNS["gentd26"], (), config.skip, config.limit)
    time_us = table.times_us("gmt_create")
    has_model = np.array([name != "" for name in table.texts("checkpoint_model_version_id")])
    order = in_order(table, "gmt_create", time_us, config.sort)
    rows = order[has_model[order]]
    if len(rows) == 0:
        raise TraceError(f"{path}: no row names a model in 'checkpoint_model_version_id'; is it another format?")
    missing = int((~has_model).sum())
    trace = _open_loop(table, time_us, rows, {"no model": missing} if missing else {}, None, None)
    trace.model, trace.model_ids = codes(_texts(table, "checkpoint_model_version_id", rows))
    trace.user, _ = codes(_texts(table, "groupId", rows))
    trace.session = trace.user
    return trace


def read_claude_code(path: Path, config: TraceConfig) -> Trace:
    """Claude Code sessions: closed loop, a clock per session; a count of 0 drops the row."""
    optional = ("think_time_s", "api_time_s")
    table = read_table(path, REQUIRED_COLUMNS["claude-code"], optional, config.skip, config.limit)
    counts = {name: table.integers(name) for name in ("in_tokens", "out_tokens")}
    user, _ = codes(table.texts("session"))
    rows, dropped, time_us = _placed(table, "t_s", user, counts, config)
    agents = table.texts("agent")
    session, _ = codes([f"{user[row]} {agents[row]}" for row in rows])
    is_main = np.array([agents[row] == "main" for row in rows])
    after = _sub_agents_follow(chain(session), user[rows], is_main)
    zeros = np.zeros(table.rows)
    busy_s = table.floats("api_time_s", empty=0.0) if "api_time_s" in table.columns else zeros
    recorded_s = table.floats("think_time_s", empty=-1.0) if "think_time_s" in table.columns else zeros - 1.0
    gap_s = (time_us - time_us[after]) / 1e6 - busy_s[rows][after]
    of_its_own = (after != NONE) & (session[after] == session) & (recorded_s[rows] >= 0.0)
    think_s = np.where(of_its_own, recorded_s[rows], np.maximum(gap_s, 0.0))
    context = counts["in_tokens"][rows]
    trace = _open_loop(table, time_us, np.arange(len(rows)), dropped, context, counts["out_tokens"][rows])
    trace.new_tokens = np.clip(context - table.integers("prefix_shared_tokens")[rows], 1, context)
    trace.model, trace.model_ids = codes(_texts(table, "model", rows))
    trace.task = np.full(len(rows), AGENT)
    trace.user, trace.session, trace.after = user[rows], session, after
    trace.think_us = np.where(after == NONE, 0, np.rint(think_s * 1e6)).astype(np.int64)
    trace.altered = ("sessions placed",)
    return trace


def read_cups(path: Path, config: TraceConfig) -> Trace:
    """CUPS: every completion shown is a request, closed loop per programmer; 0 tokens drop the row."""
    table = read_table(path, REQUIRED_COLUMNS["cups"], (), config.skip, config.limit)
    shown = np.asarray(table.texts("state")) == "Shown"
    if not shown.any():
        raise TraceError(f"{path}: column 'state' is never 'Shown'; is it another format?")
    tokens = np.ceil(table.seconds("prompt_chars") / CHARS_PER_TOKEN).astype(np.int64)
    counts = {"prompt_chars": tokens, "completion_tokens": table.integers("completion_tokens")}
    user, _ = codes(table.texts("user"))
    return _typed_by_people(table, "t_s", user, user, counts, COMPLETION, config, shown)


def read_realhumaneval(path: Path, config: TraceConfig) -> Trace:
    """RealHumanEval chat: closed loop per programmer, tokens from characters; 0 characters drop the row."""
    table = read_table(path, REQUIRED_COLUMNS["realhumaneval"], (), config.skip, config.limit)
    chars = {name: table.seconds(name) for name in ("prompt_chars", "response_chars")}
    counts = {name: np.ceil(values / CHARS_PER_TOKEN).astype(np.int64) for name, values in chars.items()}
    user, _ = codes(table.texts("programmer"))
    opens = table.integers("messages") <= 1  # a conversation of one message is a new one
    conversation = np.cumsum(opens | (np.diff(user, prepend=NONE) != 0))
    trace = _typed_by_people(table, "t", user, conversation, counts, CHAT, config)
    assert trace.context_tokens is not None and trace.output_tokens is not None and trace.session is not None
    before = chain(trace.session)
    known = np.where(before == NONE, 0, trace.context_tokens[before] + trace.output_tokens[before])
    trace.new_tokens = np.clip(trace.context_tokens - known, 1, trace.context_tokens)
    return trace


def _usable(
    table: Table, column: str, time_us: Int64Array, counts: Mapping[str, Int64Array], config: TraceConfig
) -> tuple[Int64Array, dict[str, int]]:
    """Row numbers in order of time, without those with 0 tokens, and how many those were."""
    dropped: dict[str, int] = {}
    keep = keep_positive(table, counts, dropped)
    order = in_order(table, column, time_us, config.sort)
    return order[keep[order]], dropped


def _placed(
    table: Table,
    column: str,
    group: Int64Array,
    counts: Mapping[str, Int64Array],
    config: TraceConfig,
    among: npt.NDArray[np.bool_] | None = None,
) -> tuple[Int64Array, dict[str, int], Int64Array]:
    """Like `_usable` for groups with their own clocks, which are placed on a common one; also returns their times."""
    time_us = table.times_us(column)
    dropped: dict[str, int] = {}
    keep = keep_positive(table, counts, dropped, among)
    order = in_order(table, column, time_us, config.sort, group)
    rows = order[keep[order]]
    placed = place(time_us[rows], group[rows], config.session_gap_s, stream(config.seed, "placement"))
    by_time = np.argsort(placed, kind="stable")
    return rows[by_time], dropped, placed[by_time]


def _open_loop(
    table: Table,
    time_us: Int64Array,
    rows: Int64Array,
    dropped: dict[str, int],
    context: Int64Array | None,
    output: Int64Array | None,
) -> Trace:
    return Trace(
        time_us=time_us[rows] - time_us[rows[0]],
        context_tokens=None if context is None else context[rows],
        new_tokens=None,
        output_tokens=None if output is None else output[rows],
        began_us=absolute(time_us[rows[0]]),
        rows_read=table.rows,
        dropped=dropped,
    )


def _hashed(table: Table, time_us: Int64Array, config: TraceConfig) -> tuple[Trace, Int64Array]:
    counts = {name: table.integers(name) for name in ("input_length", "output_length")}
    rows, dropped = _usable(table, "timestamp", time_us, counts, config)
    return _open_loop(table, time_us, rows, dropped, *counts.values()), rows


def _blocks(table: Table, rows: Int64Array) -> list[list[int]]:
    column = table.columns["hash_ids"]
    for row, ids in enumerate(column):
        if not isinstance(ids, list) or not all(type(block) is int for block in ids):
            raise table.error(row, "hash_ids", "is not a list of whole numbers; correct or remove the row")
    return [column[int(row)] for row in rows]


def _texts(table: Table, column: str, rows: Int64Array) -> list[str]:
    texts = table.texts(column)
    return [texts[row] for row in rows]


def _typed_by_people(
    table: Table,
    column: str,
    user: Int64Array,
    session: Int64Array,
    counts: Mapping[str, Int64Array],
    task: int,
    config: TraceConfig,
    among: npt.NDArray[np.bool_] | None = None,
) -> Trace:
    """One request in flight per user. The log has no latency: think = the whole gap between two requests."""
    rows, dropped, time_us = _placed(table, column, user, counts, config, among)
    context, output = (values[rows] for values in counts.values())
    trace = _open_loop(table, time_us, np.arange(len(rows)), dropped, context, output)
    if "model" in table.columns:
        trace.model, trace.model_ids = codes(_texts(table, "model", rows))
    trace.task = np.full(len(rows), task)
    trace.user, trace.session, trace.after = user[rows], session[rows], chain(user[rows])
    trace.think_us = np.where(trace.after == NONE, 0, time_us - time_us[trace.after]).astype(np.int64)
    trace.altered = ("users placed", "tokens from characters")
    trace.notes = (f"{CHARS_PER_TOKEN} characters per token", "think times include the recorded latency")
    return trace


def _sub_agents_follow(after: Int64Array, user: Int64Array, is_main: npt.NDArray[np.bool_]) -> Int64Array:
    """The first request of a sub-agent follows the last one of the main agent before it."""
    last_main: dict[int, int] = {}
    linked = after.copy()
    for row in range(len(after)):
        if is_main[row]:
            last_main[int(user[row])] = row
        elif after[row] == NONE:
            linked[row] = last_main.get(int(user[row]), NONE)
    return linked


@dataclass(frozen=True)
class Format:
    """A log format that can be loaded, and what users must know about it."""

    read: Callable[[Path, TraceConfig], Trace]
    columns: str
    lacks: str
    licence: str
    attribution: str


def read_gateway(path: Path, config: TraceConfig) -> Trace:
    """A gateway's log; rows that are no requests or cannot be used are left out and counted."""
    require(path)
    from cace_env.traces.gateways import reader

    return reader.read_gateway(path, config)


def _gateway(name: str) -> Format:
    known = GATEWAYS[name]
    return Format(read_gateway, known.where, known.lacks, known.licence, known.attribution)


FORMATS: dict[str, Format] = {name: _gateway(name) for name in GATEWAYS} | {
    "azure": Format(
        read_azure,
        "TIMESTAMP, ContextTokens, GeneratedTokens",
        "models, tasks, users, sessions, shared prefixes",
        "CC BY 4.0",
        "Azure LLM inference traces, Microsoft. 2023: Patel et al., Splitwise, ISCA 2024. "
        "2024: Stojkovic et al., DynamoLLM, HPCA 2025",
    ),
    "burstgpt": Format(
        read_burstgpt,
        "Timestamp [s], Model, Request tokens, Response tokens, Log Type; Session ID",
        "users, shared prefixes; sessions and tasks of API calls",
        "CC BY 4.0",
        "BurstGPT, HPMLL; Wang et al., arXiv 2401.17644",
    ),
    "mooncake": Format(
        read_mooncake,
        "timestamp [ms], input_length, output_length, hash_ids (blocks of 512); JSON lines",
        "models, users, sessions (grouped by shared prefixes here)",
        "Apache-2.0",
        "Mooncake traces, Moonshot AI; Qin et al., FAST 2025",
    ),
    "bailian": Format(
        read_bailian,
        "chat_id, parent_chat_id, timestamp [s], input_length, output_length, hash_ids (blocks of 16); JSON lines",
        "models, tasks, users",
        "Apache-2.0",
        "Qwen-Bailian anonymous traces, Alibaba; Wang et al., KVCache in the Wild, USENIX ATC 2025",
    ),
    "servegen": Format(
        read_servegen,
        "client, t [s], rate [1/s], cv, pattern, p1, p2; and a table of token quantiles per client (tokens_path)",
        "single requests (drawn here), models, tasks, sessions",
        "Apache-2.0",
        "ServeGen, Alibaba; Xiang et al., arXiv 2505.09999, NSDI 2026; re-tabulated",
    ),
    "gentd26": Format(
        read_gentd26,
        "gmt_create, groupId, checkpoint_model_version_id",
        "tokens (image models), tasks, sessions",
        "none stated: research or study only, do not redistribute",
        "GenTD26, Alibaba; Lin et al., SoCC 2025",
    ),
    "claude-code": Format(
        read_claude_code,
        "session, agent, t_s, model, in_tokens, out_tokens, prefix_shared_tokens; think_time_s, api_time_s",
        "a common clock of the sessions (placed here)",
        "Apache-2.0",
        "kv-cache-tester, Callan Fox, WEKA",
    ),
    "cups": Format(
        read_cups,
        "user, t_s, state, prompt_chars, completion_tokens",
        "models, prompt tokens (from characters), a common clock of the users, latencies, completions never shown",
        "MIT",
        "CUPS, Microsoft; Mozannar et al., Reading Between the Lines, CHI 2024",
    ),
    "realhumaneval": Format(
        read_realhumaneval,
        "programmer, t, model, prompt_chars, messages, response_chars",
        "tokens (from characters), a common clock of the programmers, latencies",
        "CC0",
        "RealHumanEval; Mozannar et al., arXiv 2404.02806",
    ),
    "cace": Format(
        read_cace,
        "time (s or ISO 8601), context_tokens, output_tokens; new_tokens, model, task, user, session, after, think_s",
        "nothing that you leave in",
        "yours",
        "yours",
    ),
}
