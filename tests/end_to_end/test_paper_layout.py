"""The paper's recipe from published files to a best checkpoint, by the commands, on two ranks.

The model's geometry, the sizes of batches and the number of updates are tiny; nothing else is
another than at the paper's scale.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from flava.checkpoints.recognise import load_pretrained
from flava.core.precision import Precision
from flava.core.processes import end_with_parent
from flava.data import mixture
from flava.data.imagenet import WNIDS, validation_images
from flava.data.tokenizers import Vocabulary
from flava.evaluation.validators import imagenet_validator
from flava.models import Codebook
from flava.training.checkpoint import load_progress, save_checkpoint
from tests.commands import Command, in_this_process
from tests.data.shard_files import encoded
from tests.prepare.made import photo, write_coco, write_pairs
from tests.tiny_runs import CODEBOOK, figures, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CLASSES = 12
UPDATES, LOOK = 18, 6
FIGURE = "validation/imagenet_zero_shot_accuracy"
LOSSES = {
    "pairs": {"gc", "mmm_image", "mmm_text", "itm"},
    "images": {"mim"},
    "text": {"mlm"},
}
STREAMED = """
import sys
from flava.data import streaming
streaming.IN_MEMORY_BYTES = 0  # what is larger than memory at the paper's scale
from flava.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""
GEOMETRY = [
    "--model.image.image-size=16",
    "--model.image.patch-size=8",
    "--data.image.image-size=16",
    "--data.image.codebook-size=16",
    "--model.projection-width=8",
    *(
        f"--model.{part}.{field}={value}"
        for part in ("image", "text", "multimodal")
        for field, value in (("width", 16), ("depth", 1), ("heads", 2), ("mlp-width", 16))
    ),
    "--model.codebook.codes=16",
    "--model.codebook.width=8",
    "--model.codebook.blocks=1",
    "--model.codebook.decoder-input-width=8",
    *(f"--data.{source}.batch-size=8" for source in ("pairs", "images", "text")),
]


@pytest.fixture
def flava(capsys) -> Command:
    return in_this_process(capsys)


