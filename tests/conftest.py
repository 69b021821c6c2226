"""What holds for every test: no deadline fails a random example, CI draws the same ones, no window is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.kinds import EVICTION, SWAP, Kind

# The first example may compile the kernel, which no deadline should count.
settings.register_profile(
    "cace-env",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("cace-env")

# Gymnasium's checker renders in every mode: the windows would disturb, and CI has no screen.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks of torch gain nothing from threads, which other test processes need."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[EVICTION, SWAP], ids=["eviction", "swap"], scope="session")
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each of the two environments, to which the same claims apply."""
    return request.param  # type: ignore[no-any-return]
