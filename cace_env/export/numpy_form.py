"""A policy as a folder that needs NumPy alone: `policy.py`, the same for all, `policy.json` and `weights.npz`."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from cace_env.config import ConfigError
from cace_env.export import standalone
from cace_env.export.form import Form, form_of
from cace_env.files import replace_file

CODE_FILE: Final = "policy.py"
ABOUT_FILE: Final = "policy.json"
WEIGHTS_FILE: Final = "weights.npz"


def write_numpy(policy: Any, folder: str | Path, env: str | None = None) -> Form:
    """Write a policy into a folder; one that is already there is overwritten.

    Args:
        policy: anything that `form_of` takes.
        folder: made if needed.
        env: as for `form_of`.

    Raises:
        ConfigError: as `form_of`, or the folder is a file.
    """
    form, folder = form_of(policy, env), Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder, or a file that ends with .onnx")
    packed = io.BytesIO()
    np.savez(packed, **form.weights)  # type: ignore[arg-type]
    content = packed.getvalue()
    about = form.about | {"weights_sha256": hashlib.sha256(content).hexdigest()}
    replace_file(folder / CODE_FILE, Path(standalone.__file__).read_text(encoding="utf-8"))
    replace_file(folder / WEIGHTS_FILE, content)
    replace_file(folder / ABOUT_FILE, json.dumps(about, indent=1) + "\n")
    return form


def load_numpy(folder: str | Path) -> standalone.Policy:
    """The policy of a folder, by the code of this package and not by the `policy.py` in it, which is not run.

    Raises:
        ConfigError: the folder does not hold a policy.
    """
    try:
        return standalone.Policy(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} holds no exported policy ({error})") from error
