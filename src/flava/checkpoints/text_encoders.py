"""Text encoders of Hugging Face: `FlavaTextModel` and `RobertaPreLayerNormModel`; read only.

They are recognised by the keys of their first block. `RobertaPreLayerNormModel` lacks a pooler.
BERT and RoBERTa are recognised as well, and refused. Their blocks normalise after each residual sum
(post-norm), ours before each layer (pre-norm), and no weights make one compute the other: with the
weights of BERT under our keys an encoder would load and give noise.
"""

import re
from typing import Any, NoReturn

from torch.nn import functional

from flava.checkpoints.geometry import (
    activation_and_eps,
    check_config,
    config_section,
    count_blocks,
    head_count,
    tensor_shapes,
)
from flava.checkpoints.layout import (
    QUERY_KEY_VALUE,
    TRANSFORMERS_BLOCKS,
    Checkpoint,
    KeyMapping,
    Layout,
    load_weights,
    published_keys,
    rename,
)
from flava.models.encoders import TextConfig, TextEncoder

EMBEDDING_MAPPING: KeyMapping = (
    (r"^words\.", "embeddings.word_embeddings."),
    (r"^positions\.", "embeddings.position_embeddings."),
    (r"^types\.", "embeddings.token_type_embeddings."),
    (r"^embedding_norm\.", "embeddings.LayerNorm."),
)

FLAVA_MAPPING: KeyMapping = (*TRANSFORMERS_BLOCKS, *EMBEDDING_MAPPING)

