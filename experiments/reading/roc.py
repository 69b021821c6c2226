"""How well a score tells what happens from what does not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def auc(score: npt.ArrayLike, happened: npt.ArrayLike) -> float:
    """Area under the ROC curve: how often a case that happened has a higher score than one that did not.

    Args:
        score: (N,) higher where it is thought more likely.
        happened: (N,) flags, or 1 and 0.

    Returns:
        0.5 = the score knows nothing, 1 = it knows all; ties count half. NaN without a case of either kind.
    """
    yes = np.asarray(happened) > 0
    hits, misses = int(yes.sum()), int((~yes).sum())
    if not hits or not misses:
        return float("nan")
    _, place, count = np.unique(np.asarray(score), return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    return float((rank[yes].sum() - hits * (hits + 1) / 2) / (hits * misses))
