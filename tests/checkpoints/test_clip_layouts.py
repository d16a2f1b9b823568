"""CLIP's layouts beside open_clip's and transformers' own models, on random weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import (
    CLIP,
    CLIPTextCfg,
    CLIPVisionCfg,
    CustomTextCLIP,
    build_model_from_openai_state_dict,
)
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from flava.checkpoints import clip_huggingface, clip_openai
from flava.checkpoints.layout import Checkpoint
from flava.models import Activation, Clip
from tests.checkpoints.checkpoints import recognised, saved, spread, stored
from tests.support import randomise

LAYOUTS = (*clip_openai.LAYOUTS, *clip_huggingface.LAYOUTS)
IMAGE = {"layers": 2, "width": 96, "head_width": 24, "patch_size": 5, "image_size": 15}
TEXT = {"context_length": 13, "vocab_size": 67, "width": 60, "heads": 3, "layers": 3}
LENGTHS = [13, 2, 7, 5]


def open_clip_model(cls: type = CLIP, *, quick_gelu: bool = False) -> Any:
    image = CLIPVisionCfg(**IMAGE, mlp_ratio=1.5)  # pyright: ignore[reportArgumentType]
    text = CLIPTextCfg(**TEXT, mlp_ratio=2.0)  # pyright: ignore[reportArgumentType]
    model = cls(28, image, text, quick_gelu=quick_gelu).eval()
    randomise(model)
    return model


def folder_with(folder: Path, **told: object) -> Path:
    """A folder with open_clip's config of the model above."""
    config = {"embed_dim": 28, "vision_cfg": IMAGE, "text_cfg": TEXT, **told}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return folder


def texts(vocabulary: int, padding: int = 0) -> tuple[Tensor, Tensor]:
    """The last token of each text is the vocabulary's last, and its largest."""
    attention_mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(1, vocabulary - 1, attention_mask.shape).where(attention_mask, padding)
    ids[range(len(LENGTHS)), [length - 1 for length in LENGTHS]] = vocabulary - 1
    return ids, attention_mask


def compare(ours: Clip, theirs: Any, side: int) -> None:
    pixels = torch.randn(4, 3, side, side)
    ids, attention_mask = texts(ours.config.text.vocabulary_size)
    padded = torch.zeros(len(ids), ours.config.text.max_length, dtype=torch.long)
    padded[:, : ids.shape[1]] = ids
    image, text = ours.encode_image(pixels), ours.encode_text(ids, attention_mask)
    assert min(spread(image), spread(text)) > 0.01
    torch.testing.assert_close(image, theirs.encode_image(pixels, True), rtol=0, atol=1e-5)
    torch.testing.assert_close(text, theirs.encode_text(padded, True), rtol=0, atol=1e-5)
    assert ours.logit_scale.item() == theirs.logit_scale.item()


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("cls", [CLIP, CustomTextCLIP])
@torch.no_grad()
def test_open_clip(cls: type, quick_gelu: bool, tmp_path: Path) -> None:
    theirs = open_clip_model(cls, quick_gelu=quick_gelu)
    folder = folder_with(tmp_path, quick_gelu=quick_gelu)
    ours = recognised(LAYOUTS, stored(theirs.state_dict(), folder=folder))
    assert isinstance(ours, Clip)
    compare(ours, theirs, 15)


@pytest.mark.parametrize("told", [True, False], ids=["by the config", "by the buffers"])
@torch.no_grad()
def test_openai(told: bool, tmp_path: Path) -> None:
    """Weights half in 16 bits, numbers beside them, as in the archives that OpenAI published."""
    source = CLIP(
        24,
        CLIPVisionCfg(layers=2, width=128, patch_size=4, image_size=12),
        CLIPTextCfg(context_length=17, vocab_size=59, width=64, heads=1, layers=1),
    )
    randomise(source, 0.1)
    theirs = build_model_from_openai_state_dict(source.state_dict(), cast_dtype=torch.float32)
    state = theirs.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float16, torch.float32}
    if told:
        (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {"quick_gelu": true}}')
    else:
        state |= {
            name: torch.tensor(number)
            for name, number in (
                ("input_resolution", 12),
                ("context_length", 17),
                ("vocab_size", 59),
            )
        }
    ours = recognised(LAYOUTS, stored(state, folder=tmp_path))
    assert isinstance(ours, Clip)
    assert (ours.config.image.heads, ours.config.text.heads) == (2, 1)
    compare(ours, theirs.float(), 12)


