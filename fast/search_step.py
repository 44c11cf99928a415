"""What a step of the search computes beside the network, as a group of functions, so that a fast
form of a network may bring others: `synthesize.step_kernels`.
"""

from __future__ import annotations

from bicubic import BicubicDownSample
from loss import geocross, keep_best
from SphericalOptimizer import to_sphere


class TorchStep:
    """In PyTorch's own operations, for any device."""

    downscale = BicubicDownSample  # by a factor
    to_sphere = staticmethod(to_sphere)
    geocross = staticmethod(geocross)
    keep_best = staticmethod(keep_best)
