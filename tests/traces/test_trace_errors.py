"""Every way a log or its configuration can be unusable: file, row, column and remedy are named, the value never."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from cace_env.config import ConfigError, dump, parse
from cace_env.traces import FORMAT_NAMES, FORMATS, TraceConfig, TraceError, load_config, load_trace, read_trace
from tests.support.logs import AZURE, CLAUDE, MODELS, ROWS, Model, log_of, own, servegen, written

# --- configuration


def test_config_round_trips_through_yaml_and_loads(tmp_path: Path) -> None:
    content = {"path": str(written(tmp_path, ROWS)), "format": "azure", "tasks": {"chat": 0.5, "completion": 0.5}}
    config = parse(TraceConfig, content, "scenario.yaml")
    assert parse(TraceConfig, content, dump(config)) == config
    assert len(load_config(config, MODELS, seed=7)) == 4
    assert load_config(config, MODELS, seed=7).meta["seed"] == 7


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"format": "azur"}, "did you mean 'azure'"),
        ({"format": "splunk"}, "The formats are litellm"),
        ({"tasks": "chats"}, "did you mean 'chat'"),
        ({"tasks": {"chat": -1.0}}, "at least 0"),
        ({"time_compression": 0.0}, "greater than or equal to 0.000001"),
        ({"limit": 0}, "greater than or equal to 1"),
        ({"attach": "guess"}, "'real', 'client-as-model' or 'drawn'"),
        ({"attach": "drawn", "mapping": {"a": "b"}}, "mapping works only with attach: real"),
        ({"time_compresion": 2.0}, "unknown key"),
    ],
)
def test_config_refuses_what_it_cannot_use(wrong: dict[str, Any], message: str) -> None:
    content = {"path": "log.csv", "format": "azure"} | wrong
    with pytest.raises(ConfigError, match=message):
        parse(TraceConfig, content, "scenario.yaml")
    with pytest.raises(TraceError, match=message):
        load_trace(**content)


def test_formats_and_their_names_agree() -> None:
    assert tuple(FORMATS) == FORMAT_NAMES
    assert all(known.licence and known.attribution and known.columns and known.lacks for known in FORMATS.values())


# --- logs that cannot be used: file, row, column, value and remedy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; was the download"),
        (AZURE, "has no rows"),
        (
            "TIMESTAMP,ContextTokens,GeneratedToken\n1,2,3\n",
            "'GeneratedTokens' is missing; column 3 is called nearly so: rename it to 'GeneratedTokens'",
        ),
        ("timestamp,contexttokens,generatedtokens\n1,2,3\n", "'TIMESTAMP' is missing; column 1 is called nearly so"),
        ("a,b\n1,2\n", r"is missing; is it another format\? It has 2 columns"),
        ("time;context_tokens\n1;2\n", "separated by ';', not by commas"),
        ("time\tcontext_tokens\n1\t2\n", r"separated by '\\t', not by commas"),
        ("output_tokens,context_tokens,time\n1,2,3\n", r"it looks like format cace \(--format cace\)\. It has 3"),
        (AZURE.replace("ContextTokens", "TIMESTAMP") + "1,2,3\n", "columns 1 and 2 have the same name"),
        (AZURE.strip() + ",TIMESTAMP\n1,2,3,4\n", "columns 1 and 4 have the same name"),
        (AZURE + "1,2,3\n2,3\n", "row 2 has 2 fields, the header has 3"),
        (AZURE + '1,2,3\n2,"3\n', "is not CSV"),
        (AZURE + "1,2,3\n2,-3,4\n", r"row 2, column 'ContextTokens' \(text of 2 characters\) is below 0"),
        (AZURE + "1,nan,3\n", "row 1, column 'ContextTokens'.* is not a finite number"),
        (AZURE + "1,2,inf\n", "is not a finite number"),
        (AZURE + "1,2,3\n2,,4\n", "row 2, column 'ContextTokens'.* is not a number"),
        (AZURE + "1,2.5,3\n", "is not a whole number"),
        (AZURE + "1,many,3\n", "is not a number"),
        (AZURE + "1,3000000000,3\n", "is above 2147483647"),
        (AZURE + "1,2,0\n", "every row has a token count of 0"),
        (
            AZURE + "5,2,3\n4,2,3\n",
            "row 2, column 'TIMESTAMP'.* is before that of row 1; sort the file, or set the trace option sort=true",
        ),
        (AZURE + "2023-11-16 18:17:03,2,3\nyesterday,2,3\n", "row 2, column 'TIMESTAMP'.* is not a time"),
        (AZURE + "2023-11-16 18:17:03,2,3\n,2,3\n", "row 2, column 'TIMESTAMP'.* is not a time"),
        (
            AZURE + "1700000000,2,3\n1700000000000,2,3\n",
            r"row 2, column 'TIMESTAMP' \(text of 13 characters\) is after 2099 as s "
            r"\(below 4,102,444,800 are allowed\); is it in ms\? Divide the column by 1,000$",
        ),
        (AZURE + "1700000000000000,2,3\n", r"is it in us\? Divide the column by 1,000,000$"),
        (AZURE + "1700000000000000000,2,3\n", r"is it in ns\? Divide the column by 1,000,000,000$"),
        (AZURE + "1e25,2,3\n", "is after 2099 as s .*; correct or remove the row$"),
        (AZURE + "-1700000000000,2,3\n", "is after 2099 as s"),
        (
            AZURE + "2023-11-16 18:17:03,2,3\n2999-01-01,2,3\n",
            "row 2, column 'TIMESTAMP'.* is before 1700 or after 2099",
        ),
        (
            AZURE + "2023-11-16 18:17:03,2,3\n2023-11-16 18:17:04+00:00,2,3\n",
            "row 2.*has another zone than the rows before it; convert all times to UTC",
        ),
        (AZURE + "2023-11-16T18:17:03Z,2,3\n2023-11-16T19:17:04+01:00,2,3\n", "has another zone"),
    ],
)
def test_unusable_log_is_refused_with_row_column_and_remedy(tmp_path: Path, content: str, message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(TraceError, match=message) as refused:
        load_trace(path, "azure", models=MODELS)
    assert str(path) in str(refused.value)


def test_log_of_another_format_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"'time' is missing; it looks like format azure \(--format azure\)"):
        read_trace(written(tmp_path, ROWS), "cace")
    bailian = (
        '{"chat_id": 1, "parent_chat_id": -1, "timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": []}'
    )
    with pytest.raises(TraceError, match="it looks like format bailian"):  # it has all columns of mooncake too
        read_trace(written(tmp_path, bailian, "log.jsonl"), "azure")


ONE_ROW = {
    "cace": "time,context_tokens,output_tokens\n1700000000000,2,3\n",
    "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Log Type\n1700000000000,GPT-4,2,3,x\n",
    "mooncake": '{"timestamp": 1700000000000000, "input_length": 5, "output_length": 1, "hash_ids": []}',
    "bailian": '{"timestamp": 1700000000000, "input_length": 5, "output_length": 1, "hash_ids": [], "chat_id": 1, '
    '"parent_chat_id": -1}',
    "gentd26": "gmt_create,groupId,checkpoint_model_version_id\n1700000000000,g,m\n",
    "claude-code": CLAUDE + "s1,main,1700000000000,opus,1,1,0,1,0\n",
}


@pytest.mark.parametrize("name", ONE_ROW)
def test_times_in_a_finer_unit_than_the_format_has_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        TraceError, match=r"row 1, column .* is after 2099 as m?s .* Divide the column by 1,000"
    ) as refused:
        read_trace(written(tmp_path, ONE_ROW[name]), name)
    assert "1700000000000" not in str(refused.value)


def test_time_stamps_of_parquet_after_2099_are_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    times = pyarrow.array([1_700_000_000_000], pyarrow.timestamp("s"))  # ms that were written as seconds
    table = pyarrow.table({"time": times, "context_tokens": [2], "output_tokens": [3]})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "log.parquet")
    with pytest.raises(TraceError, match=r"row 1, column 'time'.* is before 1700 or after 2099"):
        read_trace(tmp_path / "log.parquet", "cace")


def test_rows_are_numbered_as_in_the_file_after_a_skip(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="row 4, column 'ContextTokens'"):
        read_trace(written(tmp_path, ROWS.replace(",103,", ",-1,")), "azure", skip=2)


def test_skip_beyond_the_end_is_said(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no rows after the first 9"):
        read_trace(written(tmp_path, ROWS), "azure", skip=9)


def test_unsorted_log_loads_when_asked_to_sort(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, AZURE + "5,2,3\n4,9,3\n"), "azure", sort=True)
    assert trace.context_tokens is not None
    assert trace.context_tokens.tolist() == [9, 2]


def test_session_out_of_order_is_refused_although_sessions_have_their_own_clocks(tmp_path: Path) -> None:
    rows = "s1,main,9.0,opus,1,1,0,1,0\ns2,main,0.0,opus,1,1,0,1,0\ns1,main,8.0,opus,1,1,0,1,0\n"
    with pytest.raises(TraceError, match=r"row 3, column 't_s'.* is before that of row 1"):
        read_trace(written(tmp_path, CLAUDE + rows), "claude-code")


@pytest.mark.parametrize("cut", [5, 40])
def test_truncated_gzip_is_refused(tmp_path: Path, cut: int) -> None:
    with pytest.raises(TraceError, match=r"gzip stream is cut short or damaged.*download the file again"):
        read_trace(written(tmp_path, gzip.compress(ROWS.encode())[:-cut], "log.csv.gz"), "azure")


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    for encoding in ("utf-16", "latin-1"):
        path = written(tmp_path, (AZURE + "é,1,2\n").encode(encoding))
        with pytest.raises(TraceError, match="is not UTF-8 text"):
            read_trace(path, "azure")


def test_directory_and_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="is a directory; name one log file"):
        read_trace(tmp_path, "azure")
    with pytest.raises(TraceError, match=r"no such file; check the path"):
        read_trace(tmp_path / "absent.csv", "azure")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}\n{"timest', "row 2 is not JSON"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}\n[1]', "row 2 is not an object"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1}', "'hash_ids' is missing"),
        (
            '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}\n{"timestamp": 1}',
            "row 2 has no 'input",
        ),
        ('{"timestamp": 0, "input_length": NaN, "output_length": 1, "hash_ids": [1]}', "not a finite number"),
        ('{"timestamp": 0, "input_length": true, "output_length": 1, "hash_ids": [1]}', r"\(bool\) is not a number"),
        (
            '{"timestamp": 0, "input_length": null, "output_length": 1, "hash_ids": [1]}',
            r"\(NoneType\) is not a number",
        ),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": "1"}', "not a list of whole numbers"),
    ],
)
def test_unusable_json_lines_are_refused(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_trace(written(tmp_path, lines, "log.jsonl"), "mooncake")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("0,0,10,a,chat,u,,\n", "column 'context_tokens'.* is below 1"),
        ("0,5,10,a,chatt,u,,\n", "column 'task'.* is not one of completion, chat, reasoning, agent"),
        ("0,5,10,a,chat,u,,\n1,5,10,,chat,u,,\n", "row 2, column 'model'.* is empty while other rows name one"),
        ("0,5,10,a,chat,u,0,\n", "column 'after'.* is not the number .* of a row before it"),
        ("0,5,10,a,chat,u,7,\n", "column 'after'.* is not the number"),
        ("0,5,10,a,chat,u,,\n1,5,10,a,chat,u,0,-2\n", "row 2, column 'think_s'.* is below 0 s"),
    ],
)
def test_own_log_with_a_contradiction_is_refused(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_trace(own(tmp_path, body), "cace")


def test_more_new_tokens_than_prompt_tokens_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "time,context_tokens,output_tokens,new_tokens\n0,5,1,5\n1,5,1,6\n")
    with pytest.raises(TraceError, match=r"row 2, column 'new_tokens'.* is above context_tokens"):
        read_trace(path, "cace")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attach": "real", "models": MODELS}, "names no models; use drawn"),
        ({"attach": "client-as-model", "models": MODELS}, "neither models nor users"),
        ({}, "needs the catalogue; pass models="),
        ({"models": ()}, "models is empty"),
        ({"models": [Model("m", ("chats",))]}, "serves 'chats'"),
        ({"models": [Model("m", ())]}, "serves no task"),
        ({"models": MODELS[:1], "tasks": "agent"}, "no model serves 'agent'"),
    ],
)
def test_what_cannot_be_attached_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        load_trace(written(tmp_path, ROWS), "azure", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"models": [Model("aa", ("chat",))]},
            r"'b' is not in the catalogue.*'mapping=\{b: MODEL\}'.*trace option attach=client-as-model",
        ),
        ({"models": MODELS, "mapping": {"z": "coder-7b"}}, "mapping names 'z', which is not in the log; it has a, b"),
        ({"models": MODELS, "mapping": {"a": "coder-7", "b": "r1-14b"}}, r"did you mean 'coder-7b'"),
        ({"tasks": None}, "some requests of the log have no task"),
        ({"models": MODELS, "attach": "drawn", "users": 3}, "the log has its own users"),
    ],
)
def test_models_of_the_log_must_be_found(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        load_trace(log_of(tmp_path, 4, models="ab" if "aa" not in str(options) else "b"), "cace", **options)


@pytest.mark.parametrize(
    ("rates", "more", "message"),
    [
        ("0,0,1,1,Pareto,1,1\n", {}, "neither 'Gamma' nor 'Weibull'"),
        ("0,0,1,1,Gamma,0,1\n", {}, "a shape has to be"),
        ("0,0,-1,1,Gamma,1,1\n", {}, "is below 0 s"),
        ("0,0,0,1,Gamma,1,1\n", {}, "all rates are 0"),
        ("0,0,1e6,1,Gamma,1,1\n", {}, "trace option limit=N"),
        ("0,0,1,1,Gamma,1,1\n", {"skip": 5}, "leaves no window"),
        ("0,0,1,1,Gamma,1,1\n", {"tokens_path": None}, "trace option tokens_path=FILE"),
        ("0,0,1,1,Gamma,1,1\n", {"tokens_model": "x"}, r"trace option tokens_model=NAME \(.*\), one of m"),
    ],
)
def test_unusable_rates_are_refused(tmp_path: Path, rates: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_trace(format="servegen", **(servegen(tmp_path, rates) | more))
