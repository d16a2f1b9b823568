import dataclasses

import pytest
import torch
from torch.nn import functional

from flava.checkpoints.recognise import load_pretrained
from flava.core.batch import (
    ImageInputs,
    Inputs,
    Kind,
    LabelledBatch,
    PairInputs,
    TextInputs,
    to_device,
)
from flava.models import (
    Classifier,
    ClassifierConfig,
    Clip,
    ClipConfig,
    ClipImageConfig,
    ClipTextConfig,
    Codebook,
    Flava,
    ImageConfig,
    classifier_of,
    features_of,
)
from flava.models.classifier import ClipPairConfig, PairConfig
from flava.objectives import FinetuneObjective
from flava.training.checkpoint import save_checkpoint
from tests.support import random_texts, randomise, tiny_config, tiny_model

KINDS: tuple[Kind, ...] = ("images", "text", "pairs")
CLASSES = ("ant", "bee", "cow")
NEVER_READ = {"pooler.dense.weight", "pooler.dense.bias", "mask_token"}
"""Carried for the published layout, and read by no classifier."""


def inputs_of(kind: Kind) -> Inputs:
    """Five inputs; the texts are of different lengths."""
    image = ImageInputs(pixels=torch.randn(5, 3, 24, 24))
    words = random_texts(tiny_config(), [4, 7, 2, 7, 3])
    text = TextInputs(input_ids=words.input_ids, attention_mask=words.attention_mask)
    every = {"images": image, "text": text, "pairs": PairInputs(image=image, text=text)}
    return every[kind]


def made(kind: Kind, model: Flava, hidden_width: int | None) -> Classifier:
    classifier = classifier_of(model, kind, CLASSES, hidden_width=hidden_width)
    randomise(classifier.head)
    return classifier.eval()


def test_the_pair_head_is_two_layers_on_cls_m_after_the_norm():
    model, inputs = tiny_model(), inputs_of("pairs")
    assert isinstance(inputs, PairInputs)
    found = made("pairs", model, 1536)
    states = model.multimodal(
        model.image_encoder(inputs.image.pixels),
        model.text_encoder(inputs.text.input_ids, inputs.text.attention_mask),
        inputs.text.attention_mask,
    )
    weights = found.head.state_dict()
    hidden = functional.gelu(states[:, 0] @ weights["0.weight"].T + weights["0.bias"])
    assert hidden.shape == (5, 1536)
    expected = hidden @ weights["3.weight"].T + weights["3.bias"]
    # The order of sums differs: logits are about 10 here.
    torch.testing.assert_close(found(inputs), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ["images", "text"])
