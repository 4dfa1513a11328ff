"""A smooth curve through noisy measurements over strength: what the mean of a few greedy replies cannot say alone.

In:  values at a few strengths, and how far each measurement's coherence is from the target.
Out: values at any strength.

    around s: the parabola of least squares, points weighed by exp(-((s_i - s) / width)^2 / 2) / (1 + (off_i / NEAR)^2)

width is half the range of the strengths. A point whose coherence is far from the target says little about where that
is crossed. Pure; arrays may have leading axes, such as one for resampled questions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

# Points further than this from the target coherence, in nats, weigh less than half.
NEAR = 0.25

# A parabola through fewer points is those points.
LEAST = 4


def smooth(at: F64, strengths: F64, values: F64, off: F64) -> F64:
    """float64 [..., at, k] of values [..., strengths, k] at `at` [at]; off [..., strengths], nats.

    Raises ValueError for fewer than LEAST strengths, or some that are alike.
    """
    if len(strengths) < LEAST or len(set(strengths.tolist())) < len(strengths):
        raise ValueError(f"strengths {strengths.tolist()}: expected at least {LEAST} different ones")
    x = (strengths - at[:, None]) / (np.ptp(strengths) / 2)
    columns = np.stack([np.ones_like(x), x, x**2], -1)
    weight = np.exp(-(x**2) / 2) / (1 + (off[..., None, :] / NEAR) ** 2)
    weighed = weight[..., None] * columns
    left = np.einsum("...si,...sj->...ij", weighed, columns)
    right = np.einsum("...asi,...sk->...aik", weighed, values)
    found: F64 = np.linalg.solve(left, right)[..., 0, :]
    return found
