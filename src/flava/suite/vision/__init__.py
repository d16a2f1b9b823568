"""The vision tasks: 22 linear probes, and zero-shot classification."""

from flava.suite.vision.tasks import VISION, ZERO_SHOT

__all__ = ["VISION", "ZERO_SHOT"]
