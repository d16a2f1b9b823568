from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flava.core.precision import Precision
from flava.data.tokenizers import ClipTokenizer, Tokenizer
from flava.evaluation.embedded_data import CLASS_OF, CLASSES, TEMPLATES
from flava.evaluation.embedded_tasks import SPLITS, TASKS
from flava.evaluation.validators import embedded_validator
from flava.models import Clip, ClipConfig, ClipImageConfig, ClipTextConfig, Flava
from tests.evaluation.corpus import corpus, splits, tiny_geometry


def flava() -> Flava:
    return Flava(tiny_geometry())


def clip() -> Clip:
    transformer: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2, "mlp_width": 16}
    image = ClipImageConfig(image_size=16, patch_size=4, **transformer)
    text = ClipTextConfig(max_length=24, **transformer)
    return Clip(ClipConfig(image=image, text=text, projection_width=8))


@pytest.mark.parametrize(
    ("make", "tokenizer"), [(flava, Tokenizer()), (clip, ClipTokenizer())], ids=["FLAVA", "CLIP"]
)
def test_the_probe_measures_what_one_gets_image_by_image(
    tmp_path: Path,
    make: Callable[[], Flava | Clip],
    tokenizer: Tokenizer | ClipTokenizer,
) -> None:
    """Independently: each image, caption and prompt encoded alone, compared by loops."""
    model = make().train()
    probe = embedded_validator(model.config, splits=splits(tmp_path), precision=Precision.FP32)
    state = torch.get_rng_state()
    figures = probe(model, 5)
    assert list(figures) == ["zero_shot_accuracy", "retrieval_r@5"]
    assert model.training
    assert torch.get_rng_state().equal(state)

    def text(words: str) -> np.ndarray:
        ids, attention_mask = tokenizer.batch([words], model.config.text.max_length)
        return model.encode_text(ids, attention_mask)[0].detach().numpy()

    pairs = corpus(tmp_path, model.config).pairs("validation")
    images = [model.encode_image(p[None])[0].detach().numpy() for p in pairs.pixels]
    classes = []
    for each in CLASSES:
        mean = np.mean([text(t.format(n)) for n in each.names for t in TEMPLATES], axis=0)
        classes.append(mean / np.linalg.norm(mean))
    hits = [
        int(np.argmax([image @ c for c in classes])) == CLASS_OF[subgroup]
        for image, subgroup in zip(images, pairs.subgroups, strict=True)
    ]
    assert figures["zero_shot_accuracy"] == np.mean(hits)

    # Both ways, one caption a concept: all styles have the same.
    captions = dict(zip(pairs.concepts, pairs.captions.texts, strict=True))
    embedded = {concept: text(caption) for concept, caption in captions.items()}
    to_text = []
    for image, concept in zip(images, pairs.concepts, strict=True):
        order = sorted(embedded, key=lambda c, image=image: -float(image @ embedded[c]))
        to_text.append(concept in order[:5])
    to_image = []
    for concept, query in embedded.items():
        order = sorted(range(len(images)), key=lambda i, query=query: -float(query @ images[i]))
        to_image.append(any(pairs.concepts[i] == concept for i in order[:5]))
    expected = (np.mean(to_text) + np.mean(to_image)) / 2
    assert abs(figures["retrieval_r@5"] - expected) < 1e-9


def test_the_probe_reads_no_test_data() -> None:
    assert all(task.split != "validation" for task in TASKS)
    assert all(shard.endswith("-val.tar") for shard in SPLITS["validation"].shards)
    assert not any("twemoji" in s or "openmoji" in s for s in SPLITS["validation"].shards)
