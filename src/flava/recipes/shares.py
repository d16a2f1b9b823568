"""How GPUs share a model's weights, in bytes: what `training.parallel` does, on paper."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from flava.model.transformer import blocks_of
from flava.precision import Precision
from flava.training.costs import Cost
from flava.training.gpus import PER_MACHINE
from flava.training.run import Parallel, Run

FULL, HALF = 4, 2
"""Bytes of a number in 32 and in 16 bits."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """A model's parameters by name, and how ``gpus`` GPUs share them."""

    sizes: Mapping[str, int]
    """Numbers in each parameter."""
    blocks: Mapping[str, frozenset[str]]
    """The parameters of each block, by its name."""
    trained: frozenset[str]
    whole: frozenset[str]
    """What FSDP cannot shard, and every GPU has."""
    run: Run
    gpus: int

    @classmethod
    def of(cls, model: nn.Module, run: Run, gpus: int) -> "Shares":
        named = dict(model.named_parameters())
        names = {id(module): name for name, module in model.named_modules()}
        inside = [names[id(block)] for block in blocks_of(model)]
        return cls(
            sizes={name: each.numel() for name, each in named.items()},
            blocks={b: frozenset(n for n in named if n.startswith(f"{b}.")) for b in inside},
            trained=frozenset(n for n, each in named.items() if each.requires_grad),
            whole=frozenset(n for n, p in named.items() if p.ndim == 0 or not p.is_contiguous()),
            run=run,
            gpus=gpus,
        )

    @property
    def sharded(self) -> bool:
        return self.run.parallel is not Parallel.DDP and self.gpus > 1

    @property
    def parts(self) -> int:
        """Into how many each weight is cut."""
        if not self.sharded:
            return 1
        hybrid = self.run.parallel is Parallel.HYBRID
        return min(self.gpus, PER_MACHINE) if hybrid else self.gpus

    @property
    def outside(self) -> frozenset[str]:
        """What is sharded in one piece: all but the blocks."""
        return frozenset(self.sizes) - self.whole - frozenset[str]().union(*self.blocks.values())

    @property
    def gathered_element(self) -> int:
        """Bytes of a number of a block as it is gathered."""
        return HALF if self.run.precision is Precision.BF16 else FULL

    def numbers(self, names: Iterable[str]) -> int:
        return sum(self.sizes[name] for name in names)

    def own(self, names: frozenset[str]) -> float:
        """How many numbers of these a GPU holds."""
        return self.numbers(names & self.whole) + self.numbers(names - self.whole) / self.parts

    def memory(self) -> dict[str, float]:
        """Bytes on a GPU, by part."""
        found = {
            "parameters": FULL * self.own(frozenset(self.sizes)),
            "gradients": FULL * self.own(self.trained),
            "optimizer": 2 * FULL * self.own(self.trained),
        }
        return found | ({"gathered": self.gathered()} if self.sharded else {})

    def gathered(self) -> float:
        """Bytes of what a GPU has whole for a while: two blocks at a time, and all that is outside
        of blocks, with their gradients; all gradients where several batches are added up."""
        two = sum(sorted(self.numbers(block) for block in self.blocks.values())[-2:])
        gradients = two + self.numbers(self.trained & self.outside)
        if self.run.accumulate > 1:
            gradients = self.numbers(self.trained)
        return float(self.gathered_element * two + FULL * (self.numbers(self.outside) + gradients))

    def casts(self, copied: int) -> int:
        """Bytes of the copies in 16 bits that stay of ``copied``: sharded blocks need none."""
        return min(copied, HALF * self.numbers(self.outside)) if self.sharded else copied

    def received(self, cost: Cost) -> dict[str, float]:
        """Bytes that a GPU receives for an update of that cost, for weights and for gradients.

        By rings: (n - 1) / n of what is gathered or scattered, twice that of what is averaged.
        """
        if not self.sharded:
            # Those that are not reached are exchanged too, as zeros.
            return {"gradients": 2 * ring(self.gpus) * FULL * self.numbers(self.trained)}
        # A block for each pass of a batch, either way; what is outside of blocks once.
        gathers = FULL * self.numbers(self.outside)
        for name, block in self.blocks.items():
            times = cost.encoded.get(name, 0) + 2 * cost.passed.get(name, 0)
            gathers += self.gathered_element * times * self.numbers(block - self.whole)
        # A block's gradients for each pass of the last batch.
        sharded, whole = cost.reached - self.whole, cost.reached & self.whole
        scattered = self.numbers(sharded & self.outside)
        for name, block in self.blocks.items():
            scattered += cost.passed.get(name, 0) * self.numbers(block & sharded)
        averaged = 2 * ring(self.gpus // self.parts) * FULL * scattered / self.parts
        averaged += 2 * ring(self.gpus) * FULL * self.numbers(whole)
        return {
            "weights": self.run.accumulate * ring(self.parts) * gathers,
            "gradients": ring(self.parts) * FULL * scattered + averaged,
        }


def ring(ranks: int) -> float:
    """The share of a whole that a rank receives from the others, if it has its own."""
    return (ranks - 1) / ranks
