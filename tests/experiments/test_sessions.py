"""Curves of how pauses of sessions end: fitted to pauses, kept in a file, read by a scenario, of use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")

from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.evaluation.suite import fingerprint_of
from cace_env.forecasting.survival import Seen, fit_survival, pauses_of
from cace_env.observation import GROUPS
from cace_env.scenarios import load_scenario
from cace_env.sessions import (
    AGAIN_AGES_S,
    AGAIN_SHAPE,
    AGAIN_WITHIN_S,
    Survival,
    again_of,
    load_survival,
    shipped_table,
    write_survival,
)
from cace_env.simulation import Simulator
from cace_env.tables import NONE, Protocol, TableError
from experiments.sessions import main
from experiments.yardsticks.sessions import foretold, seen_under, uses_of
from tests.specification.examples import MS, fleet, requests
from tests.support.logs import written

MEAN_S = 200.0
CACE = "time,context_tokens,output_tokens,model,task,user,session\n"


def exponential(count: int, cut_s: float) -> Survival:
    """Fitted to pauses of chats that forget how long they have lasted; what is longer than `cut_s` is cut off there."""
    length_s = np.random.default_rng(0).exponential(MEAN_S, count)
    session, again = np.arange(count), np.flatnonzero(length_s < cut_s)
    seen = Seen(
        np.concatenate([0 * session, (length_s[again] * 1e6).astype(np.int64)]),
        np.concatenate([0 * session, np.full(len(again), NONE)]),  # who has asked again waits until the end
        np.concatenate([session, again]),
        np.zeros(count + len(again), dtype=np.int64),
        np.ones(count + len(again), dtype=np.int64),
        round(cut_s * 1e6),
    )
    return fit_survival([seen], "made up")


def test_the_rate_of_exponential_pauses_is_found_at_every_age_though_some_are_cut_off():
    table = again_of(exponential(20_000, 1500.0))
    expected = 1.0 - np.exp(-np.array(AGAIN_WITHIN_S) / MEAN_S)
    assert table[1, 0] == pytest.approx(np.tile(expected, (len(AGAIN_AGES_S) - 1, 1)), abs=0.03)


def test_where_little_is_known_the_table_says_what_holds_of_all():
    table = again_of(exponential(20_000, 1500.0))
    assert table[3, 2] == pytest.approx(table[0, 0]) and table[3, 2] == pytest.approx(table[1, 0], abs=0.01)


def by_hand() -> Seen:
    """Two sessions, and one whose answer no model has room for."""
    tables = fleet((6, 6), (12,), resident_on=(0, 0))
    rows = [  # arrival [s], model, session, output tokens; a round takes 1 ms: the second finishes last
        (0, 0, 7, 1), (2, 0, 7, 800), (2.5, 0, 7, 1), (100, 0, 7, 1), (110, 1, 7, 1), (120, 0, 9, 1_000_000),
        (130, 0, 8, 1),
    ]  # fmt: skip
    workload = requests(
        *(
            {"arrival_us": round(at * 1000 * MS), "model": m, "session": key, "output_tokens": n}
            for at, m, key, n in rows
        )
    )
    case = replace(case_of("tiny"), name="by hand", tables=tables, workload=lambda seed: workload)
    return seen_under(case, 0)


def test_a_pause_lasts_from_the_last_finish_of_a_session_at_a_model_to_its_next_request():
    pauses = pauses_of(by_hand())
    ended = np.flatnonzero(pauses.ended)
    assert pauses.seen_s[ended] == pytest.approx([1.998, 100.0 - 2.8], abs=0.01)
    assert pauses.step[ended].tolist() == [0, 2]
    # Session 7 at model 0 from 100 s on and at model 1 from 110 s on: as long as they were seen, until 130 s.
    assert sorted(pauses.seen_s[~pauses.ended]) == pytest.approx([20.0, 30.0], abs=0.1)


def test_a_refused_request_is_none_that_was_seen():
    seen = by_hand()
    assert len(seen.session) == 6 and 120_000 * MS not in seen.arrival_us


def test_curves_come_back_from_their_file_and_a_scenario_reads_them(tmp_path: Path):
    mine = exponential(500, 1500.0)
    write_survival(mine, tmp_path / "mine.json")
    assert load_survival(tmp_path / "mine.json") == mine
    plain = load_scenario("tiny")
    scenario = plain.replace(sessions=str(tmp_path / "mine.json"))
    assert scenario.tables().again is not None and np.array_equal(scenario.tables().again, again_of(mine))
    assert plain.tables().again is None
    assert fingerprint_of(scenario, Protocol.EVICTION) != fingerprint_of(plain, Protocol.EVICTION)


def test_what_are_no_curves_is_refused(tmp_path: Path):
    (tmp_path / "short.json").write_text(
        '{"source": "x", "pauses": 1, "lasts": [[[1.0], [0.5, 0.2]]], "follow": [[0]]}'
    )
    with pytest.raises(ConfigError, match="lasts has to have the shape"):
        load_survival(tmp_path / "short.json")
    rising = load_survival().model_dump(mode="json")
    rising["lasts"][0][0][-1] = 1.0
    (tmp_path / "rising.json").write_text(json.dumps(rising))
    with pytest.raises(ConfigError, match="rises somewhere"):
        load_survival(tmp_path / "rising.json")
    with pytest.raises(ConfigError, match=r"missing\.json"):
        load_scenario("tiny").replace(sessions=str(tmp_path / "missing.json"))
    with pytest.raises(TableError, match="again: every entry"):
        Simulator(fleet((6, 6), (12,), again=np.full(AGAIN_SHAPE, 1.5))).reset(requests({}))


def test_the_table_that_ships_says_that_pauses_end_the_less_the_longer_they_last():
    table = shipped_table()
    assert table.shape == AGAIN_SHAPE and not table.flags.writeable
    assert (np.diff(table, axis=3) >= 0).all()
    assert (table[:, :, -1] < table[:, :, 0]).all()


def test_sessions_foretell_the_next_use_of_a_model_better_than_what_was_known_before():
    case = case_of("agents")
    learn, judge = uses_of(case, range(3)), uses_of(case, range(3, 6))
    without = foretold(learn, judge, [group for group in GROUPS if group != "sessions"])
    with_them = foretold(learn, judge, GROUPS)
    assert with_them.r2 > without.r2
    assert with_them.auc[0] > without.auc[0]


def test_the_command_writes_curves_and_judges_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--scenarios", "tiny", "--seeds", "2", "--out", str(tmp_path / "mine.json")]) == 0
    assert "training seeds 0 to 1 of tiny" in load_survival(tmp_path / "mine.json").source
    shown = capsys.readouterr().out
    assert "pauses" in shown and "| all features |" in shown


def test_of_a_log_the_first_half_is_fitted_and_the_second_judges(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    names = list(case_of("tiny").tables.model_names)
    rows = (f"{30 * i},{100 + i},20,{names[i % 5]},chat,u{i % 3},s{i % 10}\n" for i in range(400))
    log = ["--trace", str(written(tmp_path, CACE + "".join(rows))), "--format", "cace"]
    log += ["--out", str(tmp_path / "mine.json")]
    assert main([*log, "--scenarios", "tiny"]) == 0
    half = load_survival(tmp_path / "mine.json")
    assert "part: train" in half.source and "| all features |" in capsys.readouterr().out
    assert main([*log, "--scenarios", "tiny", "--part", "all"]) == 0
    assert load_survival(tmp_path / "mine.json").pauses > 1.5 * half.pauses
    assert "| all features |" not in capsys.readouterr().out  # there is nothing else to judge by


def test_a_folder_in_the_place_of_the_file_is_refused_before_anything_is_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["--scenarios", "tiny", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert f"{tmp_path} is a folder; --out names a file" in said.err and not said.out


def test_a_log_is_fitted_on_one_fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    log = str(written(tmp_path, CACE))
    assert main(["--trace", log]) == 2
    assert main(["--trace", log, "--scenarios", "default,tiny"]) == 2
    assert capsys.readouterr().err.count("a log is served by one") == 2
