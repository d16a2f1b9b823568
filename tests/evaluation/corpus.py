"""A corpus of plain-coloured pictures in the embedded corpus' form, and a model's geometry."""

import json
from functools import cache
from pathlib import Path

import torch
from PIL import Image

from flava.data.tokenizers import Tokenizer
from flava.evaluation.embedded_data import CLASSES, EmbeddedCorpus, EmbeddedSplit, EvaluatedConfig
from flava.models import CodebookConfig, FlavaConfig, ImageConfig, MultimodalConfig, TextConfig
from tests.data.shard_files import encoded, write_tar

WORDS = [
    "ant",
    "bear",
    "cat",
    "dog",
    "elephant",
    "fish",
    "goat",
    "horse",
    "king",
    "lion",
    "moon",
    "nut",
    "owl",
    "pig",
    "queen",
    "rat",
]
"""A concept each: its caption is the word, many times; its picture is of one colour."""

STEP = 255 // len(WORDS)
"""From one concept's red to the next one's."""


def tiny_geometry() -> FlavaConfig:
    return FlavaConfig(
        image=ImageConfig(image_size=16, patch_size=4, width=16, depth=1, heads=2, mlp_width=16),
        text=TextConfig(width=12, max_length=24, depth=1, heads=2, mlp_width=16),
        multimodal=MultimodalConfig(width=8, depth=1, heads=2, mlp_width=16),
        projection_width=8,
        codebook=CodebookConfig(codes=16, width=8, blocks=1, decoder_input_width=8),
    )


def picture(concept: int) -> Image.Image:
    return Image.new("RGB", (20, 20), (STEP * concept, 90, 200))


def write_pairs(path: Path, styles: int = 1, captions: list[str] | None = None) -> str:
    """Pairs of all concepts in some styles, which are all alike."""
    files = {}
    for style in range(styles):
        for i, word in enumerate(WORDS):
            meta = {
                "captions": [captions[i] if captions else " ".join([word] * 12), "never read"],
                "concept": word,
                "group": "odd" if i % 2 else "even",
                "subgroup": CLASSES[i % 5].subgroups[0],
                "digit": i % 10,
            }
            files[f"style{style}/{i:02d}.png"] = encoded(picture(i))
            files[f"style{style}/{i:02d}.json"] = json.dumps(meta).encode()
    return str(write_tar(path, files))


def splits(folder: Path) -> dict[str, EmbeddedSplit]:
    """The names of the embedded corpus' splits, all of the same pictures."""
    folder.mkdir(exist_ok=True)
    one, three = write_pairs(folder / "one.tar"), write_pairs(folder / "three.tar", styles=3)
    text = folder / "text.jsonl"
    text.write_text(
        "".join(
            json.dumps({"key": f"{'nvar'[i % 4]}{i:08d}-0", "text": f"a {word} and a {word}"})
            + "\n"
            for i, word in enumerate(WORDS * 4)
        )
    )
    sources = {
        "unseen_style": one,
        "unseen_style_hard": one,
        "unseen_concepts": one,
        "unseen_concepts_all": three,
        "unseen_both": one,
        "validation": three,
        "probe_train": three,
        "digits": one,
        "digits_train": three,
        "digits_validation": three,
        **dict.fromkeys(("wordnet", "wordnet_train", "wordnet_validation"), str(text)),
    }
    return {
        n: EmbeddedSplit(name=n, title=f"title of {n}", shards=(s,)) for n, s in sources.items()
    }


def corpus(folder: Path, config: EvaluatedConfig) -> EmbeddedCorpus:
    return EmbeddedCorpus(splits(folder), config, seed=0)


@cache
def word_ids() -> torch.Tensor:
    """The token of each concept's word."""
    return torch.tensor([Tokenizer().encode(word, 3)[1] for word in WORDS])
