"""Text encoders: Hugging Face's `FlavaTextModel`, and those of BERT's family that are pre-norm.

BERT and RoBERTa themselves are refused. Their blocks normalise after each residual sum, ours before
each layer, and no weights make the one compute the other: encoders with BERT's weights under our
names would load and give noise. Only the embeddings and their LayerNorm would mean the same.
"""

import re
from typing import Any

from torch.nn import functional

from flava.checkpoints.geometry import (
    check,
    count_blocks,
    heads,
    hugging_face,
    refusal,
    section,
    shapes,
)
from flava.checkpoints.layout import (
    QUERY_KEY_VALUE,
    TRANSFORMERS_BLOCKS,
    Layout,
    Stored,
    Table,
    fill,
    rename,
    sources,
)
from flava.models.encoders import TextConfig, TextEncoder

EMBEDDINGS: Table = (
    (r"^words\.", "embeddings.word_embeddings."),
    (r"^positions\.", "embeddings.position_embeddings."),
    (r"^types\.", "embeddings.token_type_embeddings."),
    (r"^embedding_norm\.", "embeddings.LayerNorm."),
)

FLAVA: Table = (*TRANSFORMERS_BLOCKS, *EMBEDDINGS)

PRE_LAYER_NORM: Table = (
    *EMBEDDINGS,
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
    (r"\.norm_before\.", ".attention.LayerNorm."),
    (r"\.norm_after\.", ".intermediate.LayerNorm."),
    (r"\.attention\.qkv\.", ".attention.self.qkv."),
    (r"\.attention\.output\.", ".attention.output.dense."),
    (r"\.mlp_in\.", ".intermediate.dense."),
    (r"\.mlp_out\.", ".output.dense."),
    (r"^norm\.", "LayerNorm."),
)

FLAVA_PREFIXES = ("", "text_model.", "flava.text_model.")
PRE_LAYER_NORM_PREFIXES = ("", "roberta_prelayernorm.")
POST_NORM_PREFIXES = ("", "bert.", "roberta.", "electra.", "model.")

PASSED_OVER = r"(lm_head|classifier|qa_outputs)\."
"""Heads beside a `RobertaPreLayerNormModel`."""

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"

ROBERTA_VOCABULARY = 50_265

BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
"""Counted numbers and zeros in files of older versions of transformers."""


def prefix_of(stored: Stored, name: str, prefixes: tuple[str, ...]) -> str | None:
    return next((prefix for prefix in prefixes if prefix + name in stored.tensors), None)


def flava_prefix(stored: Stored) -> str | None:
    name = "encoder.layer.0.attention.attention.query.weight"
    prefix = prefix_of(stored, name, FLAVA_PREFIXES)
    if prefix is None or f"{prefix}embeddings.word_embeddings.weight" not in stored.tensors:
        return None
    # The text encoder within a whole FLAVA is not all that is there.
    return prefix if all(name.startswith(prefix) for name in stored.tensors) else None


def pre_layer_norm_prefix(stored: Stored) -> str | None:
    name = "encoder.layer.0.attention.LayerNorm.weight"
    return prefix_of(stored, name, PRE_LAYER_NORM_PREFIXES)


def post_norm_prefix(stored: Stored) -> str | None:
    endings = ("weight", "gamma")  # the first BERTs' names
    names = [f"encoder.layer.0.attention.output.LayerNorm.{ending}" for ending in endings]
    found = (prefix_of(stored, name, POST_NORM_PREFIXES) for name in names)
    return next((prefix for prefix in found if prefix is not None), None)


def build_flava(stored: Stored) -> TextEncoder:
    return build(stored, FLAVA, flava_prefix(stored) or "")


def build_pre_layer_norm(stored: Stored) -> TextEncoder:
    """Positions count from the row after the padding id's: the rows before it are left out.

    The ids are those of RoBERTa's vocabulary, which our tokenisers do not speak.
    """
    padding = (stored.config or {}).get("pad_token_id", 1)
    first = padding + 1 if isinstance(padding, int) else 0
    return build(stored, PRE_LAYER_NORM, pre_layer_norm_prefix(stored) or "", first)


def build(stored: Stored, names: Table, prefix: str, first_position: int = 0) -> TextEncoder:
    config = section(stored, stored.config, "text_config") or stored.config or {}
    geometry = read_geometry(stored, names, prefix)
    told = hugging_face(stored, config, "", geometry)
    geometry["max_length"] -= first_position
    count = heads(stored, geometry["width"], config.get("num_attention_heads"))
    text = TextConfig(**geometry, heads=count, **told)
    check(stored, text, "text")
    model = TextEncoder(text)

    entries = sources(model.state_dict(), names, QUERY_KEY_VALUE)
    entries = {name: [prefix + entry for entry in parts] for name, parts in entries.items()}
    tensors = {n: t for n, t in stored.tensors.items() if not re.match(PASSED_OVER, n)}
    tensors[f"{prefix}{POSITIONS}"] = tensors[f"{prefix}{POSITIONS}"][first_position:]
    types = tensors[f"{prefix}{TYPES}"]
    if len(types) == 1:  # RoBERTa's single type, which is the only one that ours read too
        tensors[f"{prefix}{TYPES}"] = functional.pad(types, (0, 0, 0, 1))
    if not any(name.startswith(f"{prefix}pooler.") for name in tensors):
        model.missing_parts = frozenset({"pooler"})
        entries = {n: parts for n, parts in entries.items() if not n.startswith("pooler.")}
    ignored = [prefix + name for name in BUFFERS]
    fill(model, tensors, entries, origin=stored.origin, ignored=ignored)
    return model.eval()


def read_geometry(stored: Stored, names: Table, prefix: str) -> dict[str, Any]:
    mlp = prefix + rename("blocks.0.mlp_in.weight", names)
    entries = [f"{prefix}{name}" for name in (WORDS, POSITIONS, TYPES)]
    words, positions, _, mlp_in = shapes(stored, dict.fromkeys([*entries, mlp], 2))
    return {
        "vocabulary_size": words[0],
        "width": words[1],
        "max_length": positions[0],
        "mlp_width": mlp_in[0],
        "depth": count_blocks(stored.tensors, re.escape(prefix) + r"encoder\.layer\.(\d+)\."),
    }


def refuse_post_norm(stored: Stored) -> TextEncoder:
    """Raises ValueError: always, with the reasons."""
    prefix = post_norm_prefix(stored) or ""
    words = stored.tensors.get(f"{prefix}{WORDS}")
    reasons = [
        "its blocks are post-norm: they normalise after each residual sum, ours before each layer, "
        "and no weights make one compute the other. Only its embeddings would mean the same",
    ]
    model_type = str((stored.config or {}).get("model_type", ""))
    if (
        prefix == "roberta."
        or "roberta" in model_type
        or (words is not None and len(words) == ROBERTA_VOCABULARY)
    ):
        reasons.append(
            "it is a RoBERTa: its ids are of another vocabulary, and its positions start two later"
        )
    raise refusal(f"{stored.origin} computes what our text encoder cannot", reasons)


LAYOUTS = (
    Layout(
        name="Hugging Face FlavaTextModel",
        matches=lambda stored: flava_prefix(stored) is not None,
        build=build_flava,
    ),
    Layout(
        name="Hugging Face RobertaPreLayerNormModel",
        matches=lambda stored: pre_layer_norm_prefix(stored) is not None,
        build=build_pre_layer_norm,
    ),
    Layout(
        name="BERT and RoBERTa (refused)",
        matches=lambda stored: post_norm_prefix(stored) is not None,
        build=refuse_post_norm,
    ),
)
