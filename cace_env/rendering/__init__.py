"""What there is to look at: a scene, as text and as a picture."""

from cace_env.rendering.picture import rgb_array
from cace_env.rendering.scenes import Choice, ansi, scene

__all__ = ["Choice", "ansi", "rgb_array", "scene"]
