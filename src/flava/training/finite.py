"""Numbers that are not finite: what is left out because of them, and the evidence."""

import json
from collections.abc import Sequence
from pathlib import Path

from flava.batch import Batch
from flava.distributed import rank
from flava.training.figures import Figures
from flava.training.files import write_whole
from flava.training.run import LoopConfig


class FiniteCheck:
    """Keeps bad numbers from the weights, and counts the updates that this costs."""

    def __init__(self, run: LoopConfig, count: int = 0) -> None:
        self.run, self.count = run, count

    def passes(self, step: int, lr: float, batches: Sequence[Batch], figures: Figures) -> bool:
        """Whether update number ``step`` (from 1) may be made; evidence is saved if not.

        All ranks have the same figures, and decide the same.

        Raises:
            FloatingPointError: it may not, and too many others were left out already.
        """
        bad = figures.not_finite
        if not bad:
            return True
        self.count += 1
        path = self.save_evidence(step, lr, batches, figures)
        if self.count <= self.run.max_non_finite:
            return False
        raise FloatingPointError(
            f"update {step} gave numbers that are not finite ({', '.join(bad)}), and "
            f"{self.count - 1} before it (max_non_finite {self.run.max_non_finite}); its losses, "
            f"gradient norm and samples are in {path}. Lower optimizer.lr (now "
            f"{self.run.optimizer.lr}) or lengthen schedule.warmup_steps, and train again in "
            "another --output-dir"
        )

    def save_evidence(
        self, step: int, lr: float, batches: Sequence[Batch], figures: Figures
    ) -> Path:
        """Every rank names the samples that it had."""
        of_rank = f"-rank-{rank()}" if rank() else ""
        path = self.run.output_dir / f"non-finite-step-{step}{of_rank}.json"
        evidence = {
            "step": step,
            "lr": lr,
            "grad_norm": repr(figures.norm),
            "batches": [
                {"kind": b.kind, **{n: repr(v) for n, v in each.items()}, "keys": b.keys}
                for b, each in zip(batches, figures.parts, strict=True)
            ],
        }
        write_whole(path, json.dumps(evidence, indent=2).encode() + b"\n")
        return path
