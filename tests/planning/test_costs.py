"""Costs on paper beside what torch's allocator and its counter of operations say of a real pass."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from flava.core.batch import Batch
from flava.core.precision import Precision
from flava.data.data_config import DataConfig
from flava.models import (
    CodebookConfig,
    Flava,
    FlavaConfig,
    ImageConfig,
    MultimodalConfig,
    TextConfig,
)
from flava.objectives import FlavaObjective, FlavaObjectiveConfig
from flava.objectives.accumulation import accumulated_losses
from flava.planning.costs import _make_parameters_fake, cost_of, fake_batch
from flava.training.parallel import prepare_blocks
from flava.training.run import Run
from tests.support import random_images, random_pairs, random_texts
from tests.tiny_runs import flava_run

CONFIG = FlavaConfig(
    image=ImageConfig(image_size=40, patch_size=8, width=96, depth=3, heads=3, mlp_width=256),
    text=TextConfig(vocabulary_size=300, width=64, depth=4, heads=2, mlp_width=192, max_length=32),
    multimodal=MultimodalConfig(width=80, depth=2, heads=4, mlp_width=320),
    projection_width=48,
    codebook=CodebookConfig(codes=200, width=16, blocks=1, decoder_input_width=8),
)
LENGTHS = [7, 20, 12, 32, 9, 15, 30, 11, 25, 5, 18, 10]
KINDS = ["pairs", "images", "text"]


def batch_of(kind: str) -> Batch:
    match kind:
        case "images":
            return random_images(CONFIG, len(LENGTHS))
        case "text":
            return random_texts(CONFIG, LENGTHS)
    return random_pairs(CONFIG, LENGTHS, torch.arange(len(LENGTHS)) % 4 > 0)


def run_of(**changes: Any) -> Run:
    return flava_run(Path("nowhere"), DataConfig(), **changes)


def attention_mask(run: Run) -> FlavaObjective:
    objective = FlavaObjective(FlavaObjectiveConfig(), Flava(CONFIG))
    prepare_blocks(objective.model, checkpointed=run.checkpoint_blocks, compiled=False)
    return objective


def on_paper(run: Run, config: FlavaConfig = CONFIG) -> FlavaObjective:
    with torch.device("meta"):
        objective = FlavaObjective(FlavaObjectiveConfig(), Flava(config))
    _make_parameters_fake(objective.model)
    prepare_blocks(objective.model, checkpointed=run.checkpoint_blocks, compiled=False)
    return objective


def allocated(objective: FlavaObjective, batch: Batch, run: Run, trace: Path) -> tuple[int, int]:
    """Bytes that torch's allocator gave: at the end of the forward pass, and at the most."""
    for each in objective.model.parameters():
        each.grad = torch.zeros_like(each) if each.requires_grad else None
    dtype = run.precision.dtype
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            terms = objective(batch)
        total = torch.stack([term.loss for term in terms.values()]).sum()
        del terms
        with record_function("the backward pass"):
            total.backward()
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    began = next(each["ts"] for each in events if each["name"] == "the backward pass")
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    held = most = kept = 0
    for time, change in changes:
        held += change
        most = max(most, held)
        kept = held if time < began else kept
    return kept, most


@pytest.mark.parametrize(
    ("kind", "precision", "checkpointed"),
    [
        ("pairs", Precision.BF16, False),
        ("pairs", Precision.FP32, True),
        ("images", Precision.FP32, False),
        ("images", Precision.BF16, True),
        ("text", Precision.BF16, False),
        ("text", Precision.BF16, True),
    ],
)
def test_memory_is_what_the_allocator_gives(kind, precision, checkpointed, tmp_path):
    run, batch = run_of(precision=precision, checkpoint_blocks=checkpointed), batch_of(kind)
    kept, most = allocated(attention_mask(run), batch, run, tmp_path / "trace.json")
    cost = cost_of(on_paper(run), fake_batch(batch), precision.dtype, fused_attention=False)
    assert cost.activation_bytes + cost.cast_weight_bytes == pytest.approx(kept, rel=0.1)
    assert cost.activation_bytes + cost.cast_weight_bytes + cost.temporary_bytes == pytest.approx(
        most, rel=0.1
    )


@pytest.mark.parametrize("kind", KINDS)
def test_operations_are_those_that_torch_counts(kind):
    """In 16 bits, where the CPU's attention is spelt out: torch counts no fused one of a CPU."""
    run, batch = run_of(precision=Precision.BF16), batch_of(kind)
    with FlopCounterMode(display=False) as counter:
        with torch.autocast("cpu", torch.bfloat16):
            terms = attention_mask(run)(batch)
        total = torch.stack([term.loss for term in terms.values()]).sum()
        forward = counter.get_total_flops()
        total.backward()
    cost = cost_of(on_paper(run), fake_batch(batch), torch.bfloat16, fused_attention=False)
    assert cost.forward_operations == forward
    assert cost.operations == counter.get_total_flops()


