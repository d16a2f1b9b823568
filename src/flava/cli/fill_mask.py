"""`flava fill-mask` and `flava reconstruct`: what a model puts where something is hidden."""

from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from flava.inference.load import load
from flava.inference.results import Reconstruction

GAP = 8
"""Pixels between two pictures."""
SIDE = 224
"""Least height of a picture that is written, in pixels; smaller ones are enlarged."""


def fill_mask(model: str, text: str, image: Path | None = None, top: int = 5) -> None:
    """Print the likeliest tokens for each [MASK] in a text.

    Args:
        model: A model's id on the Hugging Face hub, a folder or a file.
        text: The text, with [MASK] where a word is to come.
        image: An image that the text is about; the model then sees both.
        top: How many tokens are printed for each.
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
    """Hide blocks of an image, fill them in, and write both beside the original.

    Args:
        model: A model's id on the Hugging Face hub, a folder or a file.
        image: The image.
        output: The picture to write: original, masked, filled in.
        text: A text about the image; the model then sees both.
        seed: Decides which blocks are hidden.
    """
    if output.suffix.lower() != ".png":
        raise ValueError(f"--output {output} must end in .png")
    texts = None if text is None else [text]
    (done,) = load(model).reconstruct([image], texts, seed=seed)
    try:
        side_by_side(done).save(output)
    except OSError as error:
        raise OSError(
            f"{output} could not be written ({error}): choose another --output"
        ) from error
    hidden = f"{int(done.mask.sum())} of {done.mask.numel()} patches"
    print(f"{output}: the original; {hidden} hidden; the same filled in")


def side_by_side(done: Reconstruction) -> Image.Image:
    """The three pictures in a row, on white, enlarged by a whole number if they are small."""
    factor = max(1, -(-SIDE // done.original.height))
    width, height = (factor * side for side in done.original.size)
    sheet = Image.new("RGB", (3 * width + 2 * GAP, height), "white")
    for place, each in enumerate((done.original, done.masked, done.filled)):
        large = each.resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(large, (place * (width + GAP), 0))
    return sheet
