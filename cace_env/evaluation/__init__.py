"""Evaluation of policies on scenarios: the same requests for all, paired differences, intervals."""

from cace_env.evaluation.agent_folders import save_agent
from cace_env.evaluation.episodes import Evaluation, SeedResult, evaluate, run_episode, run_seed
from cace_env.evaluation.held_out import seeds_text
from cace_env.evaluation.intervals import Gain, block_of, mean, paired_gain, windows_for
from cace_env.evaluation.scores import suite_scores
from cace_env.evaluation.suite import Suite, load_suite

__all__ = [
    "Evaluation",
    "Gain",
    "SeedResult",
    "Suite",
    "block_of",
    "evaluate",
    "load_suite",
    "mean",
    "paired_gain",
    "run_episode",
    "run_seed",
    "save_agent",
    "seeds_text",
    "suite_scores",
    "windows_for",
]
