"""A model given away: in the layouts that others read, with what reads its images and texts."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi
from torch import nn

from flava.data.tokenizer import Tokenizer
from flava.data.transforms import CLIP_MEAN, CLIP_STD, CODE_PIXELS
from flava.files import whole_folder
from flava.inference.card import find_run, model_card
from flava.model import Codebook, Flava, FlavaConfig
from flava.model.published import huggingface, own, torchmultimodal

log = logging.getLogger(__name__)

WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "hf": huggingface.write,
    "torchmultimodal": torchmultimodal.write,
    "flava": own.write_model,
}
"""What writes a model into a folder, by the name of the layout."""

TOKENIZER_FILES = (
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
BICUBIC, LANCZOS = 3, 1
"""PIL's numbers of the resampling filters, as processor configs give them."""


def export(model: nn.Module, folder: Path, layout: str, *, source: Path | None = None) -> Path:
    """Write a model into a new folder, whole or not at all, and return the folder.

    Args:
        layout: a key of `WRITERS`.
        source: the folder that the model came from, whose tokeniser goes along.

    Raises:
        ValueError: the layout cannot hold this model; every reason is listed.
        OSError: the folder is there and not empty, or could not be written.
    """
    kinds = (Flava, Codebook) if layout == "flava" else (Flava,)
    if not isinstance(model, kinds):
        raise ValueError(
            f"a {type(model).__name__} cannot be written in the layout {layout}, which holds a "
            f"whole FLAVA{' or a codebook' if layout == 'flava' else ''}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty: name a new folder")
    with whole_folder(folder) as partial:
        WRITERS[layout](model, partial)
        if isinstance(model, Flava):
            write_tokenizer(model.config, partial, source, ours=layout == "hf")
        if isinstance(model, Flava) and layout == "hf":
            write_json(partial / "preprocessor_config.json", image_processor(model.config))
    return folder


def save_pretrained(model: nn.Module, folder: Path, *, source: Path | None = None) -> Path:
    """Write a FLAVA for transformers, with its image processor and tokeniser; else as `export`.

    ``FlavaForPreTraining.from_pretrained(folder)`` and ``FlavaProcessor.from_pretrained(folder)``
    read what it writes, and so does `flava.model.published.load.load_pretrained`. The codebook's
    decoder, which transformers does not have, stands in a file of its own.
    """
    return export(model, folder, "hf", source=source)


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    licence: str,
    private: bool = False,
    token: str | None = None,
    source: Path | None = None,
) -> str:
    """Upload what `save_pretrained` writes, with a model card, and return the address.

    Args:
        repo_id: organisation/name; made if it is not there.
        licence: as the hub abbreviates it, "apache-2.0"; that of the weights, which for those of
            others is theirs.
        token: the hub's, else the one that ``hf auth login`` stored.
        source: the folder that the model came from: its tokeniser goes along, and a run's
            configuration is told in the card.

    Raises:
        ValueError: transformers has no model of this geometry.
        huggingface_hub.errors.HfHubHTTPError: the hub refuses.
    """
    api = HfApi(token=token)
    with TemporaryDirectory() as temporary:
        folder = save_pretrained(model, Path(temporary) / "model", source=source)
        assert isinstance(model, Flava)
        card = model_card(model, repo_id, licence, find_run(source))
        (folder / "README.md").write_text(card, encoding="utf-8")
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload FLAVA")
    return str(address)


def write_tokenizer(config: FlavaConfig, folder: Path, source: Path | None, *, ours: bool) -> None:
    """The source's tokeniser if it has one, else ours if the layout wants one and it fits."""
    if source is not None and (source / "vocab.txt").is_file():
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    elif ours:
        write_our_tokenizer(config, folder)


def write_our_tokenizer(config: FlavaConfig, folder: Path) -> None:
    """BERT's uncased WordPiece tokeniser in transformers' files."""
    tokenizer = Tokenizer()
    if tokenizer.size > config.text.vocabulary_size:
        log.warning(
            "the text encoder has %d token ids, fewer than the tokeniser's %d: no tokeniser is "
            "written, give your own",
            config.text.vocabulary_size,
            tokenizer.size,
        )
        return
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
        "model_max_length": config.text.max_length,
        **special,
    }
    write_json(folder / "tokenizer_config.json", settings)


def image_processor(config: FlavaConfig) -> dict[str, Any]:
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
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
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
