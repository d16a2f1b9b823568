"""Errors of single samples, which are reported by name and do not stop a run."""

from dataclasses import dataclass


class SampleError(ValueError):
    """A sample cannot be used.

    ``reason`` is one of a few fixed phrases, by which failures are counted; ``detail`` is specific
    to the sample.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, kw_only=True)
class SkippedSample:
    """A sample, or a whole shard, that was left out, and why."""

    shard: str
    key: str
    reason: str
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.shard, self.key, self.message)))
