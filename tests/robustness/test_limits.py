"""What is too deep, too large or no value at all is refused with its place, and costs neither time nor memory."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cace_env import evaluate
from cace_env.config import ConfigError, parse, parse_yaml, read_json, read_text, read_yaml
from cace_env.evaluation import load_suite
from cace_env.evaluation.results import read_results
from cace_env.files import read_arrays
from cace_env.policies import load_agent
from cace_env.policies.cace import load_cace
from cace_env.policies.quoted import load_quoted
from cace_env.scenarios import load_scenario, seeds
from cace_env.traces import TraceConfig
from tests.support.small import SMALL

LAUGHS = (
    "a: &a ["
    + ",".join(["x"] * 10)
    + "]\n"
    + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
)
DEEP = "[" * 10_000 + "]" * 10_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "more than 200000 keys and values"),
        (f"name: {DEEP}", "nested deeper than 50 levels"),
        ("name: &a [*a]", "nested deeper than 50 levels"),
        (f"name: {'[' * 60}{']' * 60}", "nested deeper than 50 levels"),
        (f"version: {'9' * 5000}", "cannot be read"),
        (f"version: {'9' * 400}", "version: is a whole number beyond 64 bits"),
        ('name: "\\ud800"', r"name: has '\\ud800'"),
        ('name: "a\\0b"', r"name: has '\\x00'"),
        ('"na\\0me": x', r"has '\\x00'"),
        ("name: 2026-13-45", "cannot be read"),
        ("? [a, b]\n: c", "cannot be read"),
        ("name: !!timestamp x", "cannot be read"),
        ("name: !!int ''", "cannot be read"),
        ("name: !!python/object:os.system x", "not YAML"),
        ("pressure: .nan", "pressure: .*finite"),
        ("pressure: .inf", "pressure: .*finite"),
        ("pressure: 1.0e-300", "pressure: .*greater than or equal to 0.001"),
        ("host_ram_gb: 1.0e+300", "host_ram_gb: .*less than or equal to"),
        ("fleet: [{gpu: h100, count: 1000000000000}]", "fleet.0.count: .*less than or equal to 1024"),
        ("workload: {users: 1000000000000}", "workload.users: .*less than or equal to 100000"),
        ("rules: {max_slots: 1000000000000}", "rules.max_slots: .*less than or equal to 65536"),
        ("trace: {path: x, format: azure, users: 1000000000000}", "trace.users: .*less than or equal to 10000000"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_scenario_that_asks_too_much_is_refused_with_its_place(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_scenario(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 4000


@pytest.mark.parametrize("read", [read_yaml, read_json, read_text, load_scenario, load_cace, load_suite, read_results])
@pytest.mark.parametrize("path", ["/dev/zero", f"{'x' * 300}.yaml", "a\0b.yaml", "no/such/folder/x.yaml", "."])
def test_a_file_that_is_none_is_refused(read: Callable[[str], Any], path: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read|is larger than|called"):
        read(path)


@pytest.mark.parametrize(
    "load",
    [load_scenario, load_cace, load_suite, load_agent, lambda name: load_quoted(f"cace-quoted:{name}")],
)
@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "a\0b", "\ud800", "", "/"])
def test_a_name_that_is_none_is_refused(load: Callable[[str], Any], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(name)
    assert "\0" not in str(caught.value) and len(str(caught.value)) < 4000


def test_an_error_lists_twenty_problems_and_counts_the_rest() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(TraceConfig, {f"key{number}": number for number in range(1000)}, "somewhere")
    lines = str(caught.value).splitlines()
    assert len(lines) == 21 and re.fullmatch(r"somewhere: and more; 100\d problems in all", lines[-1])


@pytest.mark.parametrize("wrong", [[-1], [1 << 63], [1.5], ["a"], [float("nan")], [None], [[1]], -1, None, [], [1, 1]])
def test_a_seed_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"seeds (is|are)"):
        evaluate("lru", "tiny", wrong)


@pytest.mark.parametrize("count", [0, -1, 101, 1.5, "a"])
def test_a_count_of_seeds_that_is_none_is_refused(count: Any) -> None:
    with pytest.raises(ConfigError, match=r"test seeds were asked for; there are 1 to 100"):
        seeds("test", count)


def test_an_option_that_is_no_yaml_is_refused() -> None:
    for text in ("[", "a: b: c", "2026-13-45", DEEP, "!!timestamp x", "\x1b"):
        with pytest.raises(ConfigError, match="--trace-option"):
            parse_yaml(text, "--trace-option")


def zipped(**members: bytes) -> bytes:
    """An npz file of some members."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, member in members.items():
            packed.writestr(f"{name}.npy", member)
    return content.getvalue()


def npy(array: Any) -> bytes:
    """An array as NumPy saves it."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"PK", b"no zip", zipped(a=b"no array"), zipped(a=npy(np.array([{}], dtype=object))),
        zipped(a=npy(np.zeros(1 << 22))), zipped(a=npy(np.zeros(3))[:-1]),
        zipped(a=npy(np.zeros(3)).replace(b"(3,)", b"(9**9,)")), zipped(a=npy(np.zeros(3)).replace(b"3", b"-")),
        zipped(a=npy(np.zeros(3)))[:-30],
    ],
    ids=["nothing", "short", "text", "bytes", "pickle", "bomb", "cut", "formula", "negative", "cut zip"],
)  # fmt: skip
def test_arrays_are_read_as_numbers_or_not_at_all(content: bytes) -> None:
    with pytest.raises(ValueError):
        read_arrays(content, 1 << 20)


def test_a_json_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    text = json.dumps({"scenarios": {"a": 1}})
    for end in range(len(text)):
        path.write_text(text[:end])
        with pytest.raises(ConfigError, match="is not JSON, or was cut short"):
            read_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="is not JSON"):
        read_json(path)


def test_a_scenario_may_still_be_large() -> None:
    catalogue = [{"model": "qwen2.5-coder-1.5b", "name": f"model {number}"} for number in range(500)]
    assert len(load_scenario({**SMALL, "pressure": 20, "catalogue": catalogue}).entries) == 500
    assert os.path.exists("/dev/zero")
