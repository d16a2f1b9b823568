"""Draws the source of each step's batch, as a pure function of the seed and the step.

So all ranks agree without a message, and resuming needs no state.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

DRAWS_PER_COUNTER = 4
"""Philox4x64 makes four 64-bit numbers from each value of its counter."""


def choose(seed: int, step: int, weights: Mapping[str, float]) -> str:
    """The name of the source that the whole batch of ``step`` comes from.

    Names are drawn in proportion to their weights (0.70, 0.15, 0.15 in FLAVA's Table A.2).

    Raises:
        ValueError: there is no weight, one is not positive, or ``step`` is negative.
    """
    edges = _edges(weights)
    return list(weights)[int(np.searchsorted(edges, _uniform(seed, step, 1)[0], side="right"))]


def counts_before(seed: int, step: int, weights: Mapping[str, float]) -> dict[str, int]:
    """How often each source is chosen in steps 0 to ``step`` - 1: where a resumed run goes on.

    Raises:
        ValueError: as ``choose``.
    """
    chosen = np.searchsorted(_edges(weights), _uniform(seed, 0, step), side="right")
    counts = np.bincount(chosen, minlength=len(weights)).tolist()
    return dict(zip(weights, counts, strict=True))


def _edges(weights: Mapping[str, float]) -> Float[np.ndarray, " sources"]:
    """The upper edges of the sources' intervals of [0, 1), without that of the last source."""
    if not weights or not all(w > 0 and np.isfinite(w) for w in weights.values()):
        raise ValueError(f"weights must be one positive number a source, not {dict(weights)}")
    values = np.array(list(weights.values()), dtype=np.float64)
    return np.cumsum(values / values.sum())[:-1]


def _uniform(seed: int, first: int, count: int) -> Float[np.ndarray, " count"]:
    """Numbers ``first`` to ``first + count - 1`` of the seed's own sequence in [0, 1)."""
    if first < 0 or count < 0:
        raise ValueError(f"step must not be negative, not {min(first, count)}")
    bits = np.random.Philox(np.random.SeedSequence(seed))
    bits.advance(first // DRAWS_PER_COUNTER)
    skip = first % DRAWS_PER_COUNTER
    return np.random.Generator(bits).random(skip + count)[skip:]
