"""The contenders: our model and the published implementations of FLAVA, with the same weights."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import FlavaForPreTraining

from benchmarks import inputs
from flava.checkpoints import flava_huggingface, flava_torchmultimodal
from flava.core.batch import Batch, CodedImageBatch, ImageBatch, PairBatch, TextBatch
from flava.models import Flava, FlavaConfig
from flava.objectives import FlavaObjective, FlavaObjectiveConfig
from flava.training.optimizer import OptimizerConfig, build_optimizer, clip_gradients

Losses = Mapping[str, Tensor]
SAME = ("mmm_image", "mmm_text", "itm", "mim", "mlm")
"""Losses that have the same name in the published implementations."""
LOSSES = frozenset(("gc", *SAME))


@dataclass(frozen=True)
class Contender:
    """A model that trains on our batches."""

    name: str
    model: nn.Module
    losses: Callable[[Batch], Losses]
    """The losses of a batch, by our names."""


def ours(model: Flava) -> Contender:
    objective = FlavaObjective(FlavaObjectiveConfig(), model)
    return Contender(
        "flava",
        model,
        lambda batch: {name: term.loss for name, term in objective(batch).items()},
    )


HUGGING_FACE = {"gc": "global_contrastive", **{name: name for name in SAME}}


def hugging_face(model: Flava) -> Contender:
    """transformers' model, loaded from files that we write.

    Captions of pairs are padded to 77 tokens, as its processor does; texts alone to the longest.
    """
    with tempfile.TemporaryDirectory() as folder:
        flava_huggingface.write(model, Path(folder))
        theirs = FlavaForPreTraining.from_pretrained(folder, local_files_only=True)
    assert isinstance(theirs, FlavaForPreTraining)
    theirs.train()

    def losses(batch: Batch) -> Losses:
        arguments: dict[str, Any] = {}
        image, text = sides(batch)
        if image is not None:
            arguments["pixel_values"] = image.pixels
            arguments["bool_masked_pos"] = image.patch_mask.clone()  # the model changes it in place
            if isinstance(image, CodedImageBatch):
                arguments["mim_labels"] = image.codes.clone()
            else:
                arguments["codebook_pixel_values"] = image.codebook_pixels
        if text is not None:
            text = inputs.padded(text, inputs.PADDED) if image is not None else text
            arguments |= {
                "input_ids": text.input_ids,
                "input_ids_masked": text.input_ids_masked,
                "attention_mask": text.attention_mask.long(),
                "mlm_labels": text.input_ids.where(text.token_mask, -100),
            }
        if isinstance(batch, PairBatch):
            arguments["itm_labels"] = batch.matched.long()
        found = theirs(**arguments, return_loss=True).loss_info
        named = {name: getattr(found, other, None) for name, other in HUGGING_FACE.items()}
        return {name: loss for name, loss in named.items() if loss is not None}

    return Contender("transformers", theirs, losses)


TORCHMULTIMODAL = {
    "gc": "global_contrastive_loss",
    **{name: f"{name}_loss" for name in SAME},
}


def torch_multimodal(model: Flava) -> Contender:
    """TorchMultimodal's model, loaded from files that we write.

    Captions of pairs are padded to 77 tokens. Its multimodal encoder attends to padding.
    """
    from torchmultimodal.models.flava import model as published
    from torchmultimodal.modules.losses.flava import FLAVAPretrainingLoss

    with tempfile.TemporaryDirectory() as folder:
        flava_torchmultimodal.write(model, Path(folder))
        geometry = json.loads((Path(folder) / "config.json").read_text())
        state = torch.load(Path(folder) / "flava_for_pretraining.pt", weights_only=True)
    theirs = published.FLAVAForPreTraining(
        model=published.flava_model(**geometry),
        image_codebook=published.DalleVAEEncoder(pretrained=False),
        loss=FLAVAPretrainingLoss(hidden_size=model.config.multimodal.width),
    )
    theirs.load_state_dict(state, strict=True)
    theirs.train()

    def losses(batch: Batch) -> Losses:
        arguments: dict[str, Any] = {}
        image, text = sides(batch)
        if image is not None:
            assert isinstance(image, ImageBatch), "TorchMultimodal always computes codes"
            arguments |= {
                "image": image.pixels,
                "image_for_codebook": image.codebook_pixels,
                "image_patches_mask": image.patch_mask,
            }
        if text is not None:
            text = inputs.padded(text, inputs.PADDED) if image is not None else text
            arguments |= {
                "text": text.input_ids,
                "text_masked": text.input_ids_masked,
                "mlm_labels": text.input_ids.where(text.token_mask, -1),
            }
        if isinstance(batch, PairBatch):
            arguments["itm_labels"] = batch.matched.long()
        found = theirs(**arguments, skip_unmasked_mm_encoder=True).losses
        named = {name: found[other] for name, other in TORCHMULTIMODAL.items()}
        return {name: loss for name, loss in named.items() if loss is not None}

    return Contender("torchmultimodal", theirs, losses)


def sides(batch: Batch) -> tuple[ImageBatch | CodedImageBatch | None, TextBatch | None]:
    match batch:
        case PairBatch():
            return batch.image, batch.text
        case ImageBatch() | CodedImageBatch():
            return batch, None
        case TextBatch():
            return None, batch
    raise TypeError(f"no batch of pretraining: {type(batch)}")


def training(contender: Contender) -> Callable[..., None]:
    """A function that does a training step, with our optimizer and gradient clipping."""
    config = OptimizerConfig(lr=1e-5)
    optimizer = build_optimizer(config, contender.model)
    trained = [p for p in contender.model.parameters() if p.requires_grad]

    def step(batch: Batch, precision: torch.dtype = torch.bfloat16) -> None:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            losses = contender.losses(batch)
        torch.stack(list(losses.values())).sum().backward()
        clip_gradients(config, trained)
        optimizer.step()
        optimizer.zero_grad()

    return step


def base_model() -> Flava:
    """FLAVA in the paper's size, with newly initialised weights."""
    torch.manual_seed(0)
    return Flava(FlavaConfig()).train()


@torch.no_grad()
def agree(one: Contender, peer: Contender, batch: Batch, names: frozenset[str] = LOSSES) -> None:
    """Raises AssertionError if losses differ by more than rounding."""
    found, expected = one.losses(batch), peer.losses(batch)
    for name in names & expected.keys():
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-4, atol=0, msg=lambda m, n=name: f"{n}: {m}"
        )
