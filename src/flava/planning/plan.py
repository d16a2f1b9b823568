"""`plan`: estimates the memory, operations, communication and days of a run on given GPUs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from flava.core.machine import GPUS, GPUS_PER_MACHINE, Gpu
from flava.core.precision import Precision
from flava.models.transformer import blocks_of
from flava.objectives.objective import Objective
from flava.planning.costs import Cost, cost_of, fake_objective, tensors_in
from flava.planning.example_batches import CAPTION_WORDS, example_batch
from flava.training.parallel import prepare_blocks
from flava.training.run import Run
from flava.training.trainer_config import Parallel

FULL, HALF = 4, 2
"""Bytes of a 32-bit and of a 16-bit float."""


@dataclass(frozen=True, kw_only=True)
class ParameterShards:
    """A model's parameters by name, and how ``gpus`` GPUs share them."""

    sizes: Mapping[str, int]
    """Number of elements of each parameter."""
    blocks: Mapping[str, frozenset[str]]
    """Names of the parameters of each transformer block, by the block's name."""
    trained: frozenset[str]
    """Names of the parameters that are trained."""
    unsharded: frozenset[str]
    """Names of the parameters that FSDP cannot shard: every GPU holds them whole."""
    run: Run
    gpus: int

    @classmethod
    def of(cls, model: nn.Module, run: Run, gpus: int) -> "ParameterShards":
        named = dict(model.named_parameters())
        module_names = {id(module): name for name, module in model.named_modules()}
        blocks = [module_names[id(block)] for block in blocks_of(model)]
        return cls(
            sizes={name: each.numel() for name, each in named.items()},
            blocks={b: frozenset(n for n in named if n.startswith(f"{b}.")) for b in blocks},
            trained=frozenset(n for n, each in named.items() if each.requires_grad),
            unsharded=frozenset(
                n for n, p in named.items() if p.ndim == 0 or not p.is_contiguous()
            ),
            run=run,
            gpus=gpus,
        )

    @property
    def is_sharded(self) -> bool:
        return self.run.parallel is not Parallel.DDP and self.gpus > 1

    @property
    def shards(self) -> int:
        """The number of shards that each weight is cut into."""
        if not self.is_sharded:
            return 1
        hybrid = self.run.parallel is Parallel.HYBRID
        return min(self.gpus, GPUS_PER_MACHINE) if hybrid else self.gpus

    @property
    def outside_blocks(self) -> frozenset[str]:
        """Names of the parameters outside the blocks, which FSDP shards as one unit."""
        in_blocks = frozenset[str]().union(*self.blocks.values())
        return frozenset(self.sizes) - self.unsharded - in_blocks

    @property
    def gathered_bytes_per_element(self) -> int:
        """Bytes of an element of a block when it is gathered."""
        return HALF if self.run.precision is Precision.BF16 else FULL

    def numel(self, names: Iterable[str]) -> int:
        """The number of elements of these parameters."""
        return sum(self.sizes[name] for name in names)

    def numel_per_gpu(self, names: frozenset[str]) -> float:
        """The number of elements of these parameters that each GPU holds."""
        return self.numel(names & self.unsharded) + self.numel(names - self.unsharded) / self.shards

    def memory(self) -> dict[str, float]:
        """Bytes on each GPU, by what they hold."""
        found = {
            "parameters": FULL * self.numel_per_gpu(frozenset(self.sizes)),
            "gradients": FULL * self.numel_per_gpu(self.trained),
            "optimizer": 2 * FULL * self.numel_per_gpu(self.trained),
        }
        return found | ({"gathered": self.gathered_bytes()} if self.is_sharded else {})

    def gathered_bytes(self) -> float:
        """Bytes of what a GPU holds whole for a while.

        These are two blocks at a time and everything outside the blocks, with their gradients; or
        all gradients where several batches are accumulated.
        """
        two_blocks = sum(sorted(self.numel(block) for block in self.blocks.values())[-2:])
        gradients = two_blocks + self.numel(self.trained & self.outside_blocks)
        if self.run.accumulate > 1:
            gradients = self.numel(self.trained)
        full = self.numel(self.outside_blocks) + gradients
        return float(self.gathered_bytes_per_element * two_blocks + FULL * full)

    def cast_weight_bytes(self, unsharded: int) -> int:
        """Bytes of autocast's 16-bit copies of weights, of ``unsharded`` bytes without sharding:
        sharded blocks are gathered in 16 bits and need no copies."""
        if not self.is_sharded:
            return unsharded
        return min(unsharded, HALF * self.numel(self.outside_blocks))

    def received(self, cost: Cost) -> dict[str, float]:
        """Bytes that a GPU receives in a step of that cost, for weights and for gradients.

        By ring algorithms: (n - 1) / n of what is gathered or scattered, twice that of what is
        averaged.
        """
        if not self.is_sharded:
            # DDP exchanges gradients of unused parameters too, as zeros.
            return {"gradients": 2 * _ring_share(self.gpus) * FULL * self.numel(self.trained)}
        # Each block is gathered for every pass of a batch; what is outside of blocks only once.
        gathers = FULL * self.numel(self.outside_blocks)
        for name, block in self.blocks.items():
            passes = cost.block_calls_without_grad.get(name, 0)
            passes += 2 * cost.block_calls_with_grad.get(name, 0)
            gathers += self.gathered_bytes_per_element * passes * self.numel(block - self.unsharded)
        # A block's gradients are scattered after each backward pass of the last batch.
        sharded = cost.with_gradient - self.unsharded
        scattered = self.numel(sharded & self.outside_blocks)
        for name, block in self.blocks.items():
            scattered += cost.block_calls_with_grad.get(name, 0) * self.numel(block & sharded)
        averaged = 2 * _ring_share(self.gpus // self.shards) * FULL * scattered / self.shards
        averaged += (
            2 * _ring_share(self.gpus) * FULL * self.numel(cost.with_gradient & self.unsharded)
        )
        return {
            "weights": self.run.accumulate * _ring_share(self.shards) * gathers,
            "gradients": _ring_share(self.shards) * FULL * scattered + averaged,
        }


def _ring_share(ranks: int) -> float:
    """The share of a tensor that a rank receives from the others if it has its own part."""
    return (ranks - 1) / ranks


USABLE = 0.92
"""Share of a GPU's memory that tensors can use; the rest is for CUDA, NCCL and fragmentation (our
estimate)."""

SECONDS_A_DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The GPUs that a run is planned for."""

    gpus: int
    """Number of GPUs."""
    gpu: str
    """Kind of GPU, by its name in `GPUS`."""
    utilisation: float
    """Share of their peak speed that the GPUs reach, in (0, 1]."""

    @property
    def kind(self) -> Gpu:
        return GPUS[self.gpu]

    @property
    def link(self) -> float:
        """Bytes per second that a GPU can receive from the others."""
        return self.kind.within if self.gpus <= GPUS_PER_MACHINE else self.kind.between

    def mistakes(self, run: Run) -> list[str]:
        """Why a run cannot be planned for these GPUs, one line for each reason."""
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
    """One step with a batch of one kind, on one GPU."""

    share: float
    """Share of all steps."""
    samples: int
    """Samples in each of the GPU's batches."""
    operations: float
    """Floating-point operations."""
    encoding: float
    """Those of the additional encoding that contrast over accumulated batches needs."""
    received: Mapping[str, float]
    """Bytes received from other GPUs, by purpose."""
    computing: float
    """Seconds of computation."""
    exchanging: float
    """Seconds of communication."""
    memory: Mapping[str, float]
    """Bytes by what they hold, at the moment when memory use is highest."""

    @property
    def seconds(self) -> float:
        """Communication overlaps with computation, so the longer of both counts."""
        return max(self.computing, self.exchanging)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run takes on given GPUs."""

    recipe: str
    parallel: str
    given: Hardware
    usable: float
    """Bytes of a GPU's memory that tensors can use."""
    updates: Mapping[str, StepPlan]
    """The steps, by the kind of their batch."""
    max_steps: int
    assumptions: tuple[str, ...]

    def mean(self, figure: Callable[[StepPlan], float]) -> float:
        """The mean of a figure of each step over the mixture of batches."""
        return sum(each.share * figure(each) for each in self.updates.values())

    @property
    def days(self) -> float:
        return self.max_steps * self.mean(lambda each: each.seconds) / SECONDS_A_DAY

    def misfits(self) -> list[str]:
        """The kinds of steps that do not fit in a GPU, one line each with remedies."""
        return [
            f"a step of {name} takes {total / 1e9:.1f} GB of each GPU, and a {self.given.gpu} "
            f"has {self.usable / 1e9:.1f} GB for it: use more GPUs, --checkpoint-blocks, "
            "--parallel fsdp, or --accumulate N with batch sizes divided by N"
            for name, each in self.updates.items()
            if (total := sum(each.memory.values())) > self.usable
        ]


def plan(run: Run, hardware: Hardware) -> Plan:
    """Plan a run by counting what its own code does on fake tensors.

    Raises:
        ValueError: the run cannot be shared by these GPUs; all reasons are listed.
    """
    if mistakes := hardware.mistakes(run):
        raise ValueError("this cannot be planned:\n  " + "\n  ".join(mistakes))
    objective = fake_objective(run)
    prepare_blocks(objective.model, checkpointed=run.checkpoint_blocks, compiled=False)
    shards = ParameterShards.of(objective.model, run, hardware.gpus)
    steps = {name: _plan_step(run, name, objective, shards, hardware) for name in run.data.sources}
    return Plan(
        recipe=run.recipe,
        parallel=run.parallel.value,
        given=hardware,
        usable=USABLE * hardware.kind.memory,
        updates=steps,
        max_steps=run.max_steps,
        assumptions=(*_assumptions(run, hardware), *_encoded_twice(run, steps)),
    )


def _plan_step(
    run: Run, name: str, objective: Objective, shards: ParameterShards, hardware: Hardware
) -> StepPlan:
    """A step with batches of the source ``name``."""
    source = run.data.sources[name]
    batch = example_batch(run, name, source.batch_size // hardware.gpus)
    cost = cost_of(objective, batch, run.precision.dtype, hardware.gpus, run.accumulate)
    operations = float(cost.operations)
    received = shards.received(cost) | {"contrast": cost.received_bytes}
    memory = shards.memory() | {
        "batch": sum(each.nbytes for each in tensors_in(batch)),
        "activations": cost.activation_bytes,
        "16-bit weights": shards.cast_weight_bytes(cost.cast_weight_bytes),
        "temporary": cost.temporary_bytes,
    }
    return StepPlan(
        share=source.weight / sum(run.data.weights.values()),
        samples=len(batch.keys),
        operations=operations,
        encoding=float(cost.contrast_operations),
        received={what: float(size) for what, size in received.items() if size},
        computing=operations / (hardware.utilisation * hardware.kind.peak(run.precision)),
        exchanging=sum(received.values()) / hardware.link,
        memory={part: float(size) for part, size in memory.items() if size},
    )


def _assumptions(run: Run, hardware: Hardware) -> tuple[str, ...]:
    """The assumptions behind the figures, a sentence each."""
    gpu, near = hardware.kind, hardware.gpus <= GPUS_PER_MACHINE
    where = "within a machine" if near else f"between machines of {GPUS_PER_MACHINE}"
    return (
        f"{hardware.gpu}: {gpu.peak(run.precision) / 1e12:g} TFLOP/s in {run.precision.value} and "
        f"{gpu.memory / 1e9:g} GB, {USABLE:.0%} of it for tensors; {gpu.source}",
        f"{hardware.utilisation:.0%} of that peak is reached; messages travel meanwhile, at "
        f"{hardware.link / 1e9:g} GB/s {where}",
        f"captions of {CAPTION_WORDS} words, one in a batch as long as allowed; texts alone all "
        f"of {run.data.text_max_length} tokens",
        "no step waits for data; validation and checkpoints take no time; attention is fused",
    )


def _encoded_twice(run: Run, steps: Mapping[str, StepPlan]) -> list[str]:
    """The cost of contrast over accumulated batches: a sentence for each kind that has it."""
    return [
        f"the contrast of {run.accumulate} batches of {name} as one encodes each once more: "
        f"{each.encoding / each.operations:.0%} of a step's operations"
        for name, each in steps.items()
        if each.encoding
    ]
