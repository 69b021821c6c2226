"""The snippets of `docs/integrations.md`, run as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 600


def snippets(library: str, language: str = "python") -> list[str]:
    """Those of a library's section, in the order of the page."""
    page = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    section = next(part for part in re.split(r"^## ", page, flags=re.MULTILINE) if part.startswith(f"{library}\n"))
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


def run(code: str, folder: Path, **environment: str) -> str:
    """Runs a snippet as a script in a folder; what it printed, and what was printed beside it if it failed."""
    script = folder / "snippet.py"
    script.write_text(code, encoding="utf-8")
    return run_command([sys.executable, str(script)], folder, **environment)


def run_command(command: list[str], folder: Path, **environment: str) -> str:
    """Runs a command in a folder, where the checkout can be imported."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
