import itertools
import logging
import os
import pickle
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from flava.core.batch import (
    Batch,
    ImageBatch,
    PairBatch,
    TextBatch,
    WholePairBatch,
    to_device,
    unmap_pixels,
)
from flava.data import workers
from flava.data.collate import Collated
from flava.data.data_config import DataConfig, SourceConfig
from flava.data.loader import Loader, _collator
from flava.data.mixture import choose
from flava.data.shards import read_shard, resolve_all
from flava.data.streaming import batches_of_small_source
from flava.data.tokenizers import ClipTokenizer, Tokenizer, Vocabulary
from flava.data.transforms import ImageTransformConfig
from flava.data.workers import SourceBatches
from tests.data.shard_files import encoded, pair_files, picture, write_lines, write_tar
from tests.support import denormalise

KINDS = {"pairs": PairBatch, "images": ImageBatch, "text": TextBatch}
TOKENIZER = Tokenizer()
BERT = Vocabulary.BERT


@pytest.fixture
def config(tmp_path) -> DataConfig:
    """Three small sources; loaded in process."""
    pairs = write_tar(tmp_path / "pairs.tar", pair_files(range(21)))
    images = write_tar(
        tmp_path / "images.tar.gz", {f"i{n}.webp": encoded(picture(n), "WEBP") for n in range(9)}
    )
    text = write_lines(tmp_path / "text.jsonl", [f"sentence number {n}" for n in range(30)])
    return DataConfig(
        pairs=SourceConfig(shards=(str(pairs),), weight=0.5, batch_size=6),
        images=SourceConfig(shards=(str(images),), weight=0.25, batch_size=4),
        text=SourceConfig(shards=(str(text),), weight=0.25, batch_size=5),
        image=ImageTransformConfig(image_size=24, codebook_size=48),
        mismatch_probability=0.5,
        workers=0,
    )


def only(config: DataConfig, name: str) -> DataConfig:
    """The config with one of its sources."""
    others = {other: None for other in KINDS if other != name}
    return replace(config, **others)


def whole_pairs(config: DataConfig, vocabulary: Vocabulary) -> DataConfig:
    return replace(only(config, "pairs"), mask_pairs=False, vocabulary=vocabulary)


def take(config: DataConfig, count: int, *, seed: int = 3, **options: Any) -> list[Batch]:
    with Loader(config, seed=seed, **options) as loader:
        return list(itertools.islice(loader, count))


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    if isinstance(batch, PairBatch):
        parts = {"image": batch.image, "text": batch.text}
        named = {f"{p}.{k}": v for p, part in parts.items() for k, v in tensors(part).items()}
        return {**named, "matched": batch.matched}
    if isinstance(batch, WholePairBatch):
        return {**vars(batch.inputs.image), **vars(batch.inputs.text)}
    return {k: v for k, v in vars(batch).items() if isinstance(v, torch.Tensor)}


def same(first: Batch, second: Batch) -> bool:
    ours, theirs = tensors(first), tensors(second)
    return (
        type(first) is type(second)
        and first.keys == second.keys
        and ours.keys() == theirs.keys()
        and all(torch.equal(ours[name], theirs[name]) for name in ours)
    )


def all_same(first: list[Batch], second: list[Batch]) -> bool:
    return all(same(a, b) for a, b in zip(first, second, strict=True))


# What a batch holds


def test_each_steps_batch_comes_from_the_mixtures_source(config):
    for step, batch in enumerate(take(config, 30)):
        assert type(batch) is KINDS[choose(3, step, config.weights)]


