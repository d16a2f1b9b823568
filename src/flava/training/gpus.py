"""What GPUs can do, by their makers' data sheets: dense operations, no sparsity."""

from dataclasses import dataclass

from flava.precision import Precision

PER_MACHINE = 8
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


def known(name: str) -> Gpu | None:
    """The one that torch calls ``name``, if it is here."""
    return next((gpu for gpu in GPUS.values() if name.startswith(gpu.called)), None)
