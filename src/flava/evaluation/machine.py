"""What the figures were measured on."""

import platform
from pathlib import Path

import torch

from flava.data.build.pool import cores


def machine() -> dict[str, str | int]:
    """The processor, the cores this process may use, the accelerator and the versions."""
    return {
        "processor": processor(),
        "cores": cores(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor() -> str:
    """The processor's name; Python's own answer is empty on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