def hugging_face_model(**text: object) -> CLIPModel:
    config = CLIPConfig(
        projection_dim=26,
        vision_config={
            "hidden_size": 45,
            "num_attention_heads": 5,
            "intermediate_size": 33,
            "num_hidden_layers": 1,
            "image_size": 21,
            "patch_size": 7,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-3,
        },
        text_config={
            "hidden_size": 36,
            "num_attention_heads": 9,
            "intermediate_size": 51,
            "num_hidden_layers": 2,
            "vocab_size": 71,
            "max_position_embeddings": 13,
            "eos_token_id": 70,
            **text,
        },
    )
    model = CLIPModel(config).eval()
    randomise(model)
    return model


@pytest.mark.parametrize("size", [21, 35], ids=["its own size", "a larger one"])
@pytest.mark.parametrize("end", [70, 2])
@torch.no_grad()
def test_hugging_face(end: int, size: int, tmp_path: Path) -> None:
    """One encoder has the exact GELU, the other the quick one; and their epsilons differ."""
    theirs = hugging_face_model(eos_token_id=end)
    ours = recognised(LAYOUTS, saved(theirs, tmp_path))
    assert isinstance(ours, Clip)
    pixels = torch.randn(4, 3, size, size)
    ids, attention_mask = texts(71, padding=1)
    expected = theirs(
        input_ids=ids,
        attention_mask=attention_mask.long(),
        pixel_values=pixels,
        interpolate_pos_encoding=True,
    )
    image, text = ours.encode_image(pixels), ours.encode_text(ids, attention_mask)
    assert min(spread(image), spread(text)) > 0.01
    torch.testing.assert_close(image, expected.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(text, expected.text_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.logit_scale.exp() * image @ text.T, expected.logits_per_image)


def test_buffers_of_older_transformers_are_passed_over(tmp_path: Path) -> None:
    checkpoint = saved(hugging_face_model(), tmp_path)
    buffers = {
        "text_model.embeddings.position_ids": torch.arange(13)[None],
        "vision_model.embeddings.position_ids": torch.arange(10)[None],
    }
    recognised(LAYOUTS, replace(checkpoint, state_dict={**checkpoint.state_dict, **buffers}))


def refusal(checkpoint: Checkpoint) -> str:
    with pytest.raises(ValueError, match=r"\S") as error:
        recognised(LAYOUTS, checkpoint)
    return str(error.value)


def test_an_untold_activation_is_refused() -> None:
    assert '{"model_cfg": {"quick_gelu": true}}' in refusal(stored(open_clip_model().state_dict()))


def test_every_misfit_of_open_clips_stands_in_one_error(tmp_path: Path) -> None:
    state = dict(open_clip_model().state_dict())
    del state["visual.ln_post.bias"]
    del state["transformer.resblocks.1.attn.in_proj_weight"]
    state["visual.transformer.resblocks.1.mlp.c_proj.bias"] = torch.zeros(95)
    state["text_projection"] = torch.zeros(61, 28)
    state["logit_bias"] = torch.zeros(())
    told = refusal(stored(state, folder=folder_with(tmp_path)))
    assert told.splitlines()[1:] == [
        "  missing: transformer.resblocks.1.attn.in_proj_weight",
        "  missing: visual.ln_post.bias",
        "  unexpected: logit_bias",
        "  visual.transformer.resblocks.1.mlp.c_proj.bias is [95] in the file, [96] in the model",
        "  text_projection (transposed) is [28, 61] in the file, [28, 60] in the model",
    ]


def test_every_misfit_of_transformers_stands_in_one_error(tmp_path: Path) -> None:
    checkpoint = saved(hugging_face_model(), tmp_path)
    tensors = dict(checkpoint.state_dict)
    del tensors["text_model.encoder.layers.1.self_attn.k_proj.bias"]
    tensors["vision_model.encoder.layers.0.self_attn.q_proj.weight"] = torch.zeros(45, 44)
    tensors["mystery"] = torch.zeros(1)
    assert refusal(replace(checkpoint, state_dict=tensors)).splitlines()[1:] == [
        "  missing: text_model.encoder.layers.1.self_attn.k_proj.bias",
        "  unexpected: mystery",
        "  vision_model.encoder.layers.0.self_attn.q_proj.weight is [45, 44] in the file, "
        "[45, 45] in the model",
    ]


def test_a_geometry_that_cannot_be_read_tells_why(tmp_path: Path) -> None:
    state = dict(open_clip_model().state_dict())
    del state["visual.proj"]
    state["transformer.resblocks.0.mlp.c_fc.weight"] = torch.zeros(7)
    told = refusal(stored(state, folder=folder_with(tmp_path)))
    assert "missing: visual.proj" in told
    assert "c_fc.weight is [7] in the file, where 2 axes are expected" in told


def test_patches_and_positions_that_are_no_square(tmp_path: Path) -> None:
    state = dict(open_clip_model().state_dict())
    state["visual.positional_embedding"] = torch.zeros(11, 96)
    state["visual.conv1.weight"] = torch.zeros(96, 3, 4, 5)
    told = refusal(stored(state, folder=folder_with(tmp_path)))
    assert "visual.conv1.weight is [96, 3, 4, 5]: its patches are not square" in told
    assert "visual.positional_embedding has 11 rows" in told


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"vision_cfg": {**IMAGE, "pool_type": "avg"}}, "vision_cfg.pool_type is 'avg'"),
        ({"vision_cfg": {**IMAGE, "width": 64}}, "vision_cfg.width is 64, but the tensors have 96"),
        ({"text_cfg": {**TEXT, "no_causal_mask": True}}, "text_cfg.no_causal_mask is True"),
        ({"text_cfg": {**TEXT, "layers": 4}}, "text_cfg.layers is 4, but the tensors have 3"),
        ({"text_cfg": {**TEXT, "heads": 7}}, "text.heads is 7, which does not divide text.width"),
        ({"text_cfg": {**TEXT, "heads": "many"}}, "gives 'many' attention heads"),
        ({"text_cfg": {**TEXT, "act_kwargs": {"approximate": "tanh"}}}, "text_cfg.act_kwargs is"),
    ],
)
def test_a_config_of_open_clips_that_does_not_fit(
    told: dict[str, object], reason: str, tmp_path: Path
) -> None:
    folder = folder_with(tmp_path, **told)
    assert reason in refusal(stored(open_clip_model().state_dict(), folder=folder))


