"""The machine that figures were measured on, and what GPUs can do by their data sheets."""

import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from flava.core.precision import Precision
from flava.core.processes import cores


def describe_machine() -> dict[str, str | int]:
    """The processor, the cores this process may use, the accelerator and the versions."""
    return {
        "processor": processor_name(),
        "cores": cores(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor_name() -> str:
    """The processor's name; Python's own answer is empty on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


GPUS_PER_MACHINE = 8
"""GPUs of a machine, as in NVIDIA's HGX and DGX."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU."""

    called: str
    """How torch's name of it begins (``torch.cuda.get_device_name``)."""
    memory: float
    """Bytes."""
    bf16: float
    """Operations a second in products of 16 bits that are summed in 32."""
    fp32: float
    """The same of 32 bits, without TF32, which torch leaves off."""
    within: float
    """Bytes a second that it can receive from the others of its machine."""
    between: float
    """Bytes a second from other machines: its share of the usual network of such a machine."""
    source: str
    """Where these figures stand."""

    def peak(self, precision: Precision) -> float:
        """Operations a second."""
        return self.bf16 if precision is Precision.BF16 else self.fp32


GPUS: dict[str, Gpu] = {
    "a100-40gb": Gpu(
        called="NVIDIA A100-SXM4-40GB",
        memory=40e9,
        bf16=312e12,
        fp32=19.5e12,
        within=300e9,
        between=25e9,
        source="NVIDIA A100 data sheet (SXM)",
    ),
    "a100": Gpu(
        called="NVIDIA A100-SXM4-80GB",
        memory=80e9,
        bf16=312e12,
        fp32=19.5e12,
        within=300e9,
        between=25e9,
        source="NVIDIA A100 data sheet (SXM)",
    ),
    "h100": Gpu(
        called="NVIDIA H100 80GB HBM3",
        memory=80e9,
        bf16=989e12,
        fp32=67e12,
        within=450e9,
        between=50e9,
        source="NVIDIA H100 data sheet (SXM)",
    ),
    "h200": Gpu(
        called="NVIDIA H200",
        memory=141e9,
        bf16=989e12,
        fp32=67e12,
        within=450e9,
        between=50e9,
        source="NVIDIA H200 data sheet (SXM)",
    ),
    "l40s": Gpu(
        called="NVIDIA L40S",
        memory=48e9,
        bf16=362e12,
        fp32=91.6e12,
        within=32e9,
        between=25e9,
        source="NVIDIA L40S data sheet",
    ),
}
"""By the names that `flava plan` knows them by."""


def gpu_named(name: str) -> Gpu | None:
    """The one that torch calls ``name``, if it is here."""
    return next((gpu for gpu in GPUS.values() if name.startswith(gpu.called)), None)
