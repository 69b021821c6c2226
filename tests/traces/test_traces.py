"""Logs of real requests: what each loader keeps, what is attached and said."""

from __future__ import annotations

import csv
import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from cace_env.tables import NONE
from cace_env.traces import TraceError, load_trace, read_trace, write_cace
from tests.support.logs import (
    AGENT,
    AZURE,
    CHAT,
    CLAUDE,
    COMPLETION,
    MODELS,
    REASONING,
    ROWS,
    json_lines,
    own,
    servegen,
    shared_file,
    written,
)

# --- what each loader keeps


def test_azure_keeps_times_and_tokens(tmp_path: Path) -> None:
    workload = load_trace(written(tmp_path, ROWS), "azure", models=MODELS, tasks="completion")
    assert workload.arrival_us.tolist() == [0, 1_000_000, 2_000_000, 3_000_000]
    assert workload.context_tokens.tolist() == workload.new_tokens.tolist() == [100, 101, 102, 103]
    assert workload.output_tokens.tolist() == [10, 11, 12, 13]
    assert (workload.after == NONE).all() and (workload.task == COMPLETION).all()
    assert set(workload.model) <= {0, 1}  # the models that complete


def test_azure_2024_with_zones_and_whole_seconds_equals_2023(tmp_path: Path) -> None:
    rows_2024 = AZURE + "2024-05-10 00:00:00.009930+00:00,5,1\n2024-05-10 00:00:01+00:00,6,2\n"
    trace = read_trace(written(tmp_path, rows_2024), "azure")
    assert trace.time_us.tolist() == [0, 990_070]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_gzip_byte_order_mark_and_line_ends_change_nothing(tmp_path: Path, packed: bool, ends: str) -> None:
    content = b"\xef\xbb\xbf" + ROWS.replace("\n", ends).encode()
    path = written(tmp_path, gzip.compress(content) if packed else content, "suffix.does.not.matter")
    assert read_trace(path, "azure").time_us.tolist() == [0, 1_000_000, 2_000_000, 3_000_000]


def test_limit_and_skip_cut_the_log_by_rows(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, ROWS), "azure", skip=1, limit=2)
    assert trace.context_tokens is not None
    assert trace.context_tokens.tolist() == [101, 102]
    assert trace.rows_read == 2


def test_failed_calls_of_burstgpt_are_dropped_and_counted(tmp_path: Path) -> None:
    header = "Timestamp,Session ID,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    rows = "5,a,ChatGPT,472,18,490,Conversation log\n45,,GPT-4,1087,0,1087,API log\n118,a,GPT-4,417,276,693,API log\n"
    workload = load_trace(written(tmp_path, header + rows), "burstgpt", models=MODELS, attach="client-as-model")
    assert workload.arrival_us.tolist() == [0, 113_000_000]
    assert workload.meta["dropped"] == {"Response tokens is 0": 1}
    assert workload.task.tolist() == [CHAT, COMPLETION]  # API calls: the main task of the attached model, coder-7b
    assert workload.session.tolist() == [0, 0]


def test_mooncake_turns_shared_prompt_blocks_into_sessions(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_length": 1500, "output_length": 5, "hash_ids": [0, 1, 2]},
        {"timestamp": 3000, "input_length": 1400, "output_length": 5, "hash_ids": [0, 7, 8]},  # only the system prompt
        {
            "timestamp": 9000,
            "input_length": 2100,
            "output_length": 5,
            "hash_ids": [0, 1, 2, 3, 4],
        },  # continues the first
    ]
    workload = load_trace(json_lines(tmp_path, rows), "mooncake", models=MODELS)
    assert workload.arrival_us.tolist() == [0, 3_000_000, 9_000_000]
    assert workload.session.tolist() == [0, 1, 0]
    assert workload.new_tokens.tolist() == [1500, 1400, 2100 - 3 * 512]
    assert (workload.task == CHAT).all()


def test_bailian_follows_parents_and_shares_only_within_a_conversation(tmp_path: Path) -> None:
    base = {"output_length": 9, "type": "text", "turn": 1}
    rows = [
        base | {"chat_id": 1, "parent_chat_id": -1, "timestamp": 0.5, "input_length": 40, "hash_ids": [5, 6, 7]},
        base | {"chat_id": 2, "parent_chat_id": -1, "timestamp": 1.0, "input_length": 40, "hash_ids": [5, 6, 8]},
        base | {"chat_id": 3, "parent_chat_id": 1, "timestamp": 2.0, "input_length": 60, "hash_ids": [5, 6, 9, 10]},
    ]
    workload = load_trace(json_lines(tmp_path, rows), "bailian", models=MODELS, tasks="chat")
    assert workload.session.tolist() == [0, 1, 0]
    assert workload.new_tokens.tolist() == [40, 40, 60 - 2 * 16]