@pytest.fixture
def data(tmp_path: Path, flava: Command) -> Path:
    """Two sources of PMD, two splits of ImageNet, CCNews and BookCorpus, built by the commands."""
    files, root = tmp_path / "files", tmp_path / "data"
    ids = WNIDS.read_text().split()[:: 1000 // CLASSES][:CLASSES]
    for split, each in (("train", 20), ("val", 3)):
        for place, wnid in enumerate(ids):
            inside = files / split / wnid
            inside.mkdir(parents=True)
            for n in range(each):
                photo(1000 * place + n + 500 * (split == "val")).save(inside / f"{n}.JPEG", "JPEG")
    (files / "coco").mkdir()
    (files / "cc12m").mkdir()
    images = {f"{n:04d}.jpg": encoded(photo(n), "JPEG") for n in range(40)}
    said = [(name, f"caption {k} of photograph {name}") for name in images for k in range(5)]
    coco, cc12m = write_coco(files / "coco", images, said), write_pairs(files / "cc12m", 120)
    news = [f"News {n} began. It went on for {n} days! Then it was over." for n in range(300)]
    (files / "news.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in news))
    (files / "books.txt").write_text("\n".join(f"it was line {n} ." for n in range(4000)))
    for source, annotations, more, output in (
        ("coco", coco.annotations[0], [f"--images={coco.images}"], "pmd/coco"),
        ("cc12m", cc12m.annotations[0], [f"--images={cc12m.images}"], "pmd/cc12m"),
        ("imagenet-1k", files / "train", [], "imagenet-1k"),
        ("imagenet-1k", files / "val", [], "imagenet-1k-val"),
        ("ccnews", files / "news.jsonl", [], "ccnews"),
        ("bookcorpus", files / "books.txt", [], "bookcorpus"),
    ):
        built = flava(
            "data",
            "build",
            source,
            f"--annotations={annotations}",
            f"--output={root / output}",
            f"--rows-per-shard={500 if source == 'bookcorpus' else 20}",
            "--processes=1",
            *more,
        )
        assert built.status == 0, built.error
    assert len(list(root.glob("pmd/*/*.tar"))) > 10
    assert len(list(root.glob("imagenet-1k/*.tar"))) == CLASSES
    return root


def command(data: Path, output: Path, *more: object) -> list[str]:
    """The recipe on two ranks, by torchrun."""
    script = data.parent / "streamed.py"
    script.write_text(STREAMED)
    if not (data.parent / "codebook").exists():
        torch.manual_seed(0)
        save_checkpoint(data.parent, "codebook", Codebook(CODEBOOK))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    fields = [
        f"--data.root={data}",
        f"--output-dir={output}",
        f"--init.codebook={data.parent / 'codebook'}",
        f"--max-steps={UPDATES}",
        f"--validate-every={LOOK}",
        f"--checkpoint-every={LOOK}",
        f"--keep-last={UPDATES}",
    ]
    return [*launcher, str(script), "train", "flava", *GEOMETRY, *fields, *map(str, more)]


def run(arguments: Sequence[str]) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def killed_after(step: int, arguments: Sequence[str], output: Path) -> None:
    """The launcher and its ranks are killed as by the machine, once a checkpoint was written."""
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    deadline = time.monotonic() + 600
    try:
        while not (output / "checkpoints" / f"step-{step:06d}").is_dir():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_papers_recipe_from_files_to_the_best_checkpoint(data: Path, tmp_path: Path) -> None:
    through, parts = tmp_path / "through", tmp_path / "parts"
    said = run(command(data, through))
    assert f"validation: {3 * CLASSES} images of {CLASSES} classes of ImageNet-1k" in said

    # The mixture, and the losses of each kind of batch, which are finite.
    updates = [row for row in rows(through) if "batch" in row]
    weights = {"pairs": 0.70, "images": 0.15, "text": 0.15}
    expected = [mixture.choose(0, step, weights) for step in range(UPDATES)]
    assert [row["batch"] for row in updates] == expected
    assert set(expected) == set(LOSSES)
    for row in updates:
        named = {n.removeprefix("loss/") for n in row if n.startswith("loss/")} - {"total"}
        assert named == LOSSES[row["batch"]]
        assert all(np.isfinite(row[f"loss/{name}"]) for name in named)
    # At first a contrast of eight pairs, of both ranks, and codes and tokens of which all are as
    # likely.
    first = next(row for row in updates if row["batch"] == "pairs")
    assert first["loss/gc"] == pytest.approx(np.log(8), abs=0.7)
    assert first["loss/mmm_image"] == pytest.approx(np.log(CODEBOOK.codes), rel=0.1)
    assert first["loss/mmm_text"] == pytest.approx(
        np.log(Vocabulary.BERT.tokenizer().size), rel=0.1
    )

    # The validator's figure is what one process finds in the checkpoint; the first highest is best.
    looked = {row["step"]: row[FIGURE] for row in rows(through) if FIGURE in row}
    assert list(looked) == list(range(LOOK, UPDATES + 1, LOOK))
    images = validation_images((), str(data))
    validate = imagenet_validator(images, Precision.BF16, threads=1)
    last = load_pretrained(through / "checkpoints" / f"step-{UPDATES:06d}")
    torch.set_num_threads(1)
    assert validate(last, UPDATES) == {FIGURE.removeprefix("validation/"): looked[UPDATES]}
    best = max(looked, key=lambda step: looked[step])
    assert (through / "checkpoints" / "best").resolve().name == f"step-{best:06d}"

    # Killed, and gone on with: the same run.
    killed_after(LOOK, command(data, parts, "--resume"), parts)
    gone = load_progress(parts / "checkpoints" / "last").step
    assert LOOK <= gone < UPDATES
    run(command(data, parts, "--resume"))
    assert figures(parts) == figures(through)
    again = load_pretrained(parts / "checkpoints" / "last").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in last.state_dict().items())


def test_a_sharded_model_is_looked_at_as_a_whole_one_is(data: Path, tmp_path: Path) -> None:
    """36 images in batches of 64 are one rank's: the other takes part in its forward passes."""
    figures, losses = [], []
    for way in ("ddp", "fsdp"):
        output = tmp_path / way
        run(command(data, output, f"--parallel={way}", f"--max-steps={LOOK}"))
        figures += [row[FIGURE] for row in rows(output) if FIGURE in row]
        losses.append([row["loss/total"] for row in rows(output) if "loss/total" in row])
    assert len(figures) == 2
    assert figures[0] == figures[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
