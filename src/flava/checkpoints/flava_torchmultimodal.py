"""TorchMultimodal's FLAVA: `flava_model_for_pretraining` and `flava_model`, read and written.

It is recognised by the blocks of ``mm_encoder``. A `flava_model` has neither heads, codebook nor
logit scale, and neither model has the codebook's decoder. With the same weights the published
losses differ slightly from ours: the LayerNorm of its heads has an epsilon of 1e-5 instead of
1e-12, and its multimodal encoder does not mask padding.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flava.checkpoints.flava_common import (
    HEADS,
    assemble,
    infer_flava_config,
    published_state_dict,
    write_decoder,
)
from flava.checkpoints.flava_huggingface import width_mismatches
from flava.checkpoints.layout import Checkpoint, KeyMapping, Layout, drop_tied_keys, raise_if_any
from flava.models.flava import Flava, FlavaConfig

KEY_MAPPING: KeyMapping = (
    (r"^(image|text)_encoder\.", r"model.\1_encoder."),
    (r"^multimodal_encoder\.", r"model.mm_encoder."),
    (r"^(image|text)_projection\.", r"model.\1_projection."),
    (r"^(image|text)_to_multimodal\.", r"model.\1_to_mm_projection."),
    (r"^logit_scale$", r"loss.contrastive_loss.logit_scale"),
    (r"_encoder\.blocks\.", r"_encoder.encoder.layer."),
    (r"image_encoder\.patches\.", r"image_encoder.embeddings.patch_embeddings.projection."),
    (r"image_encoder\.(cls_token|mask_token)$", r"image_encoder.embeddings.\1"),
    (r"image_encoder\.positions$", r"image_encoder.embeddings.position_embeddings"),
    (r"text_encoder\.words\.", r"text_encoder.embeddings.word_embeddings."),
    (r"text_encoder\.positions\.", r"text_encoder.embeddings.position_embeddings."),
    (r"text_encoder\.types\.", r"text_encoder.embeddings.token_type_embeddings."),
    (r"text_encoder\.embedding_norm\.", r"text_encoder.embeddings.layer_norm."),
    (r"\.mlp_in\.", r".feedforward.model.0."),
    (r"\.mlp_out\.", r".feedforward.model.2."),
    (r"\.norm_before\.", r".attention_layernorm."),
    (r"\.norm_after\.", r".feedforward_layernorm."),
    (r"_encoder\.norm\.", r"_encoder.layernorm."),
    (r"^(mim|mlm)_head\.", r"loss.\1_loss.cls."),
    (r"^mmm_image_head\.", r"loss.mmm_loss.mim.cls."),
    (r"^mmm_text_head\.", r"loss.mmm_loss.mlm.cls."),
    (r"\.cls\.norm\.", r".cls.layer_norm."),
    (r"^itm_head\.pooler\.", r"loss.itm_loss.pooler."),
    (r"^itm_head\.classifier\.", r"loss.itm_loss.cls.seq_relationship."),
    (r"^codebook\.encoder\.input\.", r"image_codebook.encoder.blocks.input."),
    (r"^codebook\.encoder\.output\.", r"image_codebook.encoder.blocks.output.conv."),
    (
        r"^codebook\.encoder\.groups\.(\d+)\.(\d+)\.",
        lambda m: f"image_codebook.encoder.blocks.group_{int(m[1]) + 1}.block_{int(m[2]) + 1}.",
    ),
    (r"^(image_codebook\..*)\.identity\.", r"\1.id_path."),
    (
        r"^(image_codebook\..*)\.convolutions\.(\d+)\.",
        lambda m: f"{m[1]}.res_path.conv_{int(m[2]) + 1}.",
    ),
    (r"^(image_codebook\..*)\.weight$", r"\1.w"),
    (r"^(image_codebook\..*)\.bias$", r"\1.b"),
)

TIED_KEYS = {
    f"loss.{loss}.cls.bias": f"loss.{loss}.cls.decoder.bias"
    for loss in ("mlm_loss", "mim_loss", "mmm_loss.mlm", "mmm_loss.mim")
}
"""Second key -> first key of tensors that are tied; the published state dict holds both."""

WITHOUT_LOSS = {*HEADS, "codebook.encoder", "logit_scale"}
"""The parts that `flava_model` lacks."""


def _normalise_keys(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The state dict under the keys of the model for pretraining, without tied keys."""
    pattern = re.compile(r"^(?=(image|text|mm)_(encoder|projection|to_mm_projection)\.)")
    named = {pattern.sub("model.", name): tensor for name, tensor in checkpoint.state_dict.items()}
    return drop_tied_keys(named, TIED_KEYS, checkpoint.origin)


