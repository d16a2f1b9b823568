"""Text encoders' layouts beside transformers' own models, on random weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    FlavaTextConfig,
    FlavaTextModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForMaskedLM,
    RobertaPreLayerNormModel,
)

from flava.checkpoints.layout import Checkpoint
from flava.checkpoints.text_encoders import LAYOUTS
from flava.models import TextEncoder
from tests.checkpoints.checkpoints import recognised, saved, stored
from tests.support import randomise

GEOMETRY: dict[str, Any] = {
    "vocab_size": 59,
    "hidden_size": 42,
    "num_attention_heads": 7,
    "intermediate_size": 33,
    "num_hidden_layers": 3,
    "max_position_embeddings": 15,
    "layer_norm_eps": 1e-4,
}
LENGTHS = [12, 3, 7]


def texts(padding: int) -> tuple[Tensor, Tensor]:
    attention_mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return torch.randint(2, 59, attention_mask.shape).where(attention_mask, padding), attention_mask


def build(checkpoint: Checkpoint) -> TextEncoder:
    model = recognised(LAYOUTS, checkpoint)
    assert isinstance(model, TextEncoder)
    return model


def compare(ours: TextEncoder, theirs: Any, padding: int) -> None:
    """States after the final norm, where there is no padding; and the pooler's."""
    ids, attention_mask = texts(padding)
    expected = theirs(input_ids=ids, attention_mask=attention_mask.long())
    states = ours.norm(ours(ids, attention_mask))
    assert (
        torch.cdist(states[attention_mask], states[attention_mask]).fill_diagonal_(torch.inf).min()
        > 0.01
    )
    difference = (states - expected.last_hidden_state)[attention_mask].abs().max()
    assert difference < 1e-5
    if expected.pooler_output is not None:
        torch.testing.assert_close(ours.pooler(states), expected.pooler_output, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "text_model.", "flava.text_model."])
@torch.no_grad()
def test_flava(prefix: str, tmp_path: Path) -> None:
    theirs = FlavaTextModel(FlavaTextConfig(**GEOMETRY)).eval()
    randomise(theirs)
    alone = saved(theirs, tmp_path)
    tensors = {prefix + name: tensor for name, tensor in alone.state_dict.items()}
    config = {"text_config": alone.config} if prefix else alone.config
    ours = build(replace(alone, state_dict=tensors, config=config))
    compare(ours, theirs, 0)
    assert ours.missing_parts == frozenset()


def test_the_text_encoder_of_a_whole_flava_is_no_text_encoder(tmp_path: Path) -> None:
    alone = saved(FlavaTextModel(FlavaTextConfig(**GEOMETRY)), tmp_path)
    whole = {f"flava.text_model.{name}": tensor for name, tensor in alone.state_dict.items()}
    whole["flava.image_model.layernorm.weight"] = torch.ones(42)
    assert not any(layout.matches(stored(whole)) for layout in LAYOUTS)


@pytest.mark.parametrize(("types", "padding"), [(1, 1), (2, 1), (2, 0)])
@torch.no_grad()
def test_pre_norm_roberta(types: int, padding: int, tmp_path: Path) -> None:
    """Positions that start after the padding's id; one type of token, or two."""
    settings = {**GEOMETRY, "type_vocab_size": types, "pad_token_id": padding}
    theirs = RobertaPreLayerNormModel(RobertaPreLayerNormConfig(**settings)).eval()
    randomise(theirs)
    ours = build(saved(theirs, tmp_path))
    assert ours.positions.num_embeddings == 15 - (padding + 1)
    compare(ours, theirs, padding)


@torch.no_grad()
def test_pre_norm_roberta_with_a_head(tmp_path: Path) -> None:
    theirs = RobertaPreLayerNormForMaskedLM(RobertaPreLayerNormConfig(**GEOMETRY)).eval()
    randomise(theirs)
    ours = build(saved(theirs, tmp_path))
    compare(ours, theirs.roberta_prelayernorm, 1)
    assert ours.missing_parts == {"pooler"}


def refusal(checkpoint: Checkpoint) -> list[str]:
    with pytest.raises(ValueError, match=r"\S") as error:
        build(checkpoint)
    return str(error.value).splitlines()[1:]


def test_bert_is_refused_with_the_reason(tmp_path: Path) -> None:
    (reason,) = refusal(saved(BertModel(BertConfig(**GEOMETRY)), tmp_path))
    assert "its blocks are post-norm" in reason
    assert "Only its embeddings would mean the same" in reason


def test_the_first_berts_are_refused_too(tmp_path: Path) -> None:
    """They say gamma and beta, after `bert.`, beside their heads."""
    tensors = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma"): tensor
        for name, tensor in saved(BertModel(BertConfig(**GEOMETRY)), tmp_path).state_dict.items()
    }
    assert "post-norm" in refusal(stored({**tensors, "cls.predictions.bias": torch.zeros(59)}))[0]


def test_roberta_is_refused_with_both_reasons(tmp_path: Path) -> None:
    told = refusal(saved(RobertaForMaskedLM(RobertaConfig(**GEOMETRY)), tmp_path))
    assert "its blocks are post-norm" in told[0]
    assert "another vocabulary, and its positions start two later" in told[1]


def test_every_misfit_stands_in_one_error(tmp_path: Path) -> None:
    checkpoint = saved(FlavaTextModel(FlavaTextConfig(**GEOMETRY)), tmp_path)
    tensors = dict(checkpoint.state_dict)
    del tensors["encoder.layer.1.attention.attention.key.weight"]
    del tensors["pooler.dense.bias"]
    tensors["embeddings.token_type_embeddings.weight"] = torch.zeros(3, 42)
    tensors["mystery"] = torch.zeros(1)
    assert refusal(replace(checkpoint, state_dict=tensors)) == [
        "  missing: encoder.layer.1.attention.attention.key.weight",
        "  missing: pooler.dense.bias",
        "  unexpected: mystery",
        "  embeddings.token_type_embeddings.weight is [3, 42] in the file, [2, 42] in the model",
    ]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("vocab_size", 60, "vocab_size is 60, but the tensors have 59"),
        ("max_position_embeddings", 512, "max_position_embeddings is 512, but the tensors have 15"),
        ("hidden_act", "relu", "hidden_act is 'relu': ours compute gelu, quick_gelu"),
        ("num_attention_heads", 5, "text.heads is 5, which does not divide text.width 42"),
    ],
)
def test_a_config_that_does_not_fit(field: str, value: object, reason: str, tmp_path: Path) -> None:
    checkpoint = saved(FlavaTextModel(FlavaTextConfig(**GEOMETRY)), tmp_path)
    config = {**(checkpoint.config or {}), field: value}
    assert refusal(replace(checkpoint, config=config)) == [f"  {reason}"]
