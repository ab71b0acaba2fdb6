"""Expected hypervolume improvement where one objective is uncertain and the others are known."""

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

__all__ = ["expected_improvement"]

Floats = npt.NDArray[np.float64]


def expected_improvement(
    mean: Floats, deviation: Floats, known: Floats, front: Floats, corner: Floats
) -> Floats:
    """What each candidate is expected to add to the hypervolume of a front.

    A candidate's loss is normally distributed, its two other objectives are taken for known, so
    the expectation is exact: at every loss z the candidate would add an area, which changes only
    where z passes a member of the front, and counts as often as the loss comes out below z.
    Losses below zero count as zero.

    Args:
        mean: (n,) expected loss of the candidates, lower is better.
        deviation: (n,) its standard deviation.
        known: (n, 2) the two other objectives.
        front: (f, 3) loss and the others of what is there.
        corner: (3,) the worst corner; what is beyond it gains nothing.

    Returns:
        (n,). Emmerich et al. 2006, "Single- and multiobjective evolutionary optimization assisted
        by Gaussian random field metamodels", doi:10.1109/TEVC.2005.859463, defines it.
    """
    inside = front[(front < corner).all(axis=1)]
    inside = inside[np.argsort(inside[:, 0], kind="stable")]
    levels = np.concatenate([[0.0], np.clip(inside[:, 0], 0.0, None), corner[:1]])
    spread = np.maximum(deviation, 1e-12)
    below = _mass(levels, mean, spread)
    # as likely as it is below zero, the whole height above zero is gained
    gains = np.zeros(len(mean))
    for index in range(len(levels) - 1):
        if levels[index + 1] > levels[index]:
            area = _free_area(known, inside[:index, 1:], corner[1:])
            gains += area * (below[:, index + 1] - below[:, index])
    return gains


def _mass(levels: Floats, mean: Floats, spread: Floats) -> Floats:
    """(n, levels) integral of the distribution function from minus infinity to each level."""
    z = (levels[None, :] - mean[:, None]) / spread[:, None]
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray(spread[:, None] * (z * ndtr(z) + density))


def _free_area(known: Floats, members: Floats, corner: Floats) -> Floats:
    """(n,) area between each point and the corner that no member dominates.

    Args:
        known: (n, 2).
        members: (f, 2).
        corner: (2,).
    """
    sides = np.maximum(corner - known, 0.0)
    whole = sides[:, 0] * sides[:, 1]
    if not len(members):
        return np.asarray(whole)
    order = members[np.argsort(members[:, 0], kind="stable")]
    floors = np.minimum.accumulate(order[:, 1])
    starts = np.maximum(order[None, :, 0], known[:, :1])
    ends = np.append(order[1:, 0], corner[0])[None, :]
    widths = np.maximum(ends - starts, 0.0)
    heights = np.maximum(corner[1] - np.maximum(floors[None, :], known[:, 1:]), 0.0)
    return np.asarray(np.maximum(whole - (widths * heights).sum(axis=1), 0.0))
