"""The dVAE as Hugging Face's `FlavaImageCodebook` and OpenAI's DALL-E name it.

Hugging Face's files hold the encoder alone, and OpenAI's one file each for encoder and decoder:
where both stand in one file, under ``encoder.`` and ``decoder.``, both are read. A codebook without
its decoder gives codes, and says so in `Codebook.missing_parts`.
"""

import re

from flava.checkpoints.geometry import count_blocks, disagreements, refuse_if, shapes
from flava.checkpoints.layout import Layout, Stored, Table, fill, sources
from flava.core.constraints import config_errors
from flava.models.codebook import Codebook, CodebookConfig

OPENAI: Table = (
    (r"\.(input|output)\.", r".blocks.\1."),
    (
        r"\.groups\.(\d+)\.(\d+)\.",
        lambda m: f".blocks.group_{int(m[1]) + 1}.block_{int(m[2]) + 1}.",
    ),
    (r"\.output\.", ".output.conv."),
    (r"\.identity\.", ".id_path."),
    (r"\.convolutions\.(\d+)\.", lambda m: f".res_path.conv_{int(m[1]) + 1}."),
    (r"\.weight$", ".w"),
    (r"\.bias$", ".b"),
)

HUGGING_FACE: Table = (
    *OPENAI,
    (r"(\.group_\d+)\.", r"\1.group."),
    (r"\.res_path\.", ".res_path.path."),
    (r"\.w$", ".weight"),
    (r"\.b$", ".bias"),
)

ENCODERS = ("", "encoder.", "image_codebook.", "image_codebook.encoder.")
"""What stands before the encoder's names: nothing where it is alone; the others in whole models of
Hugging Face's and torchmultimodal's, of which only these entries are in the file."""

DECODER = "decoder."


def encoder_prefix(stored: Stored) -> str | None:
    """What stands before the encoder's names; None where there is no encoder."""
    return next(
        (
            prefix
            for prefix in ENCODERS
            for ending in ("w", "weight")
            if f"{prefix}blocks.input.{ending}" in stored.tensors
        ),
        None,
    )


def matches(stored: Stored) -> bool:
    prefix = encoder_prefix(stored)
    return prefix is not None and all(
        name.startswith((f"{prefix}blocks.", f"{DECODER}blocks.")) for name in stored.tensors
    )


def build(stored: Stored) -> Codebook:
    """From either layout: they differ in a few names only."""
    prefix = encoder_prefix(stored) or ""
    openai = f"{prefix}blocks.input.w" in stored.tensors
    with_decoder = any(name.startswith(DECODER) for name in stored.tensors)
    config = geometry(stored, prefix, "w" if openai else "weight", with_decoder)
    model = Codebook(config)
    names = (*(OPENAI if openai else HUGGING_FACE), (r"^encoder\.", prefix))
    entries = sources(model.state_dict(), names)
    if not with_decoder:
        entries = {name: e for name, e in entries.items() if not name.startswith(DECODER)}
        model.missing_parts = frozenset({"decoder"})
    fill(model, stored.tensors, entries, origin=stored.origin)
    return model.eval()


def geometry(stored: Stored, prefix: str, weight: str, with_decoder: bool) -> CodebookConfig:
    """Raises ValueError: it cannot be read, does not hold, or the config says otherwise."""
    entries = {f"{prefix}blocks.input.{weight}": 4, f"{prefix}blocks.output.conv.{weight}": 4}
    if with_decoder:
        entries[f"{DECODER}blocks.input.{weight}"] = 4
    entrance, exit_, *decoder_entrance = shapes(stored, entries)
    found = {
        "codes": exit_[0],
        "width": entrance[0],
        "blocks": count_blocks(
            stored.tensors, rf"{re.escape(prefix)}blocks\.group_1\.(?:group\.)?block_(\d+)\."
        ),
    }
    if decoder_entrance:
        found["decoder_input_width"] = decoder_entrance[0][0]
    wrong = disagreements(stored.config or {}, "", FIELDS, found)
    if entrance[2:] == (1, 1):
        wrong = [
            "it is a decoder alone, which gives no codes: put the encoder's weights into the "
            "same file, under encoder., and the decoder's under decoder."
        ]
    refuse_if(wrong, f"{stored.origin} is no codebook of ours")
    config = CodebookConfig(**found)
    refuse_if(config_errors(config, "codebook."), f"the geometry of {stored.origin} does not hold")
    return config


FIELDS = {"hidden_size": "width", "vocab_size": "codes", "num_blocks_per_group": "blocks"}
"""Fields of transformers' `FlavaImageCodebookConfig`, and ours of the same meaning."""

LAYOUTS = (
    Layout(
        name="Hugging Face FlavaImageCodebook, OpenAI DALL-E dVAE", matches=matches, build=build
    ),
)
