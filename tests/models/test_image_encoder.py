import pytest
import torch

from tests.support import random_images, tiny_model


@torch.no_grad()
def test_pixels_under_the_mask_do_not_matter() -> None:
    model = tiny_model()
    batch = random_images(model.config, 3)
    patch = model.config.image.patch_size
    hidden = batch.patch_mask.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]
    changed = batch.pixels.where(~hidden, 100 * torch.randn_like(batch.pixels))
    states = model.image_encoder(batch.pixels, batch.patch_mask)
    assert torch.equal(model.image_encoder(changed, batch.patch_mask), states)
    assert not torch.allclose(model.image_encoder(changed), model.image_encoder(batch.pixels))


@torch.no_grad()
def test_every_pixel_in_view_matters() -> None:
    """Also says that pixels and mask lie on the grid the same way round."""
    model = tiny_model().double()
    pixels = torch.randn(1, 3, 24, 24, dtype=torch.float64)
    patch_mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    patch_mask[0, 1, 3] = True
    states = model.image_encoder(pixels, patch_mask)
    for row in range(4):
        for column in range(4):
            changed = pixels.clone()
            changed[0, 1, 6 * row + 2, 6 * column + 5] += 1
            differs = not torch.equal(model.image_encoder(changed, patch_mask), states)
            assert differs == ((row, column) != (1, 3))


@torch.no_grad()
def test_nothing_selected_is_no_mask() -> None:
    model = tiny_model()
    pixels = torch.randn(2, 3, 24, 24)
    nothing = torch.zeros(2, 4, 4, dtype=torch.bool)
    assert torch.equal(model.image_encoder(pixels, nothing), model.image_encoder(pixels))


@torch.no_grad()
def test_patches_are_told_apart_by_position_alone() -> None:
    """All hidden, what remains is the positions: as many different states as patches."""
    model = tiny_model()
    everything = torch.ones(1, 4, 4, dtype=torch.bool)
    states = model.image_encoder(torch.randn(1, 3, 24, 24), everything)
    assert len(states[0].unique(dim=0)) == 17
    torch.nn.init.zeros_(model.image_encoder.positions)
    states = model.image_encoder(torch.randn(1, 3, 24, 24), everything)[0, 1:]
    torch.testing.assert_close(states, states[:1].expand_as(states))


@torch.no_grad()
def test_an_image_is_not_changed_by_its_neighbours() -> None:
    model = tiny_model()
    pixels = torch.randn(5, 3, 24, 24)
    torch.testing.assert_close(model.image_encoder(pixels)[2:3], model.image_encoder(pixels[2:3]))


@pytest.mark.parametrize(("height", "width"), [(12, 24), (36, 30)])
@torch.no_grad()
def test_other_sizes(height: int, width: int) -> None:
    model = tiny_model()
    states = model.image_encoder(torch.randn(2, 3, height, width))
    assert states.shape == (2, 1 + height * width // 36, 32)
    assert model.encode_image(torch.randn(2, 3, height, width)).shape == (2, 16)


@pytest.mark.parametrize(("height", "width"), [(25, 24), (24, 23)])
def test_an_image_must_be_whole_patches(height: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"{height} x {width} pixels is not whole patches of 6"):
        tiny_model().image_encoder(torch.randn(2, 3, height, width))
