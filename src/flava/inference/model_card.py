"""The model card (README.md) for the hub: what the model is, how it was trained and is loaded."""

from collections.abc import Iterable
from pathlib import Path
from textwrap import dedent
from typing import Any

from huggingface_hub import CardData
from torch import Tensor

from flava.checkpoints.flava_common import present_tensors
from flava.checkpoints.reading import read_json
from flava.models import Clip, Flava
from flava.models.transformer import TransformerConfig

FLAVA = (
    "FLAVA ([Singh et al., CVPR 2022](https://arxiv.org/abs/2112.04482)): one model for images, "
    "texts and both together."
)
CLIP = (
    "CLIP ([Radford et al., 2021](https://arxiv.org/abs/2103.00020)): an image encoder and a text "
    "encoder that meet in one space."
)


def find_run_config(source: Path | None) -> dict[str, Any] | None:
    """The run.json of the run that a checkpoint's folder belongs to; None if it is of no run."""
    if source is None:
        return None
    for folder in (source, *source.resolve().parents[:2]):
        if (folder / "run.json").is_file():
            return read_json(folder / "run.json")
    return None


def model_card(model: Flava | Clip, repo_id: str, licence: str, run: dict[str, Any] | None) -> str:
    """The text of the model card, with the YAML header that the hub reads.

    Args:
        licence: licence of the weights, as the hub abbreviates it.
        run: the configuration of the run that trained the model, if it is known.
    """
    kind, processor, description = _published_classes(model)
    tag = processor.removesuffix("Processor").lower()
    header = CardData(
        license=licence,
        library_name="transformers",
        tags=[tag, "multimodal", "vision-language"],
    )
    parts = (
        f"---\n{header}\n---",
        f"# {repo_id.split('/')[-1]}",
        description,
        "## Geometry",
        _geometry(model),
        "## Training",
        _training(run),
        "## Use",
        _usage(repo_id, kind, processor),
        "## Licence",
        f"`{licence}`, for the weights.",
    )
    return "\n\n".join(parts) + "\n"


def _published_classes(model: Flava | Clip) -> tuple[str, str, str]:
    """transformers' classes of the model and of its processor, and a description of the model."""
    if isinstance(model, Clip):
        return "CLIPModel", "CLIPProcessor", CLIP
    if "itm_head" in model.missing_parts:
        encoders = f"{FLAVA} These are the encoders, without the heads of pretraining."
        return "FlavaModel", "FlavaProcessor", encoders
    return "FlavaForPreTraining", "FlavaProcessor", FLAVA


def _geometry(model: Flava | Clip) -> str:
    encoders: dict[str, TransformerConfig] = {
        "image": model.config.image,
        "text": model.config.text,
    }
    if isinstance(model, Flava):
        encoders["multimodal"] = model.config.multimodal
    rows = [
        f"| {name} | {part.width} | {part.depth} | {part.heads} | {part.mlp_width} |"
        for name, part in encoders.items()
    ]
    table = ["| encoder | width | blocks | heads | MLP |", "| --- | --- | --- | --- | --- |", *rows]
    return "\n".join([*table, "", *_sizes(model)])


def _sizes(model: Flava | Clip) -> list[str]:
    image, text = model.config.image, model.config.text
    lines = [
        f"- images of {image.image_size} x {image.image_size} pixels in patches of "
        f"{image.patch_size} x {image.patch_size}",
        f"- texts of up to {text.max_length} tokens of {text.vocabulary_size}",
        f"- a contrastive space of {model.config.projection_width} dimensions",
    ]
    if isinstance(model, Clip):
        return [*lines, f"- {_millions(model.parameters())} M parameters"]
    return [
        *lines,
        f"- a codebook of {model.config.codebook.codes} codes",
        f"- {_millions(present_tensors(model).values())} M parameters, codebook included",
    ]


def _millions(tensors: Iterable[Tensor]) -> str:
    return f"{sum(tensor.numel() for tensor in tensors) / 1e6:.1f}"


def _training(run: dict[str, Any] | None) -> str:
    if run is None:
        return "Not recorded with the weights."
    settings = {
        "recipe": run.get("recipe"),
        "updates": run.get("max_steps"),
        "learning rate": (run.get("optimizer") or {}).get("lr"),
        "seed": run.get("seed"),
    }
    return "\n".join(f"- {name}: {value}" for name, value in settings.items() if value is not None)


def _usage(repo_id: str, kind: str, processor: str) -> str:
    return dedent(f"""\
        With flava:

        ```python
        import flava

        model = flava.load("{repo_id}")
        model.encode_text(["a red apple"])
        ```

        With transformers:

        ```python
        from transformers import {kind}, {processor}

        model = {kind}.from_pretrained("{repo_id}")
        processor = {processor}.from_pretrained("{repo_id}")
        ```""")
