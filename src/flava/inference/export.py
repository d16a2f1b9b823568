"""A model given away: in the layouts that others read, with what reads its images and texts."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi
from torch import nn

from flava.checkpoints import clip_huggingface, huggingface, native, torchmultimodal
from flava.checkpoints.processor_files import write_image_processor, write_tokenizer
from flava.core.files import atomic_folder
from flava.inference.model_card import find_run, model_card
from flava.inference.onnx_programs import write_programs
from flava.models import Clip, Flava

WRITERS: dict[str, dict[type[nn.Module], Callable[[Any, Path], None]]] = {
    "hf": {Flava: huggingface.write, Clip: clip_huggingface.write},
    "torchmultimodal": {Flava: torchmultimodal.write},
    "flava": dict.fromkeys(native.stored_models().values(), native.write_model),
    "onnx": {Flava: write_programs, Clip: write_programs},
}
"""What writes a model of a kind into a folder, by the name of the layout."""
WITH_PROCESSOR = ("hf", "onnx")
"""Layouts that say how images and texts are processed in any case: in transformers' files."""


def export(model: nn.Module, folder: Path, layout: str, *, source: Path | None = None) -> Path:
    """Write a model into a new folder, whole or not at all, and return the folder.

    Args:
        layout: a key of `WRITERS`.
        source: the folder that the model came from, whose image processor and tokeniser go along.

    Raises:
        ValueError: the layout cannot hold this model; every reason is listed.
        OSError: the folder is there and not empty, or could not be written.
    """
    writers = WRITERS[layout]
    if type(model) not in writers:
        held = " or ".join(kind.__name__ for kind in writers)
        raise ValueError(
            f"a {type(model).__name__} cannot be written in the layout {layout}, which holds a "
            f"{held}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not empty: name a new folder")
    with atomic_folder(folder) as partial:
        writers[type(model)](model, partial)
        if isinstance(model, Flava | Clip):
            write_tokenizer(model, partial, source, ours=layout in WITH_PROCESSOR)
            if layout in WITH_PROCESSOR:
                write_image_processor(model, partial, source)
    return folder


def save_pretrained(model: nn.Module, folder: Path, *, source: Path | None = None) -> Path:
    """Write a FLAVA or a CLIP for transformers, with its image processor and tokeniser.

    ``FlavaForPreTraining.from_pretrained(folder)`` and ``FlavaProcessor.from_pretrained(folder)``,
    or ``CLIPModel`` and ``CLIPProcessor``, read what it writes, and so does
    `flava.checkpoints.load.load_pretrained`. The codebook's decoder, which transformers does
    not have, stands in a file of its own.

    Raises:
        ValueError, OSError: as `export`.
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
        assert isinstance(model, Flava | Clip)
        card = model_card(model, repo_id, licence, find_run(source))
        (folder / "README.md").write_text(card, encoding="utf-8")
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload weights")
    return str(address)
