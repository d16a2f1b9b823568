"""The dVAE codebook of Hugging Face (`FlavaImageCodebook`) and of OpenAI (DALL-E); read only.

It is recognised by keys that all begin with ``blocks.``, also below a prefix. Hugging Face's files
hold the encoder alone, and OpenAI has a file each for encoder and decoder. If one file has both,
under ``encoder.`` and ``decoder.``, both are read. A codebook without its decoder computes codes,
and names the decoder in `Codebook.missing_parts`.
"""

import re

from flava.checkpoints.geometry import config_mismatches, count_blocks, raise_if_any, tensor_shapes
from flava.checkpoints.layout import Checkpoint, KeyMapping, Layout, load_weights, published_keys
from flava.core.constraints import config_errors
from flava.models.codebook import Codebook, CodebookConfig

OPENAI_MAPPING: KeyMapping = (
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

HUGGING_FACE_MAPPING: KeyMapping = (
    *OPENAI_MAPPING,
    (r"(\.group_\d+)\.", r"\1.group."),
    (r"\.res_path\.", ".res_path.path."),
    (r"\.w$", ".weight"),
    (r"\.b$", ".bias"),
)

ENCODER_PREFIXES = ("", "encoder.", "image_codebook.", "image_codebook.encoder.")
"""Prefixes of the encoder's keys. The last two are those of whole models of Hugging Face and
TorchMultimodal of which the file holds only the codebook."""

DECODER_PREFIX = "decoder."


def _encoder_prefix(checkpoint: Checkpoint) -> str | None:
    """The prefix of the encoder's keys; None if there is no encoder."""
    return next(
        (
            prefix
            for prefix in ENCODER_PREFIXES
            for ending in ("w", "weight")
            if f"{prefix}blocks.input.{ending}" in checkpoint.state_dict
        ),
        None,
    )


def _matches(checkpoint: Checkpoint) -> bool:
    prefix = _encoder_prefix(checkpoint)
    prefixes = (f"{prefix}blocks.", f"{DECODER_PREFIX}blocks.")
    return prefix is not None and all(key.startswith(prefixes) for key in checkpoint.state_dict)


def _build(checkpoint: Checkpoint) -> Codebook:
    prefix = _encoder_prefix(checkpoint) or ""
    openai = f"{prefix}blocks.input.w" in checkpoint.state_dict
    with_decoder = any(name.startswith(DECODER_PREFIX) for name in checkpoint.state_dict)
    config = _geometry(checkpoint, prefix, "w" if openai else "weight", with_decoder)
    model = Codebook(config)
    mapping = (*(OPENAI_MAPPING if openai else HUGGING_FACE_MAPPING), (r"^encoder\.", prefix))
    keys = published_keys(model.state_dict(), mapping)
    if not with_decoder:
        keys = {name: k for name, k in keys.items() if not name.startswith(DECODER_PREFIX)}
        model.missing_parts = frozenset({"decoder"})
    load_weights(model, checkpoint.state_dict, keys, origin=checkpoint.origin)
    return model.eval()


def _geometry(
    checkpoint: Checkpoint, prefix: str, weight: str, with_decoder: bool
) -> CodebookConfig:
    """The configuration of a codebook from the shapes of its tensors.

    Args:
        weight: the last part of the keys of weights, "w" or "weight".

    Raises:
        ValueError: the shapes cannot be read, no codebook of ours has them, or the config
            contradicts them.
    """
    axes = {f"{prefix}blocks.input.{weight}": 4, f"{prefix}blocks.output.conv.{weight}": 4}
    if with_decoder:
        axes[f"{DECODER_PREFIX}blocks.input.{weight}"] = 4
    input_shape, output_shape, *decoder_shapes = tensor_shapes(checkpoint, axes)
    sizes = {
        "codes": output_shape[0],
        "width": input_shape[0],
        "blocks": count_blocks(
            checkpoint.state_dict, rf"{re.escape(prefix)}blocks\.group_1\.(?:group\.)?block_(\d+)\."
        ),
    }
    if decoder_shapes:
        sizes["decoder_input_width"] = decoder_shapes[0][0]
    problems = config_mismatches(checkpoint.config or {}, "", FIELDS, sizes)
    if input_shape[2:] == (1, 1):
        problems = [
            "it is a decoder alone, which gives no codes: put the encoder's weights into the "
            "same file, under encoder., and the decoder's under decoder."
        ]
    raise_if_any(problems, f"{checkpoint.origin} is no codebook of ours")
    config = CodebookConfig(**sizes)
    errors = config_errors(config, "codebook.")
    raise_if_any(errors, f"the geometry of {checkpoint.origin} does not hold")
    return config


FIELDS = {"hidden_size": "width", "vocab_size": "codes", "num_blocks_per_group": "blocks"}
"""Fields of transformers' `FlavaImageCodebookConfig` -> our fields of the same meaning."""

LAYOUTS = (
    Layout(
        name="Hugging Face FlavaImageCodebook, OpenAI DALL-E dVAE", matches=_matches, build=_build
    ),
)