def test_gentd26_keeps_models_users_and_order_and_draws_tokens(tmp_path: Path) -> None:
    header = "gmt_create,predict_status,groupId,checkpoint_model_version_id\n"
    rows = "2024-11-15 16:57:50,SUCCEED,G0,M7\n2024-11-15 16:58:50,PENDING,G1,\n2024-11-15 16:59:50,FAILED,G0,M7\n"
    workload = load_trace(written(tmp_path, header + rows), "gentd26", tasks="chat")
    assert workload.arrival_us.tolist() == [0, 120_000_000]
    assert workload.user.tolist() == [0, 0]
    assert workload.meta["model_names"] == ["M7"]
    assert workload.meta["dropped"] == {"no model": 1}
    assert workload.label == "composite gentd26: tasks all chat, tokens drawn"


def test_claude_code_sessions_are_chains_on_a_common_clock(tmp_path: Path) -> None:
    rows = (
        "s1,main,0.0,opus,1000,10,0,2.0,0.0\n"
        "s1,agent_1,5.0,haiku,300,10,0,1.0,0.0\n"
        "s1,agent_1,9.0,haiku,400,0,300,1.0,3.0\n"  # no output: dropped
        "s1,agent_1,12.0,haiku,500,10,400,1.0,2.0\n"
        "s1,main,30.0,opus,1200,10,1000,,\n"
        "s2,main,0.0,opus,900,10,0,1.0,0.0\n"
    )
    workload = load_trace(written(tmp_path, CLAUDE + rows), "claude-code", attach="real")
    first = int(np.flatnonzero(workload.context_tokens == 1000)[0])
    follows = {int(c): int(workload.after[i]) for i, c in enumerate(workload.context_tokens)}
    by_context = {int(c): i for i, c in enumerate(workload.context_tokens)}
    assert follows[1000] == follows[900] == NONE
    assert follows[300] == follows[1200] == first  # a sub-agent follows the main agent's last request
    assert follows[500] == by_context[300]
    think_s = workload.think_us[[by_context[c] for c in (300, 500, 1200)]] / 1e6
    assert think_s.tolist() == [3.0, 2.0, 28.0]  # gap - latency where none is recorded
    assert workload.new_tokens[by_context[1200]] == 200
    assert workload.session[by_context[300]] != workload.session[first]
    assert workload.user[by_context[300]] == workload.user[first] != workload.user[by_context[900]]
    assert workload.label == "composite claude-code: sessions placed"
    assert (workload.task == AGENT).all()


def test_cups_counts_shown_completions_only_one_in_flight_per_user(tmp_path: Path) -> None:
    header = "user,t_s,state,prompt_chars,completion_tokens\n"
    rows = "0,0.0,Shown,353.0,16\n0,1.0,Accepted,353.0,16\n0,4.5,Shown,706.0,7\n1,0.0,Shown,35.3,0\n"
    workload = load_trace(written(tmp_path, header + rows), "cups", models=MODELS)
    assert workload.context_tokens.tolist() == [100, 200]
    assert workload.after.tolist() == [NONE, 0]
    assert workload.think_us.tolist() == [0, 4_500_000]
    assert workload.meta["dropped"] == {"completion_tokens is 0": 1}


def test_realhumaneval_conversations_share_what_was_said_before(tmp_path: Path) -> None:
    header = "programmer,t,model,task,prompt_chars,messages,response_chars\n"
    rows = "63,0.0,GPT,sum,353,1,353\n63,20.0,GPT,sum,1059,3,353\n63,90.0,GPT,table,353,1,353\n"
    workload = load_trace(written(tmp_path, header + rows), "realhumaneval")
    assert workload.context_tokens.tolist() == [100, 300, 100]
    assert workload.new_tokens.tolist() == [100, 100, 100]
    assert workload.session.tolist() == [1, 1, 2]
    assert workload.after.tolist() == [NONE, 0, 1]


