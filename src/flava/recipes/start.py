"""From a run's configuration to a trained model: here model, data, losses and probe are joined."""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from flava.batch import Batch, Kind
from flava.data.loader import Loader
from flava.data.shards import resolve_all
from flava.data.tokenizer import Tokenizer
from flava.evaluation.held_out_loss import loss_probe
from flava.evaluation.probe import zero_shot_probe
from flava.model import (
    Codebook,
    CodebookConfig,
    Flava,
    FlavaConfig,
    ImageConfig,
    MaskedImage,
    MaskedImageConfig,
    MaskedText,
    MaskedTextConfig,
    TextConfig,
)
from flava.model.published.load import load_pretrained
from flava.model.published.own import build_model
from flava.objectives import (
    CodebookObjective,
    CodebookObjectiveConfig,
    FlavaObjective,
    FlavaObjectiveConfig,
    MaskedObjective,
    MaskedObjectiveConfig,
)
from flava.training.loop import Objective, Probe, Trainer
from flava.training.memory import keep_freed_memory
from flava.training.run import Run

log = logging.getLogger(__name__)

HELD_OUT_BATCHES, HELD_OUT_BATCH_SIZE = 4, 128
"""What a probe of masked modelling looks at, and holds in memory."""

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
        case FlavaObjectiveConfig() as config, Flava() as model:
            model.codebook.load_state_dict(load_codebook(run).state_dict())
            return FlavaObjective(config, model), zero_shot_probe(model.config)
        case MaskedObjectiveConfig(), MaskedImage() | MaskedText() as model:
            if isinstance(model, MaskedImage):
                model.codebook.load_state_dict(load_codebook(run).state_dict())
            return probed(run, MaskedObjective(model))
    raise AssertionError("Run checks that objective and model fit")


def probed(run: Run, objective: MaskedObjective) -> tuple[Objective, Probe | None]:
    """The objective with the probe of its loss, if there is something to probe it on."""
    if not run.held_out:
        return objective, None
    return objective, loss_probe(objective, held_out_batches(run), run.precision)


def held_out_batches(run: Run) -> list[Batch]:
    """Batches of the held-out shards, masked as in training, of whole images."""
    sources = {
        name: replace(
            source,
            shards=run.held_out,
            batch_size=min(source.batch_size, HELD_OUT_BATCH_SIZE),
        )
        for name, source in run.data.sources.items()
    }
    image = replace(run.data.image, crop_scale=(1.0, 1.0), flip_probability=0.0, colour_jitter=0.0)
    data = replace(run.data, image=image, workers=0, **sources)
    with Loader(data, seed=run.seed) as batches:
        return [next(batches) for _ in range(HELD_OUT_BATCHES)]


def misfits(run: Run) -> list[str]:
    """Where the data does not have the form that the model reads, one line each."""
    match run.model:
        case CodebookConfig():
            return unread(run, "a codebook", "images")
        case MaskedImageConfig(image=image):
            found = unread(run, "masked image modelling", "images") + image_misfits(run, image)
        case MaskedTextConfig(text=text):
            found = unread(run, "masked language modelling", "text") + text_misfits(run, text)
        case FlavaConfig(image=image, text=text):
            return text_misfits(run, text) + image_misfits(run, image)
    try:
        resolve_all(run.held_out)
    except (ValueError, OSError) as error:
        found.append(f"held_out: {error}")
    return found


def unread(run: Run, what: str, kind: Kind) -> list[str]:
    """Sources that a model of one kind of data does not read."""
    return [
        f"data.{name} is set, but {what} is trained on {kind} alone: leave it out"
        for name in ("pairs", "images", "text")
        if name in run.data.sources and name != kind
    ]


def text_misfits(run: Run, model: TextConfig) -> list[str]:
    """Texts that are too long for the text encoder, or have tokens that it does not know."""
    texts = (
        ("text_max_length", run.data.text, run.data.text_max_length),
        ("pair_max_length", run.data.pairs, run.data.pair_max_length),
    )
    found = [
        f"data.{name} is {length}, more than model.text.max_length {model.max_length}"
        for name, source, length in texts
        if source is not None and length > model.max_length
    ]
    if model.vocabulary_size < (tokens := Tokenizer().size):
        found.append(
            f"model.text.vocabulary_size is {model.vocabulary_size}, fewer than the "
            f"tokeniser's {tokens} token ids"
        )
    return found


def image_misfits(run: Run, model: ImageConfig) -> list[str]:
    """Images of another size or another grid of codes than the image encoder's."""
    image, found = run.data.image, []
    if image.image_size != model.image_size:
        found.append(
            f"data.image.image_size is {image.image_size}, model.image.image_size is "
            f"{model.image_size}: make them equal"
        )
    if image.grid != model.grid:
        found.append(
            f"data.image.codebook_size {image.codebook_size} makes {image.grid} codes a side, the "
            f"model has {model.grid} patches a side: use codebook_size {8 * model.grid}"
        )
    return found


def load_codebook(run: Run) -> Codebook:
    """The frozen codebook of a run that predicts its codes.

    Raises:
        ValueError: none is named, it is no codebook, or it is of another geometry.
        FileNotFoundError: there is none.
    """
    remedy = "train one by `flava train codebook-tiny` and give its folder with --codebook"
    if run.codebook is None:
        raise ValueError(
            f"codebook is not set, and the losses of images predict its codes: {remedy}"
        )
    name = run.codebook.removeprefix("shipped:")
    codebook = load_pretrained(SHIPPED / name if name != run.codebook else Path(run.codebook))
    if not isinstance(codebook, Codebook):
        raise ValueError(f"codebook {run.codebook} holds a {type(codebook).__name__}: {remedy}")
    assert isinstance(run.model, FlavaConfig | MaskedImageConfig)
    if codebook.config != run.model.codebook:
        raise ValueError(
            f"codebook {run.codebook} has another geometry than model.codebook:\n"
            f"  {codebook.config} in the file\n  {run.model.codebook} in the run"
        )
    return codebook
