"""Claims about the quickstart: the script, and the notebook of the same."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from cace_env.config import ConfigError
from cace_env.policies import load_agent
from cace_env.sb3 import plot_learning_curve

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = (ROOT / "examples" / "sb3_quickstart.py").read_text(encoding="utf-8")
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
PNG = b"\x89PNG"


def code_of(script: str) -> str:
    """The script below its docstring."""
    docstring = ast.parse(script).body[0]
    assert docstring.end_lineno is not None
    return "\n".join(script.splitlines()[docstring.end_lineno :]).strip()


def shorter(source: str) -> str:
    """The same on a smaller scenario, with fewer decisions."""
    source, changed = re.subn(r'"default", 150_000', '"tiny", 15_000', source)
    assert changed == 1
    return source


def test_the_quickstart_has_at_most_twenty_lines_of_code():
    lines = [line for line in code_of(SCRIPT).splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(lines) <= 20


def test_the_readme_shows_the_quickstart_as_it_is():
    assert f"```python\n{code_of(SCRIPT)}\n```" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.integration
def test_the_quickstart_learns_logs_and_compares(tmp_path: Path):
    # In a process of its own, as a user runs it: W&B keeps the folder in which a process first used it.
    script = tmp_path / "sb3_quickstart.py"
    script.write_text(shorter(SCRIPT), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    said = [line for line in run.stdout.splitlines() if "of LRU's cost" in line][-3:]
    assert [line.split()[0] for line in said] == ["agent:runs/quickstart", "cace", "cace:tuned-eviction"]
    assert all(re.search(r"saves [+-]\d+\.\d % \([+-]\d+\.\d to [+-]\d+\.\d\) of LRU's cost$", line) for line in said)
    folder = tmp_path / "runs" / "quickstart"
    assert load_agent(folder).card.trained_on == ("tiny",)
    assert (folder / "learning_curve.png").read_bytes().startswith(PNG)
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    again = plot_learning_curve(folder / "metrics.csv")
    labels = again.axes[0].get_legend_handles_labels()[1]
    assert labels == ["LRU", "CACE", "tuned CACE", "agent"]


@pytest.mark.integration
def test_the_notebook_runs(tmp_path: Path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if "150_000" in cell.source:
            cell["source"] = shorter(cell.source)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    assert any("agent:runs/notebook" in output.get("text", "") for output in shown)


def test_a_folder_without_evaluations_has_no_learning_curve(tmp_path: Path):
    with pytest.raises(ConfigError, match="give the folder of a training"):
        plot_learning_curve(tmp_path)
    with pytest.raises(ConfigError, match="no evaluations"):
        plot_learning_curve([])
