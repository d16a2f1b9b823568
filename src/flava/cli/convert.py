"""`flava convert`: a checkpoint from any layout to another."""

from pathlib import Path
from typing import Literal

import tyro

from flava.checkpoints.recognise import build_model_from, read_checkpoint
from flava.inference.export import export


def convert(
    source: tyro.conf.Positional[str],
    dest: tyro.conf.Positional[Path],
    to: Literal["hf", "torchmultimodal", "flava", "onnx"],
) -> None:
    """Write a model in another layout: transformers', TorchMultimodal's, our own; or as ONNX.

    Args:
        source: A model's id on the Hugging Face hub, a folder (a run's too) or a file of weights.
        dest: A new folder.
        to: The layout to write. "onnx" is one way: programs that run without PyTorch, and a
            README.md that describes them.
    """
    stored = read_checkpoint(source)
    print(f"written: {export(build_model_from(stored), dest, to, source=stored.folder)}")