def test_an_image_batch_shows_each_image_and_hides_patches(config):
    whole = replace(config.image, crop_scale=(1.0, 1.0))
    (batch,) = take(only(replace(config, image=whole), "images"), 1)
    assert isinstance(batch, ImageBatch)
    assert batch.pixels.shape == (4, 3, 24, 24)
    assert batch.codebook_pixels.shape == (4, 3, 48, 48)
    assert batch.patch_mask.shape == (4, 6, 6)
    assert (batch.patch_mask.sum((1, 2)) > 8).all()
    assert (batch.patch_mask.sum((1, 2)) <= 13).all()
    for key, pixels, codebook_pixels in zip(
        batch.keys, batch.pixels, batch.codebook_pixels, strict=True
    ):
        mean = torch.from_numpy(np.asarray(picture(int(key[1:]))) / 255).mean((0, 1)).float()
        # A crop of nearly all of a smooth image: its mean colour tells which one it is.
        assert torch.allclose(denormalise(pixels).mean((1, 2)), mean, atol=0.1)
        assert torch.allclose(unmap_pixels(codebook_pixels).mean((1, 2)), mean, atol=0.1)


def test_a_pair_batch_joins_each_image_with_its_text_or_says_so(config):
    for batch in take(only(config, "pairs"), 8):
        assert isinstance(batch, PairBatch)
        assert batch.keys == batch.image.keys
        assert sorted(batch.text.keys) == sorted(batch.image.keys)
        own = [a == b for a, b in zip(batch.image.keys, batch.text.keys, strict=True)]
        assert batch.matched.tolist() == own
        for key, input_ids, attention_mask in zip(
            batch.text.keys, batch.text.input_ids, batch.text.attention_mask, strict=True
        ):
            text = TOKENIZER.decode(input_ids[attention_mask].tolist())
            assert text in (f"picture number {int(key)}", f"the {int(key)} th one")


@pytest.mark.parametrize("vocabulary", Vocabulary)
def test_whole_pairs_are_images_with_their_own_texts(config, vocabulary):
    """In either vocabulary, whatever the masks' and the exchange's probabilities are."""
    whole = replace(config.image, crop_scale=(1.0, 1.0))
    config = replace(config, image=whole, mismatch_probability=1.0, pair_max_length=7)
    for batch in take(whole_pairs(config, vocabulary), 4):
        assert isinstance(batch, WholePairBatch)
        assert batch.kind == "pairs"
        image, text = batch.inputs.image, batch.inputs.text
        assert image.pixels.shape == (6, 3, 24, 24)
        for key, pixels, input_ids, attention_mask in zip(
            batch.keys, image.pixels, text.input_ids, text.attention_mask, strict=True
        ):
            mean = torch.from_numpy(np.asarray(picture(int(key))) / 255).mean((0, 1)).float()
            assert torch.allclose(denormalise(pixels).mean((1, 2)), mean, atol=0.1)
            captions = (f"picture number {int(key)}", f"the {int(key)} th one")
            tokenizer = vocabulary.tokenizer()
            assert input_ids[attention_mask].tolist() in [
                tokenizer.encode(each, 7) for each in captions
            ]


def test_whole_pairs_are_augmented_as_images_are(config):
    """Flipped always, they are the mirror images of those that never are."""
    config = whole_pairs(replace(config, image=replace(config.image, crop_scale=(1.0, 1.0))), BERT)
    flipped = replace(config, image=replace(config.image, flip_probability=1.0))
    for plain, mirrored in zip(take(config, 3), take(flipped, 3), strict=True):
        assert isinstance(plain, WholePairBatch)
        assert isinstance(mirrored, WholePairBatch)
        pixels, flipped_pixels = plain.inputs.image.pixels, mirrored.inputs.image.pixels
        # The crops differ, since the flip takes a draw.
        from_mirror, from_plain = (
            (each - flipped_pixels).abs().mean() for each in (pixels.flip(3), pixels)
        )
        assert from_mirror < from_plain / 4


def test_clips_texts_are_padded_behind_their_end(config):
    (batch,) = take(whole_pairs(replace(config, pair_max_length=5), Vocabulary.CLIP), 1)
    assert isinstance(batch, WholePairBatch)
    text = batch.inputs.text
    assert text.input_ids.shape[1] <= 5
    assert (text.input_ids[:, 0] == ClipTokenizer().start).all()
    assert (text.input_ids.max(dim=1).values == ClipTokenizer().end).all()
    assert not text.input_ids[~text.attention_mask].any()