PRE_LAYER_NORM_MAPPING: KeyMapping = (
    *EMBEDDING_MAPPING,
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

HEADS = r"(lm_head|classifier|qa_outputs)\."
"""Heads beside a `RobertaPreLayerNormModel`, which are left out."""

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"

ROBERTA_VOCABULARY = 50_265

BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
"""Constants that older versions of transformers saved with the weights."""


def _find_prefix(checkpoint: Checkpoint, key: str, prefixes: tuple[str, ...]) -> str | None:
    return next((prefix for prefix in prefixes if prefix + key in checkpoint.state_dict), None)


def _flava_prefix(checkpoint: Checkpoint) -> str | None:
    name = "encoder.layer.0.attention.attention.query.weight"
    prefix = _find_prefix(checkpoint, name, FLAVA_PREFIXES)
    if prefix is None or f"{prefix}embeddings.word_embeddings.weight" not in checkpoint.state_dict:
        return None
    # The text encoder inside a whole FLAVA is not meant.
    return prefix if all(name.startswith(prefix) for name in checkpoint.state_dict) else None


def _pre_layer_norm_prefix(checkpoint: Checkpoint) -> str | None:
    name = "encoder.layer.0.attention.LayerNorm.weight"
    return _find_prefix(checkpoint, name, PRE_LAYER_NORM_PREFIXES)


def _post_norm_prefix(checkpoint: Checkpoint) -> str | None:
    endings = ("weight", "gamma")  # "gamma" in the first files of BERT
    names = [f"encoder.layer.0.attention.output.LayerNorm.{ending}" for ending in endings]
    found = (_find_prefix(checkpoint, name, POST_NORM_PREFIXES) for name in names)
    return next((prefix for prefix in found if prefix is not None), None)


def _build_flava(checkpoint: Checkpoint) -> TextEncoder:
    return _build(checkpoint, FLAVA_MAPPING, _flava_prefix(checkpoint) or "")


def _build_pre_layer_norm(checkpoint: Checkpoint) -> TextEncoder:
    """RoBERTa's positions begin after the row of the padding id: the rows up to it are left out.

    Its token ids are of RoBERTa's vocabulary, for which we have no tokeniser.
    """
    padding = (checkpoint.config or {}).get("pad_token_id", 1)
    first = padding + 1 if isinstance(padding, int) else 0
    return _build(
        checkpoint, PRE_LAYER_NORM_MAPPING, _pre_layer_norm_prefix(checkpoint) or "", first
    )


def _build(
    checkpoint: Checkpoint, mapping: KeyMapping, prefix: str, first_position: int = 0
) -> TextEncoder:
    config = config_section(checkpoint, checkpoint.config, "text_config") or checkpoint.config or {}
    geometry = _read_geometry(checkpoint, mapping, prefix)
    settings = activation_and_eps(checkpoint, config, "", geometry)
    geometry["max_length"] -= first_position
    heads = head_count(checkpoint, geometry["width"], config.get("num_attention_heads"))
    text = TextConfig(**geometry, heads=heads, **settings)
    check_config(checkpoint, text, "text")
    model = TextEncoder(text)

    keys = published_keys(model.state_dict(), mapping, QUERY_KEY_VALUE)
    keys = {name: [prefix + key for key in parts] for name, parts in keys.items()}
    state_dict = {k: t for k, t in checkpoint.state_dict.items() if not re.match(HEADS, k)}
    state_dict[f"{prefix}{POSITIONS}"] = state_dict[f"{prefix}{POSITIONS}"][first_position:]
    types = state_dict[f"{prefix}{TYPES}"]
    if len(types) == 1:  # RoBERTa has one token type; our encoder reads only the first of its two
        state_dict[f"{prefix}{TYPES}"] = functional.pad(types, (0, 0, 0, 1))
    if not any(key.startswith(f"{prefix}pooler.") for key in state_dict):
        model.missing_parts = frozenset({"pooler"})
        keys = {n: parts for n, parts in keys.items() if not n.startswith("pooler.")}
    ignored = [prefix + key for key in BUFFERS]
    load_weights(model, state_dict, keys, origin=checkpoint.origin, ignored=ignored)
    return model.eval()


def _read_geometry(checkpoint: Checkpoint, mapping: KeyMapping, prefix: str) -> dict[str, Any]:
    mlp = prefix + rename("blocks.0.mlp_in.weight", mapping)
    embeddings = [f"{prefix}{key}" for key in (WORDS, POSITIONS, TYPES)]
    words, positions, _, mlp_in = tensor_shapes(checkpoint, dict.fromkeys([*embeddings, mlp], 2))
    return {
        "vocabulary_size": words[0],
        "width": words[1],
        "max_length": positions[0],
        "mlp_width": mlp_in[0],
        "depth": count_blocks(
            checkpoint.state_dict, re.escape(prefix) + r"encoder\.layer\.(\d+)\."
        ),
    }


def _refuse_post_norm(checkpoint: Checkpoint) -> NoReturn:
    """Raises ValueError: always, with the reasons."""
    prefix = _post_norm_prefix(checkpoint) or ""
    words = checkpoint.state_dict.get(f"{prefix}{WORDS}")
    reasons = [
        "its blocks are post-norm: they normalise after each residual sum, ours before each layer, "
        "and no weights make one compute the other. Only its embeddings would mean the same",
    ]
    model_type = str((checkpoint.config or {}).get("model_type", ""))
    if (
        prefix == "roberta."
        or "roberta" in model_type
        or (words is not None and len(words) == ROBERTA_VOCABULARY)
    ):
        reasons.append(
            "it is a RoBERTa: its ids are of another vocabulary, and its positions start two later"
        )
    raise ValueError(
        f"{checkpoint.origin} computes what our text encoder cannot:\n  " + "\n  ".join(reasons)
    )


LAYOUTS = (
    Layout(
        name="Hugging Face FlavaTextModel",
        matches=lambda checkpoint: _flava_prefix(checkpoint) is not None,
        build=_build_flava,
    ),
    Layout(
        name="Hugging Face RobertaPreLayerNormModel",
        matches=lambda checkpoint: _pre_layer_norm_prefix(checkpoint) is not None,
        build=_build_pre_layer_norm,
    ),
    Layout(
        name="BERT and RoBERTa (refused)",
        matches=lambda checkpoint: _post_norm_prefix(checkpoint) is not None,
        build=_refuse_post_norm,
    ),
)
