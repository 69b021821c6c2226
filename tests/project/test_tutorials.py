"""Claims about the tutorials: all of their commands and code run, with fewer steps where it would take long.

Blocks are fenced by what becomes of them here: `python` is executed, `console` is run by bash in an empty folder,
`shell` is for the reader's machine alone (installing, activating), and a block without a name is output.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import gymnasium
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "tutorials"
GOVERNANCE = ROOT / "docs" / "governance.md"
EXAMPLE_KEY = "0123456789abcdef0123456789abcdef"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SET_UP = ("make test", "source ", "pip install ")  # what `shell` blocks may hold
# What makes a page short enough to be tested: (as it stands there, as it is run). Each has to be there.
SHORTER: dict[str, Sequence[tuple[str, str]]] = {
    "platform": (
        ("gateway_log.py ", "gateway_log.py --requests 1500 "),
        ("experiments.recommend before ", "experiments.recommend before --tuning 0 --windows 8 --policies lru,cace "),
    ),
    "researcher": (
        ("--scenarios eviction-default ", "--scenarios eviction-workstation "),
        ("--seeds 100", "--seeds 2"),
        ("--scenarios default,workstation,agents ", "--scenarios tiny "),
        ("--scenario default --model mellum-4b ", "--scenario tiny --model starcoder2-3b "),
    ),
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, content) of every block of a page, in order."""
    return [(found[1], found[2]) for found in FENCE.finditer(page.read_text(encoding="utf-8"))]


def commands(name: str) -> list[str]:
    """The `console` blocks of a page, as they are run."""
    found = [content for language, content in blocks(FOLDER / f"{name}.md") if language == "console"]
    for long, short in SHORTER.get(name, ()):
        assert any(long in content for content in found), f"{name} has no {long!r}"
        found = [content.replace(long, short) for content in found]
    return found


def run(block: str, folder: Path) -> str:
    """What a block prints."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what commands read from a checkout."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "examples").mkdir()
    for path in (ROOT / "examples").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        (tmp_path / "examples" / path.name).write_text(text.replace('"default", 150_000', '"tiny", 15_000'))
    return tmp_path


@pytest.fixture
def registry() -> Iterator[None]:
    """Ids that a page registers are forgotten."""
    known = dict(gymnasium.registry)
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(known)


def test_blocks_for_the_readers_machine_install_and_nothing_else():
    for page in FOLDER.glob("*.md"):
        for language, content in blocks(page):
            assert language in ("", "console", "python", "shell", "yaml"), page.name
            if language == "shell":
                assert all(line.startswith(SET_UP) for line in content.splitlines()), page.name


@pytest.mark.slow
@pytest.mark.integration
def test_the_commands_for_researchers_run(checkout: Path):
    first, train, judge, why = commands("researcher")
    assert "cace:tuned-eviction" in run(first, checkout)
    assert "agent:runs/quickstart  saves" in run(train, checkout)
    assert "agent:runs/quickstart" in run(judge, checkout)
    assert "Policy: agent:runs/quickstart (cace-env" in run(why, checkout)


@pytest.mark.slow
@pytest.mark.integration
def test_the_commands_for_platform_engineers_run(checkout: Path):
    made, imported, searched, characterized, recommended, piloted, deleted = commands("platform")
    assert "1,500 requests in before.jsonl" in run(made, checkout)
    assert "guessed from the names of its columns" in run(imported, checkout)
    assert "'model', 'user', 'session', 'ttft_s', 'e2e_s'" in run(searched, checkout)
    assert "13 models are asked for" in run(characterized, checkout)
    assert "as it is" in run(recommended, checkout)
    assert "mean of the same mix" in run(piloted, checkout)
    assert run(deleted, checkout).count("kept until 20") == 2
    for name in ("log", "advice", "pilot"):
        assert (checkout / "runs" / name / "report.html").stat().st_size > 10_000
    assert governed(checkout) == ["after", "before"]


def governed(folder: Path) -> list[str]:
    """The imports in a folder whose audits the page on governance finds in order, after a look at their secrets."""
    audits, pseudonym = [content for language, content in blocks(GOVERNANCE) if language == "python"]
    key = (folder / "import.key").read_text().strip()
    assert key not in (folder / "before" / "audit.json").read_text()
    said = run(f"python - <<'END'\n{audits}END", folder).splitlines()
    user = run(f"python - <<'END'\n{pseudonym.replace(EXAMPLE_KEY, key)}END", folder).strip()
    assert (
        EXAMPLE_KEY in pseudonym and user in pq.read_table(folder / "before" / "requests.parquet")["user"].to_pylist()
    )
    for name in ("before", "after"):
        assert (folder / name).stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in (folder / name).iterdir()} == {0o600}
    return [line.split()[0] for line in said if "delete after 20" in line]


def test_the_code_for_authors_of_rl_codebases_runs(capsys: pytest.CaptureFixture[str], registry: None):
    namespace: dict[str, object] = {"__name__": "tutorial"}  # later blocks go on where the earlier ones ended
    found = [content for language, content in blocks(FOLDER / "rl-codebase.md") if language == "python"]
    assert len(found) >= 7
    for block in found:
        exec(compile(block, "rl-codebase.md", "exec"), namespace)
    assert "action_mask" in capsys.readouterr().out
