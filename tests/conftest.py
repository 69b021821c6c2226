"""What holds for every test: the clock fails no random example, and CI draws the same ones each time."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The first example may compile the kernel, which no deadline should count.
settings.register_profile(
    "cace-env",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("cace-env")
