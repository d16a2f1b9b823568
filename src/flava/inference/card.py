"""The model card that a model is given away with: what it is, and how to load it."""

from pathlib import Path
from textwrap import dedent
from typing import Any

from flava.model import Flava, FlavaConfig
from flava.model.published.assemble import loaded
from flava.model.published.files import read_json

ABOUT = (
    "FLAVA ([Singh et al., CVPR 2022](https://arxiv.org/abs/2112.04482)): one model for images, "
    "texts and both together."
)


def find_run(source: Path | None) -> dict[str, Any] | None:
    """The configuration of the run that a checkpoint's folder belongs to, if it is one's."""
    if source is None:
        return None
    for folder in (source, *source.resolve().parents[:2]):
        if (folder / "run.json").is_file():
            return read_json(folder / "run.json")
    return None


def model_card(model: Flava, repo_id: str, licence: str, run: dict[str, Any] | None) -> str:
    """``README.md`` for the hub, with the header that it reads."""
    whole = "itm_head" not in model.absent
    kind = "FlavaForPreTraining" if whole else "FlavaModel"
    parts = (
        header(licence),
        f"# {repo_id.split('/')[-1]}",
        ABOUT if whole else f"{ABOUT} These are the encoders, without the heads of pretraining.",
        "## Geometry",
        geometry(model),
        "## Training",
        training(run),
        "## Use",
        usage(repo_id, kind),
        "## Licence",
        f"`{licence}`, for the weights.",
    )
    return "\n\n".join(parts) + "\n"


def header(licence: str) -> str:
    return dedent(f"""\
        ---
        license: {licence}
        library_name: transformers
        tags:
        - flava
        - multimodal
        - vision-language
        ---""")


def geometry(model: Flava) -> str:
    config = model.config
    rows = [
        f"| {name} | {part.width} | {part.depth} | {part.heads} | {part.mlp_width} |"
        for name, part in (
            ("image", config.image),
            ("text", config.text),
            ("multimodal", config.multimodal),
        )
    ]
    table = ["| encoder | width | blocks | heads | MLP |", "| --- | --- | --- | --- | --- |", *rows]
    return "\n".join([*table, "", *sizes(model, config)])


def sizes(model: Flava, config: FlavaConfig) -> list[str]:
    image, text, codebook = config.image, config.text, config.codebook
    parameters = sum(tensor.numel() for tensor in loaded(model).values())
    return [
        f"- images of {image.image_size} x {image.image_size} pixels in patches of "
        f"{image.patch_size} x {image.patch_size}",
        f"- texts of up to {text.max_length} tokens of {text.vocabulary_size}",
        f"- a contrastive space of {config.projection_width} dimensions",
        f"- a codebook of {codebook.codes} codes",
        f"- {parameters / 1e6:.1f} M parameters, codebook included",
    ]


def training(run: dict[str, Any] | None) -> str:
    if run is None:
        return "Not recorded with the weights."
    settings = {
        "recipe": run.get("recipe"),
        "updates": run.get("max_steps"),
        "learning rate": (run.get("optimizer") or {}).get("lr"),
        "seed": run.get("seed"),
    }
    return "\n".join(f"- {name}: {value}" for name, value in settings.items() if value is not None)


def usage(repo_id: str, kind: str) -> str:
    return dedent(f"""\
        With flava:

        ```python
        import flava

        model = flava.load("{repo_id}")
        model.encode_text(["a red apple"])
        ```

        With transformers:

        ```python
        from transformers import {kind}, FlavaProcessor

        model = {kind}.from_pretrained("{repo_id}")
        processor = FlavaProcessor.from_pretrained("{repo_id}")
        ```""")
