"""Starts a pretraining run: makes model, data, objective and validator, and trains the model."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from flava.checkpoints.digests import codebook_digest
from flava.checkpoints.reading import find_checkpoint
from flava.core.batch import Batch
from flava.core.distributed import local_world_size, process_group, rank, restart_count, world_size
from flava.core.processes import cores
from flava.data.data_config import Remedy
from flava.data.imagenet import PLACES, validation_images
from flava.data.loader import Loader
from flava.evaluation.validators import (
    embedded_validator,
    imagenet_validator,
    loss_validator,
    read_validation_pairs,
    retrieval_validator,
)
from flava.methods import Validator, method_of
from flava.objectives.objective import Objective, Validate
from flava.planning.operations import WorkCounter
from flava.prepare.sources import commands
from flava.recipes import RECIPES
from flava.training.checkpoint import last_checkpoint
from flava.training.initialization import initialise, save_init_reports
from flava.training.launch import keep_freed_memory
from flava.training.run import Run
from flava.training.run_folder import check
from flava.training.trainer import Trainer

log = logging.getLogger(__name__)

VALIDATION_BATCHES, VALIDATION_BATCH_SIZE = 4, 128
"""How much the validator of masked modelling reads, and keeps in memory."""


def start(run: Run) -> None:
    """Train a run to its end, or resume it; called on each rank where there are several.

    Raises:
        ValueError, FileNotFoundError: something is wrong with the configuration or the data.
        ConnectionError: another rank ended, or did not answer in time.
        Interrupted, FloatingPointError, OSError: as `Trainer.train`.
    """
    with process_group(run.timeout):
        # Processes that are started again after a failure resume from the last checkpoint.
        _train(replace(run, resume=True) if restart_count() else run)


def _train(run: Run) -> None:
    """Train on this rank, when all ranks are connected; errors as `start`."""
    method, data, how = method_of(run.model), run.data, partial(_how_to_build, run.data.root)
    errors = method.data_errors(run) + _validation_errors(run, how)
    errors += [f"data.{each}" for each in data.problems(how) + data.sharing_problems(world_size())]
    check(run, errors + _missing_stages(run))
    is_new = last_checkpoint(run.output_dir) is None
    keep_freed_memory()
    torch.manual_seed(run.seed)
    objective = method.build(run)
    validator = _build_validator(run, objective)
    reports = initialise(objective.model, run.init) if is_new else []
    for report in reports if rank() == 0 else ():
        print(f"initialised: {report}")
    _check_codes(run, objective.model)
    trainer = Trainer(run, objective, validator, WorkCounter(run))
    if reports and rank() == 0:
        save_init_reports(reports, run.output_dir)
    with Loader(
        data,
        seed=run.seed,
        start_step=trainer.step,
        accumulate=run.accumulate,
        positions=trainer.data_positions,
    ) as batches:
        try:
            trainer.train(batches, batches.positions)
        finally:
            for name, reasons in batches.skipped.items():
                counts = ", ".join(f"{count} times: {reason}" for reason, count in reasons.items())
                if reasons:
                    log.warning("data.%s: samples were skipped (%s)", name, counts)


def _build_validator(run: Run, objective: Objective) -> Validate | None:
    """The function that measures the model every ``validate_every`` steps, by ``run.validator``.

    Raises:
        FileNotFoundError, ValueError: the data that it reads is missing or cannot be used.
    """
    threads = max(1, cores() // local_world_size())
    match run.validator:
        case Validator.IMAGENET:
            images = validation_images(run.data.located(run.validation), run.data.root)
            if rank() == 0:
                print(f"validation: {images}")
            return imagenet_validator(images, run.precision, threads=threads)
        case Validator.PAIRS:
            pairs = read_validation_pairs(run.data.located(run.validation))
            return retrieval_validator(pairs, run.precision, threads=threads)
        case Validator.EMBEDDED:
            return embedded_validator(objective.model.config)
        case Validator.LOSS:
            return loss_validator(objective, _validation_batches(run), run.precision)
        case Validator.NONE:
            return None


def _validation_batches(run: Run) -> list[Batch]:
    """Batches of the shards of ``validation``, masked as in training, but of whole images."""
    sources = {
        name: replace(
            source,
            shards=run.validation,
            batch_size=min(source.batch_size, VALIDATION_BATCH_SIZE),
        )
        for name, source in run.data.sources.items()
    }
    image = replace(run.data.image, crop_scale=(1.0, 1.0), flip_probability=0.0, colour_jitter=0.0)
    data = replace(run.data, image=image, workers=0, **sources)
    # Every rank reads all of them, so that all ranks find the same loss.
    with Loader(data, seed=run.seed, rank=0, world=1) as batches:
        return [next(batches) for _ in range(VALIDATION_BATCHES)]


def _validation_errors(run: Run, how: Remedy) -> list[str]:
    """The data that the validator reads and that is missing, with the commands that build it."""
    if run.validator is not Validator.IMAGENET:
        return [f"validation: {each}" for each in run.data.missing(run.validation, how)]
    try:
        validation_images(run.data.located(run.validation), run.data.root)
    except (OSError, ValueError) as error:
        lines = [
            f"validator is imagenet: {error}. Build them, name others with --validation (a folder "
            "of class folders, tars, Parquet), or choose another --validator (pairs, none):",
            *commands(PLACES[0], run.data.root.rstrip("/")),
        ]
        return ["\n    ".join(lines)]
    return []


def _how_to_build(root: str, shards: str) -> list[str]:
    """The commands that build shards of the paper's data below ``root``, one line each."""
    base = root.rstrip("/")
    if not shards.startswith(f"{base}/"):
        return []
    built = commands(shards.removeprefix(f"{base}/"), base)
    return ["--data.root is where they are; where they are not yet:", *built] if built else []


def _check_codes(run: Run, model: nn.Module) -> None:
    """Raises ValueError: the stored codes were made by another codebook than the model's."""
    stored, codebook = run.data.image.stored_codes, getattr(model, "codebook", None)
    if stored is None or codebook is None or stored == (name := codebook_digest(codebook)):
        return
    raise ValueError(
        f"data.image.stored_codes is {stored}, but those of init.codebook {run.init.codebook} are "
        f"called {name}: run `flava data tokenize` with that codebook, or name the other one"
    )


def _missing_stages(run: Run) -> list[str]:
    """Sources of initial weights that another recipe trains, and that do not exist yet: one line
    each, with the command."""
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
    # A run that is resumed needs none of them.
    return [] if found and last_checkpoint(run.output_dir) else found
