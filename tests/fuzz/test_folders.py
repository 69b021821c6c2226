"""Whatever is in a folder of an agent or of a run: it is read, or refused with a line that its user can mend."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.policies import load_agent, write_agent
from cace_env.policies.agent import CARD_FILE, WEIGHTS_FILE
from experiments import compare
from experiments.reports.comparison import comparison_page
from experiments.reports.leaderboard import print_leaderboard
from experiments.reports.terminal import print_tables
from experiments.running.command_line import Console
from experiments.running.run_folder import Run
from experiments.running.run_writer import RunFolder
from experiments.running.timeline_rows import read_spans, read_waiting
from tests.fuzz.mutations import SAID, fuzzed, mutated, mutated_bytes, mutated_text
from tests.fuzz.test_configs import said_or_done
from tests.support.agents import agent_of, random_network
from tests.support.small import SMALL


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an agent that plays."""
    folder = tmp_path_factory.mktemp("agents") / "mine"
    write_agent(agent_of(random_network()), folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of a comparison that has finished."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    arguments = ["--scenarios", str(folder / "small.yaml"), "--policies", "lru,cace", "--agent", "eviction"]
    assert compare.main([*arguments, "--seeds", "2", "--out", str(folder / "run")]) == 0
    yield folder / "run"


def copied(folder: Path) -> Path:
    """A copy that may be spoilt."""
    copy = folder.with_name("spoilt")
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(folder, copy))


@given(data=st.data())
@fuzzed
def test_an_agent_of_any_card_plays_or_is_refused(agent: Path, data: st.DataObject) -> None:
    spoilt = copied(agent)
    card = spoilt / CARD_FILE
    if data.draw(st.booleans()):
        card.write_text(json.dumps(data.draw(mutated(json.loads(card.read_text())))))
    else:
        card.write_text(data.draw(mutated_text(card.read_text())), "utf-8", "backslashreplace")
    said_or_done(lambda: load_agent(spoilt).policy())


@given(data=st.data())
@fuzzed
def test_an_agent_of_any_weights_plays_or_is_refused(agent: Path, data: st.DataObject) -> None:
    spoilt = copied(agent)
    content = data.draw(mutated_bytes((agent / WEIGHTS_FILE).read_bytes()))
    (spoilt / WEIGHTS_FILE).write_bytes(content)
    card = json.loads((spoilt / CARD_FILE).read_text()) | {"weights_sha256": hashlib.sha256(content).hexdigest()}
    (spoilt / CARD_FILE).write_text(json.dumps(card))
    said_or_done(lambda: load_agent(spoilt).policy())


def read(folder: Path) -> None:
    """What a report reads, and what is printed."""
    found, text = Run(folder), io.StringIO()
    assert found.scenarios
    console = Console(file=text, width=120)
    print_leaderboard(found, console)
    print_tables(found, console)
    comparison_page(found)
    read_spans(found), read_waiting(found), found.ttft  # which raise nothing but errors of ours
    assert "\x1b" not in text.getvalue()


def test_a_run_that_was_not_changed_is_read(run: Path) -> None:
    read(run)


@pytest.mark.parametrize(
    "name", ["rows.csv", "ttft.csv", "timelines.csv", "waiting.csv", "decisions.csv", "factors.csv"]
)
@given(data=st.data())
@fuzzed
def test_rows_that_were_changed_are_read_or_refused(run: Path, name: str, data: st.DataObject) -> None:
    spoilt = copied(run)
    text = (run / name).read_text("utf-8")
    short = text[: data.draw(st.integers(0, len(text)))]
    changed = data.draw(st.one_of(st.just(short), mutated_text(text)))
    (spoilt / name).write_text(changed, "utf-8", "backslashreplace")
    said_or_done(lambda: read(spoilt))


@given(data=st.data())
@fuzzed
def test_a_description_that_was_changed_is_read_or_refused(run: Path, data: st.DataObject) -> None:
    spoilt = copied(run)
    about = (run / "run.json").read_text("utf-8")
    changed = data.draw(st.one_of(mutated(json.loads(about)).map(json.dumps), mutated_text(about)))
    (spoilt / "run.json").write_text(changed, "utf-8", "backslashreplace")
    said_or_done(lambda: read(spoilt))


@given(data=st.data())
@fuzzed
def test_a_run_that_lost_files_is_read_or_refused(run: Path, data: st.DataObject) -> None:
    spoilt = copied(run)
    for path in sorted(spoilt.rglob("*")):
        if path.is_file() and data.draw(st.integers(0, 3)) == 0:
            path.unlink()
    said_or_done(lambda: read(spoilt))


@given(data=st.data())
@fuzzed
def test_a_run_that_was_changed_goes_on_or_is_refused(run: Path, data: st.DataObject) -> None:
    spoilt = copied(run)
    name = data.draw(st.sampled_from(("rows.csv", "ttft.csv", "run.json")))
    text = (run / name).read_text("utf-8")
    (spoilt / name).write_text(data.draw(mutated_text(text)), "utf-8", "backslashreplace")
    about: dict[str, Any] = json.loads((run / "run.json").read_text("utf-8"))
    said_or_done(lambda: RunFolder(spoilt, about, ("split", "code", "agree")).sort())


def test_what_users_can_mend_is_named() -> None:
    assert all(issubclass(kind, Exception) for kind in SAID)
