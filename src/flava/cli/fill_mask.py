"""`flava fill-mask` and `flava reconstruct`: predict masked tokens and masked patches."""

from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from flava.inference.load import load
from flava.inference.results import Reconstruction

GAP = 8
"""Pixels between two images."""
SIDE = 224
"""Smallest height in pixels of the images that are written; smaller ones are enlarged."""


def fill_mask(model: str, text: str, image: Path | None = None, top: int = 5) -> None:
    """Print the most probable tokens for each [MASK] in a text.

    Args:
        model: A model's id on the Hugging Face hub, a folder (also a run's) or a file of weights.
        text: The text, with [MASK] in place of the words to predict.
        image: An image that belongs to the text. The model then predicts from both.
        top: Number of tokens to print for each [MASK].
    """
    pretrained = load(model)
    images = None if image is None else [image]
    (masks,) = pretrained.fill_mask([text], images, top=top)
    for number, candidates in enumerate(masks, start=1):
        print(f"[MASK] {number}")
        for each in candidates:
            print(f"  {each.probability:.3f}  {each.token}")


def reconstruct(
    model: str,
    image: Path,
    output: Annotated[Path, tyro.conf.arg(metavar="PNG")],
    text: str | None = None,
    seed: int = 0,
) -> None:
    """Mask blocks of an image, predict them, and write original and results side by side.

    Args:
        model: A model's id on the Hugging Face hub, a folder (also a run's) or a file of weights.
        image: The image.
        output: The PNG to write: the original, masked, and with the prediction filled in.
        text: A text that belongs to the image. The model then predicts from both.
        seed: Random seed that decides which blocks are masked.
    """
    if output.suffix.lower() != ".png":
        raise ValueError(f"--output {output} must end in .png")
    texts = None if text is None else [text]
    (reconstruction,) = load(model).reconstruct([image], texts, seed=seed)
    try:
        _side_by_side(reconstruction).save(output)
    except OSError as error:
        raise OSError(
            f"{output} could not be written ({error}): choose another --output"
        ) from error
    mask = reconstruction.mask
    hidden = f"{int(mask.sum())} of {mask.numel()} patches"
    print(f"{output}: the original; {hidden} hidden; the same filled in")


def _side_by_side(reconstruction: Reconstruction) -> Image.Image:
    """The three images in a row on white, enlarged by a whole factor if they are small."""
    images = (reconstruction.original, reconstruction.masked, reconstruction.filled)
    factor = max(1, -(-SIDE // images[0].height))
    width, height = (factor * side for side in images[0].size)
    sheet = Image.new("RGB", (3 * width + 2 * GAP, height), "white")
    for number, image in enumerate(images):
        large = image.resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(large, (number * (width + GAP), 0))
    return sheet
