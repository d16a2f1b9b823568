"""Counts the samples that are left out of a source, names the first, and stops at too many."""

import logging
from collections import Counter
from collections.abc import Iterable

from flava.core.batch import Batch
from flava.data.collate import Collated
from flava.data.errors import SkippedSample

MIN_TRIED = 1000
"""Once so many samples of a source were tried, it is an error if most of them were corrupt."""
MAX_WARNINGS = 10
"""Skipped samples of each source that the log names; further ones are only counted."""

log = logging.getLogger(__name__)


class SkipCounter:
    """The samples that were left out of one source, by reason (``counts``).

    ``name`` begins each line in the log; ``source`` and ``remedy`` stand in the error.
    """

    def __init__(self, name: str, source: str, remedy: str) -> None:
        self.name, self.source, self.remedy = name, source, remedy
        self.counts: Counter[str] = Counter()
        self.named: dict[SkippedSample, None] = {}
        self.tried = 0

    def batch_of(self, collated: Collated) -> Batch:
        """The batch; what was left out of it is counted and reported first.

        Raises:
            ValueError: no batch could be filled, or most of many samples cannot be used.
        """
        self.add(collated.tried, collated.skipped)
        if collated.batch is None:
            raise self.failure()
        return collated.batch

    def add(self, tried: int, skipped: Iterable[SkippedSample]) -> None:
        """Count samples that were tried, and those skipped among them; log the first of these.

        Raises:
            ValueError: most of many samples cannot be used.
        """
        self.tried += tried
        for report in skipped:
            self.counts[report.reason] += 1
            if report not in self.named and len(self.named) < MAX_WARNINGS:
                self.named[report] = None
                more = "; further ones are only counted" if len(self.named) == MAX_WARNINGS else ""
                log.warning("%s: skipped %s%s", self.name, report, more)
        if self.tried >= MIN_TRIED and self.counts.total() > self.tried / 2:
            raise self.failure()

    def failure(self) -> ValueError:
        """An error with the number of unusable samples, the reasons, and three samples by name."""
        reasons = ", ".join(f"{n} times: {reason}" for reason, n in self.counts.most_common())
        examples = "; ".join(str(report) for report in list(self.named)[:3])
        return ValueError(
            f"most samples of {self.source} cannot be used ({self.counts.total()} of {self.tried}; "
            f"{reasons}), for example {examples}: {self.remedy}"
        )
