"""Codes that are stored beside images are those that the codebook makes of them in training."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from flava.checkpoints.digests import codebook_digest
from flava.checkpoints.native import write_model
from flava.cli import main
from flava.core.batch import CodedImageBatch, ImageBatch, PairBatch
from flava.core.constraints import config_errors
from flava.core.precision import Precision
from flava.data.data_config import DataConfig, SourceConfig
from flava.data.loader import Loader
from flava.data.samples import image_of
from flava.data.shards import RawSample, read_shard
from flava.data.transforms import ImageTransformConfig, evaluation_pixels
from flava.models import Codebook
from flava.objectives import FlavaObjective, FlavaObjectiveConfig
from flava.prepare.codes import load_codebook, tokenize
from flava.recipes.start import _check_codes
from flava.training.trainer import Trainer
from tests.data.shard_files import encoded, picture, write_tar
from tests.support import tiny_config, tiny_model
from tests.tiny_runs import flava_run, rows

SIZE = 32
"""Of the codebook's view: tiny_model has 4 patches a side."""
PICTURES = 48
WHOLE = ImageTransformConfig(image_size=24, codebook_size=SIZE, crop_scale=(1.0, 1.0))


@pytest.fixture
def codebook(tmp_path: Path) -> Codebook:
    """Of a folder, with weights at which the codes follow the pixels."""
    torch.manual_seed(0)
    made = Codebook(tiny_config().codebook)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    (tmp_path / "codebook").mkdir()
    write_model(made, tmp_path / "codebook")
    return load_codebook(str(tmp_path / "codebook"))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Eight square pictures with captions, for which no crop has to be drawn."""
    files = {}
    for key in range(8):
        files[f"{key}.png"] = encoded(picture(key, 20, 20))
        files[f"{key}.json"] = json.dumps({"caption": f"picture {key}"}).encode()
    return write_tar(tmp_path / "pairs.tar", files)


def samples(path: Path) -> list[RawSample]:
    return [sample for sample in read_shard(path) if isinstance(sample, RawSample)]


def data_of(shard: Path, image: ImageTransformConfig) -> DataConfig:
    pairs = SourceConfig(shards=(str(shard),), weight=1.0, batch_size=4)
    return DataConfig(pairs=pairs, image=image, workers=0)


def images_of(data: DataConfig) -> ImageBatch | CodedImageBatch:
    with Loader(data, seed=0) as batches:
        batch = next(batches)
    assert isinstance(batch, PairBatch)
    return batch.image


def test_training_reads_the_codes_that_it_would_compute(
    tmp_path: Path, shard: Path, codebook: Codebook
) -> None:
    counts = tokenize([str(shard)], codebook, SIZE, tmp_path / "coded")
    assert counts == {"": 8}
    coded = replace(WHOLE, stored_codes=codebook_digest(codebook))
    stored = images_of(data_of(tmp_path / "coded" / "pairs.tar", coded))
    computed = images_of(data_of(shard, WHOLE))
    assert isinstance(stored, CodedImageBatch)
    assert isinstance(computed, ImageBatch)
    assert stored.keys == computed.keys
    assert torch.equal(stored.pixels, computed.pixels)
    codes = codebook.codes(computed.codebook_pixels)
    assert len(codes.unique()) > 4
    assert torch.equal(stored.codes, codes)


def test_training_in_16_bits_computes_the_codes_that_are_kept(
    tmp_path: Path, codebook: Codebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the trainer, which computes nearly all else under autocast."""
    pictures = {f"{key}.png": encoded(picture(key, 20, 20)) for key in range(PICTURES)}
    shard = write_tar(tmp_path / "images.tar", pictures)
    arguments = ["--codebook", tmp_path / "codebook", "--codebook-size", SIZE]
    output = tmp_path / "coded"
    assert main([str(a) for a in ("data", "tokenize", shard, *arguments, "--output", output)]) == 0
    kept = images_in(output / "images.tar", replace(WHOLE, stored_codes=codebook_digest(codebook)))
    seen = images_in(shard, WHOLE)
    assert isinstance(kept, CodedImageBatch)
    assert kept.keys == seen.keys
    assert torch.equal(kept.pixels, seen.pixels)
    kept = replace(kept, patch_mask=seen.patch_mask)  # other patches are drawn where no view is
    computed: list[torch.Tensor] = []
    compute = Codebook.codes_at

    def watched(self: Codebook, *inputs: torch.Tensor) -> torch.Tensor:
        computed.append(compute(self, *inputs))
        return computed[-1]

    monkeypatch.setattr(Codebook, "codes_at", watched)
    losses = [trained_loss(tmp_path / name, codebook, b) for name, b in (("a", seen), ("b", kept))]
    (codes,) = computed
    assert len(codes) > PICTURES
    assert torch.equal(codes, kept.codes[kept.patch_mask])
    assert losses[0] == losses[1]


def images_in(shard: Path, image: ImageTransformConfig) -> ImageBatch | CodedImageBatch:
    """All of them as one batch."""
    source = SourceConfig(shards=(str(shard),), weight=1.0, batch_size=PICTURES)
    with Loader(DataConfig(images=source, image=image, workers=0), seed=0) as batches:
        batch = next(batches)
    assert isinstance(batch, ImageBatch | CodedImageBatch)
    return batch


