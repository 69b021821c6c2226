"""Claims about strict configuration: nothing unknown, nothing converted, every error names its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from cace_env.config import ConfigError, Frozen, dump, load, parse
from cace_env.scenarios import Scenario


class Inner(Frozen):
    share: float = Field(default=0.5, ge=0, le=1)


class Outer(Frozen):
    count: int = Field(default=1, ge=1)
    rate: float = 1.0
    active: bool = False
    kind: Literal["a", "b"] = "a"
    names: tuple[str, ...] = Field(default=("x",), min_length=1)
    inner: Inner = Inner()


def test_what_is_dumped_is_read_back(tmp_path: Path) -> None:
    section = Outer(count=3, names=("x", "y"), inner=Inner(share=0.25))
    path = tmp_path / "outer.yaml"
    path.write_text(dump(section))
    assert load(Outer, path) == section


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuont: 3", r"outer.yaml: cuont: unknown key, did you mean 'count'\? \(got 3\)"),
        ("colour: red", r"outer.yaml: colour: unknown key; known are count, rate, active, kind, names, inner"),
        ("count: 0", r"outer.yaml: count: .*greater than or equal to 1 \(got 0\)"),
        ("inner: {share: 2}", r"outer.yaml: inner.share: .*less than or equal to 1 \(got 2\)"),
        ("inner: {shar: 1}", r"outer.yaml: inner.shar: unknown key, did you mean 'share'"),
        ("count: '3'", r"outer.yaml: count: .*without quotes \(got '3'\)"),
        ("rate: 3e-4", r"outer.yaml: rate: .*write 3.0e-4 and 1.0e\+9"),
        ("count: 2.5", r"outer.yaml: count: "),
        ("count: true", r"outer.yaml: count: "),
        ("active: 1", r"outer.yaml: active: .*bool"),
        ("rate: .nan", r"outer.yaml: rate: .*finite"),
        ("kind: c", r"outer.yaml: kind: .*'a' or 'b'"),
        ("names: 2026-01-01", r"outer.yaml: .*date"),
        ("count: 1\ncount: 2", r"outer.yaml: line 2: key 'count' appears twice"),
        ("- 1", r"outer.yaml: needs a mapping"),
        ("a: [", r"outer.yaml: not YAML"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "outer.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(Outer, path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing.yaml: cannot be read"):
        load(Outer, tmp_path / "nothing.yaml")


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Outer, {"count": 0, "kind": "z"}, "somewhere")
    assert len(str(caught.value).splitlines()) == 2


def test_a_bad_entry_of_a_list_is_one_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Outer, {"names": [3]}, "somewhere")
    assert str(caught.value) == "somewhere: names.0: Input should be a valid string (got 3)"
    with pytest.raises(ConfigError, match=r"names: .*at least 1 item"):
        parse(Outer, {"names": []}, "somewhere")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"catalogue": ["mellum-4b", {"model": "mellum-4b", "pined_on": 0}]}, "catalogue.1.pined_on: unknown key, did"),
        ({"catalogue": [{"model": "melum-4b"}]}, "catalogue.0.model: no such model, did you mean 'mellum-4b'"),
        ({"catalogue": [{"name": "x"}]}, "catalogue.0.model: Field required"),
        ({"reward": {"chat": {"w_ttf": 1}}}, "reward.chat.w_ttf: unknown key, did you mean 'w_ttft'"),
        ({"reward": "ttf"}, "reward: no such reward preset"),
        ({"workload": {"user": 3}}, "workload.user: unknown key, did you mean 'users'"),
        ({"pressure": 50.0}, "mine: at pressure 50.0: "),
    ],
)
def test_a_problem_stands_under_the_keys_that_were_written(keys: dict[str, Any], message: str) -> None:
    fleet = {"name": "mine", "fleet": [{"gpu": "l40s"}], "catalogue": ["mellum-4b"]}
    with pytest.raises(ConfigError) as caught:
        parse(Scenario, {**fleet, **keys}, "mine")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(message if message.startswith("mine") else f"mine: {message}")


def test_a_mapping_may_hold_a_section() -> None:
    assert parse(Outer, {"inner": Inner(share=0.1)}, "dict").inner.share == 0.1


def test_sections_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().count = 2
