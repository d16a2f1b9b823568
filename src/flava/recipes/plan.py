"""What a run needs of some GPUs, on paper: memory, operations, messages and days."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flava.recipes.imagined import CAPTION_WORDS, imagined_batch
from flava.recipes.shares import Shares
from flava.recipes.start import outlined_objective
from flava.training.costs import cost_of, tensors_in
from flava.training.gpus import GPUS, PER_MACHINE, Gpu
from flava.training.objective import Objective
from flava.training.parallel import prepare_blocks
from flava.training.run import Parallel, Run

USABLE = 0.92
"""Share of a GPU's memory for tensors: the rest is CUDA's, NCCL's, and lost between them (ours)."""

SECONDS_A_DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Given:
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
        return self.kind.within if self.gpus <= PER_MACHINE else self.kind.between

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
        if run.parallel is Parallel.HYBRID and self.gpus % PER_MACHINE:
            found.append(
                f"gpus is {self.gpus}, and --parallel hybrid shards within machines of "
                f"{PER_MACHINE}: use a multiple of that, or --parallel fsdp"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Update:
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
    given: Given
    usable: float
    """Bytes of a GPU's memory."""
    updates: Mapping[str, Update]
    """By the kind of their batch."""
    max_steps: int
    assumptions: tuple[str, ...]

    def mean(self, figure: Callable[[Update], float]) -> float:
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


def plan(run: Run, given: Given) -> Plan:
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


def update(run: Run, name: str, objective: Objective, shares: Shares, given: Given) -> Update:
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
    return Update(
        share=source.weight / sum(run.data.weights.values()),
        samples=len(batch.keys),
        operations=operations,
        encoding=float(cost.before),
        received={what: float(size) for what, size in received.items() if size},
        computing=operations / (given.utilisation * given.kind.peak(run.precision)),
        exchanging=sum(received.values()) / given.link,
        memory={part: float(size) for part, size in memory.items() if size},
    )


def assumptions(run: Run, given: Given) -> tuple[str, ...]:
    """What the figures rest on, a sentence each."""
    gpu, near = given.kind, given.gpus <= PER_MACHINE
    where = "within a machine" if near else f"between machines of {PER_MACHINE}"
    return (
        f"{given.gpu}: {gpu.peak(run.precision) / 1e12:g} TFLOP/s in {run.precision.value} and "
        f"{gpu.memory / 1e9:g} GB, {USABLE:.0%} of it for tensors; {gpu.source}",
        f"{given.utilisation:.0%} of that peak is reached; messages travel meanwhile, at "
        f"{given.link / 1e9:g} GB/s {where}",
        f"captions of {CAPTION_WORDS} words, one in a batch as long as allowed; texts alone all "
        f"of {run.data.text_max_length} tokens",
        "data never waits; probes and checkpoints take no time; attention is fused",
    )


def encoded_twice(run: Run, updates: Mapping[str, Update]) -> list[str]:
    """What contrast over several batches costs, a sentence for each kind of batch that has it."""
    return [
        f"the contrast of {run.accumulate} batches of {name} as one encodes each once more: "
        f"{each.encoding / each.operations:.0%} of an update's operations"
        for name, each in updates.items()
        if each.encoding
    ]
