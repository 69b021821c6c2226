"""Rendering: a simulation as a scene, and the scene as text or picture."""

from cace_env.rendering.picture import rgb_array
from cace_env.rendering.scenes import Choice, ansi, scene

__all__ = ["Choice", "ansi", "rgb_array", "scene"]
