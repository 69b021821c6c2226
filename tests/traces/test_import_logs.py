"""What an import keeps, leaves out, counts and writes, whatever the gateway."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cace_env.traces import TraceError, guess_format, load_trace, read_trace, write_cace
from experiments import import_logs
from experiments.yardsticks.gateway_logs import SCHEMAS, calls, write_log, write_openwebui
from tests.support.imports import ROW, imported, refused, same, spend
from tests.support.logs import CHAT, CLAUDE, COMPLETION, MODELS, ROWS, own, shared_file, written

# --- what is kept


def test_an_import_reads_back_as_a_trace_with_measured_times(tmp_path: Path) -> None:
    path = spend(tmp_path, {"completionStartTime": "2026-03-02T09:00:00.250Z"}, {}, {"completionStartTime": None})
    audit = imported(path, tmp_path / "out")
    assert audit["rows"] == {"in": 3, "out": 3, "rejected": 0}
    trace = read_trace(tmp_path / "out")
    assert trace.began_us == 1_772_442_000_000_000
    assert trace.time_us.tolist() == [0, 1_000_000, 2_000_000]
    assert trace.ttft_us is not None and trace.e2e_us is not None
    assert trace.ttft_us.tolist() == [250_000, 500_000, -1]
    assert trace.e2e_us.tolist() == [60_000_000] * 3
    assert trace.model_ids == ("coder",)
    assert load_trace(tmp_path / "out", models=MODELS, attach="drawn").meta["format"] == "cace"


def test_a_raw_log_reads_like_an_imported_one(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_log("litellm", 2_000, path)
    imported(path, tmp_path / "out")
    same(read_trace(path), read_trace(tmp_path / "out"))
    same(read_trace(tmp_path / "out" / "requests.parquet"), read_trace(tmp_path / "out"))


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_the_same_rows_give_the_same_requests_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    write_log("litellm", 500, tmp_path / "log.jsonl")
    write_log("litellm", 500, tmp_path / f"other{suffix}")
    same(read_trace(tmp_path / "log.jsonl"), read_trace(tmp_path / f"other{suffix}"))


def test_a_gzipped_log_is_read(tmp_path: Path) -> None:
    write_log("litellm", 50, tmp_path / "log.jsonl")
    packed = written(tmp_path, gzip.compress((tmp_path / "log.jsonl").read_bytes()), "log.gz")
    same(read_trace(packed), read_trace(tmp_path / "log.jsonl"))


def test_requests_come_out_in_order_of_time_in_runs_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log("litellm", 12_000, tmp_path / "log.jsonl")
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    shuffled = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))]
    (tmp_path / "shuffled.jsonl").write_text("\n".join(shuffled))
    imported(tmp_path / "log.jsonl", tmp_path / "a")
    monkeypatch.setattr("cace_env.traces.gateways.runs.RUN_ROWS", 1_500)
    monkeypatch.setattr("cace_env.traces.gateways.runs.PIECE_ROWS", 100)
    monkeypatch.setattr("cace_env.traces.gateways.cutting.BLOCK", 1 << 20)
    imported(tmp_path / "shuffled.jsonl", tmp_path / "b")
    same(read_trace(tmp_path / "a"), read_trace(tmp_path / "b"))


@pytest.mark.parametrize("schema", ["otel", "litellm"])
def test_no_row_is_lost_where_a_block_ends(tmp_path: Path, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in (".jsonl", ".json", ".csv")[: None if schema == "litellm" else 2]:
        path = tmp_path / f"log{suffix}"
        write_log(schema, 20, path)
        whole = read_trace(path, schema)
        for block in (7, 500, 1_511):
            monkeypatch.setattr("cace_env.traces.gateways.cutting.BLOCK", block)
            same(read_trace(path, schema), whole)
        monkeypatch.undo()


def test_a_closed_loop_log_keeps_its_chains(tmp_path: Path) -> None:
    rows = "s1,main,0.0,opus,1000,10,0,2.0,0.0\ns1,main,30.0,haiku,1200,10,1000,2.0,28.0\n"
    path = written(tmp_path, CLAUDE + rows)
    imported(path, tmp_path / "out")
    before, after = read_trace(path, "claude-code"), read_trace(tmp_path / "out")
    same(before, after)
    assert np.array_equal(before.after, after.after) and np.array_equal(before.think_us, after.think_us)
    assert after.altered == ("sessions placed",)  # a detour by our schema does not make a composite a trace


def test_rows_that_a_loader_passes_over_are_counted_too(tmp_path: Path) -> None:
    header = "user,t_s,state,prompt_chars,completion_tokens\n"
    rows = "0,0.0,Shown,353.0,16\n0,1.0,Accepted,353.0,16\n0,4.5,Shown,706.0,0\n"
    audit = imported(written(tmp_path, header + rows), tmp_path / "out")
    assert audit["rows"]["in"] == 3 and audit["rows"]["out"] == 1
    assert audit["rejected"]["no_request"] == {"completion_tokens is 0": 1, "rows of other kinds": 1}


def test_our_own_schema_is_imported_row_by_row_with_hashed_users(tmp_path: Path) -> None:
    header = "time,context_tokens,output_tokens,model,task,user,session"
    path = own(tmp_path, "0.5,5,1,a,chat,ann,s\n1.5,6,1,b,,bob,\n", header)
    audit = imported(path, tmp_path / "out")
    assert audit["times"] == {"time": "numbers, s from an origin of its own"}
    trace = read_trace(tmp_path / "out")
    assert trace.began_us is None and trace.time_us.tolist() == [0, 1_000_000]
    assert "ann" not in (tmp_path / "out" / "requests.parquet").read_bytes().decode("latin-1")
    same(trace, read_trace(path, "cace"))


def test_a_log_without_token_counts_stays_without(tmp_path: Path) -> None:
    header = "gmt_create,groupId,checkpoint_model_version_id\n"
    rows = "2024-11-18 00:00:00,g1,m7\n2024-11-18 00:00:05,g2,m8\n"
    imported(path := written(tmp_path, header + rows), tmp_path / "out")
    trace = read_trace(tmp_path / "out")
    assert trace.context_tokens is None and trace.output_tokens is None
    before, after = load_trace(path, "gentd26", tasks="chat"), load_trace(tmp_path / "out", tasks="chat")
    assert after.output_tokens.tolist() == before.output_tokens.tolist()
    assert "tokens drawn" in after.label


def test_no_log_with_origins_loses_what_was_made_up(tmp_path: Path) -> None:
    rows = "s1,main,0.0,opus,1000,10,0,2.0,0.0\n"
    write_cace(read_trace(written(tmp_path, CLAUDE + rows), "claude-code"), tmp_path / "own.csv", origin="claude-code")
    imported(tmp_path / "own.csv", tmp_path / "out")
    assert read_trace(tmp_path / "out").altered == ("sessions placed",)


# --- the format


def test_the_format_is_guessed_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for schema in SCHEMAS:
        write_log(schema, 20, tmp_path / f"{schema}.jsonl")
        assert guess_format(tmp_path / f"{schema}.jsonl") == schema
    write_openwebui(3, tmp_path / "webui.db")
    assert guess_format(tmp_path / "webui.db") == "openwebui"
    assert guess_format(written(tmp_path, ROWS)) == "azure"
    imported(tmp_path / "litellm.jsonl", tmp_path / "out")
    assert guess_format(tmp_path / "out") == "cace"
    assert "format: litellm (guessed" in capsys.readouterr().out


def test_what_cannot_be_guessed_names_the_two_ways_out(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"--format.*--columns MAP\.yaml"):
        guess_format(written(tmp_path, "a,b\n1,2\n"))


def test_a_column_map_describes_any_log(tmp_path: Path) -> None:
    rows = "when;took;in;out;kept;who;what;ok\n".replace(";", ",")
    rows += "1772442000500,1500,100,10,40,ann,coder,yes\n1772442001000,-,100,10,?,bob,coder,yes\n"
    rows += "1772442002000,9,1,1,0,x,y,no\n"
    columns = (
        "end: when\ne2e: {columns: took, unit: ms}\ncontext_tokens: in\noutput_tokens: out\ncached_tokens: kept\n"
        'user: who\nmodel: what\nkeep: [{columns: [ok], matches: "yes", reason: refused}]\n'
    )
    map_file = written(tmp_path, columns, "map.yaml")
    audit = imported(written(tmp_path, rows), tmp_path / "out", "--columns", str(map_file), "--max-rejects", "0.5")
    assert audit["rejected"] == {
        "bad": {"took: is no duration; the start is not known": 1},
        "no_request": {"refused": 1},
    }
    assert audit["times"] == {"when": "numbers, ms since 1970"}
    trace = read_trace(tmp_path / "out")
    assert trace.began_us == 1_772_441_999_000_000 and trace.new_tokens is not None
    assert trace.new_tokens.tolist() == [60]


def test_a_column_map_says_what_values_mean(tmp_path: Path) -> None:
    rows = "time,context_tokens,output_tokens,kind\n0,5,1,autocomplete\n1,5,1,ask\n2,5,1,other\n"
    columns = (
        "time: {columns: time, unit: s}\nclock: any\ncontext_tokens: context_tokens\noutput_tokens: output_tokens\n"
    )
    columns += "task: {columns: kind, values: {autocomplete: completion, ask: chat}}\n"
    map_file = written(tmp_path, columns, "map.yaml")
    imported(written(tmp_path, rows), tmp_path / "out", "--columns", str(map_file))
    trace = read_trace(tmp_path / "out")
    assert trace.task is not None and trace.task.tolist() == [COMPLETION, CHAT, -1]


def test_logs_of_azure_and_burstgpt_are_imported_row_by_row_and_read_the_same(tmp_path: Path) -> None:
    imported(written(tmp_path, ROWS + "2023-11-16 18:17:09,x,1\n"), tmp_path / "azure", "--max-rejects", "0.5")
    same(read_trace(tmp_path / "azure"), read_trace(written(tmp_path, ROWS), "azure"))
    header = "Timestamp,Session ID,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    rows = "5,a,ChatGPT,472,18,490,Conversation log\n45,,GPT-4,1087,0,1087,API log\n118,a,GPT-4,417,276,693,API log\n"
    path = written(tmp_path, header + rows, "burst.csv")
    audit = imported(path, tmp_path / "burst")
    assert audit["format"] == "burstgpt" and audit["rejected"]["no_request"] == {"output_tokens is 0": 1}
    one, other = read_trace(tmp_path / "burst"), read_trace(path)
    assert np.array_equal(one.user, one.session) and other.user is None  # in our schema a session is a user then
    other.user = other.session
    same(one, other)
    assert np.array_equal(one.task, other.task)


# --- rows that are left out


def test_bad_rows_are_left_out_counted_and_listed_without_their_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = (
        ({"prompt_tokens": "SECRET many"}, "prompt_tokens", "is not a number"),
        ({"prompt_tokens": None}, "prompt_tokens", "is empty"),
        ({"completion_tokens": -1}, "completion_tokens", "is below 0"),
        ({"completion_tokens": 1.5}, "completion_tokens", "is not a whole number"),
        ({"completion_tokens": 3_000_000_000}, "completion_tokens", "is above 2147483647"),
        ({"startTime": "now"}, "startTime", "is not a time"),
        ({"startTime": "1999-01-01T00:00:00Z"}, "startTime", "is before 2015 or after 2099"),
        ({"model": "", "model_group": None}, "model_group", "is empty"),
        (
            {"model_group": "a\x1b[31m"},
            "model_group",
            "is no name of a model: longer than 200 characters, or with signs that none has",
        ),
        ({"user": {"SECRET": 1}}, "user", "is a list or an object"),
    )
    path = spend(tmp_path, {}, *(change for change, _, _ in bad), {})
    audit = imported(path, tmp_path / "out", "--max-rejects", "0.9")
    assert audit["rows"] == {"in": 12, "out": 2, "rejected": 10}
    assert audit["rejected"]["bad"] == {f"{column}: {reason}": 1 for _, column, reason in bad}
    listed = {(row["row"], row["column"], row["reason"]) for row in audit["bad_rows"]}
    assert listed == {(number, column, reason) for number, (_, column, reason) in enumerate(bad, 2)}
    assert next(row["length"] for row in audit["bad_rows"] if row["reason"] == "is not a number") == len("SECRET many")
    assert "SECRET" not in str(audit) + capsys.readouterr().out


def test_lines_that_are_no_rows_are_left_out_alone(tmp_path: Path) -> None:
    good = json.dumps(ROW)
    lines = [good, "{broken", "[1]", "", good, '"text"', "[" * 100_000, good[:-1], '{"n": ' + "9" * 5_000 + "}", good]
    content = "\n".join(lines).encode() + b'\n{"user": "\xff"}\n' + good.encode()
    audit = imported(written(tmp_path, content, "log.jsonl"), tmp_path / "out", "--max-rejects", "0.9")
    assert audit["rows"] == {"in": 11, "out": 4, "rejected": 7}


def test_csv_rows_of_another_width_or_encoding_are_left_out_alone(tmp_path: Path) -> None:
    header = "startTime,endTime,prompt_tokens,completion_tokens,model_group,call_type,messages\n"
    good = '2026-03-02 09:00:00,2026-03-02 09:00:05,5,1,m,,"a ""quoted""\ntext, of two lines"\n'
    content = (header + good + "2026-03-02 09:00:00,1\n" + good).encode()
    content += good.encode().replace(b",m,", b",\xff,") + good.encode() + good.encode().replace(b'lines"', b"lines")
    audit = imported(written(tmp_path, content), tmp_path / "out", "--max-rejects", "0.9")
    assert audit["rows"]["out"] == 3
    assert audit["rejected"]["bad"]["has fewer fields than the header"] >= 1
    assert audit["rejected"]["bad"]["model_group: is not UTF-8 text"] == 1
    assert audit["times_without_zone_read_as_utc"] > 0


def test_calls_that_are_no_completions_are_no_bad_rows(tmp_path: Path) -> None:
    changes: tuple[dict[str, Any], ...] = (
        {"status": "failure"},
        {"call_type": "aembedding"},
        {"cache_hit": "True"},
        {"completion_tokens": 0},
        {},
    )
    audit = imported(spend(tmp_path, *changes), tmp_path / "out")
    assert audit["rejected"]["bad"] == {}
    assert audit["rejected"]["no_request"] == {
        "failed": 1,
        "no completion (embeddings, images, ...)": 1,
        "answered from the cache": 1,
        "output_tokens is 0": 1,
    }


def test_too_many_bad_rows_fail_and_leave_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = spend(tmp_path, {}, {"prompt_tokens": "SECRET"})
    said = refused(path, tmp_path / "out", capsys)
    assert "1 of 2 rows cannot be used, more than 5%" in said and "row 2, column 'prompt_tokens'" in said
    assert "--max-rejects" in said and "SECRET" not in said
    with pytest.raises(TraceError, match="1 of 2 rows cannot be used"):
        read_trace(path)
    assert len(read_trace(path, max_rejects=0.5)) == 1


def test_a_span_of_years_is_refused_with_the_option_that_allows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = spend(tmp_path, {}, {"startTime": "2027-03-02T09:00:00Z", "endTime": None})
    assert "spans 365 days" in (said := refused(path, tmp_path / "out", capsys)) and "--max-span-days 366" in said
    imported(path, tmp_path / "out", "--max-span-days", "366")
    assert len(read_trace(tmp_path / "out")) == 2
    with pytest.raises(TraceError, match="max_span_days"):
        read_trace(path)


@pytest.mark.parametrize(("per", "unit"), [(1, "s"), (10**3, "ms"), (10**6, "us"), (10**9, "ns")])
def test_units_of_times_are_told_apart_and_said(tmp_path: Path, per: int, unit: str) -> None:
    path = spend(tmp_path, *({"startTime": (1_772_442_000 + i) * per, "endTime": None} for i in range(3)))
    audit = imported(path, tmp_path / "out")
    assert audit["times"]["startTime"] == f"numbers, {unit} since 1970"
    assert read_trace(tmp_path / "out").time_us.tolist() == [0, 1_000_000, 2_000_000]


def test_zones_are_converted_however_they_are_written(tmp_path: Path) -> None:
    stamps = ("2026-03-02T11:00:00+0200", "2026-03-02 09:00:01 UTC", "2026-03-02T09:00:02", "2026-03-02 04:00:03-05:00")
    path = spend(tmp_path, *({"startTime": stamp, "endTime": None} for stamp in stamps))
    audit = imported(path, tmp_path / "out")
    assert audit["times_without_zone_read_as_utc"] == 1
    trace = read_trace(tmp_path / "out")
    assert trace.began_us == 1_772_442_000_000_000 and trace.time_us.tolist() == [0, 1_000_000, 2_000_000, 3_000_000]


def test_without_out_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_logs.main([str(written(tmp_path, ROWS))]) == 0
    printed = capsys.readouterr().out
    assert "format: azure (guessed" in printed and "rows read" in printed and "3.0 s" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_a_made_up_log_does_what_it_says() -> None:
    made = list(calls(2_000))
    assert all(earlier.start_us <= later.start_us for earlier, later in itertools.pairwise(made))
    assert 0 < sum(call.failed for call in made) < 100 and 0 < sum(call.embedding for call in made) < 150


def test_a_real_log_is_imported_as_it_is_loaded(tmp_path: Path) -> None:
    path = shared_file("azure2023_conv.csv.gz")
    audit = imported(path, tmp_path / "out")
    assert audit["rows"] == {"in": 19_366, "out": 19_366, "rejected": 0}
    same(read_trace(tmp_path / "out"), read_trace(path, "azure"))
