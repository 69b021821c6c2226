"""Whatever is typed: a command ends with a line and a status, and names only options that it has."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from collections.abc import Sequence
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tyro", reason="needs the extra experiments")
pytest.importorskip("matplotlib", reason="needs the extra experiments")

from cace_env.config import ConfigError
from tests.fuzz.mutations import NUMBERS, TEXTS, fuzzed
from tests.robustness.test_suggestions import foreign, options_of

# Where a command has read all it was told, and would begin.
BEGINS: Final = {
    "compare": ("experiments.compare.prepared",),
    "suite": ("experiments.suite.prepared",),
    "train": ("experiments.train.Validation", "experiments.train.make_trainer"),
    "tune": ("experiments.tuning.run.compiled", "experiments.tuning.run.goal_of", "experiments.tuning.run.run_search"),
    "ablate": ("experiments.ablate.prepared", "experiments.ablate.load_agent"),
    "report": ("experiments.report.write_report",),
    "characterize": (
        "experiments.characterize.generate",
        "experiments.characterize.all_checks",
        "experiments.characterize.open_log",
    ),
    "recommend": ("experiments.logs.advice.options.open_log",),
    "submission": ("experiments.board.playing.run_seed", "experiments.board.playing.in_order"),
}
FIRST: Final = {"submission": ("make", "check", "board", "ship", "x"), "tune": ("cace", "configs/sweep.yaml", "x")}
PLAUSIBLE: Final = """
tiny default v1 tiny-v1 eviction swap both lru cace lru,cace test train 1 shipped compute none error replace azure
users=3 starts=2 x=[ a=b=c = =x x= tests.support.comparisons:broken gain=.nan starts=-1 starts=1000000000000
users=1000000000000 configs/sweep.yaml configs/agent/linear.yaml README.md off linear dqn --help --config
"""


@pytest.fixture
def stopped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> str:
    """A command that ends where it would begin, in an empty folder."""
    command: str = request.param
    importlib.import_module(f"experiments.{command}")

    def begins(*_: Any, **__: Any) -> None:
        raise ConfigError("all that was told has been read")

    for place in BEGINS[command]:
        with contextlib.suppress(AttributeError):
            monkeypatch.setattr(place, begins)
    monkeypatch.chdir(tmp_path)
    return command


def ended(command: str, arguments: Sequence[str]) -> tuple[int, str]:
    """Exit status, and what was said on stderr."""
    said = io.StringIO()
    main = importlib.import_module(f"experiments.{command}").main
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
    return status, said.getvalue()


@pytest.mark.parametrize("stopped", BEGINS, indirect=True)
@given(data=st.data())
@fuzzed
def test_whatever_is_typed_ends_with_a_line_and_a_status(stopped: str, data: st.DataObject) -> None:
    values = st.one_of(st.sampled_from(PLAUSIBLE.split()), TEXTS, NUMBERS.map(str)).map(
        lambda text: text.replace("\0", "").replace("\ud800", "")
    )
    arguments = [data.draw(st.sampled_from(FIRST[stopped]))] if stopped in FIRST else []
    for _ in range(data.draw(st.integers(0, 4))):
        option = data.draw(st.sampled_from(sorted(options_of(stopped) - {"--help", "--demo"})))
        arguments += [option, *data.draw(st.lists(values, max_size=2))]
    status, said = ended(stopped, arguments)
    assert status in (0, 1, 2)
    assert "Traceback" not in said
    if status and said.startswith("error: "):
        assert "\x1b" not in said
        assert foreign(re.sub(r"'[^']*'", "", said), stopped) == []
