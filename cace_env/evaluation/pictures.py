"""A picture of the fleet half way through an episode, because at the end all is quiet."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cace_env.cases import Case
from cace_env.evaluation.episodes import run_episode
from cace_env.policies import Contestant, Player
from cace_env.policies.built_in import Policy
from cace_env.rendering import picture
from cace_env.rendering import scenes as rendering
from cace_env.simulation import Simulator


def halfway(policy: Policy, case: Case, seed: int) -> npt.NDArray[np.uint8]:
    """Render the fleet under a policy half way through an episode, with the minutes before: `(540, 960, 3)` RGB.

    Args:
        policy: a built-in policy, or that of an agent.
        case: the fleet and its requests.
        seed: seed of the requests.

    Raises:
        ImportError: Pillow is missing.
    """
    workload = case.workload(seed)
    whole, _ = run_episode(Contestant(policy.name, policy), case, workload, seed)
    player = Player(policy.name, policy, case.tables, workload, seed, training=case.training)
    simulator = Simulator(case.tables, player.limits, trace=True)
    asked, last = simulator.reset(workload), None
    for _ in range(whole.totals().decisions // 2):
        if asked:
            action, _ = player.answer(simulator)
            last = rendering.open_choice(simulator, action)
            asked = simulator.answer(action)
    return picture.rgb_array(rendering.scene(simulator, last, case.name))