def test_whole_pairs_go_to_a_device_with_all_they_hold_but_masks(config):
    (batch,) = take(whole_pairs(config, Vocabulary.BERT), 1)
    moved = tensors(to_device(batch, torch.device("meta")))
    places = {(each.dtype == torch.bool, each.device.type) for each in moved.values()}
    assert places == {(True, "cpu"), (False, "meta")}


@pytest.mark.parametrize("mask_pairs", [True, False])
def test_a_loader_pins_all_that_a_batch_holds(config, mask_pairs, monkeypatch):
    """Torch's own way to pin what a worker has made; without a GPU no memory can be pinned."""
    config = config if mask_pairs else whole_pairs(config, Vocabulary.BERT)
    (batch,) = take(config, 1)
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    made = Collated(batch=batch, tried=1, skipped=())
    pinned = pin_memory(made)
    assert isinstance(pinned, Collated) and pinned.batch is not None
    before, after = tensors(batch), tensors(pinned.batch)
    assert before.keys() == after.keys()
    for name, each in before.items():
        assert each.data_ptr() != after[name].data_ptr()
        torch.testing.assert_close(each, after[name])
    empty = Collated(batch=None, tried=1, skipped=())
    assert pin_memory(empty) is empty


@pytest.mark.parametrize("workers", [0, 1])
def test_whole_pairs_come_again_on_resuming(config, workers):
    config = replace(whole_pairs(config, Vocabulary.CLIP), workers=workers)
    assert all_same(take(config, 9)[4:], take(config, 5, start_step=4))


def test_nothing_can_be_masked_without_a_mask_token(config):
    problems = replace(config, vocabulary=Vocabulary.CLIP).problems()
    assert problems == [
        "mask_pairs is True, but CLIP's vocabulary has no [MASK]: set it to False",
        "text is set, and is masked, but CLIP's vocabulary has no [MASK]: leave it out",
    ]
    assert not whole_pairs(config, Vocabulary.CLIP).problems()


def test_identical_texts_match_wherever_they_are(config, tmp_path):
    files = pair_files(range(8))
    files = {n: b'{"caption": "a skunk"}' if n.endswith("json") else d for n, d in files.items()}
    shard = write_tar(tmp_path / "same.tar", files)
    pairs = SourceConfig(shards=(str(shard),), weight=1.0, batch_size=8)
    for batch in take(only(replace(config, pairs=pairs, mismatch_probability=1.0), "pairs"), 2):
        assert isinstance(batch, PairBatch)
        assert batch.matched.all()
        assert batch.text.keys != batch.image.keys


def test_a_text_batch_is_masked_and_padded(config):
    (batch,) = take(only(replace(config, mask_probability=0.5), "text"), 1)
    assert isinstance(batch, TextBatch)
    for key, input_ids, attention_mask in zip(
        batch.keys, batch.input_ids, batch.attention_mask, strict=True
    ):
        number = int(key.rpartition(":")[2]) - 1
        assert input_ids[attention_mask].tolist() == TOKENIZER.encode(
            f"sentence number {number}", 512
        )
    assert batch.token_mask.any()
    assert (batch.input_ids == batch.input_ids_masked)[~batch.token_mask].all()
    assert not (batch.token_mask & ~batch.attention_mask).any()


def test_long_texts_are_cut(config, tmp_path):
    shard = write_lines(tmp_path / "long.jsonl", ["word " * 10_000])
    source = SourceConfig(shards=(str(shard),), weight=1.0, batch_size=2)
    (batch,) = take(only(replace(config, text=source, text_max_length=40), "text"), 1)
    assert isinstance(batch, TextBatch)
    assert batch.input_ids.shape == (2, 40)


# The order of batches


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 7])
def test_a_resumed_loader_yields_what_an_uninterrupted_one_does(config, workers, start):
    config = replace(config, workers=workers)
    through = take(config, 14)
    assert all_same(through[start:], take(config, 14 - start, start_step=start))


