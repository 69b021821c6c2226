"""What holds for every test: no deadline fails a random example, CI draws the same ones, no window is opened."""

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

# Gymnasium's checker renders in every mode: nobody wants to see the windows, and CI has no screen.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
