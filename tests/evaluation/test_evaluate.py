from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flava.core.precision import Precision
from flava.evaluation.embedded_data import EmbeddedCorpus
from flava.evaluation.embedded_tasks import SPLITS, TASKS
from flava.evaluation.evaluate import EvaluationConfig, _evaluate, _untrained
from flava.evaluation.masked_tasks import patch_masks
from flava.evaluation.record import Evaluation, Pictures, load_evaluation, save_evaluation
from flava.models import (
    Dino,
    DinoConfig,
    EncoderModel,
    Flava,
    MaskedImageConfig,
    MaskedImageModel,
    MaskedTextConfig,
    MaskedTextModel,
)
from tests.data.shard_files import write_lines
from tests.evaluation.corpus import corpus, splits, tiny_geometry

EXACT = EvaluationConfig(seed=3, precision=Precision.FP32)


def tiny_model(seed: int) -> Flava:
    torch.manual_seed(seed)
    return Flava(tiny_geometry())


def run(
    model: EncoderModel, folder: Path, config: EvaluationConfig = EXACT
) -> tuple[Evaluation, Pictures]:
    return _evaluate(model, config=config, splits=splits(folder))


def test_the_untrained_model_is_its_own_baseline(tmp_path: Path) -> None:
    """Whatever goes into a figure goes into its baseline: they are equal where the models are."""
    model = _untrained(tiny_model(0), EXACT.seed)
    evaluation, _ = run(model, tmp_path)
    assert len(evaluation.figures) > 30
    for figure in evaluation.figures:
        assert figure.baselines["untrained"] == figure.value, figure.name


def test_another_model_has_other_figures_but_the_same_untrained_ones(tmp_path: Path) -> None:
    first, second = (run(tiny_model(seed), tmp_path)[0] for seed in (1, 2))
    moved = 0
    # The codebook is the model's own, so the targets of masked patches differ.
    kept = [figure for figure in first.figures if figure.task not in ("mim", "mmm_image")]
    for one in kept:
        other = second.figure(one.task, one.split, one.metric)
        assert other is not None
        assert one.baselines["untrained"] == other.baselines["untrained"]
        moved += one.value != other.value
    assert moved >= 5


def test_what_a_checkpoint_did_not_hold_is_left_out(tmp_path: Path) -> None:
    """And all else is as before. Hugging Face's files hold no decoder: nothing is drawn with it."""
    whole, _ = run(tiny_model(1), tmp_path)
    model = tiny_model(1)
    model.missing_parts = frozenset({"mim_head", "itm_head", "codebook.decoder"})
    partial, _ = run(model, tmp_path)
    kept = [figure for figure in whole.figures if figure.task not in ("mim", "itm")]
    assert list(partial.figures) == kept
    assert len(kept) < len(whole.figures)
    assert whole.examples.masked_images
    assert whole.examples.reconstructions
    assert not partial.examples.masked_images
    assert not partial.examples.reconstructions
    assert partial.examples.masked_texts == whole.examples.masked_texts
    assert partial.settings["missing_parts"] == ["codebook.decoder", "itm_head", "mim_head"]


def test_figures_do_not_depend_on_the_batch_size_or_the_time(tmp_path: Path) -> None:
    model = tiny_model(1)
    once, _ = run(model, tmp_path)
    torch.rand(5)
    again, _ = run(model, tmp_path, replace(EXACT, batch_size=7))
    assert once.figures == again.figures
    assert once.confusions == again.confusions


def test_half_precision_changes_little(tmp_path: Path) -> None:
    exact, _ = run(tiny_model(1), tmp_path)
    rough, _ = run(tiny_model(1), tmp_path, replace(EXACT, precision=Precision.BF16))
    apart = [
        abs(one.value - other.value)
        for one, other in zip(exact.figures, rough.figures, strict=True)
    ]
    assert np.mean(apart) < 0.05


def test_evaluation_leaves_the_model_and_the_random_numbers_as_they_were(tmp_path: Path) -> None:
    model = tiny_model(1).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    run(model, tmp_path)
    assert model.training
    assert torch.get_rng_state().equal(state)
    assert all(before[name].equal(tensor) for name, tensor in model.state_dict().items())


def test_an_evaluation_comes_back_from_its_files_as_it_was(tmp_path: Path) -> None:
    evaluation, pictures = run(tiny_model(1), tmp_path / "data")
    folder = tmp_path / "run"
    folder.mkdir()
    save_evaluation(evaluation, pictures, folder)
    assert load_evaluation(folder) == evaluation
    for name, picture in pictures.items():
        read = Image.open(folder / "evaluation" / f"{name}.png")
        assert np.array_equal(np.asarray(read), np.asarray(picture))


