"""Small data sets in the real formats, and small models that read real text."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from flava.core.precision import Precision
from flava.models import Clip, ClipConfig, ClipImageConfig, ClipTextConfig, Flava
from flava.suite.task import Settings
from tests.support import randomise, tiny_config

COLOURS = ("red", "green", "blue", "yellow")


def tiny_flava(seed: int = 0, std: float | None = 0.2) -> Flava:
    """With BERT's whole vocabulary; ``std`` None leaves it at its own initial weights."""
    torch.manual_seed(seed)
    config = tiny_config()
    text = replace(config.text, vocabulary_size=30_522, max_length=16)
    model = Flava(replace(config, text=text))
    if std is not None:
        randomise(model, std)
    return model.eval()


def tiny_clip(seed: int = 0, std: float | None = 0.2) -> Clip:
    """With CLIP's whole vocabulary."""
    torch.manual_seed(seed)
    image = ClipImageConfig(image_size=24, patch_size=6, width=32, depth=2, heads=4, mlp_width=48)
    text = ClipTextConfig(max_length=16, width=24, depth=2, heads=3, mlp_width=40)
    model = Clip(ClipConfig(image=image, text=text, projection_width=16))
    if std is not None:
        randomise(model, std)
    return model.eval()


def settings(root: Path, **changes: Any) -> Settings:
    """In full precision, with a cache beside the data."""
    made = Settings(data_root=root, cache=root / "cache", precision=Precision.FP32, batch_size=5)
    return replace(made, **changes)


def save_image(path: Path, colour: str, size: tuple[int, int] = (40, 30), mark: int = 0) -> None:
    """A field of one colour with a bar, so that pictures of a colour differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, colour)
    ImageDraw.Draw(image).rectangle((mark, 0, mark + 3, size[1] // 2), fill="white")
    image.save(path)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_json_lines(path: Path, content: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in content))


def flickr30k(root: Path, captions: Sequence[Sequence[str]], split: str = "test") -> None:
    """Karpathy's file as he made it, with another split beside the one that is asked for."""
    images = [
        {
            "sentids": [5 * i + j for j in range(len(each))],
            "imgid": i,
            "sentences": [
                {"tokens": text.lower().split(), "raw": text, "imgid": i, "sentid": 5 * i + j}
                for j, text in enumerate(each)
            ],
            "split": split,
            "filename": f"{i}.jpg",
        }
        for i, each in enumerate(captions)
    ]
    other = {**images[0], "imgid": 900, "split": "train", "filename": "none-such.jpg"}
    write_json(
        root / "flickr30k" / "dataset_flickr30k.json",
        {"images": [other, *images], "dataset": "flickr30k"},
    )
    for i in range(len(captions)):
        path = root / "flickr30k" / "flickr30k-images" / f"{i}.jpg"
        save_image(path, COLOURS[i % len(COLOURS)], mark=2 * i)


def vqa(
    root: Path, subset: str, asked: Sequence[tuple[int, int, str, Sequence[str]]], *, answered: bool
) -> None:
    """VQAv2's files of a subset; (question's id, image's id, question, ten answers) each.

    Images are made where there is none, of the colour that their number stands for.
    """
    folder = root / "vqav2"
    write_json(
        folder / f"v2_OpenEnded_mscoco_{subset}_questions.json",
        {
            "info": {"version": "2.0"},
            "task_type": "Open-Ended",
            "data_type": "mscoco",
            "license": {"name": "Creative Commons Attribution 4.0 International License"},
            "data_subtype": subset,
            "questions": [
                {"image_id": image, "question": text, "question_id": number}
                for number, image, text, _ in asked
            ],
        },
    )
    if answered:
        write_json(
            folder / f"v2_mscoco_{subset}_annotations.json",
            {
                "info": {"version": "2.0"},
                "license": {},
                "data_subtype": subset,
                "annotations": [annotation(*each) for each in asked],
                "data_type": "mscoco",
            },
        )
    images = subset.replace("test-dev", "test")
    for _, image, _, _ in asked:
        path = folder / images / f"COCO_{images}_{image:012d}.jpg"
        if not path.exists():
            save_image(path, COLOURS[image % len(COLOURS)], mark=image % 30)


def annotation(number: int, image: int, text: str, answers: Sequence[str]) -> dict[str, Any]:
    return {
        "question_type": " ".join(text.split()[:2]),
        "multiple_choice_answer": max(answers, key=list(answers).count),
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": i}
            for i, answer in enumerate(answers, 1)
        ],
        "image_id": image,
        "answer_type": "other",
        "question_id": number,
    }


def ten(answer: str, other: str = "") -> list[str]:
    """Ten answers, of which two are another one if it is given."""
    return [answer] * (8 if other else 10) + [other] * (2 if other else 0)
