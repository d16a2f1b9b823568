import re

import pytest

from flava.models import (
    Codebook,
    CodebookConfig,
    FlavaConfig,
    ImageConfig,
    MultimodalConfig,
    TextConfig,
)


def test_every_mistake_stands_in_one_error() -> None:
    with pytest.raises(ValueError, match="geometry does not hold") as error:
        FlavaConfig(
            image=ImageConfig(image_size=30, patch_size=7, width=50),
            text=TextConfig(vocabulary_size=0, max_length=1, depth=0),
            multimodal=MultimodalConfig(heads=-1, mlp_width=0, drop_path=1.0),
            projection_width=0,
            codebook=CodebookConfig(codes=0, width=6),
            init_std=-0.1,
        )
    assert str(error.value).splitlines()[1:] == [
        "  image.heads is 12, which does not divide image.width 50",
        "  image.image_size is 30: use a positive multiple of image.patch_size 7",
        "  text.depth is 0: it should be greater than 0",
        "  text.vocabulary_size is 0: it should be greater than 0",
        "  text.max_length is 1: it should be greater than or equal to 2",
        "  multimodal.heads is -1: it should be greater than 0",
        "  multimodal.mlp_width is 0: it should be greater than 0",
        "  multimodal.drop_path is 1.0: it should be less than 1",
        "  projection_width is 0: it should be greater than 0",
        "  codebook.codes is 0: it should be greater than 0",
        "  codebook.width is 6: it should be a multiple of 4",
        "  init_std is -0.1: it should be greater than or equal to 0",
    ]


@pytest.mark.parametrize(
    ("size", "patch", "expected"),
    [
        (0, 4, "image.image_size is 0: it should be greater than 0"),
        (8, 0, "image.patch_size is 0: it should be greater than 0"),
        (-8, 4, "image.image_size is -8: it should be greater than 0"),
        (3, 4, "image.image_size is 3: use a positive multiple of image.patch_size 4"),
    ],
)
def test_images_that_are_not_whole_patches(size: int, patch: int, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        FlavaConfig(image=ImageConfig(image_size=size, patch_size=patch))


def test_a_codebook_alone_tells_its_mistakes() -> None:
    config = CodebookConfig(blocks=0, width=0, decoder_input_width=0)
    with pytest.raises(ValueError, match=r"codebook\.blocks is 0") as error:
        Codebook(config)
    assert len(str(error.value).splitlines()) == 3


def test_the_default_is_the_papers_base_model() -> None:
    """Table 4 of the paper: ViT-B/16 for both, six multimodal blocks, a space of 512."""
    config = FlavaConfig()
    for encoder in (config.image, config.text, config.multimodal):
        assert (encoder.width, encoder.heads, encoder.mlp_width) == (768, 12, 3072)
    assert (config.image.depth, config.text.depth, config.multimodal.depth) == (12, 12, 6)
    assert (config.image.grid, config.text.vocabulary_size) == (14, 30_522)
    assert (config.projection_width, config.codebook.codes) == (512, 8192)
