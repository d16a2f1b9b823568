"""The smallest runs that are whole, and readers of what they leave behind."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flava.core.batch import Batch, ImageBatch, map_pixels
from flava.core.precision import Precision
from flava.data.data_config import DataConfig, SourceConfig
from flava.data.transforms import ImageTransformConfig
from flava.models import (
    Codebook,
    CodebookConfig,
    FlavaConfig,
    ImageConfig,
    MultimodalConfig,
    TextConfig,
)
from flava.objectives import CodebookObjectiveConfig, FlavaObjectiveConfig, LossOutput
from flava.training.initialization import InitConfig
from flava.training.optimizer import OptimizerConfig, ScheduleConfig
from flava.training.run import Run
from tests.data.shard_files import encoded, pair_files, picture, write_lines, write_tar

IMAGE = ImageTransformConfig(image_size=16, codebook_size=16)
CODEBOOK = CodebookConfig(codes=16, width=8, blocks=1, decoder_input_width=8)
TIMES = {
    "seconds",
    "data_seconds",
    "forward_seconds",
    "backward_seconds",
    "optimizer_seconds",
    "samples_per_second",
    "tokens_per_second",
    "tflops_per_second",
    "memory_gib",
}
"""What differs between two runs that are the same."""


def codebook_run(output_dir: Path, **changes: Any) -> Run:
    """A codebook's run; its data names no file that exists."""
    run = Run(
        recipe="codebook-tiny",
        output_dir=output_dir,
        max_steps=6,
        model=CODEBOOK,
        objective=CodebookObjectiveConfig(temperature_steps=10, kl_steps=10),
        data=DataConfig(
            images=SourceConfig(shards=("nowhere.tar",), weight=1.0, batch_size=4),
            image=IMAGE,
            workers=0,
        ),
        optimizer=OptimizerConfig(lr=1e-2),
        schedule=ScheduleConfig(warmup_steps=2),
        precision=Precision.FP32,
    )
    return replace(run, **changes)


def flava_run(output_dir: Path, data: DataConfig, **changes: Any) -> Run:
    run = Run(
        recipe="flava-tiny",
        output_dir=output_dir,
        max_steps=8,
        model=FlavaConfig(
            image=ImageConfig(
                image_size=16, patch_size=8, width=16, depth=1, heads=2, mlp_width=16
            ),
            text=TextConfig(width=16, depth=1, heads=2, mlp_width=16, max_length=12),
            multimodal=MultimodalConfig(width=16, depth=1, heads=2, mlp_width=16),
            projection_width=8,
            codebook=CODEBOOK,
        ),
        objective=FlavaObjectiveConfig(),
        data=data,
        optimizer=OptimizerConfig(lr=1e-2),
        schedule=ScheduleConfig(warmup_steps=2),
        init=InitConfig(codebook="no/such/run"),
    )
    return replace(run, **changes)


def flava_data(folder: Path, workers: int = 0) -> DataConfig:
    """Pairs, images and texts in shards of a few samples, which come again every few batches."""
    folder.mkdir(exist_ok=True)
    images = {f"i{n}.png": encoded(picture(n)) for n in range(7)}
    written = {
        "pairs": write_tar(folder / "pairs.tar", pair_files(range(9))),
        "images": write_tar(folder / "images.tar", images),
        "text": write_lines(folder / "text.jsonl", [f"sentence number {n}" for n in range(10)]),
    }

    def source(name: str) -> SourceConfig:
        return SourceConfig(shards=(str(written[name]),), weight=1.0, batch_size=4)

    return DataConfig(
        pairs=source("pairs"),
        images=source("images"),
        text=source("text"),
        image=IMAGE,
        mask_probability=0.5,
        pair_max_length=12,
        text_max_length=12,
        workers=workers,
    )


class MeanSquare:
    """A mean over the batch, so that equal parts of a batch average to the whole of it."""

    def __init__(self, model: Codebook) -> None:
        self.model = model
        self.steps: list[int] = []

    def __call__(self, batch: Batch) -> dict[str, LossOutput]:
        assert isinstance(batch, ImageBatch)
        logits = self.model.encoder(batch.codebook_pixels)
        target = batch.codebook_pixels.mean((1, 2, 3))
        return {
            "codes": LossOutput(
                (logits.mean((1, 2, 3)) - target).square().mean(), torch.tensor(0.25)
            ),
            "size": LossOutput(0.1 * logits.square().mean()),
        }

    def after_step(self, step: int) -> None:
        self.steps.append(step)


def image_batch(number: int, size: int = 4) -> ImageBatch:
    """The same batch for the same number."""
    draw = torch.Generator().manual_seed(number)
    return ImageBatch(
        keys=tuple(f"{number}-{i}" for i in range(size)),
        pixels=torch.randn(size, 3, 16, 16, generator=draw),
        codebook_pixels=map_pixels(torch.rand(size, 3, 16, 16, generator=draw)),
        patch_mask=torch.zeros(size, 2, 2, dtype=torch.bool),
    )


def image_batches(first: int = 0) -> Iterator[ImageBatch]:
    while True:
        yield image_batch(first)
        first += 1


def rows(folder: Path) -> list[dict[str, Any]]:
    """Every row of a run's metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def figures(folder: Path) -> list[dict[str, Any]]:
    """The same without what the clock says."""
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows(folder)]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, links followed once, without TensorBoard's."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts
    }


def folders(checkpoints: Path) -> set[str]:
    """The checkpoints themselves, hidden leftovers among them, without the links."""
    return {path.name for path in checkpoints.iterdir() if not path.is_symlink()}


def one_line(text: str) -> str:
    """Text as it reads, without the lines and frames of the command line's boxes."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", text)


WINDOW = {"data.image.image-size": 16, "data.image.codebook-size": 16, "data.workers": 0}
FIELDS = {"codes": 16, "width": 8, "decoder-input-width": 8}
TRANSFORMER = {"width": 16, "depth": 1, "heads": 2, "mlp-width": 16}
SOURCES = ("pairs", "images", "text")


def arguments(fields: dict[str, int]) -> list[str]:
    return [f"--{name}={value}" for name, value in fields.items()]


CODEBOOK_ARGUMENTS = arguments(
    WINDOW
    | {f"model.{name}": value for name, value in FIELDS.items()}
    | {"data.images.batch-size": 4}
)
"""`CODEBOOK` on the command line."""

FLAVA_ARGUMENTS = arguments(
    WINDOW
    | {"model.image.image-size": 16, "model.image.patch-size": 8, "model.projection-width": 8}
    | {f"model.codebook.{name}": value for name, value in FIELDS.items()}
    | {
        f"model.{part}.{name}": value
        for part in ("image", "text", "multimodal")
        for name, value in TRANSFORMER.items()
    }
    | {f"data.{source}.batch-size": 4 for source in SOURCES}
)
"""`flava_run` on the command line, but for its data and its longer texts."""
