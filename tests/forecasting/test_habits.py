"""Habits: counted as a human would count them, and read back only if they are what was saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cace_env.config import ConfigError
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


def test_a_session_at_the_end_of_the_episode_has_not_ended_for_sure() -> None:
    cut = fit_habits([two_users()._replace(end_s=2010.0)])
    assert cut.proceed[CHAT, 1] > fit_habits([two_users()]).proceed[CHAT, 1]


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
    assert "train" in card.seeds
    assert {name.removeprefix("eviction-") for name in card.fitted_on} >= {"default", "agents"}
    assert (habits.gaps_s >= 0).all()
    assert ((habits.proceed >= 0) & (habits.proceed <= 1)).all()