def test_the_other_heads_are_one_layer_on_the_encoders_cls_after_its_norm(kind):
    model, inputs = tiny_model(), inputs_of(kind)
    found = made(kind, model, None)
    if isinstance(inputs, ImageInputs):
        cls = model.image_encoder.norm(model.image_encoder(inputs.pixels))[:, 0]
    else:
        assert isinstance(inputs, TextInputs)
        cls = model.text_encoder.norm(model.text_encoder(inputs.input_ids, inputs.attention_mask))[
            :, 0
        ]
    weights = found.head.state_dict()
    expected = cls @ weights["1.weight"].T + weights["1.bias"]
    torch.testing.assert_close(found(inputs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_head_and_encoders(kind):
    classifier = classifier_of(tiny_model(), kind, CLASSES, hidden_width=8)
    batch = LabelledBatch(
        keys=tuple("abcde"), inputs=inputs_of(kind), labels=torch.tensor([0, 2, 1, 1, 0])
    )
    (term,) = FinetuneObjective(classifier)(batch).values()
    assert term.loss.item() == pytest.approx(
        functional.cross_entropy(classifier.eval()(batch.inputs), batch.labels).item(), rel=0.3
    )
    term.loss.backward()
    without = {name for name, p in classifier.named_parameters() if p.grad is None}
    without -= {name for name in without if any(name.endswith(end) for end in NEVER_READ)}
    # Pairs are read before the norms of the single encoders.
    norms = {
        f"features.{each}_encoder.norm.{p}"
        for each in ("image", "text")
        for p in ("weight", "bias")
    }
    assert without == (norms if kind == "pairs" else set())
    # A key's bias adds the same to all scores: it has no gradient, and the rest of `qkv` has.
    still = [n for n, p in classifier.named_parameters() if p.grad is not None and not p.grad.any()]
    assert still == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_comes_back_from_its_checkpoint(tmp_path, kind):
    before = made(kind, tiny_model(), 8 if kind == "pairs" else None)
    after = load_pretrained(save_checkpoint(tmp_path, "here", before))
    assert isinstance(after, Classifier)
    assert after.config == before.config
    assert after.config.kind == kind
    inputs = inputs_of(kind)
    assert torch.equal(after(inputs), before(inputs))


def test_the_classifier_is_a_copy_of_the_model():
    model = tiny_model()
    classifier = classifier_of(model, "images", CLASSES, hidden_width=None)
    randomise(classifier)
    ours, theirs = model.state_dict(), classifier.features.state_dict()
    assert not any(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_inputs_of_another_kind_and_models_that_read_none_are_named():
    with pytest.raises(ValueError, match="reads pairs, and was given images alone"):
        made("pairs", tiny_model(), 8)(inputs_of("images"))
    codebook = Codebook(tiny_config().codebook)
    with pytest.raises(ValueError, match="a Codebook does not read images: give a FLAVA"):
        classifier_of(codebook, "images", CLASSES, hidden_width=None)


def test_every_mistake_of_a_config_is_in_one_error():
    with pytest.raises(ValueError, match="does not hold") as error:
        ClassifierConfig(
            encoder=dataclasses.replace(ImageConfig(), width=7), classes=("a", "a"), hidden_width=0
        )
    for part in ("does not divide encoder.width 7", "classes are ('a', 'a')", "hidden_width is 0"):
        assert part in str(error.value)


def test_all_tensors_of_inputs_move():
    moved = to_device(inputs_of("pairs"), torch.device("meta"))
    assert isinstance(moved, PairInputs)
    assert {moved.image.pixels.device.type, moved.text.input_ids.device.type} == {"meta"}


def tiny_clip() -> Clip:
    text = ClipTextConfig(
        vocabulary_size=53, max_length=12, width=24, depth=3, heads=3, mlp_width=40
    )
    image = ClipImageConfig(image_size=24, patch_size=6, width=32, depth=2, heads=4, mlp_width=48)
    model = Clip(ClipConfig(image=image, text=text, projection_width=16))
    randomise(model)
    return model


def test_clips_features_are_what_its_projections_read_end_to_end():
    model, inputs = tiny_clip(), inputs_of("pairs")
    assert isinstance(inputs, PairInputs)
    pairs, texts = features_of(model, "pairs"), features_of(model, "text")
    image, text = pairs(inputs).split([32, 24], dim=1)
    assert torch.equal(texts(inputs.text), text)
    for features, projection, embedded in (
        (image, model.image_projection, model.encode_image(inputs.image.pixels)),
        (
            text,
            model.text_projection,
            model.encode_text(inputs.text.input_ids, inputs.text.attention_mask),
        ),
    ):
        torch.testing.assert_close(functional.normalize(projection(features), dim=1), embedded)


@pytest.mark.parametrize("kind", ["text", "pairs"])
def test_a_classifier_on_clip_comes_back_from_its_checkpoint(tmp_path, kind):
    before = classifier_of(tiny_clip(), kind, CLASSES, hidden_width=8).eval()
    after = load_pretrained(save_checkpoint(tmp_path, "here", before))
    assert isinstance(after, Classifier)
    assert after.config == before.config
    inputs = inputs_of(kind)
    assert torch.equal(after(inputs), before(inputs))


@pytest.mark.parametrize("make", [tiny_model, tiny_clip])
def test_for_another_image_size_positions_are_interpolated_once(make):
    model, words = make(), inputs_of("text")
    assert isinstance(words, TextInputs)
    inputs = PairInputs(image=ImageInputs(pixels=torch.randn(5, 3, 36, 36)), text=words)
    resized = classifier_of(model, "pairs", CLASSES, hidden_width=8, image_size=36).eval()
    assert isinstance(resized.config.encoder, PairConfig | ClipPairConfig)
    assert resized.config.encoder.image.image_size == 36
    # The encoders themselves interpolate for every image of another size: the same outputs.
    torch.testing.assert_close(resized.features(inputs), features_of(model, "pairs")(inputs))
    with pytest.raises(ValueError, match="image_size is 36, and this model reads text alone"):
        classifier_of(model, "text", CLASSES, hidden_width=8, image_size=36)


def test_a_score_has_one_output_and_no_classes():
    config = ClassifierConfig(encoder=tiny_config().text, classes=(), hidden_width=None)
    assert Classifier(config).eval()(inputs_of("text")).shape == (5, 1)
