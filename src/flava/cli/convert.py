"""`flava convert`: writes a checkpoint of any layout in another layout."""

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
    """Write a model in the layout of transformers (hf), TorchMultimodal or flava, or as ONNX.

    Args:
        source: A model's id on the Hugging Face hub, a folder (also a run's) or a file of weights.
        dest: The folder to write, which must be new or empty.
        to: The layout to write. "onnx" writes programs that run without PyTorch, and a README.md
            that describes them; they cannot be converted back.
    """
    checkpoint = read_checkpoint(source)
    model = build_model_from(checkpoint)
    print(f"written: {export(model, dest, to, source=checkpoint.folder)}")
