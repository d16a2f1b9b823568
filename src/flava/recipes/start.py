"""From a run's configuration to a trained model: here model, data, losses and probe are joined."""

import logging
from pathlib import Path

import torch

from flava.data.loader import DataConfig, Loader
from flava.data.tokenizer import Tokenizer
from flava.evaluation.probe import zero_shot_probe
from flava.model import Codebook, CodebookConfig, Dino, DinoConfig, Flava, FlavaConfig
from flava.model.published.load import load_pretrained
from flava.model.published.own import build_model
from flava.objectives import (
    CodebookObjective,
    CodebookObjectiveConfig,
    DinoObjective,
    DinoObjectiveConfig,
    FlavaObjective,
    FlavaObjectiveConfig,
)
from flava.training.loop import Objective, Probe, Trainer
from flava.training.memory import keep_freed_memory
from flava.training.run import Run

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "weights"
"""Small weights that come with the package, each made by the recipe of its name."""


def start(run: Run) -> None:
    """Train a run to its end, or go on with it.

    Raises:
        ValueError, FileNotFoundError: something in the configuration does not hold.
        Interrupted, FloatingPointError, OSError: as `Trainer.train`.
    """
    if mistakes := misfits(run) + [f"data.{problem}" for problem in run.data.problems()]:
        raise ValueError("the run cannot start:\n  " + "\n  ".join(mistakes))
    keep_freed_memory()
    torch.manual_seed(run.seed)
    objective, probe = join(run)
    trainer = Trainer(run, objective, probe)
    with Loader(
        run.data, seed=run.seed, start_step=trainer.step, accumulate=run.accumulate
    ) as batches:
        try:
            trainer.train(batches)
        finally:
            report_skipped(batches)


def report_skipped(batches: Loader) -> None:
    """How many samples were left out of each source, and why."""
    for name, reasons in batches.skipped.items():
        if reasons:
            counts = ", ".join(f"{count} times: {reason}" for reason, count in reasons.items())
            log.warning("data.%s: samples were skipped (%s)", name, counts)


def join(run: Run) -> tuple[Objective, Probe | None]:
    """The objective around a fresh model, and what is probed during training."""
    match run.objective, build_model(run.model):
        case CodebookObjectiveConfig() as config, Codebook() as model:
            return CodebookObjective(config, model), None
        case DinoObjectiveConfig() as config, Dino() as model:
            return DinoObjective(config, model, run.max_steps), None
        case FlavaObjectiveConfig() as config, Flava() as model:
            model.codebook.load_state_dict(load_codebook(run).state_dict())
            return FlavaObjective(config, model), zero_shot_probe(model.config)
    raise AssertionError("Run checks that objective and model fit")


def misfits(run: Run) -> list[str]:
    """Where the data does not have the form that the model reads, one line each."""
    match run.model:
        case FlavaConfig() as model:
            return misfits_of_crops(run.data) + misfits_of_flava(model, run.data)
        case CodebookConfig():
            return misfits_of_crops(run.data) + images_alone("a codebook", run.data)
        case DinoConfig() as model:
            return images_alone("DINO", run.data) + misfits_of_dino(model, run.data)


def images_alone(what: str, data: DataConfig) -> list[str]:
    return [
        f"data.{name} is set, but {what} is trained on images alone: leave it out"
        for name in ("pairs", "text")
        if name in data.sources
    ]


def misfits_of_crops(data: DataConfig) -> list[str]:
    return ["data.crops is set, which DINO alone reads: leave it out"] if data.crops else []


def misfits_of_dino(model: DinoConfig, data: DataConfig) -> list[str]:
    if data.crops is None:
        return ["data.crops is not set, and DINO is trained on them: give their sizes"]
    crops, image = data.crops, model.image
    found = []
    if crops.global_size != image.image_size:
        found.append(
            f"data.crops.global_size is {crops.global_size}, model.image.image_size is "
            f"{image.image_size}: make them equal"
        )
    if crops.local_size % image.patch_size:
        found.append(
            f"data.crops.local_size is {crops.local_size}: use a multiple of "
            f"model.image.patch_size {image.patch_size}"
        )
    return found


def misfits_of_flava(model: FlavaConfig, data: DataConfig) -> list[str]:
    image = data.image
    texts = (
        ("text_max_length", data.text, data.text_max_length),
        ("pair_max_length", data.pairs, data.pair_max_length),
    )
    found = [
        f"data.{name} is {length}, more than model.text.max_length {model.text.max_length}"
        for name, source, length in texts
        if source is not None and length > model.text.max_length
    ]
    if model.text.vocabulary_size < (tokens := Tokenizer().size):
        found.append(
            f"model.text.vocabulary_size is {model.text.vocabulary_size}, fewer than the "
            f"tokeniser's {tokens} token ids"
        )
    if image.image_size != model.image.image_size:
        found.append(
            f"data.image.image_size is {image.image_size}, model.image.image_size is "
            f"{model.image.image_size}: make them equal"
        )
    if image.grid != model.image.grid:
        found.append(
            f"data.image.codebook_size {image.codebook_size} makes {image.grid} codes a side, the "
            f"model has {model.image.grid} patches a side: use codebook_size {8 * model.image.grid}"
        )
    return found


def load_codebook(run: Run) -> Codebook:
    """The frozen codebook of a FLAVA run.

    Raises:
        ValueError: none is named, it is no codebook, or it is of another geometry.
        FileNotFoundError: there is none.
    """
    remedy = "train one by `flava train codebook-tiny` and give its folder with --codebook"
    if run.codebook is None:
        raise ValueError(
            f"codebook is not set, and FLAVA's image losses predict its codes: {remedy}"
        )
    name = run.codebook.removeprefix("shipped:")
    codebook = load_pretrained(SHIPPED / name if name != run.codebook else Path(run.codebook))
    if not isinstance(codebook, Codebook):
        raise ValueError(f"codebook {run.codebook} holds a {type(codebook).__name__}: {remedy}")
    assert isinstance(run.model, FlavaConfig)
    if codebook.config != run.model.codebook:
        raise ValueError(
            f"codebook {run.codebook} has another geometry than model.codebook:\n"
            f"  {codebook.config} in the file\n  {run.model.codebook} in the run"
        )
    return codebook
