"""The requests of a company of developers, drawn from a configuration and a seed."""

from cace_env.generator.config import ServedModel, WorkloadConfig
from cace_env.generator.draw import generate

__all__ = ["ServedModel", "WorkloadConfig", "generate"]