def test_examples_name_pictures_that_there_are_and_mark_what_is_right(tmp_path: Path) -> None:
    evaluation, pictures = run(tiny_model(1), tmp_path)
    examples = evaluation.examples
    for each in examples.images_for_captions:
        own = pictures[each.picture]
        for name, right in zip(each.results, each.right, strict=True):
            assert (pictures[name].tobytes() == own.tobytes()) == right
        assert any(each.right) == (each.rank <= len(each.results))
    for each in examples.captions_for_images:
        assert [caption == each.caption for caption in each.results] == list(each.right)
    for text in examples.masked_texts:
        assert text.sentence.count("[MASK]") == len(text.blanks)
        for blank in text.blanks:
            for guesses in (blank.with_image, blank.without_image):
                probabilities = [probability for _, probability in guesses]
                assert probabilities == sorted(probabilities, reverse=True)
                assert 0 < sum(probabilities) <= 1


def test_only_hidden_patches_are_filled_in(tmp_path: Path) -> None:
    model = tiny_model(1)
    evaluation, pictures = run(model, tmp_path)
    data = corpus(tmp_path, model.config)
    data.seed = EXACT.seed
    pairs = data.pairs("unseen_style")
    masks = patch_masks(pairs, EXACT.seed).repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert evaluation.examples.masked_images
    for each in evaluation.examples.masked_images:
        row = int(each.original.split("-")[1])
        original, *others = (
            np.asarray(pictures[name])
            for name in (each.original, each.masked, each.filled_alone, each.filled_with_caption)
        )
        seen = ~masks[row].numpy()
        for other in others:
            assert np.array_equal(original[seen], other[seen])
        assert (others[0][~seen] == 153).all()


def test_every_task_runs_on_a_split_that_there_is() -> None:
    assert {task.split for task in TASKS} <= SPLITS.keys()
    assert len({(task.name, task.split) for task in TASKS}) == len(TASKS)


def test_no_split_that_is_tested_on_was_trained_on() -> None:
    """Unseen styles with any concepts, and trained styles with concepts of another split."""
    for task in TASKS:
        for shard in SPLITS[task.split].shards:
            unseen_style = "pairs/twemoji-" in shard or "pairs/openmoji-" in shard
            assert unseen_style or shard.endswith(("-test.tar", "-test.jsonl")), shard


def test_a_missing_or_damaged_evaluation_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"evaluation.json is missing: run `flava evaluate"):
        load_evaluation(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"figures": [{"task": 1}]}')
    with pytest.raises(ValueError, match=r"is not an evaluation[\s\S]*run `flava evaluate"):
        load_evaluation(tmp_path)


def alone(whole: Flava, part: str) -> EncoderModel:
    """An encoder of the model, as a run of one modality leaves it."""
    config = whole.config
    if part == "image":
        alone = MaskedImageModel(MaskedImageConfig(image=config.image, codebook=config.codebook))
    elif part == "text":
        alone = MaskedTextModel(MaskedTextConfig(text=config.text))
    else:
        alone = Dino(DinoConfig(image=config.image, head_width=8, bottleneck=8, outputs=8))
    weights = whole.state_dict()
    missing = alone.load_state_dict(
        {name: weights[name] for name in alone.state_dict() if name in weights}, strict=False
    ).missing_keys
    assert all(name.startswith(("student.", "head.", "center")) for name in missing)
    return alone


@pytest.mark.parametrize(
    ("part", "tasks"),
    [
        ("image", {"linear_probe", "digits", "mim"}),
        ("dino", {"linear_probe", "digits"}),
        ("text", {"caption_groups", "parts_of_speech", "mlm", "mlm_captions"}),
    ],
)
def test_an_encoder_alone_is_measured_as_within_a_whole_model(
    tmp_path: Path, part: str, tasks: set[str]
) -> None:
    whole = tiny_model(1)
    expected, _ = run(whole, tmp_path)
    found, pictures = run(alone(whole, part), tmp_path)
    assert {figure.task for figure in found.figures} == tasks
    for figure in found.figures:
        same = expected.figure(figure.task, figure.split, figure.metric)
        assert same is not None
        assert (figure.value, figure.n) == (same.value, same.n)
        assert "untrained" in figure.baselines
    assert not found.examples.images_for_captions
    assert bool(pictures) == (part == "image")  # what its codebook draws


def test_texts_of_no_synset_are_named(tmp_path: Path) -> None:
    text = write_lines(tmp_path / "other.jsonl", ["a word"] * 8)
    rows = splits(tmp_path / "corpus")
    rows["wordnet_train"] = replace(rows["wordnet_train"], shards=(str(text),))
    with pytest.raises(ValueError, match="of wordnet_train is of no WordNet synset"):
        _evaluate(tiny_model(1), config=EXACT, splits=rows)


def test_a_split_after_another_shares_none_of_its_samples(tmp_path: Path) -> None:
    rows = splits(tmp_path)
    rows["first"] = replace(rows["validation"], name="first", limit=20)
    rows["second"] = replace(rows["validation"], name="second", limit=20, after="first")
    data = EmbeddedCorpus(rows, tiny_geometry(), seed=4)
    first, second = (set(data.pairs(name).keys) for name in ("first", "second"))
    assert len(first) == len(second) == 20
    assert first.isdisjoint(second)
