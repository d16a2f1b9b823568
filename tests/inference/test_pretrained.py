"""The methods of a loaded model against its parts one by one, and against brute force."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from flava.inference.int8 import InferencePrecision
from flava.inference.load import load
from flava.inference.pretrained import Pretrained
from flava.models import Codebook, Flava
from flava.models.packing import TOKEN_MULTIPLE
from flava.training.checkpoint import save_checkpoint
from tests.data.shard_files import encoded, picture
from tests.inference.models import clip_processor, loaded, processor_of, save_flava, tiny_clip
from tests.support import random_texts, tiny_config, tiny_model

LENGTHS = [3, 9, 1, 5, 5, 0, 2, 7, 1, 4]
TEXTS = [" ".join("abcdefghijkl"[i : i + n]) for i, n in enumerate(LENGTHS)]
IMAGES = [picture(n, 20 + 3 * n, 30 - n) for n in range(len(TEXTS))]


@pytest.fixture
def pretrained(tmp_path: Path) -> Pretrained:
    return loaded(tmp_path)


@pytest.fixture
def clip() -> Pretrained:
    return Pretrained(tiny_clip(), clip_processor())


def close(ours: Tensor, expected: Tensor) -> None:
    assert ours.dtype == torch.float32
    assert ours.device.type == "cpu"
    assert not ours.requires_grad
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the few inputs of a test are several groups."""
    monkeypatch.setattr("flava.inference.encoding.GROUP_TOKENS", 40)


# Encoding


@torch.no_grad()
def test_a_batch_is_encoded_as_one_by_one_in_the_order_asked(pretrained, monkeypatch):
    model, processor = pretrained.model, pretrained.processor
    images = torch.cat([model.encode_image(processor.images([image])) for image in IMAGES])
    texts = torch.cat([model.encode_text(*processor.texts([text])) for text in TEXTS])
    pairs = []
    for image, text in zip(IMAGES, TEXTS, strict=True):
        input_ids, attention_mask = processor.texts([text])
        hidden = model.image_encoder(processor.images([image]))
        pairs.append(
            model.multimodal(hidden, model.text_encoder(input_ids, attention_mask), attention_mask)[
                :, 0
            ]
        )
    for grouped in (False, True):
        if grouped:
            small_groups(monkeypatch)
        close(pretrained.encode_image(IMAGES), images)
        close(pretrained.encode_text(TEXTS), texts)
        torch.testing.assert_close(
            pretrained.encode_pair(IMAGES, TEXTS), torch.cat(pairs), rtol=0, atol=3e-6
        )  # not of unit length, but of three


def test_embeddings_are_of_unit_length(pretrained):
    for embedded in (pretrained.encode_image(IMAGES), pretrained.encode_text(TEXTS)):
        torch.testing.assert_close(embedded.norm(dim=1), torch.ones(len(TEXTS)), rtol=0, atol=1e-6)


def test_an_image_is_the_same_however_it_is_given(pretrained, tmp_path):
    image = IMAGES[3]
    path = tmp_path / "a.png"
    image.save(path)
    array = np.asarray(image)
    forms = [image, path, str(path), encoded(image), array, torch.from_numpy(array.copy()) / 255]
    embedded = pretrained.encode_image(forms)
    torch.testing.assert_close(embedded, embedded[:1].expand_as(embedded), rtol=0, atol=1e-6)
    other = pretrained.encode_image([IMAGES[4]])
    assert (embedded[0] - other).abs().max() > 1e-3


def test_a_batch_of_pixels_in_one_tensor_is_as_many_images(pretrained):
    batch = torch.rand(3, 3, 24, 24)
    close(pretrained.encode_image(batch), pretrained.encode_image(list(batch)))


def test_no_inputs_give_no_rows(pretrained):
    assert pretrained.encode_image([]).shape == (0, 16)
    assert pretrained.encode_text([]).shape == (0, 16)
    assert pretrained.encode_pair([], []).shape == (0, 20)
    assert pretrained.match([], []).cosine.shape == (0,)
    assert pretrained.fill_mask([]) == []
    assert pretrained.reconstruct([]) == []
    states = pretrained.hidden_states([], [])
    assert states.image is not None
    assert states.image.shape == (0, 17, 32)