def test_it_does_so_with_accumulation_and_corrupt_samples(config, tmp_path):
    files = pair_files(range(21))
    files["00004.png"] = files["00011.png"] = b"broken"
    shard = write_tar(tmp_path / "broken.tar", files)
    pairs = SourceConfig(shards=(str(shard),), weight=0.5, batch_size=6)
    config = replace(config, pairs=pairs)
    through = take(config, 30, accumulate=3)
    for first in range(0, 30, 3):
        assert len({type(batch) for batch in through[first : first + 3]}) == 1
    assert all_same(through[12:], take(config, 18, accumulate=3, start_step=4))


def test_batches_do_not_depend_on_the_number_of_workers(config):
    assert all_same(take(config, 8), take(replace(config, workers=2), 8))


def test_seeds_give_other_batches(config):
    first, second = take(only(config, "text"), 3), take(only(config, "text"), 3, seed=4)
    assert not any(same(a, b) for a, b in zip(first, second, strict=True))


def test_a_second_epoch_masks_and_crops_anew(config):
    source = replace(config.images, batch_size=9)
    first, second = take(only(replace(config, images=source), "images"), 2)
    assert isinstance(first, ImageBatch)
    assert isinstance(second, ImageBatch)
    assert sorted(first.keys) == sorted(second.keys)
    again = [second.keys.index(key) for key in first.keys]
    assert not torch.equal(first.patch_mask, second.patch_mask[again])
    assert not torch.equal(first.pixels, second.pixels[again])


