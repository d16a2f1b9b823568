"""The files beside the weights that say, in Hugging Face's form, how inputs are processed."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from flava.data.clip_tokenizer import ClipTokenizer, read_merges
from flava.data.tokenizer import Tokenizer
from flava.data.transforms import CLIP_MEAN, CLIP_STD, CODE_PIXELS
from flava.inference.files import read_image_file
from flava.model import Clip, Flava, FlavaConfig

log = logging.getLogger(__name__)

TOKENIZER_FILES = (
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
VOCABULARIES = ("vocab.txt", "tokenizer.json", "vocab.json")
"""A folder that holds one of these has a tokeniser."""

BICUBIC, LANCZOS = 3, 1
"""PIL's numbers of the resampling filters, as processor configs give them."""

NORMALISED = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(CLIP_MEAN),
    "image_std": list(CLIP_STD),
}
"""How both models' processors scale pixels."""


def write_image_processor(model: Flava | Clip, folder: Path, source: Path | None) -> None:
    """The source's if it has one, else that of the model's image size."""
    found = None if source is None else read_image_file(source)
    if found is not None:
        fields = dict(found[1])
    elif isinstance(model, Clip):
        fields = clip_image_processor(model.config.image.image_size)
    else:
        fields = flava_image_processor(model.config)
    write_json(folder / "preprocessor_config.json", fields)


def write_tokenizer(model: Flava | Clip, folder: Path, source: Path | None, *, ours: bool) -> None:
    """The source's tokeniser if it has one, else ours if the layout wants one and it fits."""
    if source is not None and any((source / name).is_file() for name in VOCABULARIES):
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    elif ours:
        tokenizer = ClipTokenizer() if isinstance(model, Clip) else Tokenizer()
        words = model.config.text.vocabulary_size
        if tokenizer.size > words:
            log.warning(
                "the text encoder has %d token ids, fewer than the tokeniser's %d: no tokeniser "
                "is written, give your own",
                words,
                tokenizer.size,
            )
        elif isinstance(tokenizer, ClipTokenizer):
            write_clip_tokenizer(tokenizer, folder, model.config.text.max_length)
        else:
            write_bert_tokenizer(tokenizer, folder, model.config.text.max_length)


def write_bert_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """BERT's uncased WordPiece tokeniser in transformers' files."""
    words = "".join(f"{tokenizer.token(index)}\n" for index in range(tokenizer.size))
    (folder / "vocab.txt").write_text(words, encoding="utf-8")
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    names = ("pad", "unk", "cls", "sep", "mask")
    special = {f"{name}_token": f"[{name.upper()}]" for name in names}
    write_json(folder / "special_tokens_map.json", special)
    settings = {
        "tokenizer_class": "BertTokenizer",
        "processor_class": "FlavaProcessor",
        "do_lower_case": True,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "model_max_length": max_length,
        **special,
    }
    write_json(folder / "tokenizer_config.json", settings)


def write_clip_tokenizer(tokenizer: ClipTokenizer, folder: Path, max_length: int) -> None:
    """CLIP's byte-pair encoding in transformers' files, special tokens by their names there."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    words = (*tokenizer.words[: tokenizer.start], start, end)
    write_json(folder / "vocab.json", {word: index for index, word in enumerate(words)})
    lines = ["#version: 0.2", *(" ".join(merge) for merge in read_merges())]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    write_json(folder / "special_tokens_map.json", special)
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "processor_class": "CLIPProcessor",
        "do_lower_case": True,
        "model_max_length": max_length,
        **special,
    }
    write_json(folder / "tokenizer_config.json", settings)


def clip_image_processor(side: int) -> dict[str, Any]:
    """transformers' ``CLIPImageProcessor`` for a model's image size."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": square(side),
        **NORMALISED,
        "do_convert_rgb": True,
    }


def flava_image_processor(config: FlavaConfig) -> dict[str, Any]:
    """transformers' ``FlavaImageProcessor`` for a model's image size.

    Its masks keep the published share of a grid: 75 of 196 patches, in blocks of 16 or more.
    """
    image = config.image
    size, codes = square(image.image_size), square(CODE_PIXELS * image.grid)
    patches = image.grid**2
    return {
        "image_processor_type": "FlavaImageProcessor",
        "processor_class": "FlavaProcessor",
        "do_resize": True,
        "size": size,
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": size,
        **NORMALISED,
        "input_size_patches": image.grid,
        "total_mask_patches": 75 * patches // 196,
        "mask_group_min_patches": 16 * patches // 196,
        "mask_group_min_aspect_ratio": 0.3,
        "mask_group_max_aspect_ratio": None,
        "codebook_do_resize": True,
        "codebook_size": codes,
        "codebook_resample": LANCZOS,
        "codebook_do_center_crop": True,
        "codebook_crop_size": codes,
        "codebook_do_rescale": True,
        "codebook_rescale_factor": 1 / 255,
        "codebook_do_map_pixels": True,
        "codebook_do_normalize": True,
        "codebook_image_mean": [0.0, 0.0, 0.0],
        "codebook_image_std": [1.0, 1.0, 1.0],
    }


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