def test_servegen_draws_the_measured_rate_and_tokens_of_the_client(tmp_path: Path) -> None:
    rates = "0,0,0.5,3.0,Gamma,0.1,20\n1,0,0.1,1.0,Weibull,1.0,10\n0,600,1.0,1.0,Gamma,1.0,1.0\n"
    workload = load_trace(format="servegen", models=MODELS, **servegen(tmp_path, rates))
    assert len(workload) == 300 + 60 + 600
    assert np.bincount(workload.user).tolist() == [900, 60]
    assert (
        workload.context_tokens[workload.user == 0].max()
        <= 40
        < 1000
        <= workload.context_tokens[workload.user == 1].min()
    )
    assert (np.diff(workload.arrival_us) >= 0).all() and workload.arrival_us[-1] < 1_200_000_000
    assert workload.label.startswith("composite servegen: arrivals drawn, tokens drawn, models drawn")


def test_servegen_bursts_where_the_cv_is_high(tmp_path: Path) -> None:
    def cv(rates: str) -> float:
        gaps = np.diff(read_trace(format="servegen", **servegen(tmp_path, rates)).time_us)
        return float(gaps.std() / gaps.mean())

    assert cv("0,0,5,1,Gamma,1.0,0.2\n") == pytest.approx(1.0, abs=0.1)
    assert cv("0,0,5,3,Gamma,0.111,1.8\n") > 2.0


def test_servegen_limit_and_skip_leave_the_other_arrivals_alone(tmp_path: Path) -> None:
    given = servegen(tmp_path, "0,0,0.5,3,Gamma,0.1,20\n0,600,0.5,3,Gamma,0.1,20\n")
    whole = read_trace(format="servegen", **given)
    cut = read_trace(format="servegen", limit=100, **given)
    late = read_trace(format="servegen", skip=1, **given)
    assert np.array_equal(whole.time_us[:100], cut.time_us)
    assert whole.context_tokens is not None and cut.context_tokens is not None
    assert np.array_equal(whole.context_tokens[:100], cut.context_tokens)
    assert np.array_equal(np.diff(whole.time_us[300:]), np.diff(late.time_us))


def test_servegen_clients_without_tokens_borrow_them_instead_of_leaving(tmp_path: Path) -> None:
    trace = read_trace(format="servegen", **servegen(tmp_path, "0,0,0.1,1,Gamma,1,1\n9,0,0.1,1,Gamma,1,1\n"))
    assert len(trace) == 120
    assert any("1 of 2 clients" in note for note in trace.notes)


# --- our own schema


def test_own_log_that_says_everything_is_a_trace_and_no_composite(tmp_path: Path) -> None:
    path = own(tmp_path, "0,100,10,coder-7b,completion,ann,,\n1.5,200,20,r1-14b,reasoning,bob,0,2.5\n")
    workload = load_trace(path, "cace", models=MODELS)
    assert workload.label == "trace cace"
    assert workload.model.tolist() == [1, 3] and workload.task.tolist() == [COMPLETION, REASONING]
    assert workload.after.tolist() == [NONE, 0] and workload.think_us.tolist() == [0, 2_500_000]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet"])
def test_what_is_written_in_our_schema_reads_back_equal(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs the extra: pip install 'cace-env[traces]'")
    rows = "s1,main,0.0,opus,1000,10,0,2.0,0.0\ns1,main,30.0,haiku,1200,10,1000,2.0,28.0\n"
    before = read_trace(written(tmp_path, CLAUDE + rows), "claude-code")
    write_cace(before, tmp_path / f"own{suffix}", origin="claude-code")
    after = read_trace(tmp_path / f"own{suffix}", "cace")
    for name in ("time_us", "context_tokens", "new_tokens", "output_tokens", "model", "task", "after", "think_us"):
        assert np.array_equal(getattr(before, name), getattr(after, name)), name
    assert after.model_ids == before.model_ids
    assert after.altered == ("sessions placed",)  # a detour by our schema does not make a composite a trace


def test_sort_moves_followers_with_the_requests_they_wait_for(tmp_path: Path) -> None:
    path = own(tmp_path, "5,100,10,a,,u,,\n9,200,20,a,,u,0,1\n1,300,30,a,,v,,\n")
    trace = read_trace(path, "cace", sort=True)
    assert trace.context_tokens is not None and trace.after is not None
    assert trace.context_tokens.tolist() == [300, 100, 200]
    assert trace.after.tolist() == [NONE, NONE, 1]


def test_follower_of_a_skipped_row_arrives_at_its_recorded_time(tmp_path: Path) -> None:
    path = own(tmp_path, "0,100,10,a,,u,,\n9,200,20,a,,u,0,1\n10,200,20,a,,u,1,1\n")
    trace = read_trace(path, "cace", skip=1)
    assert trace.after is not None
    assert trace.after.tolist() == [NONE, 0]
    assert "1 requests follow rows that were skipped" in trace.notes[0]


# --- Parquet


def test_parquet_with_time_stamps_equals_csv(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra: pip install 'cace-env[traces]'")
    import pyarrow.parquet as parquet

    times = pyarrow.array([1_700_000_000_000_000, 1_700_000_002_500_000], pyarrow.timestamp("us", tz="UTC"))
    table = pyarrow.table({"time": times, "context_tokens": [5, 6], "output_tokens": [1, 2]})
    parquet.write_table(table, tmp_path / "log.parquet")
    assert read_trace(tmp_path / "log.parquet", "cace").time_us.tolist() == [0, 2_500_000]
    parquet.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(TraceError, match="has no rows"):
        read_trace(tmp_path / "empty.parquet", "cace")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "log.parquet").read_bytes()[:-20])
    with pytest.raises(TraceError, match="not a whole Parquet file"):
        read_trace(tmp_path / "cut.parquet", "cace")