def test_loading_leaves_the_global_generator_alone(config):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    take(config, 5)
    take(replace(config, workers=1), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_can_be_started_by_pickling(config):
    # How Python 3.14 starts processes on Linux, and every version does on macOS and Windows.
    batches = SourceBatches(
        raw_batches=partial(
            batches_of_small_source,
            resolve_all(config.text.shards),
            read_shard,
            batch_size=5,
            seed=3,
        ),
        collator=_collator(config, "text", TOKENIZER),
        seed=3,
        first=0,
    )
    made = batches.of_worker(0, 1, 1)
    ours, theirs = (itertools.islice(each, 3) for each in (made, pickle.loads(pickle.dumps(made))))
    for first, second in zip(ours, theirs, strict=True):
        assert first.batch is not None
        assert second.batch is not None
        assert same(first.batch, second.batch)


# Ranks


def ranks(config: DataConfig, count: int, world: int, **options: int) -> list[tuple[Batch, ...]]:
    """Each batch as its parts, in order of rank."""
    parts = [take(config, count, rank=rank, world=world, **options) for rank in range(world)]
    return list(zip(*parts, strict=True))


@pytest.fixture(params=["memory", "streamed"])
def kept(request, config, monkeypatch) -> DataConfig:
    """Both ways of reading a source; two shards of pairs."""
    if request.param == "streamed":
        monkeypatch.setattr("flava.data.streaming.IN_MEMORY_BYTES", 0)
        folder = Path(config.pairs.shards[0]).parent
        other = write_tar(folder / "more.tar", pair_files(range(21, 30)))
        pairs = replace(config.pairs, shards=(*config.pairs.shards, str(other)))
        config = replace(config, pairs=pairs, streams=2)
    return replace(config, text=replace(config.text, batch_size=4))


@pytest.mark.parametrize("world", [1, 2])
def test_the_ranks_parts_are_the_batch_of_one_process(kept, world):
    config = replace(kept, mismatch_probability=0.0)
    for whole, parts in zip(take(config, 16), ranks(config, 16, world), strict=True):
        assert sum((part.keys for part in parts), ()) == whole.keys
        for name, values in tensors(whole).items():
            if name.rpartition(".")[2] in ("pixels", "patch_mask") and values.dim() > 2:
                joined = torch.cat([tensors(part)[name] for part in parts])
                assert torch.equal(joined, values)


def test_ranks_exchange_texts_each_by_itself(config):
    """By draws of their own: else every rank's pairs were mismatched in the same rows."""
    pairs = replace(only(config, "pairs"), mismatch_probability=0.5)
    parts = ranks(pairs, 10, 2)
    matched = [
        [part.matched.tolist() for part in batch if isinstance(part, PairBatch)] for batch in parts
    ]
    assert any(first != second for first, second in matched)


def test_a_run_goes_on_with_another_number_of_ranks(kept):
    config = replace(kept, mismatch_probability=0.0)
    before = ranks(config, 14, 2)
    positions = {}
    for rank in range(2):
        with Loader(config, seed=3, rank=rank, world=2) as loader:
            list(itertools.islice(loader, 6))
            for name, each in loader.positions().items():
                positions.setdefault(name, {}).update(each)
    with Loader(config, seed=3, start_step=6, rank=0, world=1, positions=positions) as loader:
        for batch, parts in zip(itertools.islice(loader, 8), before[6:], strict=True):
            assert batch.keys == sum((part.keys for part in parts), ())


def test_batches_that_ranks_cannot_share_are_refused(config):
    with pytest.raises(ValueError, match="the data cannot be loaded") as error:
        Loader(config, seed=0, rank=0, world=4)
    lines = str(error.value).splitlines()[1:]
    assert lines == [
        "- pairs.batch_size is 6: use a multiple of the number of ranks, 4",
        "- text.batch_size is 5: use a multiple of the number of ranks, 4",
    ]


# Corrupt samples


def broken_pairs(tmp_path: Path, broken: range, total: int) -> SourceConfig:
    files = pair_files(range(total))
    for number in broken:
        files[f"{number:05d}.png"] = files[f"{number:05d}.png"][:50]
    shard = write_tar(tmp_path / "broken.tar", files)
    return SourceConfig(shards=(str(shard),), weight=1.0, batch_size=5)


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_samples_are_skipped_counted_and_named(config, tmp_path, caplog, workers):
    pairs = broken_pairs(tmp_path, range(3), 10)
    config = only(replace(config, pairs=pairs, workers=workers), "pairs")
    with caplog.at_level(logging.WARNING), Loader(config, seed=0) as loader:
        batches = list(itertools.islice(loader, 6))  # three epochs
        assert loader.skipped["pairs"].total() == 9
        assert set(loader.skipped["pairs"]) == {"image cannot be decoded"}
    for batch in batches:
        assert len(batch.keys) == 5
        assert not {"00000", "00001", "00002"} & set(batch.keys)
    # Once for each sample, not once for each time.
    assert len(caplog.records) == 3
    for key in ("00000", "00001", "00002"):
        assert f"pairs: skipped broken.tar: {key}: image cannot be decoded" in caplog.text


def test_only_the_first_ten_are_named(config, tmp_path, caplog):
    pairs = broken_pairs(tmp_path, range(15), 40)
    with caplog.at_level(logging.WARNING):
        take(only(replace(config, pairs=pairs), "pairs"), 8)
    assert len(caplog.records) == 10
    assert caplog.records[-1].message.endswith("further ones are only counted")


def test_an_empty_shard_among_others_is_a_warning(config, tmp_path, caplog):
    empty = write_tar(tmp_path / "empty.tar", {})
    assert config.pairs is not None
    pairs = replace(config.pairs, shards=(*config.pairs.shards, str(empty)))
    with caplog.at_level(logging.WARNING):
        take(only(replace(config, pairs=pairs), "pairs"), 5)
    assert "empty.tar: shard is empty" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_without_a_usable_sample_is_an_error_with_reasons(config, tmp_path, workers):
    pairs = broken_pairs(tmp_path, range(4), 4)
    config = only(replace(config, pairs=pairs, workers=workers), "pairs")
    with Loader(config, seed=0) as loader, pytest.raises(ValueError, match=r"data\.pairs") as error:
        next(loader)
    assert "5 times: image cannot be decoded" in str(error.value)
    assert "broken.tar: 0000" in str(error.value)


def test_an_empty_source_is_an_error_that_names_the_shard(config, tmp_path):
    empty = write_lines(tmp_path / "empty.jsonl", [])
    config = only(replace(config, text=replace(config.text, shards=(str(empty),))), "text")
    with pytest.raises(ValueError, match=r"data\.text.*shard is empty.*empty\.jsonl"):
        take(config, 1)


def test_a_source_with_most_samples_corrupt_is_an_error_in_the_end(config, tmp_path):
    pairs = broken_pairs(tmp_path, range(6), 10)
    config = only(replace(config, pairs=replace(pairs, batch_size=50)), "pairs")
    with Loader(config, seed=0) as loader:
        for _ in range(19):
            assert len(next(loader).keys) == 50
        with pytest.raises(ValueError, match=r"600 of 1000; 600 times: image cannot be decoded"):
            next(loader)


# Mistakes


def test_every_mistake_in_a_config_is_listed_at_once(tmp_path):
    config = DataConfig(
        pairs=SourceConfig(shards=(f"{tmp_path}/nowhere.tar",), weight=-1.0, batch_size=0),
        images=SourceConfig(shards=(), weight=1.0, batch_size=1),
        image=ImageTransformConfig(image_size=50, codebook_size=48),
        mask_probability=1.5,
        patch_mask_fraction=-0.1,
        pair_max_length=2,
        workers=-1,
        streams=0,
    )
    with pytest.raises(ValueError, match="the data cannot be loaded") as error:
        Loader(config, seed=-1, start_step=-2, accumulate=0)
    for expected in (
        "pairs.weight is -1.0: it should be greater than or equal to 0",
        "pairs.batch_size is 0: it should be greater than 0",
        "nowhere.tar",
        "images.shards is (): Tuple should have at least 1 item",
        "image.image_size is 50: use a multiple of the 6 patches",
        "mask_probability is 1.5: it should be less than or equal to 1",
        "patch_mask_fraction is -0.1: it should be greater than or equal to 0",
        "pair_max_length is 2: it should be greater than or equal to 3",
        "workers is -1: it should be greater than or equal to 0",
        "streams is 0: it should be greater than 0",
        "seed = -1",
        "start_step = -2",
        "accumulate = 0",
    ):
        assert expected in str(error.value)


def test_no_source_is_a_mistake():
    with pytest.raises(ValueError, match="no source: give one of pairs, images and text a weight"):
        Loader(DataConfig(), seed=0)


def test_a_source_of_no_weight_is_left_out(config):
    missing = SourceConfig(shards=("nowhere.tar",), weight=0.0, batch_size=1)
    without = replace(config, images=missing, workers=0)
    with Loader(without, seed=0) as loader:
        assert {type(next(loader)) for _ in range(20)} == {PairBatch, TextBatch}


# Worker processes


def test_closing_ends_the_workers(config):
    others = psutil.Process().children()  # such as multiprocessing's resource tracker
    loader = Loader(replace(config, workers=1), seed=0)
    next(loader)
    children = [child for child in psutil.Process().children() if child not in others]
    assert len(children) >= 3
    loader.close()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert len(gone) == len(children)
    with pytest.raises(StopIteration):
        next(loader)


def test_workers_outlive_an_interrupt_of_the_process_group(config):
    before = {child.pid for child in psutil.Process().children()}
    with Loader(only(replace(config, workers=1), "text"), seed=0) as loader:
        next(loader)
        (worker,) = (c for c in psutil.Process().children() if c.pid not in before)
        os.kill(worker.pid, signal.SIGINT)  # Ctrl-C reaches every process of the group
        time.sleep(0.2)
        assert worker.is_running()
        for _ in range(10):
            next(loader)


def test_more_shards_than_files_may_be_open_are_refused_at_the_start(config, monkeypatch):
    """And not first when a batch on its way from a worker finds no place."""
    monkeypatch.setattr("flava.data.streaming.IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(workers, "_allow_open_files", lambda: workers.OTHER_FILES)
    with pytest.raises(ValueError, match=r"data\.\w+ cannot be loaded: a process reads 1 shards"):
        Loader(config, seed=0)
    monkeypatch.setattr(workers, "_allow_open_files", lambda: workers.OTHER_FILES + 1)
    with Loader(config, seed=0) as batches:
        next(batches)
