"""Claims about the window of `render_mode="human"`: it shows every frame, and closing it harms nobody."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from cace_env.rendering.picture import HEIGHT, WIDTH
from cace_env.rendering.window import Window

pygame: Any = pytest.importorskip("pygame", reason="needs the extra human")

FAST = 1000.0  # frames per second


@pytest.fixture(autouse=True)
def no_screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SDL draws into memory, and forgets between tests what happened."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    yield
    pygame.display.quit()


@pytest.fixture
def window() -> Iterator[Window]:
    shown = Window("a window", FAST)
    yield shown
    shown.close()


def frame(red: int = 10, green: int = 20, blue: int = 30) -> np.ndarray:
    """A picture of one colour, with a black left half."""
    picture = np.full((HEIGHT, WIDTH, 3), (red, green, blue), dtype=np.uint8)
    picture[:, : WIDTH // 2] = 0
    return picture


def on_screen(window: Window) -> np.ndarray:
    """The pixels of the window, `(height, width, 3)`."""
    return np.array(pygame.surfarray.array3d(window._window.get_surface())).swapaxes(0, 1)


def happens(kind: str, window: Window, **about: Any) -> None:
    """The user does something to a window."""
    pygame.event.post(pygame.event.Event(getattr(pygame, kind), window=window._window, **about))


def press(key: str, window: Window) -> None:
    happens("KEYDOWN", window, key=getattr(pygame, f"K_{key}"))


def test_what_is_shown_is_the_frame(window: Window):
    for picture in (frame(), frame(200, 0, 0)):
        window.show(picture)
        np.testing.assert_array_equal(on_screen(window), picture)


def test_a_resized_window_shows_the_whole_frame_in_its_proportions(window: Window):
    window.show(frame())
    window._window.size = (WIDTH // 2, HEIGHT)  # half as wide: half as high a picture, in the middle
    window.show(frame())
    pixels = on_screen(window)
    assert pixels.shape == (HEIGHT, WIDTH // 2, 3)
    shown = (pixels != 255).any(axis=(1, 2))
    assert shown.sum() == HEIGHT // 2 and shown[HEIGHT // 4 : 3 * HEIGHT // 4].all()
    np.testing.assert_array_equal(pixels[HEIGHT // 2, [10, -10]], [[0, 0, 0], [10, 20, 30]])


def test_the_frame_that_stands_is_drawn_again_when_the_window_changes(window: Window):
    window.show(frame(1, 2, 3))
    window._window.size = (2 * WIDTH, 2 * HEIGHT)
    window._listen(pygame)
    np.testing.assert_array_equal(on_screen(window)[-1, -1], [1, 2, 3])


@pytest.mark.parametrize(
    "close",
    [
        pytest.param(lambda window: happens("WINDOWCLOSE", window), id="its button"),
        pytest.param(lambda window: pygame.event.post(pygame.event.Event(pygame.QUIT)), id="quit"),
        pytest.param(lambda window: press("ESCAPE", window), id="escape"),
        pytest.param(lambda window: press("q", window), id="q"),
        pytest.param(lambda window: window.close(), id="close"),
    ],
)
def test_a_closed_window_stays_closed_and_lets_the_run_go_on(close: Callable[[Window], None]):
    window = Window("a window", fps=0.01)  # a frame would stand for a minute and a half
    window.show(frame())
    close(window)
    for _ in range(3):
        window.show(frame())
    assert window.closed
    window.close()
    window.close()


def test_closing_what_was_never_opened_is_allowed():
    Window("a window", FAST).close()


def test_frames_come_at_their_rate_even_if_the_run_is_faster(window: Window, monkeypatch: pytest.MonkeyPatch):
    clock, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", sleep)
    window.fps = 4
    for _ in range(3):
        window.show(frame())
    assert sum(slept) == pytest.approx(2 / 4)
    clock[0] += 10  # a policy that thinks for long is not slowed down further
    window.show(frame())
    assert sum(slept) == pytest.approx(2 / 4)


def test_space_stops_the_time_and_the_right_arrow_shows_one_frame(window: Window, monkeypatch: pytest.MonkeyPatch):
    todo: list[str] = []
    looked = []

    def sleep(seconds: float) -> None:
        looked.append(seconds)
        if len(looked) % 50 == 0:
            press(todo.pop(0), window)

    monkeypatch.setattr(time, "sleep", sleep)
    window.show(frame(1, 1, 1))
    press("SPACE", window)
    todo[:] = ["RIGHT", "SPACE"]
    window.show(frame(2, 2, 2))
    assert (len(looked), todo, window.paused) == (50, ["SPACE"], True)
    window.show(frame(3, 3, 3))
    assert (len(looked), todo, window.paused) == (100, [], False)
    np.testing.assert_array_equal(on_screen(window)[0, -1], [3, 3, 3])


def test_two_windows_do_not_take_each_others_events():
    one, two = Window("one", FAST), Window("two", FAST)
    one.show(frame(1, 1, 1))
    two.show(frame(2, 2, 2))
    happens("WINDOWCLOSE", two)
    one.show(frame(1, 1, 1))
    two.show(frame(2, 2, 2))
    assert (one.closed, two.closed) == (False, True)
    np.testing.assert_array_equal(on_screen(one)[0, -1], [1, 1, 1])
    one.close()


def test_the_next_window_does_not_close_with_the_last_one():
    first = Window("first", FAST)
    first.show(frame())
    first.close()
    pygame.event.post(pygame.event.Event(pygame.QUIT))  # as SDL says when the last window is gone
    second = Window("second", FAST)
    second.show(frame())
    second.show(frame())
    assert not second.closed
    second.close()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda window: pickle.loads(pickle.dumps(window))])
def test_a_copy_has_not_been_opened(window: Window, copied: Callable[[Window], Window]):
    window.show(frame())
    other = copied(window)
    window.close()
    assert (other.title, other.fps, other.closed) == (window.title, window.fps, False)
    other.show(frame())
    other.close()


@pytest.mark.parametrize("bad", [frame()[..., 0], frame()[..., :2], frame().astype(float)])
def test_what_is_no_picture_is_refused(window: Window, bad: np.ndarray):
    with pytest.raises(ValueError, match="has to be uint8"):
        window.show(bad)


def test_a_rate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="fps is 0"):
        Window("a window", 0)


def test_without_pygame_the_error_names_the_extra(window: Window, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ImportError, match=r"pip install \"cace-env\[human\]\""):
        window.show(frame())


def test_the_other_package_called_pygame_is_told_apart(window: Window, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(pygame, "Window")
    with pytest.raises(ImportError, match=r"needs pygame-ce .* same name"):
        window.show(frame())


def test_where_no_window_can_be_opened_the_error_says_what_to_do(window: Window, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "no such driver")
    pygame.display.quit()
    with pytest.raises(RuntimeError, match='use render_mode="rgb_array"'):
        window.show(frame())


def test_a_window_that_nobody_can_see_is_told(window: Window, monkeypatch: pytest.MonkeyPatch):
    pygame.display.init()
    monkeypatch.delenv("SDL_VIDEODRIVER")
    monkeypatch.setattr(pygame.display, "get_driver", lambda: "offscreen")
    with pytest.warns(UserWarning, match="there is no screen"):
        window.show(frame())


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SDL_VIDEODRIVER": "dummy"}
    environment.pop("PYGAME_HIDE_SUPPORT_PROMPT", None)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.integration
def test_pygame_is_imported_with_the_first_frame_and_prints_nothing():
    code = (
        "import sys, numpy; from cace_env.rendering.window import Window; w = Window('w', 10.0); "
        "assert 'pygame' not in sys.modules; "
        "w.show(numpy.zeros((54, 96, 3), dtype=numpy.uint8)); assert 'pygame' in sys.modules"
    )
    done = python(code)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.integration
def test_a_run_with_a_window_can_be_stopped_by_a_signal():
    code = (
        "import os, signal, time, numpy; from cace_env.rendering.window import Window; w = Window('w', 10.0); "
        "w.show(numpy.zeros((54, 96, 3), dtype=numpy.uint8)); os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)"
    )
    assert python(code).returncode == -signal.SIGTERM
