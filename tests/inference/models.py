"""Small models with everything beside them that `flava.load` reads."""

import string
from pathlib import Path

import torch

from flava.data.tokenizers import Tokenizer
from flava.data.views import codebook_view, encoder_view
from flava.inference.load import load
from flava.inference.pretrained import Pretrained
from flava.inference.processor import Processor
from flava.models import Clip, ClipConfig, ClipImageConfig, ClipTextConfig, Flava
from flava.training.checkpoint import save_checkpoint
from tests.support import randomise, tiny_model

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[MASK]", "[SEP]"]


def vocabulary(size: int) -> list[str]:
    """Words of one letter, and pieces of one, as many as there is room for."""
    words = [*SPECIAL, *string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase)]
    return words[:size]


def save_flava(folder: Path, model: Flava | None = None) -> Path:
    """A checkpoint of a random model with a vocabulary of its own, in ``folder``."""
    model = tiny_model() if model is None else model
    path = save_checkpoint(folder.parent, folder.name, model)
    words = vocabulary(model.config.text.vocabulary_size)
    (path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return path


def loaded(folder: Path, **options: object) -> Pretrained:
    return load(save_flava(folder / "model"), device="cpu", **options)  # pyright: ignore[reportArgumentType]


def processor_of(model: Flava) -> Processor:
    config = model.config
    side = config.image.grid * 8
    return Processor(
        image=encoder_view(config.image.image_size),
        codebook=codebook_view((side, side)),
        tokenizer=Tokenizer(vocabulary(config.text.vocabulary_size)),
        max_length=config.text.max_length,
    )


def tiny_clip() -> Clip:
    image = ClipImageConfig(image_size=24, patch_size=6, width=32, depth=2, heads=4, mlp_width=48)
    text = ClipTextConfig(
        vocabulary_size=53, max_length=12, width=24, depth=2, heads=3, mlp_width=40
    )
    model = Clip(ClipConfig(image=image, text=text, projection_width=16))
    randomise(model)
    torch.nn.init.constant_(model.logit_scale, 2.0)
    return model.eval()


def clip_processor() -> Processor:
    """With a tokeniser whose last token has the largest id, as CLIP's has."""
    words = [*SPECIAL[:4], *vocabulary(52)[5:], "[SEP]"]
    return Processor(
        image=encoder_view(24), codebook=None, tokenizer=Tokenizer(words), max_length=12
    )
