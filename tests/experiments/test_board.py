"""The board holds what was played, takes what reproduces, and refuses the rest with a reason."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rich", reason="needs the extra experiments")
pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.evaluation import results as results_module
from cace_env.evaluation import suite_scores
from cace_env.evaluation.results import Results, read_results, write_results
from cace_env.policies import contestant_of
from cace_env.policies.agent import write_agent
from experiments.board import checking
from experiments.board.boarding import FOLDER, about
from experiments.board.page import PAGE, regions
from experiments.board.playing import PLANNERS, shipped_names, ships
from experiments.board.records import WHO, Board, OnEntry, Record, read_board
from experiments.pages.regions import DOCS, read
from experiments.submission import main
from tests.support.agents import agent_of, lru_network, random_network

ENTRY = {"scenario": {"base": "workstation", "workload": {"requests": 120}}, "question": "Is LRU good enough?"}
ENTRIES = [{"id": f"desk-{env}", "env": env, **ENTRY} for env in ("eviction", "swap")]
SUITE: dict[str, Any] = {"version": "tiny", "description": "One scenario.", "entries": ENTRIES}
WEIGHTS = {"load_time": 1.0, "latency_sensitivity": 0.0, "output_length": 0.5, "recency": 2.0, "future_demand": 1.0}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "tiny.yaml"
    path.write_text(yaml.safe_dump(SUITE))
    return path


def make(suite: Path, out: Path, *what: str, contact: str = "Jane Doe") -> Path:
    arguments = ["make", *what, "--suite", str(suite), "--contact", contact, "--out", str(out)]
    assert main(arguments) == 0
    return out


@pytest.fixture(scope="module")
def rule(suite: Path) -> Path:
    return make(suite, suite.parent / "rule", "--policy", "lfu", "--order", "wsjf", "--env", "swap", "--name", "mine")


@pytest.fixture(scope="module")
def agent(suite: Path) -> Path:
    write_agent(agent_of(random_network(), name="net"), suite.parent / "trained")
    return make(suite, suite.parent / "agent", "--agent", str(suite.parent / "trained"))


@pytest.fixture(scope="module")
def shipped(suite: Path) -> Results:
    """Costs of LRU, and of a reference that costs half of it."""
    results = read_results(make(suite, suite.parent / "lru", "--policy", "lru") / "results.csv")
    halved = [row._replace(policy="reference", cost=row.cost / 2) for row in results.rows]
    return Results(results.header, (*results.rows, *halved), "shipped")


@pytest.fixture
def docs(shipped: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a board is written."""
    for module in (checking, results_module):
        monkeypatch.setattr(module, "published", lambda version: shipped)
    (tmp_path / "docs").mkdir()
    shutil.copy(DOCS / PAGE, tmp_path / "docs")
    return tmp_path / "docs"


def onto_board(docs: Path, suite: Path, *what: str | Path) -> int:
    return main(["board", *map(str, what), "--suite", str(suite), "--docs", str(docs), "--workers", "1"])