def trained_loss(
    folder: Path, codebook: Codebook, batch: ImageBatch | CodedImageBatch
) -> dict[str, float]:
    """What one update on the batch writes; it begins with the same weights each time."""
    torch.manual_seed(0)
    model = tiny_model()
    model.codebook.load_state_dict(codebook.state_dict())
    model.codebook.requires_grad_(False)
    run = flava_run(folder, DataConfig(), max_steps=1)
    assert run.precision is Precision.BF16
    Trainer(run, FlavaObjective(FlavaObjectiveConfig(), model), None).train(iter([batch]))
    (row,) = rows(folder)
    return {name: value for name, value in row.items() if name.startswith(("loss", "accuracy"))}


def test_all_losses_are_those_of_computed_codes(shard: Path) -> None:
    torch.manual_seed(0)
    objective = FlavaObjective(FlavaObjectiveConfig(), tiny_model())
    vocabulary = objective.model.config.text.vocabulary_size
    with Loader(data_of(shard, WHOLE), seed=0) as batches:
        batch = next(batches)
    assert isinstance(batch, PairBatch)
    image = batch.image
    assert isinstance(image, ImageBatch)
    text = replace(
        batch.text,
        input_ids=batch.text.input_ids % vocabulary,
        input_ids_masked=batch.text.input_ids_masked % vocabulary,
    )
    coded = CodedImageBatch(
        keys=image.keys,
        pixels=image.pixels,
        codes=objective.model.codebook.codes(image.codebook_pixels),
        patch_mask=image.patch_mask,
    )
    for computed, stored in (
        (replace(batch, text=text), replace(batch, text=text, image=coded)),
        (image, coded),
    ):
        expected, found = objective(computed), objective(stored)
        assert expected.keys() == found.keys()
        for name, term in expected.items():
            assert torch.equal(found[name].loss, term.loss)


def test_samples_keep_their_files_and_those_without_an_image_have_no_codes(
    tmp_path: Path, codebook: Codebook
) -> None:
    whole = encoded(picture(1, 33, 20))
    files = {"a.png": whole, "a.txt": b"one", "b.png": whole[:50], "b.txt": b"two", "c.txt": b"x"}
    shard = write_tar(tmp_path / "some.tar", files)
    counts = tokenize([str(shard)], codebook, SIZE, tmp_path / "coded")
    assert counts[""] == 1
    assert sum(counts.values()) == 3
    before, after = samples(shard), samples(tmp_path / "coded" / "some.tar")
    suffix = f"codes-{codebook_digest(codebook)}.npy"
    assert [set(s.files) for s in after] == [{"png", "txt", suffix}, {"png", "txt"}, {"txt"}]
    for old, new in zip(before, after, strict=True):
        assert old.key == new.key
        assert old.files.items() <= new.files.items()
    _, seen = evaluation_pixels([image_of(before[0])], WHOLE)
    assert (
        after[0].files[suffix].endswith(codebook.codes(seen)[0].to(torch.uint8).numpy().tobytes())
    )


def test_a_stopped_run_goes_on_and_leaves_no_half_a_shard(
    tmp_path: Path, shard: Path, codebook: Codebook
) -> None:
    broken = write_tar(tmp_path / "second.tar", {"a.png": encoded(Image.new("RGB", (8, 8)))})
    broken.write_bytes(broken.read_bytes()[:700])
    shards, output = [str(shard), str(broken)], tmp_path / "coded"
    with pytest.raises(ValueError, match=r"second\.tar.*build or copy the shard again"):
        tokenize(shards, codebook, SIZE, output)
    assert [path.name for path in output.iterdir()] == ["pairs.tar"]
    first = (output / "pairs.tar").stat().st_mtime_ns
    write_tar(broken, {"a.png": encoded(Image.new("RGB", (8, 8)))})
    assert tokenize(shards, codebook, SIZE, output) == {"": 1}
    assert (output / "pairs.tar").stat().st_mtime_ns == first
    assert len(samples(output / "second.tar")) == 1


def test_what_cannot_be_tokenized_is_listed(
    tmp_path: Path, shard: Path, codebook: Codebook
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="no codes can be written") as error:
        tokenize([str(shard), str(shard), str(tmp_path / "folder")], codebook, 12, tmp_path)
    for line in ("folder is no tar", "2 shards are called pairs.tar", "own folder", "size is 12"):
        assert line in str(error.value)
    write_model(Codebook(tiny_config().codebook), tmp_path / "folder")
    with pytest.raises(FileNotFoundError):
        load_codebook(str(tmp_path / "nowhere"))


def test_other_codes_are_refused(tmp_path: Path, shard: Path, codebook: Codebook) -> None:
    tokenize([str(shard)], codebook, SIZE, tmp_path / "coded")
    other = replace(WHOLE, stored_codes="0123456789abcdef")
    data = data_of(tmp_path / "coded" / "pairs.tar", other)
    with pytest.raises(ValueError, match="no codes of that name"):
        images_of(data)
    with pytest.raises(
        ValueError, match=rf"stored_codes is 0123.*called {codebook_digest(codebook)}"
    ):
        model = torch.nn.Module()
        model.codebook = codebook
        _check_codes(flava_run(tmp_path / "run", data), model)


def test_stored_codes_are_of_whole_images() -> None:
    config = ImageTransformConfig(stored_codes="x", flip_probability=0.5, colour_jitter=0.1)
    problems = "\n".join(config_errors(config))
    for name in ("crop_scale", "flip_probability", "colour_jitter"):
        assert name in problems
    assert not config_errors(replace(WHOLE, stored_codes="x"))
