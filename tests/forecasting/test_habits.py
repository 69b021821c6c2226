"""Habits: counted as a human would count them, and read back only if they are what was saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cace_env.config import ConfigError
from cace_env.evaluation.held_out import problems_of_seeds
from cace_env.forecasting import Habits, HabitsCard, fit_habits, load_habits, save_habits
from cace_env.forecasting.fitting import Played
from cace_env.forecasting.habits import ARRAYS_FILE, CARD_FILE
from cace_env.tables import TASKS

CHAT = TASKS.index("chat")
CARD = HabitsCard(fitted_on=("by hand",), requests=6)


def two_users() -> Played:
    """Two sessions of one user and one of another; who asks again does so 10 s after the answer."""
    return Played(
        task=np.full(6, CHAT),
        model=np.array([1, 1, 1, 1, 2, 2]),
        user=np.array([7, 7, 7, 7, 9, 9]),
        session=np.array([0, 0, 0, 1, 2, 2]),
        context=np.array([100, 150, 200, 100, 100, 150]),
        new=np.array([100, 50, 50, 100, 100, 50]),
        output=np.array([30, 30, 30, 30, 30, 30]),
        arrival_s=np.array([0.0, 15.0, 30.0, 2000.0, 5.0, 20.0]),
        finish_s=np.array([5.0, 20.0, 35.0, 2005.0, 10.0, 25.0]),
        end_s=10_000.0,
    )


@pytest.fixture(scope="module")
def habits() -> Habits:
    return fit_habits([two_users()])


def test_gaps_are_from_answer_to_question(habits: Habits) -> None:
    np.testing.assert_allclose(habits.gaps_s[CHAT], 10.0)


def test_later_prompts_grow_as_they_did(habits: Habits) -> None:
    assert (habits.grown_tokens[CHAT] == [50, 50]).all()
    np.testing.assert_allclose(habits.first_tokens[CHAT], 100.0)


def test_sessions_that_ended_count_against_another_request(habits: Habits) -> None:
    # after the first request two of three went on, after the second one of two, after the third none
    assert habits.proceed[CHAT, 1] > habits.proceed[CHAT, 2] > habits.proceed[CHAT, 3]


def sessions_cut_at(end_s: float) -> Played:
    """Many sessions, of whose requests seven in ten are followed by another one, after 300 s on average; cut short."""
    rng = np.random.default_rng(1)
    rows = []
    for session in range(4000):
        at = rng.uniform(0.0, 4000.0)
        while at <= end_s:
            rows.append((session, at))
            if rng.random() > 0.7:
                break
            at += 2.0 + rng.exponential(300.0)  # an answer takes 2 s
    session, arrival = np.array(rows).T
    ones = np.ones(len(rows), dtype=np.int64)
    return Played(
        task=CHAT * ones,
        model=ones,
        user=session.astype(np.int64) % 100,
        session=session.astype(np.int64),
        context=100 * ones,
        new=50 * ones,
        output=30 * ones,
        arrival_s=arrival,
        finish_s=arrival + 2.0,
        end_s=end_s,
    )


@pytest.mark.parametrize("end_s", [2000.0, 4000.0, 20_000.0])
def test_where_an_episode_is_cut_makes_no_difference_to_gaps_and_chances_to_go_on(end_s: float) -> None:
    cut = fit_habits([sessions_cut_at(end_s)])
    np.testing.assert_allclose(cut.proceed[CHAT, 1:5], 0.7, atol=0.04)
    assert np.median(cut.gaps_s[CHAT]) == pytest.approx(300.0 * np.log(2.0), rel=0.08)
    assert cut.gaps_s[CHAT].mean() == pytest.approx(300.0, rel=0.1)


def test_a_session_that_paused_for_a_moment_when_the_episode_ended_may_go_on() -> None:
    cut = fit_habits([two_users()._replace(end_s=2010.0)])  # after 5 s, and three of five pauses end after 10 s
    more, told = 2.6, 3.0
    everywhere = (3.6 + 1.0) / (6.0 + 2.0)
    assert cut.proceed[CHAT, 1] == pytest.approx((more + 2.0 * everywhere) / (told + 2.0))


def test_a_user_who_comes_back_to_his_model_is_loyal(habits: Habits) -> None:
    assert habits.loyal[CHAT] == pytest.approx(2 / 3)  # one of one, and one case more for each of yes and no


def test_a_task_without_cases_has_those_of_all(habits: Habits) -> None:
    np.testing.assert_array_equal(habits.gaps_s[TASKS.index("agent")], habits.gaps_s[CHAT])


def test_nothing_to_count_is_refused() -> None:
    with pytest.raises(ValueError, match="no request was served"):
        fit_habits([])


def test_habits_are_read_as_they_were_saved(habits: Habits, tmp_path: Path) -> None:
    save_habits(habits, CARD, tmp_path)
    again, card = load_habits(tmp_path)
    for name in Habits._fields:
        np.testing.assert_array_equal(getattr(again, name), getattr(habits, name))
    assert card.fitted_on == ("by hand",)


def test_files_that_were_not_saved_together_are_refused(habits: Habits, tmp_path: Path) -> None:
    save_habits(habits, CARD, tmp_path)
    (tmp_path / ARRAYS_FILE).write_bytes(b"something else")
    with pytest.raises(ConfigError, match="was not saved with this card"):
        load_habits(tmp_path)


def test_habits_of_another_shape_are_refused(habits: Habits, tmp_path: Path) -> None:
    save_habits(habits._replace(loyal=np.zeros(1)), CARD, tmp_path)
    with pytest.raises(ConfigError, match="loyal has to be"):
        load_habits(tmp_path)


def test_a_folder_without_habits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=CARD_FILE):
        load_habits(tmp_path)


def test_the_habits_that_ship_are_of_training_seeds() -> None:
    habits, card = load_habits()
    assert problems_of_seeds(card.train_seeds) == []
    assert {name.removeprefix("eviction-") for name in card.fitted_on} >= {"default", "agents"}
    assert (habits.gaps_s >= 0).all()
    assert ((habits.proceed >= 0) & (habits.proceed <= 1)).all()
