"""Parameter names and layouts: ours to and from Hugging Face's FLAVA, by one table.

Ours differ in names, and in holding query, key and value as one matrix. The codebook's decoder is
ours alone: the published checkpoints carry the encoder only.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

NAMES = (
    (r"^(image|text|multimodal)_encoder\.blocks\.(\d+)\.", r"flava.\1_model.encoder.layer.\2."),
    (r"^(image|text|multimodal)_encoder\.", r"flava.\1_model."),
    (r"^(image|text)_projection\.", r"flava.\1_projection."),
    (r"^(image|text)_to_multimodal\.", r"flava.\1_to_mm_projection."),
    (r"^logit_scale$", r"flava.logit_scale"),
    (r"image_model\.patches\.", r"image_model.embeddings.patch_embeddings.projection."),
    (r"image_model\.(cls_token|mask_token)$", r"image_model.embeddings.\1"),
    (r"image_model\.positions$", r"image_model.embeddings.position_embeddings"),
    (r"text_model\.words\.", r"text_model.embeddings.word_embeddings."),
    (r"text_model\.positions\.", r"text_model.embeddings.position_embeddings."),
    (r"text_model\.types\.", r"text_model.embeddings.token_type_embeddings."),
    (r"text_model\.embedding_norm\.", r"text_model.embeddings.LayerNorm."),
    (r"\.attention\.output\.", r".attention.output.dense."),
    (r"\.attention\.qkv\.", r".attention.attention.qkv."),
    (r"\.mlp_in\.", r".intermediate.dense."),
    (r"\.mlp_out\.", r".output.dense."),
    (r"\.norm_(before|after)\.", r".layernorm_\1."),
    (r"_model\.norm\.", r"_model.layernorm."),
    (r"^(mim|mlm|mmm_image|mmm_text)_head\.dense\.", r"\1_head.transform.dense."),
    (r"^(mim|mlm|mmm_image|mmm_text)_head\.norm\.", r"\1_head.transform.LayerNorm."),
    (r"^itm_head\.classifier\.", r"itm_head.seq_relationship."),
    (r"^codebook\.encoder\.input\.", r"image_codebook.blocks.input."),
    (r"^codebook\.encoder\.output\.", r"image_codebook.blocks.output.conv."),
    (
        r"^codebook\.encoder\.groups\.(\d+)\.(\d+)\.",
        lambda m: f"image_codebook.blocks.group_{int(m[1]) + 1}.group.block_{int(m[2]) + 1}.",
    ),
    (r"^(image_codebook\..*)\.identity\.", r"\1.id_path."),
    (
        r"^(image_codebook\..*)\.convolutions\.(\d+)\.",
        lambda m: f"{m[1]}.res_path.path.conv_{int(m[2]) + 1}.",
    ),
)
"""(pattern of our name, replacement), applied in this order."""

QUERY_KEY_VALUE = ("query", "key", "value")


def published_name(name: str) -> str:
    """The published name of one of our parameters; of ``qkv`` a name that holds "qkv" still."""
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our `Flava` state dict under the names of transformers' `FlavaForPreTraining`.

    Heads' biases appear twice, as there: ``X_head.bias`` is ``X_head.decoder.bias``.
    """
    published: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("codebook.decoder."):
            continue
        theirs = published_name(name)
        if ".qkv." in theirs:
            parts = zip(QUERY_KEY_VALUE, tensor.chunk(3), strict=True)
            published |= {theirs.replace("qkv", part): piece for part, piece in parts}
        else:
            published[theirs] = tensor
        if theirs.endswith("_head.decoder.bias"):
            published[theirs.replace("decoder.", "")] = tensor
    return published


def from_published(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The entries of a published state dict under our ``names`` (a model's own state dict's keys).

    Names of the codebook's decoder are passed over.

    Raises:
        ValueError: entries that are missing from ``state``, and entries that no name asks for; all
            of them in one error.
    """
    sources = {
        name: [theirs.replace("qkv", part) for part in QUERY_KEY_VALUE]
        if ".qkv." in (theirs := published_name(name))
        else [theirs]
        for name in names
        if not name.startswith("codebook.decoder.")
    }
    wanted = {source for entry in sources.values() for source in entry}
    repeated = {w.replace("decoder.", "") for w in wanted if w.endswith("_head.decoder.bias")}
    missing = sorted(wanted - state.keys())
    unexpected = sorted(state.keys() - wanted - repeated)
    if missing or unexpected:
        lines = [f"missing: {name}" for name in missing] + [f"unexpected: {n}" for n in unexpected]
        raise ValueError("the published checkpoint does not fit:\n  " + "\n  ".join(lines))
    return {
        name: torch.cat([state[s] for s in entry]) if len(entry) > 1 else state[entry[0]]
        for name, entry in sources.items()
    }
