"""From a run's configuration to a trained model: here model, data, losses and probe are joined."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from flava.checkpoints.digests import codes_name
from flava.checkpoints.reading import find_checkpoint
from flava.core.batch import Batch, Kind
from flava.core.distributed import local_world_size, process_group, rank, restart_count, world_size
from flava.core.processes import cores
from flava.data.imagenet import PLACES, LabelledImages, validation_images
from flava.data.loader import Loader
from flava.data.tokenizers import Vocabulary
from flava.evaluation.validators import (
    embedded_validator,
    imagenet_validator,
    loss_validator,
    read_validation_pairs,
    retrieval_validator,
)
from flava.models import (
    ClipConfig,
    CodebookConfig,
    DinoConfig,
    FlavaConfig,
    ImageConfig,
    MaskedImageConfig,
    MaskedTextConfig,
    TextConfig,
)
from flava.objectives import (
    ClipObjective,
    FlavaObjective,
)
from flava.objectives.objective import Objective, Validate
from flava.planning.costs import outlined_objective
from flava.planning.operations import Counted
from flava.prepare.sources import commands
from flava.recipes import RECIPES
from flava.training.checkpoint import last_checkpoint
from flava.training.initialization import InitReport, initialise, save_init_reports
from flava.training.launch import keep_freed_memory
from flava.training.methods import objective_of, predicts_codes
from flava.training.run import Run, Validator
from flava.training.run_folder import check
from flava.training.trainer import Trainer

log = logging.getLogger(__name__)

HELD_OUT_BATCHES, HELD_OUT_BATCH_SIZE = 4, 128
"""What a probe of masked modelling looks at, and holds in memory."""


def start(run: Run) -> None:
    """Train a run to its end, or go on with it; one of several ranks where there are several.

    Raises:
        ValueError, FileNotFoundError: something in the configuration does not hold.
        ConnectionError: another rank ended, or did not answer in time.
        Interrupted, FloatingPointError, OSError: as `Trainer.train`.
    """
    with process_group(run.timeout):
        # What was started again after a failure has a checkpoint to go on from.
        train_as_one(replace(run, resume=True) if restart_count() else run)


def train_as_one(run: Run) -> None:
    """What each rank does once it has met the others; errors as `start`."""
    problems = run.data.problems(partial(how_to_build, run.data.root))
    problems += run.data.sharing_problems(world_size())
    mistakes = misfits(run) + [f"data.{problem}" for problem in problems]
    check(run, mistakes + missing_stages(run))
    is_new = last_checkpoint(run.output_dir) is None
    keep_freed_memory()
    torch.manual_seed(run.seed)
    objective, probe = join(run)
    taken = take(run, objective) if is_new else []
    check_codes(run, objective.model)
    trainer = Trainer(run, objective, probe, Counted(run, partial(outlined_objective, run)))
    if taken and rank() == 0:
        save_init_reports(taken, run.output_dir)
    with Loader(
        run.data,
        seed=run.seed,
        start_step=trainer.step,
        accumulate=run.accumulate,
        marks=trainer.marks,
    ) as batches:
        try:
            trainer.train(batches, batches.marks)
        finally:
            report_skipped(batches)


def how_to_build(root: str, shards: str) -> list[str]:
    """The commands that build shards of the paper's data below ``root``, a line each."""
    base = root.rstrip("/")
    if not shards.startswith(f"{base}/"):
        return []
    built = commands(shards.removeprefix(f"{base}/"), base)
    return ["--data.root is where they are; where they are not yet:", *built] if built else []


def take(run: Run, objective: Objective) -> list[InitReport]:
    """Fill the model as ``run.init`` says, and show what was taken."""
    taken = initialise(objective.model, run.init)
    for each in taken if rank() == 0 else ():
        print(f"initialised: {each}")
    return taken