def refused(what: Path | str | list[Path], docs: Path, suite: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said; nothing has been written."""
    before = {path: path.read_bytes() for path in docs.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert onto_board(docs, suite, *(what if isinstance(what, list) else [what])) in (1, 2)
    assert {path: path.read_bytes() for path in docs.rglob("*") if path.is_file()} == before
    return capsys.readouterr().err


def copied(folder: Path, target: Path, **submission: Any) -> Path:
    """The folder with other keys of submission.yaml."""
    shutil.copytree(folder, target)
    about = yaml.safe_load((folder / "submission.yaml").read_text()) | submission
    (target / "submission.yaml").write_text(yaml.safe_dump(about))
    return target


def records_of(docs: Path) -> dict[tuple[str, str], Record]:
    board = read_board(docs / FOLDER / "tiny.json", "tiny")
    return {(record.env, record.name): record for record in board.records}


def test_what_reproduces_is_put_on_record_and_kept(rule: Path, agent: Path, suite: Path, docs: Path) -> None:
    assert onto_board(docs, suite, rule, agent, "gdsf") == 0
    found = records_of(docs)
    assert set(found) == {("swap", "mine"), ("eviction", "net"), ("eviction", "gdsf"), ("swap", "gdsf")}
    kept = docs / FOLDER / "net"
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
        path.name: path.read_bytes() for path in agent.iterdir()
    }
    net = found["eviction", "net"]
    assert (net.kind, net.by, net.learned_from, net.seeds) == ("agent", "Jane Doe", "training seeds 0-9", 100)
    # Numbers are those of the episodes: LRU has no wait, score or cost but its own.
    results = read_results(agent / "results.csv")
    lru, mine = (results.column("desk-eviction", name, range(2_000_000, 2_000_100)) for name in ("lru", "net"))
    scores = suite_scores({"desk-eviction": {"lru": lru, "net": mine, "reference": lru / 2}})
    assert net.score == pytest.approx(scores.means["net"], rel=1e-5)
    assert net.cost[0] == pytest.approx(mine.sum() / lru.sum(), rel=1e-5)
    waits = [
        results.column("desk-eviction", name, range(2_000_000, 2_000_100), "longest_wait_s") for name in ("net", "lru")
    ]
    assert net.worst_wait[0] == pytest.approx(waits[0].mean() / waits[1].mean(), rel=1e-5)
    assert 0 < net.decision_us[0] <= net.decision_us[1]


def test_the_page_says_what_the_records_say(rule: Path, suite: Path, docs: Path) -> None:
    assert onto_board(docs, suite, rule, "belady") == 0
    board = read_board(docs / FOLDER / "tiny.json", "tiny")
    assert read(docs / PAGE) == {name: text.strip() for name, text in regions(board).items()}
    rows = [line.split(" | ") for line in read(docs / PAGE)["swap"].splitlines()[2:]]
    assert {row[1]: row[0] for row in rows} == {"`mine`": "| 1", "`belady`": "| -"}  # who knows the future has no place
    assert [row[-1] for row in rows] == [f"{record.date}, {record.version} |" for record in board.records[-2:]]


def test_the_page_that_ships_says_what_the_records_that_ship_say() -> None:
    board = read_board(DOCS / FOLDER / "v1.json", "v1")
    assert read(DOCS / PAGE) == {name: text.strip() for name, text in regions(board).items()}
    said = regions(Board(suite="v1", records=()))["rest"]
    assert "Not played: `planner:eviction` and `planner:swap`" in said
    assert "`python -m experiments.submission board planner:eviction planner:swap` plays them." in said


def test_all_of_it_is_played_again_with_what_was_handed_in(
    rule: Path, suite: Path, docs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.board.boarding.shipped_names", lambda: ["fifo"])
    assert onto_board(docs, suite, rule, "random") == 0
    path = docs / FOLDER / "tiny.json"
    content = json.loads(path.read_text())
    content["records"] = [
        record | {"costs": "0" * 16} if record["name"] == "mine" else record for record in content["records"]
    ]
    path.write_text(json.dumps(content))
    assert onto_board(docs, suite) == 0
    assert {name for _, name in records_of(docs)} == {"mine", "random", "fifo"}
    assert "mine in Swap-v0: the same policy has other costs than on" in capsys.readouterr().out


def test_a_dry_run_says_so_and_writes_nothing(
    rule: Path, suite: Path, docs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert onto_board(docs, suite, rule, "--seeds", "3") == 0
    said = capsys.readouterr().out
    assert "A dry run: 3 of 100 test seeds of each entry. Nothing has been written." in said and "mine" in said
    assert not (docs / FOLDER).exists()


def test_a_cost_that_was_changed_is_refused(
    rule: Path, suite: Path, docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(rule, tmp_path / "other")
    results = read_results(folder / "results.csv")
    last = results.rows[-1]._replace(cost=float(np.nextafter(results.rows[-1].cost, 0.0)))
    write_results(folder / "results.csv", Results(results.header, (*results.rows[:-1], last)))
    said = refused(folder, docs, suite, capsys)
    assert f"mine on desk-swap, seed 2000099: cost is {last.cost!r}, here {results.rows[-1].cost!r}" in said
    assert "nothing has been written" in said


class Bomb:
    def __reduce__(self) -> Any:
        return (Path("exploded").touch, ())


@pytest.mark.parametrize("inside", [False, True], ids=["a pickle", "an array of objects"])
def test_a_pickle_is_refused_and_never_opened(
    inside: bool,
    agent: Path,
    suite: Path,
    docs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = copied(agent, tmp_path / "other")
    file = folder / "weights.npz"
    if inside:
        np.savez(file, slot_linear=np.array([Bomb()], dtype=object))
    else:
        file.write_bytes(pickle.dumps(Bomb()))
    card = json.loads((folder / "agent.json").read_text())
    card["weights_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "agent.json").write_text(json.dumps(card))
    assert "weights.npz: this is not a file of weights" in refused(folder, docs, suite, capsys)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ("0-9,2000000-2000099", "it was trained on 100 test seeds (the first is 2000000)"),
        ("1000000", "it was trained on 1 validation seeds"),
        ("", "its card does not say which seeds it was trained on"),
    ],
)
def test_an_agent_that_learned_from_what_judges_it_is_refused(
    seeds: str, said: str, agent: Path, suite: Path, docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(agent, tmp_path / "other")
    write_agent(agent_of(random_network(), name="net", train_seeds=seeds), folder)
    assert f"its results would not be held out: {said}" in refused(folder, docs, suite, capsys)


def test_an_agent_of_other_features_is_refused(
    agent: Path, suite: Path, docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(agent, tmp_path / "other")
    card = json.loads((folder / "agent.json").read_text())
    (folder / "agent.json").write_text(json.dumps(card | {"features": "0" * 16}))
    assert "was trained on other features" in refused(folder, docs, suite, capsys)


def test_weights_say_what_they_were_tuned_on(
    suite: Path, docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "weights.yaml", tmp_path / "cace"
    file.write_text(yaml.safe_dump({"weights": WEIGHTS}))
    arguments = ["make", "--weights", str(file), "--env", "eviction", "--suite", str(suite), "--out", str(out)]
    arguments += ["--contact", "Jane Doe"]
    assert main(arguments) == 2
    assert "--trained-on is needed" in capsys.readouterr().err
    assert main([*arguments, "--trained-on", "nothing", "--name", "by-hand"]) == 0
    assert onto_board(docs, suite, out) == 0
    assert records_of(docs)["eviction", "by-hand"].learned_from == "nothing"
    tuned = {"env": "eviction", "trained_on": ["default"], "train_seeds": "2000000-2000009", "requests": 1}
    folder = copied(out, tmp_path / "other", name="other")
    (folder / "cace.yaml").write_text(yaml.safe_dump({"weights": WEIGHTS, "tuned": tuned}))
    results = read_results(folder / "results.csv")
    header = results.header.model_copy(update={"policy": "other"})
    write_results(folder / "results.csv", Results(header, results.rows))
    assert "the weights were tuned on 10 test seeds (the first is 2000000)" in refused(folder, docs, suite, capsys)


def test_code_never_comes_onto_the_board(
    rule: Path, suite: Path, docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(rule, tmp_path / "other", policy="os:abort", order=None)
    assert "The board never runs code that is handed in" in refused(folder, docs, suite, capsys)
    assert main(["check", str(folder), "--suite", str(suite), "--seeds", "1"]) == 0  # LRU alone is played
    assert "Its scores are claimed, not checked" in capsys.readouterr().out
    assert onto_board(docs, suite, "os:abort") == 2
    assert "no policy that ships with cace-env has such a name" in capsys.readouterr().err
    assert onto_board(docs, suite, "planner:evicton") == 2
    assert "has such a name, did you mean 'planner:eviction'?" in capsys.readouterr().err


def test_a_name_is_never_taken_for_a_folder_a_file_or_a_module(
    suite: Path, docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write_agent(agent_of(random_network(), train_seeds="2000000-2000099"), tmp_path / "net")
    (tmp_path / "weights").write_text(yaml.safe_dump({"weights": WEIGHTS}))
    (tmp_path / "planner.py").write_text("raise SystemExit")
    for name in ("agent:net", "wsjf+agent:net", "cace:weights", "planner:net", "planner:agent:net", "wsjf+planner:lru"):
        assert "no policy that ships with cace-env has such a name" in refused(name, docs, suite, capsys)
    assert all(map(ships, (*shipped_names(), *PLANNERS, "planner:wsjf+gdsf", "planner:cace:tuned-eviction")))


def test_a_planner_is_played_where_it_is_named(suite: Path, docs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert onto_board(docs, suite, "planner:gdsf", "--seeds", "3") == 0
    assert "planner:gdsf" in capsys.readouterr().out
    said = about(contestant_of("planner:gdsf"), None)
    assert (said["kind"], said["learned_from"], said["by"]) == ("planner", "training seeds 0-7", WHO)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "<b>mine</b>"}, "a name has 1 to 80 letters"),
        ({"name": "v2.JSON"}, "files of the board end in .json"),
        ({"name": "Reference"}, "which scores are measured by"),
        ({"name": "LRU"}, "which scores are measured by"),
        ({"contact": "[Jane](javascript:x)"}, "which is markup on a page"),
        ({"contact": "Jane\x1b[31m"}, "without control characters"),
        ({"contact": ""}, "contact is empty"),
        ({"contact": f"{WHO.title()} "}, "which stands for what ships"),
        ({"link": "javascript:alert(1)"}, "a link is an address that begins with https://"),
        ({"policy": "../secret.yaml"}, "no rule called '../secret.yaml'"),
        ({"policy": "cace.yaml"}, "cace.yaml is missing"),
        ({"order": "wsfj"}, "no order called 'wsfj', did you mean 'wsjf'?"),
        ({"command": "rm"}, "unknown key"),
    ],
)
def test_what_a_folder_may_not_say_is_refused(
    change: dict[str, Any],
    said: str,
    rule: Path,
    suite: Path,
    docs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert said in refused(copied(rule, tmp_path / "other", **change), docs, suite, capsys)


def test_a_folder_holds_nothing_else(
    rule: Path, suite: Path, docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(rule, tmp_path / "other")
    (folder / "policy.py").write_text("raise SystemExit")
    assert "holds 'policy.py', and a submission holds nothing but" in refused(folder, docs, suite, capsys)
    (folder / "policy.py").unlink()
    (folder / "cace.yaml").symlink_to("/etc/passwd")
    assert "holds 'cace.yaml'" in refused(folder, docs, suite, capsys)
    (folder / "cace.yaml").unlink()
    (folder / "submission.yaml").write_text("#" * (1 << 17))
    assert "has 131072 bytes; the most of such a file is 65536" in refused(folder, docs, suite, capsys)


def test_a_name_and_a_policy_come_onto_the_board_once(
    rule: Path,
    suite: Path,
    docs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("experiments.board.boarding.shipped_names", lambda: ["fifo"])
    lfu = ("--policy", "lfu", "--order", "wsjf", "--env", "swap", "--name")
    again, capitals = (make(suite, tmp_path / name, *lfu, name) for name in ("again", "MINE"))
    twice = "costs what 'mine' costs in every episode of Swap-v0"
    assert twice in refused([rule, again], docs, suite, capsys)
    assert onto_board(docs, suite, rule) == 0
    assert "the board has a policy called 'mine' already" in refused(rule, docs, suite, capsys)
    assert "the board has a policy called 'MINE' already" in refused(capitals, docs, suite, capsys)
    assert twice in refused(again, docs, suite, capsys)
    shutil.copytree(again, docs / FOLDER / "again")
    assert "/again: costs what 'mine' costs" in refused([], docs, suite, capsys)  # all that is there, once more
    write_agent(agent_of(lru_network(), name="slow"), tmp_path / "lru-agent")
    slow = make(suite, tmp_path / "slow", "--agent", str(tmp_path / "lru-agent"), "--name", "LRU-2")
    assert "the board has a policy called 'LRU-2' already" in refused(slow, docs, suite, capsys)


def test_texts_of_others_are_shown_as_they_are(suite: Path) -> None:
    record = Record(
        name="mine", env="eviction", kind="rule", by="*Jane* & <b>", learned_from="a_b", clairvoyant=False,
        content="0" * 16, costs="0" * 16, version="1", date="2026-11-30", seeds=2,
        entries={"desk": OnEntry(score=(1.0, 0.0, 2.0), cost=0.9, wait=1.25)},
        score=(1.0, 0.0, 2.0), cost=(0.9, 0.8, 1.0), decision_us=(1.0, 2.0),
    )  # fmt: skip
    row = regions(Board(suite="tiny", records=(record,)))["eviction"].splitlines()[-1]
    assert r"\*Jane\* \& \<b\>" in row and r"a\_b" in row and "1.25 (desk)" in row and "2 seeds" in row