def test_missing_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TraceError, match=r"pip install 'cace-env\[traces\]'"):
        read_trace(written(tmp_path, b"PAR1....", "log.parquet"), "cace")


# --- the real files


def test_real_azure_conversation_has_the_published_quantiles() -> None:
    trace = read_trace(shared_file("azure2023_conv.csv.gz"), "azure")
    assert len(trace) == 19_366
    assert trace.context_tokens is not None and trace.output_tokens is not None
    assert np.percentile(trace.context_tokens, [10, 50, 90, 99]) == pytest.approx([207, 1020, 2734, 4142], rel=0.01)
    assert np.percentile(trace.output_tokens, [10, 50, 90, 99]) == pytest.approx([54, 129, 424, 601], rel=0.01)
    gaps = np.diff(trace.time_us)
    assert gaps.std() / gaps.mean() == pytest.approx(1.09, abs=0.01)


def test_real_gentd26_users_repeat_their_model_as_published() -> None:
    path = shared_file("alibaba_gentd26_requests_before_1202.csv.gz")
    workload = load_trace(path, "gentd26", tasks="chat")
    order = np.argsort(workload.user, kind="stable")
    same_user = np.diff(workload.user[order]) == 0
    repeats = (np.diff(workload.model[order]) == 0)[same_user]
    assert repeats.mean() == pytest.approx(0.72, abs=0.06)
    assert np.bincount(workload.model)[0] / len(workload) == pytest.approx(0.31, abs=0.02)


def test_real_claude_code_sessions_keep_their_think_times() -> None:
    workload = load_trace(
        shared_file("claude_code_requests_train.csv.gz"), "claude-code", models=MODELS, attach="drawn"
    )
    assert len(workload) == 34_034 - 17
    assert np.percentile(workload.context_tokens, [10, 50, 90]) == pytest.approx([42e3, 104e3, 234e3], rel=0.06)
    assert np.median(workload.think_us[workload.after != NONE]) / 1e6 == pytest.approx(7.0, abs=4.0)


def test_real_servegen_rate_is_kept() -> None:
    path, tokens = shared_file("servegen_m-large_rates_days0-9.csv.gz"), shared_file("servegen_client_tokens.csv.gz")
    with gzip.open(path, "rt") as file:
        rates = [float(row["rate"]) for row in csv.DictReader(file) if row["t"] == "0"]
    trace = read_trace(path, "servegen", tokens_path=str(tokens), limit=200_000)
    in_first_window = int((trace.time_us < 599_000_000).sum())
    assert in_first_window == pytest.approx(sum(rates) * 600, rel=0.01)


@pytest.mark.parametrize(
    ("name", "trace_format", "requests"),
    [
        ("azure2023_code_first60.csv.gz", "azure", 6_521),
        ("copilot_cups_events.csv.gz", "cups", 1_090),
        ("realhumaneval_chat.csv.gz", "realhumaneval", 1_053),
    ],
)
def test_real_files_load_whole(name: str, trace_format: str, requests: int) -> None:
    assert len(load_trace(shared_file(name), trace_format, models=MODELS, attach="drawn")) == requests