def check_codes(run: Run, model: nn.Module) -> None:
    """Raises ValueError: the stored codes are another codebook's than the model's."""
    stored, codebook = run.data.image.stored_codes, getattr(model, "codebook", None)
    if stored is None or codebook is None or stored == (name := codes_name(codebook)):
        return
    raise ValueError(
        f"data.image.stored_codes is {stored}, but those of init.codebook {run.init.codebook} are "
        f"called {name}: run `flava data tokenize` with that codebook, or name the other one"
    )


def report_skipped(batches: Loader) -> None:
    """How many samples were left out of each source, and why."""
    for name, reasons in batches.skipped.items():
        if reasons:
            counts = ", ".join(f"{count} times: {reason}" for reason, count in reasons.items())
            log.warning("data.%s: samples were skipped (%s)", name, counts)


def join(run: Run) -> tuple[Objective, Validate | None]:
    """The objective around a fresh model, and what is probed during training."""
    objective = objective_of(run)
    return objective, probe_of(run, objective)


def probe_of(run: Run, objective: Objective) -> Validate | None:
    """What looks at the run every ``validate_every`` updates: ``run.validator``.

    Raises:
        FileNotFoundError, ValueError: what it reads is not there, or does not hold.
    """
    match run.validator:
        case Validator.IMAGENET:
            images = imagenet_images(run)
            if rank() == 0:
                print(f"validation: {images}")
            return imagenet_validator(images, run.precision, threads=own_threads())
        case Validator.PAIRS:
            pairs = read_validation_pairs(run.data.located(run.validation))
            return retrieval_validator(pairs, run.precision, threads=own_threads())
        case Validator.EMBEDDED:
            assert isinstance(objective, FlavaObjective | ClipObjective)  # Run checks it
            return embedded_validator(objective.model.config)
        case Validator.LOSS:
            return loss_validator(objective, held_out_batches(run), run.precision)
        case Validator.NONE:
            return None


def imagenet_images(run: Run) -> LabelledImages:
    """Errors as `validation_images`."""
    return validation_images(run.data.located(run.validation), run.data.root)