def _matches(checkpoint: Checkpoint) -> bool:
    return any(
        name.removeprefix("model.").startswith("mm_encoder.encoder.layer.")
        for name in checkpoint.state_dict
    )


def _build(checkpoint: Checkpoint) -> Flava:
    state_dict = _normalise_keys(checkpoint)
    config = _read_geometry(state_dict, checkpoint)
    for_pretraining = any(name.startswith(("loss.", "image_codebook.")) for name in state_dict)
    missing_parts = set() if for_pretraining else WITHOUT_LOSS
    return assemble(config, state_dict, KEY_MAPPING, missing_parts, checkpoint)


def _read_geometry(state_dict: dict[str, Tensor], checkpoint: Checkpoint) -> FlavaConfig:
    """The configuration from the tensors, and the numbers of heads from ``config.json``.

    Only checkpoints that we wrote have that file: it holds the arguments of `flava_model`.

    Raises:
        ValueError: as `infer_flava_config`, or the arguments contradict the tensors.
    """
    given = checkpoint.config or {}
    counts = {kind: given.get(f"{kind}_num_attention_heads") for kind in KINDS}
    known = {kind: value for kind, value in counts.items() if isinstance(value, int) and value > 0}
    heads = known if len(known) == len(KINDS) else None
    config = infer_flava_config(state_dict, KEY_MAPPING, checkpoint.origin, heads)
    raise_if_any(
        [
            f"{name} is {given[name]} in config.json, {value} in the tensors"
            for name, value in _model_arguments(config).items()
            if name in given and given[name] != value
        ],
        f"the config.json of {checkpoint.origin} does not fit",
    )
    return config


KINDS = ("image", "text", "multimodal")


def _model_arguments(config: FlavaConfig) -> dict[str, Any]:
    """The keyword arguments of `flava_model` that make a model of this configuration."""
    encoders = {kind: getattr(config, kind) for kind in KINDS}
    return {
        f"{kind}_{name}": value
        for kind, encoder in encoders.items()
        for name, value in (
            ("hidden_size", encoder.width),
            ("num_attention_heads", encoder.heads),
            ("num_hidden_layers", encoder.depth),
            ("intermediate_size", encoder.mlp_width),
        )
    } | {
        "image_size": config.image.image_size,
        "patch_size": config.image.patch_size,
        "vocab_size": config.text.vocabulary_size,
        "max_position_embeddings": config.text.max_length,
        "text_and_image_proj_size": config.projection_width,
    }


def write(model: Flava, folder: Path) -> None:
    """Write the state dict by ``torch.save``, and `flava_model`'s arguments as ``config.json``.

    That is what TorchMultimodal's code loads. The state dict alone does not tell the numbers of
    attention heads.

    Raises:
        ValueError: TorchMultimodal's model cannot hold this one; every reason is listed.
    """
    raise_if_any(_unwritable_reasons(model), "this model cannot be written for TorchMultimodal")
    state = published_state_dict(model, KEY_MAPPING)
    state |= {second: state[first] for second, first in TIED_KEYS.items() if first in state}
    for_pretraining = not model.missing_parts.issuperset(WITHOUT_LOSS)
    if not for_pretraining:
        state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    torch.save(
        state, folder / ("flava_for_pretraining.pt" if for_pretraining else "flava_model.pt")
    )
    config = json.dumps(_model_arguments(model.config), indent=2)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")
    write_decoder(model, folder)


def _unwritable_reasons(model: Flava) -> list[str]:
    """The reasons why TorchMultimodal's model cannot hold this one."""
    missing_parts = model.missing_parts & WITHOUT_LOSS
    if missing_parts == WITHOUT_LOSS:
        return []
    lacking = [f"it lacks {', '.join(sorted(missing_parts))}"] if missing_parts else []
    return lacking + width_mismatches(model.config)


LAYOUTS = (
    Layout(
        name="TorchMultimodal flava_model_for_pretraining or flava_model",
        matches=_matches,
        build=_build,
    ),
)
