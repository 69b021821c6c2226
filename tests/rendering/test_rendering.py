"""Claims about pictures: they show what the simulator did, at a readable size, and cost nothing unless asked for."""

from __future__ import annotations

import builtins
import re
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest

import cace_env
from cace_env.envs import EvictionEnv
from cace_env.kernel import state as layout
from cace_env.kernel.state import ACCELERATOR, TRACED
from cace_env.rendering import scene
from cace_env.rendering.picture import HEIGHT, PALETTE, WIDTH, color
from cace_env.rendering.scenes import PHASES, Scene, clock
from cace_env.tables import slots_per_accelerator
from tests.support.envs import first_legal, last_legal, roomy, short
from tests.support.small import EVERYDAY


def played(mode: str | None, steps: int = 40, name: str = "default", **arguments: Any) -> EvictionEnv:
    """An environment in the middle of an episode."""
    env = EvictionEnv(short(name), render_mode=mode, **arguments)
    _, info = env.reset(seed=1)
    over = False
    for _ in range(steps):
        if not over:
            *_, terminated, truncated, info = env.step(last_legal(info))
            over = terminated or truncated
    return env


def scene_of(env: EvictionEnv) -> Scene:
    return scene(env.simulator, env._last_choice, env.scenario.name)


@pytest.mark.parametrize("name", EVERYDAY)
def test_the_scene_is_the_state_of_the_simulator(name: str) -> None:
    for steps in (0, 1, 25, 10_000):
        env = played("ansi", steps, name)
        view, state = scene_of(env), env.simulator.state
        for a, site in enumerate(view.sites):
            taken_gb = sum(resident.need_gb for resident in site.residents) + site.asleep_gb
            assert site.memory_gb - site.free_gb == pytest.approx(taken_gb)
            assert len(site.residents) == state.accelerators[a, ACCELERATOR.held]
        # The timeline, replayed from the event trace, ends as the simulator stands: same models, same slots.
        first = np.cumsum([0, *(slots_per_accelerator(env.tables))])
        now = {span.model: first[span.accelerator] + span.lane for span in view.spans if span.end_us is None}
        assert now == {resident.model: resident.slot for site in view.sites for resident in site.residents}
        waiting = view.waiting_at(np.array([view.now_us]))[:, 0]
        np.testing.assert_array_equal(waiting, view.waiting)


def test_stays_in_one_lane_never_overlap() -> None:
    lanes: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for span in scene_of(played("ansi", 10_000)).spans:
        assert span.start_us <= (span.loaded_us or span.start_us) <= (span.leaving_us or 1 << 60)
        lanes.setdefault((span.accelerator, span.lane), []).append((span.start_us, span.end_us or np.inf))
    for stays in lanes.values():
        stays.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(stays))


def test_text_names_the_victim_and_why() -> None:
    env = EvictionEnv(short(), render_mode="ansi")
    _, info = env.reset(seed=1)
    slot = first_legal(info)
    victim = env.tables.model_names[env.simulator.state.slots[slot]]
    target = re.match("make room for (.*): evict", env.describe())
    assert target is not None
    env.step(slot)
    text = env.render()
    assert isinstance(text, str)
    assert f"room for {target[1]}" in text and "GB missing" in text
    assert re.search(rf"> {slot} +{re.escape(victim)}", text)
    assert all(name in text for name in env.tables.accelerator_names)
    assert max(map(len, text.splitlines())) <= 120


def test_the_picture_is_readable_and_coloured_by_model() -> None:
    pytest.importorskip("PIL", reason="needs the extra render")
    env = played("rgb_array")
    picture = env.render()
    assert isinstance(picture, np.ndarray)
    assert picture.shape == (HEIGHT, WIDTH, 3) and picture.dtype == np.uint8
    seen = {tuple(pixel) for pixel in picture[40:320, 640:].reshape(-1, 3).tolist()}
    for site in scene_of(env).sites:
        for resident in site.residents:
            if resident.phase == "resident":
                assert tuple(int(color(resident.model)[i : i + 2], 16) for i in (1, 3, 5)) in seen
    assert len(set(PALETTE)) == len(PALETTE)