class Counted:
    """Tokens that pass through the blocks of an encoder."""

    def __init__(self, encoder: nn.Module) -> None:
        self.tokens, self.passes = 0, 0
        first = next(m for n, m in encoder.named_modules() if n.endswith("mlp_in"))
        first.register_forward_hook(self.count)

    def count(self, _module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        self.tokens += inputs[0].flatten(0, -2).shape[0]
        self.passes += 1


def test_padding_costs_nothing(pretrained):
    counted = Counted(pretrained.model.text_encoder)
    texts = ["a " * (1 + i % 10) for i in range(3000)]
    pretrained.encode_text(texts)
    attention_mask = sum(3 + i % 10 for i in range(3000))
    assert counted.passes <= attention_mask // 8192 + 2
    assert attention_mask <= counted.tokens <= attention_mask + TOKEN_MULTIPLE * counted.passes


def test_nothing_is_computed_that_nobody_reads(pretrained):
    model = pretrained.model
    image, text, joint = (
        Counted(encoder)
        for encoder in (model.image_encoder, model.text_encoder, model.multimodal_encoder)
    )
    pretrained.encode_image(IMAGES)
    assert (image.passes, text.passes, joint.passes) == (1, 0, 0)
    pretrained.encode_text(TEXTS)
    assert (image.passes, text.passes, joint.passes) == (1, 1, 0)
    pretrained.classify(IMAGES, ["a", "b"])
    assert (image.passes, text.passes, joint.passes) == (2, 2, 0)
    pretrained.match(IMAGES, TEXTS)
    assert (image.passes, text.passes, joint.passes) == (3, 3, 1)
    pretrained.hidden_states(IMAGES, TEXTS)
    assert (image.passes, text.passes, joint.passes) == (4, 4, 2)
    pretrained.fill_mask(["[MASK]"])
    assert (image.passes, text.passes, joint.passes) == (4, 5, 2)
    pretrained.reconstruct(IMAGES)
    assert (image.passes, text.passes, joint.passes) == (5, 5, 2)


# Hidden states


@torch.no_grad()
def test_hidden_states_stand_in_the_order_asked_with_their_masks(pretrained, monkeypatch):
    small_groups(monkeypatch)
    model, processor = pretrained.model, pretrained.processor
    both = pretrained.hidden_states(IMAGES, TEXTS)
    alone = pretrained.hidden_states(IMAGES), pretrained.hidden_states(texts=TEXTS)
    input_ids, attention_mask = processor.texts(TEXTS)
    assert torch.equal(both.text_attention_mask, attention_mask)
    assert torch.equal(both.multimodal_attention_mask[:, 18:], attention_mask)
    assert both.multimodal_attention_mask[:, :18].all()
    for i, text in enumerate(TEXTS):
        own, whole = processor.texts([text])
        length = own.shape[1]
        hidden = model.image_encoder(processor.images([IMAGES[i]]))
        words = model.text_encoder(own, whole)
        joint = model.multimodal(hidden, words, whole)[0]
        for states in (both.image, alone[0].image):
            torch.testing.assert_close(
                states[i], model.image_encoder.norm(hidden)[0], rtol=0, atol=3e-6
            )
        for states in (both.text, alone[1].text):
            expected = model.text_encoder.norm(words)[0]
            torch.testing.assert_close(states[i, :length], expected, rtol=0, atol=3e-6)
            assert not states[i, length:].any()
        torch.testing.assert_close(both.multimodal[i, : 18 + length], joint, rtol=0, atol=3e-6)
        assert not both.multimodal[i, 18 + length :].any()
    assert alone[0].text is alone[0].multimodal is alone[1].image is None
    assert input_ids.shape[1] == both.text.shape[1]


def test_hidden_states_of_nothing_are_an_error(pretrained):
    with pytest.raises(ValueError, match="give images, texts, or both"):
        pretrained.hidden_states()


# Matching and classes


@torch.no_grad()
def test_matching_is_the_heads_probability_and_the_cosine(pretrained, monkeypatch):
    small_groups(monkeypatch)
    match = pretrained.match(IMAGES, TEXTS)
    cosine = (pretrained.encode_image(IMAGES) * pretrained.encode_text(TEXTS)).sum(dim=1)
    close(match.cosine, cosine)
    head = pretrained.model.itm_head
    cls = pretrained.encode_pair(IMAGES, TEXTS)
    logits = cls.matmul(head.pooler.dense.weight.T) + head.pooler.dense.bias
    logits = torch.tanh(logits).matmul(head.classifier.weight.T) + head.classifier.bias
    close(match.probability, torch.sigmoid(logits[:, 1] - logits[:, 0]))
    assert match.probability.std() > 1e-4


def test_classes_are_the_softmax_of_the_scaled_cosines_of_mean_prompts(pretrained):
    names, templates = ["a", "b c", "d"], ["{}", "x {} y"]
    found = pretrained.classify(IMAGES, names, templates)
    images = pretrained.encode_image(IMAGES).numpy().astype(np.float64)
    logits = np.zeros((len(IMAGES), 3))
    for c, name in enumerate(names):
        prompts = pretrained.encode_text([t.format(name) for t in templates]).numpy()
        mean = prompts.astype(np.float64).mean(axis=0)
        logits[:, c] = images @ mean / np.linalg.norm(mean) * np.exp(pretrained.logit_scale)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(found.probabilities.numpy() - expected).max() < 1e-6
    assert found.names == tuple(names)
    assert found.best == [names[i] for i in expected.argmax(axis=1)]
    assert (found.ranking.numpy() == np.argsort(-expected, axis=1, kind="stable")).all()
    assert found.probabilities.std() > 1e-4


@pytest.mark.parametrize(
    ("names", "templates", "expected"),
    [
        ([], ["{}"], "class_names is empty"),
        (["a", "b", "a"], ["{}"], "class_names holds 'a' twice"),
        (["a"], [], "templates is empty"),
        ("ab", ["{}"], "class_names is a single text: give a list"),
        (["a"], "{}", "templates is a single text"),
        (["a"], ["a photo"], "template 'a photo': write one"),
        (["a"], ["{} and {}"], "write one"),
        (["a"], ["{} {name}"], "write one"),
        (["a", "a"], ["x", "y"], "(?s)twice.*'x'.*'y'"),
    ],
)
def test_classes_that_do_not_hold_are_an_error(pretrained, names, templates, expected):
    with pytest.raises(ValueError, match=expected):
        pretrained.classify(IMAGES, names, templates)


def test_sides_of_unequal_number_are_an_error(pretrained, clip):
    for method in (pretrained.encode_pair, pretrained.match, pretrained.hidden_states, clip.match):
        with pytest.raises(ValueError, match="there are 3 images and 2 texts"):
            method(IMAGES[:3], TEXTS[:2])


def test_all_that_cannot_be_used_is_named(pretrained, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    images = [IMAGES[0], tmp_path / "empty.png", IMAGES[1], b"no image"]
    for method in (
        lambda: pretrained.encode_image(images),
        lambda: pretrained.match(images, TEXTS[:4]),
        lambda: pretrained.reconstruct(images),
    ):
        with pytest.raises(ValueError, match=r"(?s)images\[1\]: .*empty.png.*images\[3\]: "):
            method()
    with pytest.raises(ValueError, match=r"texts\[1\]: text is not Unicode"):
        pretrained.match(IMAGES[:2], ["a", "\ud800"])
    # Nothing is left broken behind.
    assert pretrained.encode_image(IMAGES).isfinite().all()


# CLIP


def test_clip_encodes_matches_and_classifies(clip):
    images, texts = clip.encode_image(IMAGES), clip.encode_text(TEXTS)
    model, processor = clip.model, clip.processor
    with torch.no_grad():
        close(images, model.encode_image(processor.images(IMAGES)))
        one_by_one = [model.encode_text(*processor.texts([text])) for text in TEXTS]
    close(texts, torch.cat(one_by_one))
    match = clip.match(IMAGES, TEXTS)
    assert match.probability is None
    close(match.cosine, (images * texts).sum(dim=1))
    found = clip.classify(IMAGES, ["a", "b"], ["{}"])
    classes = clip.encode_text(["a", "b"])
    close(found.probabilities, (np.exp(2.0) * images @ classes.T).softmax(dim=1))


@pytest.mark.parametrize("method", ["encode_pair", "hidden_states", "fill_mask", "reconstruct"])
def test_what_clip_cannot_do_is_refused(clip, method):
    arguments = {"fill_mask": (["[MASK]"],), "reconstruct": (IMAGES,)}.get(method, (IMAGES, TEXTS))
    with pytest.raises(ValueError, match="a Clip has no multimodal encoder and no heads: load a"):
        getattr(clip, method)(*arguments)


# Parts that a checkpoint does not hold


@pytest.mark.parametrize(
    ("missing_parts", "use"),
    [
        ("itm_head", lambda m: m.match(IMAGES, TEXTS)),
        ("mlm_head", lambda m: m.fill_mask(["[MASK]"])),
        ("mmm_text_head", lambda m: m.fill_mask(["[MASK]"], IMAGES[:1])),
        ("mim_head", lambda m: m.reconstruct(IMAGES)),
        ("mmm_image_head", lambda m: m.reconstruct(IMAGES, TEXTS)),
        ("codebook.encoder", lambda m: m.reconstruct(IMAGES)),
        ("codebook.decoder", lambda m: m.reconstruct(IMAGES)),
    ],
)
def test_only_what_needs_an_absent_part_is_refused(missing_parts, use):
    model = tiny_model()
    model.missing_parts = frozenset({missing_parts})
    pretrained = Pretrained(model, processor_of(model))
    with pytest.raises(ValueError, match=f"holds no weights for {missing_parts}, which this needs"):
        use(pretrained)
    assert pretrained.encode_pair(IMAGES, TEXTS).isfinite().all()


# Loading


def test_the_identity_names_weights_geometry_and_view_but_not_how_they_are_held(tmp_path):
    model = tiny_model()
    first = Pretrained(model, processor_of(model)).identity
    assert len(first) == 64
    assert int(first, 16)
    folder = save_flava(tmp_path / "a", model)
    assert load(folder).identity == first
    assert load(folder, precision="bf16").identity == first
    assert load(folder, device="cpu", precision="int8").identity == first
    assert load(folder, image_size=48).identity != first
    with torch.no_grad():
        model.text_projection.bias[3] += 1e-6
    assert Pretrained(model, processor_of(model)).identity != first


def test_the_identity_does_not_depend_on_what_the_checkpoint_does_not_hold():
    model = tiny_model()
    model.missing_parts = frozenset({"codebook.decoder"})
    first = Pretrained(model, processor_of(model)).identity
    torch.nn.init.zeros_(model.codebook.decoder.output.weight)
    assert Pretrained(model, processor_of(model)).identity == first
    torch.nn.init.zeros_(model.itm_head.classifier.weight)
    assert Pretrained(model, processor_of(model)).identity != first


def test_a_model_is_used_as_for_evaluation_whatever_mode_it_was_in():
    model = tiny_model().train()
    pretrained = Pretrained(model, processor_of(model))
    assert not model.training
    assert not pretrained.encode_image(IMAGES).requires_grad


def test_bf16_is_close_and_changes_no_weight(tmp_path):
    folder = save_flava(tmp_path / "m")
    exact, rough = load(folder), load(folder, precision=InferencePrecision.BF16)
    assert rough.model.image_projection.weight.dtype == torch.float32
    for method, inputs in (("encode_image", IMAGES), ("encode_text", TEXTS)):
        a, b = getattr(exact, method)(inputs), getattr(rough, method)(inputs)
        assert b.dtype == torch.float32
        difference = (a - b).abs().max()
        assert 1e-6 < difference < 0.05  # eight bits of mantissa, through three blocks


def test_bf16_is_bit_for_bit_what_autocast_makes_of_the_weights():
    model = tiny_model()
    lower = Pretrained(model, processor_of(model), precision=InferencePrecision.BF16)
    model.eval()
    texts = random_texts(model.config, [9, 4])
    pixels, input_ids, attention_mask = (
        torch.randn(2, 3, 24, 24),
        texts.input_ids,
        texts.attention_mask,
    )
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = model.encode_image(pixels), model.encode_text(input_ids, attention_mask)
    with lower._extractor.computing():
        computed = lower._extractor.model
        found = computed.encode_image(pixels), computed.encode_text(input_ids, attention_mask)
    assert all(map(torch.equal, found, expected))
    assert not torch.equal(found[0], model.encode_image(pixels))


@pytest.mark.parametrize("size", [48, 12])
@torch.no_grad()
def test_another_image_size_reaches_every_method(tmp_path, size):
    pretrained = loaded(tmp_path, image_size=size)
    patches = (size // 6) ** 2
    states: Any = pretrained.hidden_states(IMAGES[:2], TEXTS[:2])
    assert states.image.shape[1] == 1 + patches
    assert states.multimodal.shape[1] == 2 + patches + states.text.shape[1]
    close(pretrained.encode_pair(IMAGES[:2], TEXTS[:2]), states.multimodal[:, 0])
    match: Any = pretrained.match(IMAGES[:2], TEXTS[:2])
    assert match.probability.isfinite().all()
    assert pretrained.fill_mask(["[MASK]"], IMAGES[:1])
    (done,) = pretrained.reconstruct(IMAGES[:1])
    assert done.mask.shape == (size // 6, size // 6)
    assert done.filled.size == (size // 6 * 8, size // 6 * 8)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"device": "gpu"}, "device is 'gpu', which cannot be used here"),
        ({"device": "cuda:77"}, "device is 'cuda:77', which cannot be used here"),
        ({"precision": "fp8"}, "precision is 'fp8': use one of bf16, fp32, int8"),
    ],
)
def test_an_option_that_cannot_be_is_named_before_anything_is_read(tmp_path, options, expected):
    with pytest.raises(ValueError, match=expected):
        load(tmp_path / "nothing", **options)


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "nowhere")):
        load(tmp_path / "nowhere")


def test_a_codebook_alone_cannot_be_used_so(tmp_path):
    path = save_checkpoint(tmp_path, "codebook", Codebook(tiny_config().codebook))
    with pytest.raises(ValueError, match=f"{path} holds a Codebook: only a whole FLAVA or CLIP"):
        load(path)


def test_the_best_checkpoint_of_a_run_is_loaded(tmp_path):
    model = Flava(tiny_config())
    save_flava(tmp_path / "checkpoints" / "best", model)
    pretrained = load(str(tmp_path))
    assert torch.equal(pretrained.model.text_projection.weight, model.text_projection.weight)
    assert isinstance(pretrained.model, Flava)


def test_large_images_are_not_all_held_at_once(pretrained, monkeypatch):
    """Of images given by path, only those of two groups are prepared at any time."""
    small_groups(monkeypatch)  # two images of 17 tokens a group
    held: list[int] = []
    original = pretrained.processor.image.normalise
    opened = 0

    def open_one(image: Image.Image) -> Image.Image:
        nonlocal opened
        opened += 1
        return image

    def note(view: object, levels: list[np.ndarray]) -> Tensor:  # noqa: ARG001
        held.append(opened)
        return original(levels)

    monkeypatch.setattr("flava.inference.encoding.open_image", open_one)
    monkeypatch.setattr("flava.data.views.View.normalise", note)
    pretrained.encode_image(IMAGES)
    assert held
    assert all(count <= 2 * (n + 2) for n, count in enumerate(held))
