"""Claims about the videos that Gymnasium's wrappers write: `make test-video`, as moviepy wants an older Pillow."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import RecordVideo

import cace_env
from cace_env.rendering.picture import HEIGHT, WIDTH
from tests.support.envs import first_legal, short

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(importlib.util.find_spec("moviepy") is None, reason="needs the extra video (make test-video)"),
]


PAGE = Path(__file__).resolve().parents[2] / "docs" / "environment.md"


def frames_of(path: Path) -> tuple[list[np.ndarray], float]:
    """Every frame of a video, `(height, width, 3)`, and its frames per second."""
    from moviepy import VideoFileClip

    with VideoFileClip(str(path)) as clip:
        return [np.array(frame) for frame in clip.iter_frames()], float(clip.fps)


def test_an_episode_becomes_a_video_of_every_decision(tmp_path: Path) -> None:
    made = gymnasium.make(cace_env.EVICTION_ID, scenario=short(requests=60), render_mode="rgb_array")
    env = RecordVideo(
        made, str(tmp_path / "videos"), episode_trigger=lambda episode: episode == 0, name_prefix="episode"
    )
    _, info = env.reset(seed=1)
    drawn = [made.render()]
    over = False
    while not over:
        *_, terminated, truncated, info = env.step(first_legal(info))
        drawn.append(made.render())
        over = terminated or truncated
    env.close()
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["episode-episode-0.mp4"]
    frames, fps = frames_of(tmp_path / "videos" / "episode-episode-0.mp4")
    assert (len(frames), fps) == (len(drawn), made.metadata["render_fps"])
    for frame, picture in ((frames[0], drawn[0]), (frames[-1], drawn[-1])):
        assert frame.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(frame.astype(int) - picture).mean() < 3  # of 255: compression blurs, and no more


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_batch_becomes_a_video_of_all_environments(mode: AutoresetMode, tmp_path: Path) -> None:
    from gymnasium.wrappers.vector import RecordVideo as RecordVectorVideo

    arguments: dict[str, Any] = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": mode}}
    made = gymnasium.make_vec(
        cace_env.EVICTION_ID, num_envs=4, **arguments, scenario=short(requests=40), render_mode="rgb_array"
    )
    wrapper: dict[str, Any] = {"video_length": 5, "step_trigger": lambda step: step == 0, "video_aspect_ratio": (16, 9)}
    if mode == AutoresetMode.SAME_STEP:
        with pytest.warns(UserWarning, match="will not contain the last frame"):
            env = RecordVectorVideo(made, str(tmp_path / "videos"), **wrapper)
    else:
        env = RecordVectorVideo(made, str(tmp_path / "videos"), **wrapper)
    _, info = env.reset(seed=1)
    for _ in range(8):
        *_, info = env.step(info["action_mask"].argmax(axis=1))
    env.close()
    frames, _ = frames_of(tmp_path / "videos" / "rl-video-step-0.mp4")
    assert {frame.shape for frame in frames} == {(2 * HEIGHT, 2 * WIDTH, 3)}


def test_the_example_of_the_page_writes_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(
        r"^```py\n(.*?RecordVideo.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(example, PAGE.name, "exec"), {"__name__": "example"})
    assert [path.suffix for path in (tmp_path / "videos").iterdir()] == [".mp4"]
