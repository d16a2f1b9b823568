"""DINO's two networks: the head beside torch's weight norm, and what teacher and student are."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from flava.checkpoints.load import load_pretrained
from flava.checkpoints.native import write_model
from flava.core.batch import ImageInputs
from flava.models import Dino, DinoConfig, ImageConfig, features_of
from flava.models.dino import DinoHead
from tests.dino import OUTPUTS, dino_config, dino_model
from tests.support import randomise


class PublishedHead(nn.Module):
    """The same weights where torch's own weight norm holds the norms of the rows at 1."""

    def __init__(self, ours: DinoHead) -> None:
        super().__init__()
        self.mlp = copy.deepcopy(ours.mlp)
        self.last = nn.Linear(7, OUTPUTS, bias=False)
        self.last.load_state_dict(ours.last_layer.state_dict())
        weight_norm(self.last)
        self.part(0).requires_grad_(False).fill_(1)

    def part(self, number: int) -> nn.Parameter:
        """Norms (0) and directions (1) of the last layer."""
        return self.last.get_parameter(f"parametrizations.weight.original{number}")

    def forward(self, features: Tensor) -> Tensor:
        return self.last(functional.normalize(self.mlp(features), dim=-1))


def test_the_head_is_that_of_torchs_weight_norm() -> None:
    head, features = DinoHead(dino_config()), torch.randn(6, 16)
    randomise(head)
    published = PublishedHead(head)
    ours, theirs = head(features), published(features)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(head.last_layer.weight.grad, published.part(1).grad)
    for mine, other in zip(head.mlp.parameters(), published.mlp.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_logits_are_cosines_whatever_the_length_of_the_last_layers_rows() -> None:
    head, features = DinoHead(dino_config()), torch.randn(6, 16)
    randomise(head)
    before = head(features)
    assert before.abs().max() <= 1 + 1e-6
    with torch.no_grad():
        head.last_layer.weight.mul_(torch.rand(OUTPUTS, 1) + 0.5)
    torch.testing.assert_close(head(features), before)


def test_a_frozen_last_layer_gets_no_gradient_and_lets_it_through() -> None:
    head, features = DinoHead(dino_config()), torch.randn(6, 16)
    randomise(head)
    free = head(features)
    frozen = head(features, frozen=True)
    assert torch.equal(free, frozen)
    (frozen.square().sum()).backward()
    assert head.last_layer.weight.grad is None
    assert all(p.grad is not None and p.grad.any() for p in head.mlp.parameters())


def test_the_teacher_starts_as_the_student_and_is_not_trained() -> None:
    model = Dino(dino_config())
    student = dict(model.student.named_parameters())
    names = {name for name, _ in model.named_parameters() if not name.startswith("student.")}
    assert names == student.keys()
    for name in names:
        assert torch.equal(model.get_parameter(name), student[name])
        assert not model.get_parameter(name).requires_grad
        assert student[name].requires_grad
    assert not model.center.any()


def test_the_teacher_follows_by_the_published_average() -> None:
    model = dino_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.follow(0.9)
    for name, value in model.state_dict().items():
        if name.startswith("student.") or name == "center":
            assert torch.equal(value, before[name])
        else:
            torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * before[f"student.{name}"])


def test_the_student_alone_drops_paths() -> None:
    model, pixels = dino_model(drop_path=0.9).train(), torch.randn(2, 3, 3, 24, 24)
    assert torch.equal(model(pixels), model(pixels))
    assert not torch.equal(model.student(pixels), model.student(pixels))
    student = model.student.eval()
    assert torch.equal(student(pixels), student(pixels))


def test_each_crop_of_each_image_is_encoded_for_itself_at_any_size() -> None:
    model, pixels = dino_model().eval(), torch.randn(3, 4, 3, 12, 12)
    logits = model(pixels)
    assert logits.shape == (3, 4, OUTPUTS)
    torch.testing.assert_close(model(pixels[1:2, 2:3])[0, 0], logits[1, 2])


def test_the_features_are_the_encoders_cls_after_its_norm() -> None:
    """What a probe or the next stage reads, and what the published backbone returns."""
    model, pixels = dino_model().eval(), torch.randn(1, 4, 3, 24, 24)
    states = model.image_encoder.norm(model.image_encoder(pixels[0]))
    assert torch.equal(model(pixels)[0], model.head(states[:, 0]))


def test_a_checkpoint_holds_both_and_the_center(tmp_path: Path) -> None:
    model = dino_model(drop_path=0.1)
    write_model(model, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert isinstance(loaded, Dino)
    assert loaded.config == model.config
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(theirs["center"], model.center)
    assert all(not p.requires_grad for p in loaded.image_encoder.parameters())


def test_the_defaults_are_the_published_ones() -> None:
    """``DINOHead`` of facebookresearch/dino and ``--out_dim``."""
    config = DinoConfig()
    assert (config.head_width, config.bottleneck, config.outputs) == (2048, 256, 65_536)
    assert (config.image.width, config.image.depth, config.image.patch_size) == (768, 12, 16)
    assert (config.init_std, config.token_init_std) == (0.02, 0.02)


def test_initial_weights_are_drawn_as_published() -> None:
    """0.02 everywhere, biases 0; the last layer as torch's Linear, uniform to 1 / sqrt(inputs)."""
    config = replace(dino_config(), head_width=200, bottleneck=64, outputs=300)
    student = Dino(replace(config, image=replace(config.image, width=64))).student
    hidden = student.get_parameter("head.mlp.0.weight")
    for weight in (hidden, student.image_encoder.positions):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not student.get_parameter("head.mlp.2.bias").any()
    last = student.head.last_layer.weight
    assert 0.95 / 8 < last.abs().max().item() <= 1 / 8


def test_every_mistake_stands_in_one_error() -> None:
    with pytest.raises(ValueError, match="geometry does not hold") as error:
        DinoConfig(
            image=ImageConfig(heads=5, drop_path=-0.1),
            head_width=0,
            bottleneck=-1,
            outputs=0,
            init_std=-1.0,
            token_init_std=-2.0,
        )
    assert str(error.value).splitlines()[1:] == [
        "  image.drop_path is -0.1: it should be greater than or equal to 0",
        "  image.heads is 5, which does not divide image.width 768",
        "  head_width is 0: it should be greater than 0",
        "  bottleneck is -1: it should be greater than 0",
        "  outputs is 0: it should be greater than 0",
        "  init_std is -1.0: it should be greater than or equal to 0",
        "  token_init_std is -2.0: it should be greater than or equal to 0",
    ]


def test_a_probe_of_dino_reads_the_teacher() -> None:
    model = dino_model()
    for parameter in model.student.parameters():
        parameter.data.zero_()
    pixels = torch.randn(2, 3, model.config.image.image_size, model.config.image.image_size)
    encoder = model.image_encoder.eval()
    found = features_of(model, "images")(ImageInputs(pixels=pixels))
    assert torch.equal(found, encoder.norm(encoder(pixels)[:, 0]))
    with pytest.raises(ValueError, match="a Dino does not read text"):
        features_of(model, "text")