def own_threads() -> int:
    """Cores of the machine for each of its ranks."""
    return max(1, cores() // local_world_size())


def held_out_batches(run: Run) -> list[Batch]:
    """Batches of the held-out shards, masked as in training, of whole images."""
    sources = {
        name: replace(
            source,
            shards=run.validation,
            batch_size=min(source.batch_size, HELD_OUT_BATCH_SIZE),
        )
        for name, source in run.data.sources.items()
    }
    image = replace(run.data.image, crop_scale=(1.0, 1.0), flip_probability=0.0, colour_jitter=0.0)
    data = replace(run.data, image=image, workers=0, **sources)
    # All of them on every rank: all must find the same figure.
    with Loader(data, seed=run.seed, rank=0, world=1) as batches:
        return [next(batches) for _ in range(HELD_OUT_BATCHES)]


def misfits(run: Run) -> list[str]:
    """Where data or sources do not have the form that the model reads, one line each."""
    found = model_misfits(run)
    if run.data.crops is not None and not isinstance(run.model, DinoConfig):
        found.append("data.crops is set, which DINO alone reads: leave it out")
    return found + validation_misfits(run)


def validation_misfits(run: Run) -> list[str]:
    """What the validator reads and is not there, with the commands that build it."""
    if run.validator is not Validator.IMAGENET:
        remedy = partial(how_to_build, run.data.root)
        return [f"validation: {problem}" for problem in run.data.missing(run.validation, remedy)]
    try:
        imagenet_images(run)
    except (OSError, ValueError) as error:
        root = run.data.root.rstrip("/")
        lines = [
            f"validator is imagenet: {error}. Build them, name others with --validation (a folder "
            "of class folders, tars, Parquet), or choose another --validator (pairs, none):",
            *commands(PLACES[0], root),
        ]
        return ["\n    ".join(lines)]
    return []


def model_misfits(run: Run) -> list[str]:
    """Those of the data against the model."""
    match run.model:
        case CodebookConfig():
            return unread(run, "a codebook", "images")
        case DinoConfig() as model:
            return unread(run, "DINO", "images") + crop_misfits(run, model)
        case ClipConfig(image=image, text=text):
            found = unread(run, "CLIP", "pairs") + masked_misfits(run)
            return found + text_misfits(run, text, Vocabulary.CLIP) + size_misfits(run, image)
        case MaskedImageConfig(image=image):
            found = unread(run, "masked image modelling", "images")
            return found + size_misfits(run, image) + code_misfits(run, image)
        case MaskedTextConfig(text=text):
            return unread(run, "masked language modelling", "text") + text_misfits(run, text)
        case FlavaConfig(image=image, text=text):
            return text_misfits(run, text) + size_misfits(run, image) + code_misfits(run, image)


def masked_misfits(run: Run) -> list[str]:
    """Masks on pairs that no loss of the model reads."""
    if not run.data.mask_pairs:
        return []
    return ["data.mask_pairs is True, but CLIP is trained on whole pairs: set it to False"]


def unread(run: Run, what: str, kind: Kind) -> list[str]:
    """Sources that a model of one kind of data does not read."""
    return [
        f"data.{name} is set, but {what} is trained on {kind} alone: leave it out"
        for name in ("pairs", "images", "text")
        if name in run.data.sources and name != kind
    ]


def crop_misfits(run: Run, model: DinoConfig) -> list[str]:
    """Crops that DINO's encoder does not read."""
    if (crops := run.data.crops) is None:
        return ["data.crops is not set, and DINO is trained on them: give their sizes"]
    image = model.image
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


def text_misfits(run: Run, model: TextConfig, wanted: Vocabulary = Vocabulary.BERT) -> list[str]:
    """Texts that are too long for the text encoder, or of tokens that it does not know."""
    texts = (
        ("text_max_length", run.data.text, run.data.text_max_length),
        ("pair_max_length", run.data.pairs, run.data.pair_max_length),
    )
    found = [
        f"data.{name} is {length}, more than model.text.max_length {model.max_length}"
        for name, source, length in texts
        if source is not None and length > model.max_length
    ]
    if run.data.vocabulary is not wanted:
        found.append(
            f"data.vocabulary is {run.data.vocabulary.value}, but a {type(run.model).__name__} "
            f"reads {wanted.value}'s tokens: set it to {wanted.value}"
        )
    elif model.vocabulary_size < (tokens := wanted.tokenizer().size):
        found.append(
            f"model.text.vocabulary_size is {model.vocabulary_size}, fewer than the "
            f"tokeniser's {tokens} token ids"
        )
    return found


def size_misfits(run: Run, model: ImageConfig) -> list[str]:
    """Images of another size than the image encoder's."""
    if (size := run.data.image.image_size) == model.image_size:
        return []
    return [
        f"data.image.image_size is {size}, model.image.image_size is {model.image_size}: make "
        "them equal"
    ]


def code_misfits(run: Run, model: ImageConfig) -> list[str]:
    """Codes that do not stand for a patch each, or that come from nowhere."""
    if not predicts_codes(run):
        return []
    found, image = [], run.data.image
    if image.grid != model.grid:
        found.append(
            f"data.image.codebook_size {image.codebook_size} makes {image.grid} codes a side, the "
            f"model has {model.grid} patches a side: use codebook_size {8 * model.grid}"
        )
    if run.init.codebook is None:
        found.append(
            "init.codebook is not set, and the losses of masked images predict its codes: train "
            "one by `flava train codebook-tiny`, and give its folder with --init.codebook"
        )
    return found


def missing_stages(run: Run) -> list[str]:
    """Sources that a recipe makes, and that are not there yet: a line each, with the command."""
    found = []
    for field, source in run.init.given.items():
        stage = RECIPES.get(Path(source).name)
        if stage is None or stage().output_dir != Path(source):
            continue
        try:
            find_checkpoint(Path(source))
        except FileNotFoundError:
            found.append(
                f"init.{field}: there is no checkpoint in {source}: run `flava train "
                f"{Path(source).name}` first, or give --init.{field}"
            )
    # A run that goes on needs none of them.
    return [] if found and last_checkpoint(run.output_dir) else found
