"""The table of how pauses of sessions end: fitted to pauses, kept in a file, read by a scenario, of use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs the extra experiments")

from cace_env.cases import case_of
from cace_env.config import ConfigError
from cace_env.evaluation.suite import fingerprint_of
from cace_env.observation import GROUPS
from cace_env.scenarios import load_scenario
from cace_env.sessions import (
    AGAIN_AGES_S,
    AGAIN_SHAPE,
    AGAIN_WITHIN_S,
    AgainTable,
    read_table,
    shipped_table,
    write_table,
)
from cace_env.simulation import Simulator
from cace_env.tables import Protocol, TableError
from experiments.sessions import main
from experiments.yardsticks.sessions import Pauses, fitted, foretold, pauses_of, uses_of
from tests.specification.examples import MS, fleet, requests

MEAN_S = 200.0


def exponential(count: int, cut_s: float) -> Pauses:
    """Pauses of chats that forget how long they have lasted; what is longer than `cut_s` is not seen to its end."""
    length_s = np.random.default_rng(0).exponential(MEAN_S, count)
    one = np.ones(count, dtype=np.int64)
    return Pauses(one, 0 * one, np.minimum(length_s, cut_s), length_s < cut_s)


def test_the_rate_of_exponential_pauses_is_found_at_every_age_though_some_are_cut_off():
    table = fitted(exponential(20_000, 1500.0), "made up").array
    expected = 1.0 - np.exp(-np.array(AGAIN_WITHIN_S) / MEAN_S)
    assert table[1, 0] == pytest.approx(np.tile(expected, (len(AGAIN_AGES_S) - 1, 1)), abs=0.03)


def test_where_little_is_known_the_table_says_what_holds_of_all():
    table = fitted(exponential(20_000, 1500.0), "made up").array
    assert table[3, 2] == pytest.approx(table[0, 0]) and table[3, 2] == pytest.approx(table[1, 0], abs=0.01)


def test_a_pause_lasts_from_the_last_finish_of_a_session_at_a_model_to_its_next_request():
    tables = fleet((6, 6), (12,), resident_on=(0, 0))
    rows = [  # arrival [s], model, session, output tokens; a round takes 1 ms: the second finishes last
        (0, 0, 7, 1), (2, 0, 7, 800), (2.5, 0, 7, 1), (100, 0, 7, 1), (110, 1, 7, 1), (130, 0, 8, 1),
    ]  # fmt: skip
    workload = requests(
        *(
            {"arrival_us": round(at * 1000 * MS), "model": m, "session": key, "output_tokens": n}
            for at, m, key, n in rows
        )
    )
    case = case_of("tiny")
    pauses = pauses_of(type(case)("by hand", tables, lambda seed: workload), [0])
    ended = np.flatnonzero(pauses.ended)
    assert pauses.seen_s[ended] == pytest.approx([1.998, 100.0 - 2.8], abs=0.01)
    assert pauses.step[ended].tolist() == [0, 2]
    # Session 7 at model 0 from 100 s on, at model 1 from 110 s on, session 8: as long as they were seen, until 130 s.
    assert sorted(pauses.seen_s[~pauses.ended]) == pytest.approx([0.0, 20.0, 30.0], abs=0.1)


def test_a_table_comes_back_from_its_file_and_a_scenario_reads_it(tmp_path: Path):
    again = np.random.default_rng(0).random(AGAIN_SHAPE).round(4)
    rows = tuple(tuple(row) for row in again.reshape(-1, len(AGAIN_WITHIN_S)).tolist())
    write_table(AgainTable(source="made up", pauses=3, again=rows), tmp_path / "mine.json")
    assert np.array_equal(read_table(tmp_path / "mine.json"), again)
    plain = load_scenario("tiny")
    scenario = plain.replace(sessions=str(tmp_path / "mine.json"))
    assert scenario.tables().again is not None and np.array_equal(scenario.tables().again, again)
    assert plain.tables().again is None
    assert fingerprint_of(scenario, Protocol.EVICTION) != fingerprint_of(plain, Protocol.EVICTION)


def test_what_is_no_table_is_refused(tmp_path: Path):
    (tmp_path / "short.json").write_text('{"source": "x", "pauses": 1, "again": [[0.1, 0.2, 0.3]]}')
    with pytest.raises(ConfigError, match="again"):
        read_table(tmp_path / "short.json")
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


def test_the_command_writes_a_table_and_judges_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--scenarios", "tiny", "--seeds", "2", "--out", str(tmp_path / "mine.json")]) == 0
    assert read_table(tmp_path / "mine.json").shape == AGAIN_SHAPE
    shown = capsys.readouterr().out
    assert "pauses" in shown and "| all features |" in shown
