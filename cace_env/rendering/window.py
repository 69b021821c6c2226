"""A window on the screen for `render_mode="human"`.

pygame-ce is imported where it is used; it comes with the extra `human`.
"""

from __future__ import annotations

import os
import time
from types import ModuleType
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt

INVISIBLE: Final = "offscreen"  # the driver that SDL falls back to where there is no screen
LOOK_S: Final = 0.02  # how often the user is listened to while a frame stands
LETTERBOX: Final = (255, 255, 255)


class Window:
    """Shows frames at a steady rate, until it is closed.

    It opens at the first frame, and can be resized: frames keep their aspect ratio. Closing it (or Escape, or Q) ends
    the show and not the run: later frames are dropped at once, so what steps the environment goes on at full speed.
    Space stops the time and lets it go on; the right arrow shows the next frame and stops there.

    Several windows can be open in a process, one per environment. A copy of a window, also by pickle, is one that has
    not been opened.

    Args:
        title: what stands above it.
        fps: frames per second; `show` waits until the frame before has stood so long.
    """

    def __init__(self, title: str, fps: float) -> None:
        if not fps > 0:
            raise ValueError(f"fps is {fps}; it has to be above 0")
        self.title = title
        self.fps = fps
        self.closed = False  # by the user or by `close`
        self.paused = False
        self._one_more = False  # a single frame was asked for
        self._window: Any = None  # pygame.Window
        self._frame: Any = None  # pygame.Surface, unscaled
        self._due_s = 0.0  # when the next frame is, by time.monotonic()

    def show(self, frame: npt.NDArray[np.uint8]) -> None:
        """Shows `frame`, `(height, width, 3)` RGB, once its time has come; does nothing where the window is closed.

        Raises:
            ImportError: pygame-ce is missing; the message names the extra.
            RuntimeError: no window can be opened.
            ValueError: not an RGB frame.
        """
        if self.closed:
            return
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"the frame is {frame.dtype} {frame.shape}; it has to be uint8 (height, width, 3)")
        pygame = _pygame()
        height, width, _ = frame.shape
        if self._window is None:
            self._window = _opened(pygame, self.title, (width, height))
        self._wait(pygame)
        if self.closed:
            return
        self._frame = pygame.image.frombytes(frame.tobytes(), (width, height), "RGB")
        self._draw(pygame)
        self._due_s = time.monotonic() + 1 / self.fps

    def close(self) -> None:
        """Closes the window for good; closing it again does nothing."""
        self.closed = True
        self._frame = None
        if self._window is not None:
            self._window.destroy()
            self._window = None

    def __getstate__(self) -> dict[str, Any]:
        return {"title": self.title, "fps": self.fps}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        Window.__init__(self, **kept)

    def _wait(self, pygame: ModuleType) -> None:
        """Until the last frame has stood for its time, or the user wants the next one."""
        self._listen(pygame)
        while not (self.closed or self._one_more):
            left_s = LOOK_S if self.paused else self._due_s - time.monotonic()
            if left_s <= 0:
                break
            time.sleep(min(left_s, LOOK_S))
            self._listen(pygame)
        self._one_more = False

    def _listen(self, pygame: ModuleType) -> None:
        """Does what the user asked for since the last time."""
        closing = (pygame.WINDOWCLOSE, pygame.QUIT)
        uncovered = (pygame.WINDOWSIZECHANGED, pygame.WINDOWEXPOSED)
        for event in pygame.event.get():
            owner = event.dict.get("window")
            if event.type not in (*closing, *uncovered, pygame.KEYDOWN):
                continue
            if owner is not None and owner is not self._window:
                pygame.event.post(event)  # meant for another window, which listens when its turn comes
            elif self.closed:
                continue
            elif event.type in closing:
                self.close()
            elif event.type in uncovered:
                self._draw(pygame)
            else:
                self._press(pygame, event.key)

    def _press(self, pygame: ModuleType, key: int) -> None:
        """The keys of the class docstring."""
        if key in (pygame.K_ESCAPE, pygame.K_q):
            self.close()
        elif key == pygame.K_SPACE:
            self.paused = not self.paused
        elif key == pygame.K_RIGHT:
            self.paused = self._one_more = True

    def _draw(self, pygame: ModuleType) -> None:
        """The frame, as large as the window allows, in its middle."""
        if self._frame is None:
            return
        screen = self._window.get_surface()
        width, height = self._frame.get_size()
        scale = min(screen.get_width() / width, screen.get_height() / height)
        size = (max(1, round(scale * width)), max(1, round(scale * height)))
        scaled = self._frame if scale == 1 else pygame.transform.smoothscale(self._frame, size)
        screen.fill(LETTERBOX)
        screen.blit(scaled, ((screen.get_width() - size[0]) // 2, (screen.get_height() - size[1]) // 2))
        self._window.flip()


def _pygame() -> ModuleType:
    """pygame-ce, without the greeting that it prints when imported."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import pygame
    except ImportError as error:
        raise ImportError('render_mode="human" needs pygame-ce; pip install "cace-env[human]"') from error
    if not hasattr(pygame, "Window"):
        raise ImportError(
            f'render_mode="human" needs pygame-ce 2.5.2 or newer, and found pygame {pygame.version.ver} under the same '
            'name; pip uninstall pygame pygame-ce, then pip install "cace-env[human]"'
        )
    return pygame


def _opened(pygame: ModuleType, title: str, size: tuple[int, int]) -> Any:
    """A new window on the screen."""
    # SDL would turn SIGTERM into the event that closes a window, and the process could not be stopped by it.
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")
    try:
        pygame.display.init()
        window = pygame.Window(title, size, resizable=True)
    except pygame.error as error:
        raise RuntimeError(
            f'no window can be opened: {error}; without a screen use render_mode="rgb_array" and RecordVideo'
        ) from error
    if pygame.display.get_driver() == INVISIBLE and "SDL_VIDEODRIVER" not in os.environ:
        gymnasium.logger.warn('there is no screen, so nobody sees the window; use render_mode="rgb_array" instead')
    pygame.event.clear(pygame.QUIT)  # left behind by the last window that was closed before
    return window