@pytest.mark.parametrize("name", EVERYDAY)
def test_every_scenario_can_be_drawn_from_beginning_to_end(name: str) -> None:
    pytest.importorskip("PIL", reason="needs the extra render")
    for steps in (0, 10_000):
        assert np.shape(played("rgb_array", steps, name).render()) == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("mode", ["ansi", "rgb_array"])
def test_an_episode_without_questions_can_be_drawn(mode: str) -> None:
    pytest.importorskip("PIL", reason="needs the extra render")
    env = EvictionEnv(roomy(), render_mode=mode)
    env.reset(seed=1)
    assert env.render() is not None
    env.step(0)
    assert env.render() is not None


def test_drawing_changes_nothing() -> None:
    pytest.importorskip("PIL", reason="needs the extra render")
    seen, unseen = EvictionEnv(short(), render_mode="rgb_array"), EvictionEnv(short())
    result: tuple[Any, ...] = seen.reset(seed=2)
    np.testing.assert_equal(result, unseen.reset(seed=2))
    for _ in range(15):
        picture = seen.render()
        np.testing.assert_array_equal(picture, seen.render())
        action = first_legal(result[-1])
        result = seen.step(action)
        np.testing.assert_equal(result, unseen.step(action))


def test_every_phase_of_a_model_is_shown_under_its_name() -> None:
    assert {name: getattr(layout, name.upper()) for name in PHASES.values()} == {n: p for p, n in PHASES.items()}
    assert sorted(PHASES) == list(range(len(PHASES)))


def test_history_is_kept_only_for_those_who_look() -> None:
    assert len(played(None).simulator.trace) == 0
    with pytest.warns(UserWarning, match='give render_mode="ansi", "rgb_array" or "human"'):
        assert played(None).render() is None


@pytest.mark.parametrize("name", EVERYDAY)
def test_the_history_never_overflows(name: str) -> None:
    env = played("ansi", 10_000, name)
    assert env.simulator.state.scalars[TRACED] <= len(env.simulator.trace)


def test_without_pillow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_pillow(name: str, *rest: Any, **more: Any) -> Any:
        if name == "PIL":
            raise ImportError("No module named 'PIL'")
        return real(name, *rest, **more)

    env = played("rgb_array", 3)
    monkeypatch.setattr(builtins, "__import__", without_pillow)
    with pytest.raises(ImportError, match=r"cace-env\[render\]"):
        env.render()


def test_a_video_wrapper_can_collect_the_pictures() -> None:
    pytest.importorskip("PIL", reason="needs the extra render")
    made = gymnasium.make(cace_env.EVICTION_ID, scenario=short(), render_mode="rgb_array")
    env = gymnasium.wrappers.RenderCollection(made)
    _, info = env.reset(seed=1)
    for _ in range(3):
        *_, info = env.step(first_legal(info))
    frames = env.render()
    assert isinstance(frames, list) and len(frames) == 4


@pytest.fixture
def no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """SDL draws into memory."""
    pytest.importorskip("PIL", reason="needs the extra render")
    pytest.importorskip("pygame", reason="needs the extra human")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(EvictionEnv.metadata, "render_fps", 1000)


@pytest.mark.usefixtures("no_screen")
@pytest.mark.filterwarnings("ignore:.*doesn't natively support it:UserWarning")
def test_gymnasiums_window_shows_reset_and_every_step_unasked() -> None:
    pygame = pytest.importorskip("pygame")
    seen = gymnasium.make(cace_env.EVICTION_ID, scenario=short(), render_mode="human")
    drawn = EvictionEnv(short(), render_mode="rgb_array")
    result: tuple[Any, ...] = seen.reset(seed=1)
    np.testing.assert_equal(result, drawn.reset(seed=1))
    for _ in range(5):
        on_screen = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
        np.testing.assert_array_equal(on_screen, drawn.render())
        assert seen.render() is None
        action = first_legal(result[-1])
        result = seen.step(action)
        np.testing.assert_equal(result, drawn.step(action))
    seen.close()


@pytest.mark.usefixtures("no_screen")
def test_an_environment_without_make_says_where_a_window_is() -> None:
    with pytest.raises(ValueError, match=r"use gymnasium.make\(\.\.\., render_mode=\"human\"\)"):
        EvictionEnv(short(), render_mode="human")


def test_clock_reads_hours_minutes_seconds() -> None:
    assert clock(3_723_450_000) == "1:02:03.4"
    assert clock(0) == "0:00:00.0"
