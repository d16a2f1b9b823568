"""A description of this machine, and the speed and memory of GPUs by their data sheets."""

import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from flava.core.precision import Precision
from flava.core.processes import cores


def describe_machine() -> dict[str, str | int]:
    """The processor, the cores that this process may use, the accelerator, and versions."""
    return {
        "processor": _processor_name(),
        "cores": cores(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor_name() -> str:
    """The processor's name. On Linux it is read from /proc, as Python does not tell it there."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


GPUS_PER_MACHINE = 8
"""Number of GPUs of a machine, as in NVIDIA's HGX and DGX."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU."""

    torch_name: str
    """Beginning of torch's name for it (``torch.cuda.get_device_name``)."""
    memory: float
    """Bytes of memory."""
    bf16: float
    """Peak operations per second of bf16 matrix products with fp32 accumulation."""
    fp32: float
    """Peak operations per second of fp32 matrix products without TF32, as is torch's default."""
    within: float
    """Bytes per second that it can receive from the other GPUs of its machine."""
    between: float
    """Bytes per second from other machines: its share of such a machine's usual network."""
    source: str
    """Source of these figures."""

    def peak(self, precision: Precision) -> float:
        """Peak operations per second in a precision."""
        return self.bf16 if precision is Precision.BF16 else self.fp32


GPUS: dict[str, Gpu] = {
    "a100-40gb": Gpu(
        torch_name="NVIDIA A100-SXM4-40GB",
        memory=40e9,
        bf16=312e12,
        fp32=19.5e12,
        within=300e9,
        between=25e9,
        source="NVIDIA A100 data sheet (SXM)",
    ),
    "a100": Gpu(
        torch_name="NVIDIA A100-SXM4-80GB",
        memory=80e9,
        bf16=312e12,
        fp32=19.5e12,
        within=300e9,
        between=25e9,
        source="NVIDIA A100 data sheet (SXM)",
    ),
    "h100": Gpu(
        torch_name="NVIDIA H100 80GB HBM3",
        memory=80e9,
        bf16=989e12,
        fp32=67e12,
        within=450e9,
        between=50e9,
        source="NVIDIA H100 data sheet (SXM)",
    ),
    "h200": Gpu(
        torch_name="NVIDIA H200",
        memory=141e9,
        bf16=989e12,
        fp32=67e12,
        within=450e9,
        between=50e9,
        source="NVIDIA H200 data sheet (SXM)",
    ),
    "l40s": Gpu(
        torch_name="NVIDIA L40S",
        memory=48e9,
        bf16=362e12,
        fp32=91.6e12,
        within=32e9,
        between=25e9,
        source="NVIDIA L40S data sheet",
    ),
}
"""The GPUs that `flava plan` knows, by name."""


def gpu_named(name: str) -> Gpu | None:
    """The GPU that torch calls ``name``, if it is in `GPUS`."""
    return next((gpu for gpu in GPUS.values() if name.startswith(gpu.torch_name)), None)
