"""What a run needs of given GPUs: memory, operations, messages and days."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from flava.core.machine import GPUS, GPUS_PER_MACHINE, Gpu
from flava.core.precision import Precision
from flava.models.transformer import blocks_of
from flava.objectives.objective import Objective
from flava.planning.costs import Cost, cost_of, outlined_objective, tensors_in
from flava.planning.example_batches import CAPTION_WORDS, imagined_batch
from flava.training.parallel import prepare_blocks
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
        return min(self.gpus, GPUS_PER_MACHINE) if hybrid else self.gpus

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


USABLE = 0.92
"""Share of a GPU's memory for tensors: the rest is CUDA's, NCCL's, and lost between them (ours)."""

SECONDS_A_DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a run is planned for."""

    gpus: int
    """How many."""
    gpu: str
    """Of which kind: a name in `GPUS`."""
    utilisation: float
    """Share of their peak that they reach."""

    @property
    def kind(self) -> Gpu:
        return GPUS[self.gpu]

    @property
    def link(self) -> float:
        """Bytes a second that a GPU can receive."""
        return self.kind.within if self.gpus <= GPUS_PER_MACHINE else self.kind.between

    def mistakes(self, run: Run) -> list[str]:
        """What cannot be planned, one line each."""
        found = []
        if self.gpu not in GPUS:
            found.append(f"gpu is {self.gpu}: choose one of {', '.join(GPUS)}")
        if not 0 < self.utilisation <= 1:
            found.append(f"utilisation is {self.utilisation}: use a number above 0, and at most 1")
        if not run.data.sources:
            found.append("no source of data has a weight: give one to pairs, images or text")
        if self.gpus < 1:
            return [*found, f"gpus is {self.gpus}: use at least 1"]
        found += [f"data.{problem}" for problem in run.data.sharing_problems(self.gpus)]
        if run.parallel is Parallel.HYBRID and self.gpus % GPUS_PER_MACHINE:
            found.append(
                f"gpus is {self.gpus}, and --parallel hybrid shards within machines of "
                f"{GPUS_PER_MACHINE}: use a multiple of that, or --parallel fsdp"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """An update whose batch is of one kind, on one GPU."""

    share: float
    """Of all updates."""
    samples: int
    """In each of its batches."""
    operations: float
    encoding: float
    """Those among them that several batches' contrast as one costs: all are encoded for it first,
    and once more with their losses."""
    received: Mapping[str, float]
    """Bytes from other GPUs, by what for."""
    computing: float
    """Seconds."""
    exchanging: float
    """Seconds."""
    memory: Mapping[str, float]
    """Bytes by part, at the moment when they are most."""

    @property
    def seconds(self) -> float:
        """Messages travel while gradients are computed: the longer of both counts."""
        return max(self.computing, self.exchanging)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run on paper."""

    recipe: str
    parallel: str
    given: Hardware
    usable: float
    """Bytes of a GPU's memory."""
    updates: Mapping[str, StepPlan]
    """By the kind of their batch."""
    max_steps: int
    assumptions: tuple[str, ...]

    def mean(self, figure: Callable[[StepPlan], float]) -> float:
        """Of a figure, over the mixture."""
        return sum(each.share * figure(each) for each in self.updates.values())

    @property
    def days(self) -> float:
        return self.max_steps * self.mean(lambda each: each.seconds) / SECONDS_A_DAY

    def misfits(self) -> list[str]:
        """What does not fit in a GPU, one line each with what helps."""
        return [
            f"an update of {name} takes {total / 1e9:.1f} GB of each GPU, and a {self.given.gpu} "
            f"has {self.usable / 1e9:.1f} GB for it: use more GPUs, --checkpoint-blocks, "
            "--parallel fsdp, or --accumulate N with batch sizes divided by N"
            for name, each in self.updates.items()
            if (total := sum(each.memory.values())) > self.usable
        ]


def plan(run: Run, given: Hardware) -> Plan:
    """A run on paper, counted on its own code without its numbers.

    Raises:
        ValueError: it cannot be shared so; all reasons are listed.
    """
    if mistakes := given.mistakes(run):
        raise ValueError("this cannot be planned:\n  " + "\n  ".join(mistakes))
    objective = outlined_objective(run)
    prepare_blocks(objective.model, checkpointed=run.checkpoint_blocks, compiled=False)
    shares = Shares.of(objective.model, run, given.gpus)
    updates = {name: update(run, name, objective, shares, given) for name in run.data.sources}
    return Plan(
        recipe=run.recipe,
        parallel=run.parallel.value,
        given=given,
        usable=USABLE * given.kind.memory,
        updates=updates,
        max_steps=run.max_steps,
        assumptions=(*assumptions(run, given), *encoded_twice(run, updates)),
    )


def update(run: Run, name: str, objective: Objective, shares: Shares, given: Hardware) -> StepPlan:
    """That with batches of the source ``name``."""
    source = run.data.sources[name]
    batch = imagined_batch(run, name, source.batch_size // given.gpus)
    cost = cost_of(objective, batch, run.precision.dtype, given.gpus, run.accumulate)
    operations = float(cost.operations)
    received = shares.received(cost) | {"contrast": cost.received}
    memory = shares.memory() | {
        "batch": sum(each.nbytes for each in tensors_in(batch)),
        "activations": cost.kept,
        "16-bit weights": shares.casts(cost.casts),
        "temporary": cost.temporary,
    }
    return StepPlan(
        share=source.weight / sum(run.data.weights.values()),
        samples=len(batch.keys),
        operations=operations,
        encoding=float(cost.before),
        received={what: float(size) for what, size in received.items() if size},
        computing=operations / (given.utilisation * given.kind.peak(run.precision)),
        exchanging=sum(received.values()) / given.link,
        memory={part: float(size) for part, size in memory.items() if size},
    )


def assumptions(run: Run, given: Hardware) -> tuple[str, ...]:
    """What the figures rest on, a sentence each."""
    gpu, near = given.kind, given.gpus <= GPUS_PER_MACHINE
    where = "within a machine" if near else f"between machines of {GPUS_PER_MACHINE}"
    return (
        f"{given.gpu}: {gpu.peak(run.precision) / 1e12:g} TFLOP/s in {run.precision.value} and "
        f"{gpu.memory / 1e9:g} GB, {USABLE:.0%} of it for tensors; {gpu.source}",
        f"{given.utilisation:.0%} of that peak is reached; messages travel meanwhile, at "
        f"{given.link / 1e9:g} GB/s {where}",
        f"captions of {CAPTION_WORDS} words, one in a batch as long as allowed; texts alone all "
        f"of {run.data.text_max_length} tokens",
        "data never waits; probes and checkpoints take no time; attention is fused",
    )


def encoded_twice(run: Run, updates: Mapping[str, StepPlan]) -> list[str]:
    """What contrast over several batches costs, a sentence for each kind of batch that has it."""
    return [
        f"the contrast of {run.accumulate} batches of {name} as one encodes each once more: "
        f"{each.encoding / each.operations:.0%} of an update's operations"
        for name, each in updates.items()
        if each.encoding
    ]