@pytest.mark.parametrize("kind", KINDS)
def test_of_batches_as_one_they_are_those_that_torch_counts(kind):
    """The encoding before contrast among them."""
    run, batch, accumulate = run_of(precision=Precision.BF16), batch_of(kind), 3
    objective, device = attention_mask(run), torch.device("cpu")

    def lower() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16)

    with FlopCounterMode(display=False) as counter:
        with lower():
            parts = accumulated_losses(objective, [batch] * accumulate, lambda step: step(), device)
        before = counter.get_total_flops()
        for part in parts:
            with lower():
                terms = part()
            torch.stack([term.loss for term in terms.values()]).sum().backward()
    paper = fake_batch(batch)
    cost = cost_of(
        on_paper(run), paper, torch.bfloat16, accumulate=accumulate, fused_attention=False
    )
    assert cost.contrast_operations == before
    assert (before > 0) == (kind == "pairs")
    assert cost.operations == counter.get_total_flops()


def test_of_batches_as_one_no_more_is_kept_than_of_one_but_features():
    """Features, or the gradients that stand in their place. What else there is beside one batch
    is that masked and whole pairs pass the encoders one after another."""
    run, batch = run_of(), fake_batch(batch_of("pairs"))
    one, three, six = (
        cost_of(on_paper(run), batch, torch.bfloat16, accumulate=count) for count in (1, 3, 6)
    )
    features = 2 * 4 * len(LENGTHS) * CONFIG.projection_width
    assert six.activation_bytes - three.activation_bytes == pytest.approx(3 * features, rel=0.1)
    assert three.activation_bytes < 1.1 * one.activation_bytes


def test_fused_attention_keeps_no_scores_and_computes_them_again():
    lengths, text = [256] * 4, replace(CONFIG.text, max_length=256)
    config = replace(CONFIG, text=text)
    texts = random_texts(config, lengths)
    batch = fake_batch(texts)
    fused = cost_of(on_paper(run_of(), config), batch, torch.bfloat16)
    spelt_out = cost_of(on_paper(run_of(), config), batch, torch.bfloat16, fused_attention=False)
    pairs = len(lengths) * 256 * 256
    product, all_pairs = 2 * text.width, text.depth * pairs
    # By segments the last block's queries are those of hidden tokens alone.
    asked = all_pairs - pairs + int(texts.token_mask.sum()) * 256
    assert spelt_out.forward_operations - fused.forward_operations == 2 * product * (
        all_pairs - asked
    )
    again = fused.backward_operations - spelt_out.backward_operations
    assert again == pytest.approx(product * (5 * asked - 4 * all_pairs), rel=1e-6)
    scores = text.depth * text.heads * pairs * 2
    outputs = len(lengths) * 256 * text.width * 2 * text.depth
    # Beside the scores, packed outputs; and fused attention keeps a sum for each query.
    assert scores - outputs < spelt_out.activation_bytes - fused.activation_bytes < scores + outputs


def test_contrast_receives_the_features_of_all_ranks_and_their_gradients():
    run, pairs, ranks = run_of(precision=Precision.FP32), len(LENGTHS), 4
    batch = fake_batch(batch_of("pairs"))
    alone = cost_of(on_paper(run), batch, torch.float32)
    shared = cost_of(on_paper(run), batch, torch.float32, ranks=ranks)
    # docs/cluster.md: 8 bytes a pair and dimension, (W - 1) / W of them, in either pass.
    whole = 2 * 8 * ranks * pairs * CONFIG.projection_width
    assert shared.received_bytes == whole * (ranks - 1) // ranks
    assert alone.received_bytes == 0
    # The rows of a mismatched pair are left out: 9 of 12 are asked, all are candidates.
    of_scores = 2 * 2 * 9 * pairs * (ranks - 1) * CONFIG.projection_width
    assert shared.forward_operations - alone.forward_operations == of_scores


def test_a_gradient_reaches_what_the_batch_reads():
    cost = cost_of(on_paper(run_of()), fake_batch(batch_of("text")), torch.bfloat16)
    model = Flava(CONFIG)
    losses = FlavaObjective(FlavaObjectiveConfig(), model)(batch_of("text"))
    losses["mlm"].loss.backward()
    assert cost.with_gradient == {n for n, p in model.named_parameters() if p.grad is not None}
