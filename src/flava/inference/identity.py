"""Identifies a model and how it sees images, so that embeddings of two models are not mixed."""

import hashlib
import json
from dataclasses import asdict

from flava.checkpoints.digests import digest_chunks
from flava.inference.processor import Processor
from flava.models import Clip, Flava

ONLY_INITIAL = ("init_std", "token_init_std")
"""Fields of a model's configuration that only matter before its training."""


def identity(model: Flava | Clip, processor: Processor) -> str:
    """The SHA-256, in hexadecimal, of weights, geometry and the image encoder's view.

    It does not depend on the format that the model was loaded from, on the device, or on parts that
    the checkpoint does not hold.
    """
    geometry = {k: v for k, v in asdict(model.config).items() if k not in ONLY_INITIAL}
    settings = {"model": geometry, "image": asdict(processor.image)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    without = tuple(f"{part}." for part in model.missing_parts)
    state = model.state_dict()
    for part in digest_chunks({n: t for n, t in state.items() if not n.startswith(without)}):
        digest.update(part)
    return digest.hexdigest()
