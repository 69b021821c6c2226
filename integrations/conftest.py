"""What the tests of all libraries play: episodes of tens of decisions."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cace_env.scenarios import load_scenario


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default scenario with few requests, as a file."""
    keys = load_scenario("default").model_dump(mode="json", exclude_none=True)
    keys["workload"] |= {"requests": 400}
    path = tmp_path_factory.mktemp("scenarios") / "short.yaml"
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return path
