"""Claims about logs of one's own: names of models, room for them, and the scenario around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.fleets import GPUS, MODELS
from cace_env.tables import NONE, TASKS
from cace_env.traces import TraceError, read_trace
from experiments.logs.model_names import IGNORE, match_models, read_models
from experiments.logs.own_log import OwnLog, open_log, rooms, scenario_for, served
from tests.support.logs import ROWS, own, written

LOG = (
    "0,1000,10,qwen2.5-coder:7b,chat,u1,,\n"
    "1,2000,20,mellum-4b,completion,u1,,\n"
    "2,60000,10,qwen2.5-coder:7b,agent,u2,0,1.5\n"
    "3,100,10,cloud/gpt-4,,u2,2,1.0\n"
    "4,100,10,mellum-4b,completion,u2,3,1.0\n"
    "5,100,10,qwen2.5-coder:7b,chat,u1,1,1.0\n"
)


def opened(folder: Path, body: str = LOG) -> OwnLog:
    return open_log(own(folder, body))


@pytest.mark.parametrize(
    ("name", "model", "how"),
    [
        ("qwen2.5-coder-7b-int4", "qwen2.5-coder-7b-int4", "exact"),
        ("Qwen/Qwen2.5-Coder-7B-Instruct-AWQ", "qwen2.5-coder-7b-int4", "name"),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "qwen2.5-coder-7b", "name"),
        ("qwen/qwen-2.5-coder-32b-instruct:free", "qwen2.5-coder-32b", "name"),
        ("Qwen2_5_Coder_7B_Instruct_GPTQ_Int4", "qwen2.5-coder-7b-int4", "name"),
        ("qwen2.5-coder:7b", "qwen2.5-coder-7b-int4", "name"),
        ("ollama/qwen2.5-coder:7b-instruct-q8_0", "qwen2.5-coder-7b", "name"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "r1-distill-qwen-7b", "name"),
        ("ibm-granite/granite-8b-code-instruct-128k", "granite-code-8b", "name"),
        ("codestral:latest", "codestral-22b-int4", "name"),
        ("qwen3-coder:30b", "qwen3-coder-30b-a3b-int4", "name"),
        ("Qwen3-Coder-30B-A3B-Instruct-FP8", "qwen3-coder-30b-a3b", "name"),
        ("meta-llama/Llama-3.1-8B-Instruct", "granite-code-8b", "size"),
        ("QwQ-32B", "r1-distill-qwen-32b", "size"),
    ],
)
def test_a_gateways_name_leads_to_the_model_of_the_catalogue(name: str, model: str, how: str):
    (match,) = match_models([name])
    assert (match.model, match.how) == (model, how)


def test_every_key_of_the_catalogue_is_found_from_what_its_words_say():
    for model in MODELS.values():
        (match,) = match_models([f"org/{model.name.upper()}-Instruct"])
        assert (match.model, match.how) == (model.name, "name")


def test_a_guess_by_size_and_assumed_bits_are_said():
    llama, tagged, eight = match_models(["Llama-3.1-8B", "qwen2.5-coder:7b", "qwen2.5-coder-7b-fp8"])
    assert llama.note.startswith("a guess") and "4 bits assumed" in tagged.note
    assert eight.note == "8 bits in the name, 16 in the catalogue"


@pytest.mark.parametrize("name", ["gpt-4", "gpt-oss-120b", "Qwen3-Coder-480B-A35B", "mixtral-8x7b", "qwen2.5-coder"])
def test_a_name_that_could_be_anything_is_not_guessed(name: str):
    with pytest.raises(ConfigError, match="1 of 1 models"):
        match_models([name])


def test_unknown_names_are_listed_escaped_as_a_file_to_fill_in(tmp_path: Path):
    names = ["gpt-4", "\x1b[31mred<b>", "bücher\u202e"]
    with pytest.raises(ConfigError) as caught:
        match_models([*names, "mellum-4b"])
    text = str(caught.value)
    assert "\x1b" not in text and text.isascii() and "--models" in text
    rows = "\n".join(line for line in text.splitlines() if line.startswith("  "))
    assert read_models(written(tmp_path, rows, "models.yaml")) == dict.fromkeys(names, IGNORE)


def test_many_unknown_names_end_in_a_pattern_for_the_rest():
    with pytest.raises(ConfigError, match=r'"\*": ignore  # the other 56'):
        match_models([f"M{number:04}" for number in range(86)])


def test_given_names_go_before_patterns_and_both_before_guesses():
    given = {"claude-*": "gpt-oss-20b", "claude-haiku": "qwen2.5-coder-7b", "mellum-4b": IGNORE}
    matches = match_models(["claude-opus", "claude-haiku", "mellum-4b"], given)
    assert [match.model for match in matches] == ["gpt-oss-20b", "qwen2.5-coder-7b", None]
    assert {match.how for match in matches} == {"given"}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"gpt-4": "gpt-oss-20"}, "did you mean 'gpt-oss-20b'"),
        ({"gpt-5": "gpt-oss-20b"}, '"gpt-5" is no model of the log'),
        ({"*": IGNORE}, "no request is left"),
    ],
)
def test_a_wrong_file_of_names_is_refused(given: dict[str, str], problem: str):
    with pytest.raises(ConfigError, match=problem):
        match_models(["gpt-4"], given)


def test_the_format_of_a_log_is_told_by_its_columns(tmp_path: Path):
    log = open_log(written(tmp_path, ROWS))
    assert log.section["format"] == "azure" and log.names == []
    with pytest.raises(TraceError, match="no format known here"):
        open_log(written(tmp_path, "when,what\n1,2\n", "other.csv"))


def test_a_models_room_holds_its_tasks_and_its_longest_requests(tmp_path: Path):
    log = opened(tmp_path)
    matches = match_models(log.names, {"cloud/gpt-4": IGNORE})
    qwen, mellum = rooms(log, matches, GPUS["h100"].memory_gb.value)
    assert (qwen.tasks, qwen.kv_tokens, qwen.refused) == (("chat", "agent"), 131_072, 0)
    assert (mellum.tasks, mellum.kv_tokens) == (("completion",), 16_384)


def test_requests_that_no_gpu_can_hold_are_counted(tmp_path: Path):
    log = opened(tmp_path, "0,500000,10,qwen2.5-coder-32b,,,,\n1,10,10,qwen2.5-coder-32b,,,,\n")
    (room,) = rooms(log, match_models(log.names), 80.0)
    assert room.refused == 1 and room.cut and room.need_gb <= 80.0
    with pytest.raises(ConfigError, match="needs 67 GB and more"):
        rooms(log, match_models(log.names), 48.0)


def test_one_long_request_in_a_hundred_does_not_make_the_cache_larger(tmp_path: Path):
    body = "".join(f"{n},{60_000 if n == 0 else 500},10,mellum-4b,completion,,,\n" for n in range(200))
    log = opened(tmp_path, body)
    (room,) = rooms(log, match_models(log.names), 80.0)
    assert (room.kv_tokens, room.refused, room.cut) == (16_384, 1, False)


def test_the_scenario_of_a_log_plays_its_own_requests_on_models_of_its_own(tmp_path: Path):
    log = opened(tmp_path)
    scenario = scenario_for(log, match_models(log.names, {"cloud/gpt-4": IGNORE}))
    workload = case_of(scenario).workload(0)
    assert [entry.name for entry in scenario.entries] == ["qwen2.5-coder:7b", "mellum-4b"]
    assert workload.model.tolist() == [0, 1, 0, 1, 0]
    assert [TASKS[task] for task in workload.task] == ["chat", "completion", "agent", "completion", "chat"]
    assert workload.label == "trace cace"
    assert scenario.pressure is None and scenario.fleet[0].gpu == "h100"


def test_without_ignored_models_the_rest_follows_what_is_left_or_its_recorded_time(tmp_path: Path):
    log = opened(tmp_path)
    left = served(log, match_models(log.names, {"cloud/gpt-4": IGNORE}))
    assert left.trace.after is not None and left.trace.think_us is not None
    assert left.trace.after.tolist() == [NONE, NONE, 0, NONE, 1]
    assert left.trace.think_us.tolist() == [0, 0, 1_500_000, 0, 1_000_000]
    assert left.trace.dropped == {"model ignored": 1}
    again = read_trace(**{key: value for key, value in left.section.items()})
    assert np.array_equal(again.time_us, left.trace.time_us)


def test_a_log_without_models_plays_on_those_of_the_default_scenario(tmp_path: Path):
    log = open_log(written(tmp_path, ROWS), tasks="completion")
    scenario = scenario_for(log, match_models(log.names))
    assert "models drawn" in scenario.workload(0).label
    assert len(scenario.entries) == 16


@pytest.mark.parametrize("engine", ["safetensors", "fast-loader", "sleep-mode", "cold-engine"])
def test_every_engine_and_gpu_gives_a_fleet_on_which_all_models_fit(tmp_path: Path, engine: str):
    body = "".join(f"{row},100,10,{name},,,,\n" for row, name in enumerate(MODELS))
    log = opened(tmp_path, body)
    scenario = scenario_for(log, match_models(log.names), [("h200", 4)], engine)
    assert len(scenario.tables().model_names) == len(MODELS)


def test_a_name_of_a_file_makes_a_harmless_name_of_a_scenario(tmp_path: Path):
    path = written(tmp_path, ROWS, "..we ird\x1b&name.csv")
    assert scenario_for(open_log(path, tasks="chat"), []).name == "own-log"


def test_names_in_a_file_have_to_be_texts(tmp_path: Path):
    with pytest.raises(ConfigError, match="quote numbers"):
        read_models(written(tmp_path, yaml.safe_dump({"gpt-4": 4}), "models.yaml"))