def test_a_damaged_config_of_open_clips_is_named(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {')
    told = refusal(stored(open_clip_model().state_dict(), folder=tmp_path))
    assert "open_clip_config.json holds no model_cfg" in told


@pytest.mark.parametrize(
    ("part", "field", "value", "reason"),
    [
        ("text_config", "hidden_act", "gelu_new", "text_config.hidden_act is 'gelu_new'"),
        ("text_config", "eos_token_id", 69, "text_config.eos_token_id is 69"),
        ("vision_config", "hidden_size", 46, "hidden_size is 46, but the tensors have 45"),
        ("vision_config", "image_size", 28, "image_size is 28, but the tensors have 21"),
        ("vision_config", "num_attention_heads", 0, "gives 0 attention heads"),
        ("vision_config", "num_attention_heads", 7, "image.heads is 7, which does not divide"),
        ("text_config", "layer_norm_eps", "small", "text_config.layer_norm_eps is 'small'"),
        ("text_config", "hidden_act", ["gelu"], "text_config.hidden_act is ['gelu']"),
    ],
)
def test_a_config_of_transformers_that_does_not_fit(
    part: str, field: str, value: object, reason: str, tmp_path: Path
) -> None:
    checkpoint = saved(hugging_face_model(), tmp_path)
    config: dict[str, Any] = dict(checkpoint.config or {})
    config[part] = {**config[part], field: value}
    assert reason in refusal(replace(checkpoint, config=config))


def test_a_part_of_a_config_that_is_no_object(tmp_path: Path) -> None:
    checkpoint = saved(hugging_face_model(), tmp_path)
    config = {**(checkpoint.config or {}), "vision_config": "base"}
    assert "vision_config in the config of" in refusal(replace(checkpoint, config=config))
    folder = folder_with(tmp_path, text_cfg=[1])
    told = refusal(stored(open_clip_model().state_dict(), folder=folder))
    assert "text_cfg in the config of weights.pt is [1], not an object" in told


def test_weights_of_transformers_without_their_config(tmp_path: Path) -> None:
    checkpoint = saved(hugging_face_model(), tmp_path)
    assert "has no config.json beside it" in refusal(replace(checkpoint, config=None))


def test_the_activation_is_told_by_the_file(tmp_path: Path) -> None:
    """The same tensors are two models; what is beside them decides."""
    state = open_clip_model().state_dict()
    for quick_gelu, activation in ((True, Activation.QUICK_GELU), (False, Activation.GELU)):
        folder = folder_with(tmp_path, quick_gelu=quick_gelu)
        ours = recognised(LAYOUTS, stored(state, folder=folder))
        assert isinstance(ours, Clip)
        assert ours.config.image.activation is activation
