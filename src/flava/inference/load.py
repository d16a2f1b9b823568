"""`flava.load`: makes a model that is ready to use from a run, a checkpoint or a hub id."""

from pathlib import Path

import torch
from torch import nn

from flava.checkpoints.processor_files import read_image_file, read_tokenizer, read_view
from flava.checkpoints.recognise import build_model_from, read_checkpoint
from flava.data.transforms import CODE_PIXELS
from flava.data.views import View, codebook_view
from flava.inference.int8 import InferencePrecision
from flava.inference.pretrained import Pretrained
from flava.inference.processor import (
    Processor,
    TextTokenizer,
    default_image_view,
    default_tokenizer,
)
from flava.models import Clip, Flava


def load(
    source: str | Path,
    *,
    device: str = "auto",
    precision: InferencePrecision | str = InferencePrecision.FP32,
    image_size: int | None = None,
) -> Pretrained:
    """A model with its processor, ready to use, in evaluation mode.

    Args:
        source: A model's id on the Hugging Face hub, a folder or a file: see
            `flava.checkpoints.recognise`.
        device: As torch names it, such as "cuda:1"; "auto" is a GPU if there is one, else the CPU.
        precision: What matrix products are computed in. "bf16", with 8 bits of mantissa, took
            half of the time on a CPU with instructions for it; "int8", whole numbers of 8 bits in
            most products, 0.34 to 0.39 of it (CPUs only, with instructions for those).
        image_size: Pixels a side of what the image encoder sees, if not as configured. Position
            embeddings are interpolated as published, so more of an image's detail can be seen.

    Raises:
        FileNotFoundError: there is no such source, or the hub cannot be reached.
        ValueError: it is damaged, holds another kind of model, a field is out of range, or
            precision is int8 and the device no CPU.
    """
    target_device, target_precision = device_named(device), _precision_named(precision)
    model, folder = _read_model(source)
    if not isinstance(model, Flava | Clip):
        raise ValueError(
            f"{source} holds a {type(model).__name__}: only a whole FLAVA or CLIP can be used so"
        )
    return Pretrained(
        model.to(target_device),
        _processor_for(model, folder, image_size),
        precision=target_precision,
        folder=folder,
    )


def _read_model(source: str | Path) -> tuple[nn.Module, Path | None]:
    """The model, and the folder that may hold the files of its processor."""
    stored = read_checkpoint(source)
    return build_model_from(stored), stored.folder


def device_named(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {name!r}, which cannot be used here: {reason}") from error
    return device


def _precision_named(precision: InferencePrecision | str) -> InferencePrecision:
    try:
        return InferencePrecision(precision)
    except ValueError as error:
        known = ", ".join(each.value for each in InferencePrecision)
        raise ValueError(f"precision is {precision!r}: use one of {known}") from error


def _processor_for(
    model: Flava | Clip, folder: Path | None, image_size: int | None = None
) -> Processor:
    """The processor as the files in the folder say, else as the model was made for.

    Raises:
        ValueError: a file is damaged, or does not fit the model.
    """
    image, codebook = _views_for(model, folder)
    processor = Processor(
        image=image,
        codebook=codebook,
        tokenizer=_tokenizer_for(model, folder),
        max_length=model.config.text.max_length,
    )
    patch = model.config.image.patch_size
    if image_size is not None:
        if image_size < patch or image_size % patch:
            raise ValueError(
                f"image_size is {image_size}: use a positive multiple of {patch}, a patch's side"
            )
        processor = processor.of_size((image_size, image_size), patch)
    _check_fit(processor, model, folder)
    return processor


def _views_for(model: Flava | Clip, folder: Path | None) -> tuple[View, View | None]:
    image = default_image_view(model.config)
    side = model.config.image.grid * CODE_PIXELS
    codebook = None if isinstance(model, Clip) else codebook_view((side, side))
    image_file = None if folder is None else read_image_file(folder)
    if image_file is None:
        return image, codebook
    path, fields = image_file
    image = read_view(path, fields, "", image)
    return image, codebook and read_view(path, fields, "codebook_", codebook)


def _tokenizer_for(model: Flava | Clip, folder: Path | None) -> TextTokenizer:
    stored = None if folder is None or isinstance(model, Clip) else read_tokenizer(folder)
    return default_tokenizer(model.config.text) if stored is None else stored


def _check_fit(processor: Processor, model: Flava | Clip, folder: Path | None) -> None:
    """Raises ValueError, with every misfit, if the processor is another model's."""
    patch, vocabulary_size = model.config.image.patch_size, model.config.text.vocabulary_size
    height, width = processor.image.crop
    misfits = []
    if height % patch or width % patch:
        misfits.append(f"images of {height}x{width} pixels are not whole patches of {patch}")
    codes = (height // patch * CODE_PIXELS, width // patch * CODE_PIXELS)
    if processor.codebook is not None and processor.codebook.crop != codes:
        size = "x".join(map(str, processor.codebook.crop))
        misfits.append(
            f"the codebook's images of {size} pixels do not have a code a patch: that needs "
            f"{codes[0]}x{codes[1]}"
        )
    if processor.tokenizer.size > vocabulary_size:
        misfits.append(
            f"the tokeniser knows {processor.tokenizer.size} words, the text encoder "
            f"{vocabulary_size}"
        )
    if misfits:
        raise ValueError(
            f"the processor's files in {folder} do not fit the model:\n  " + "\n  ".join(misfits)
        )
