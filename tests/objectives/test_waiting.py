"""No loss waits for the device: what is on it are tensors without numbers here, of which none can
be asked for, while masks are on the host, as in training."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from flava.core.batch import (
    Batch,
    CodedImageBatch,
    ImageInputs,
    PairBatch,
    PairInputs,
    TextInputs,
    WholePairBatch,
    map_tensors,
)
from flava.models import Flava
from flava.objectives import FlavaObjective, FlavaObjectiveConfig
from flava.planning.costs import _fake_tensor, _make_parameters_fake, aten
from tests.support import random_images, random_pairs, random_texts, tiny_config

CONFIG = tiny_config()
LENGTHS = [6, 3, 5, 2]
ASKING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default}


class NoWaiting(TorchDispatchMode):
    """Fails where the host needs a number, or a number of places, of the device."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        on_device = isinstance(args[0], FakeTensor) if args else False
        assert not (on_device and func in ASKING), f"{func} waits for the device"
        if func is aten.index.Tensor and on_device:
            # Truths make their number of places known, and what is on the host is copied at once.
            assert all(
                each is None or (isinstance(each, FakeTensor) and each.dtype != torch.bool)
                for each in args[1]
            ), "an index waits for the device"
        return func(*args, **(kwargs or {}))


def on_device(batch: Batch, *, masks: bool = False) -> Batch:
    """As `to_device` moves it; or with its masks."""

    def move(value: Tensor) -> Tensor:
        return value if value.dtype == torch.bool and not masks else _fake_tensor(value)

    return map_tensors(batch, move)


def batches() -> dict[str, Batch]:
    pairs = random_pairs(CONFIG, LENGTHS, torch.tensor([True, False, True, True]))
    images, texts = pairs.image, pairs.text
    grid = CONFIG.image.grid
    coded = CodedImageBatch(
        keys=images.keys,
        pixels=images.pixels,
        codes=torch.zeros(len(LENGTHS), grid, grid, dtype=torch.long),
        patch_mask=images.patch_mask,
    )
    whole = PairInputs(
        image=ImageInputs(pixels=images.pixels),
        text=TextInputs(input_ids=texts.input_ids, attention_mask=texts.attention_mask),
    )
    return {
        "pairs": pairs,
        "coded pairs": PairBatch(image=coded, text=texts, matched=pairs.matched),
        "whole pairs": WholePairBatch(keys=images.keys, inputs=whole),
        "images": random_images(CONFIG, 3),
        "text": random_texts(CONFIG, LENGTHS),
    }


def step(batch: Batch) -> None:
    with torch.device("meta"):
        objective = FlavaObjective(FlavaObjectiveConfig(), Flava(CONFIG))
    _make_parameters_fake(objective.model)
    with NoWaiting():
        with torch.autocast("cpu", torch.bfloat16):
            terms = objective(batch)
        torch.stack([term.loss for term in terms.values()]).sum().backward()


@pytest.mark.parametrize("kind", list(batches()))
def test_no_loss_and_no_gradient_waits_for_the_device(kind: str) -> None:
    step(on_device(batches()[kind]))


@pytest.mark.parametrize("kind", list(batches()))
def test_with_masks_on_the_device_it_would_be_waited_for(kind: str) -> None:
    with pytest.raises(AssertionError, match="waits for the device"):
        step(on_device(batches()[kind], masks=True))
