"""Stochastic depth: what a dropped branch is, how often, for whom, and when nothing is dropped."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flava.checkpoints.native import write_model
from flava.checkpoints.recognise import load_pretrained
from flava.models import Flava
from flava.models.packing import Packing
from flava.models.transformer import Block, Transformer, TransformerConfig, _drop_samples
from tests.support import randomise, tiny_config, tiny_model


def transformer(rate: float, depth: int = 3) -> Transformer:
    model = Transformer(
        TransformerConfig(width=8, depth=depth, heads=2, mlp_width=16, drop_path=rate)
    )
    randomise(model)
    return model


def rates(model: Transformer) -> list[float]:
    return [block.drop_path for block in model.blocks if isinstance(block, Block)]


def test_the_rate_rises_linearly_from_none_in_the_first_block() -> None:
    assert rates(transformer(0.3, depth=4)) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert rates(transformer(0.3, depth=1)) == [0.0]


def test_the_expectation_is_the_branch_and_the_share_is_the_rate() -> None:
    branch = torch.randn(1, 2, 3).expand(20_000, 2, 3)
    dropped = _drop_samples(branch, 0.25, None)
    # Five standard errors of a share of 20,000 draws.
    assert (dropped == 0).all(dim=(1, 2)).float().mean().item() == pytest.approx(0.25, abs=0.016)
    torch.testing.assert_close(dropped.mean(0), branch[0], atol=0.02 * 3, rtol=0.02)


def test_a_sample_is_kept_or_dropped_as_a_whole() -> None:
    branch = torch.rand(50, 4, 3) + 1
    factors = _drop_samples(branch, 0.5, None) / branch
    assert sorted(set(factors.flatten().tolist())) == pytest.approx([0.0, 2.0])
    assert (factors == factors[:, :1, :1]).all()


def test_of_packed_texts_a_whole_text_is_kept_or_dropped() -> None:
    lengths = torch.randint(1, 8, (40,))
    packing = Packing.of(torch.arange(7) < lengths[:, None], lengths)
    packed = packing.pack(torch.rand(40, 7, 3) + 1)
    whose = (packing.indices // 7).tolist()
    factors = (_drop_samples(packed, 0.5, packing) / packed).tolist()
    found: dict[int, set[float]] = {}
    for text, factor in zip(whose, factors, strict=True):
        found.setdefault(text, set()).update(factor)
    assert all(len(values) == 1 for values in found.values())
    assert {value for values in found.values() for value in values} == {0.0, 2.0}


def test_each_branch_draws_for_itself() -> None:
    """Of one block's two branches, over many samples, all four outcomes appear."""
    block = Block(TransformerConfig(width=4, depth=2, heads=1, mlp_width=4), drop_path=0.5)
    randomise(block)
    sample = torch.randn(1, 3, 4)
    outcomes = block(sample.expand(200, 3, 4), None, None)
    assert len({tuple(row.flatten().mul(1e4).round().tolist()) for row in outcomes}) == 4


@pytest.mark.parametrize("attention_mask", [None, torch.arange(5) < torch.tensor([5, 2])[:, None]])
def test_nothing_changes_and_nothing_is_drawn_in_evaluation_or_at_rate_0(
    attention_mask: Tensor | None,
) -> None:
    states = torch.randn(2, 5, 8)
    plain, dropping = transformer(0.0), transformer(0.9)
    dropping.load_state_dict(plain.state_dict())
    before = torch.get_rng_state()
    expected = plain.train().run_blocks(states, attention_mask)
    assert torch.equal(dropping.eval().run_blocks(states, attention_mask), expected)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(dropping.train().run_blocks(states, attention_mask), expected)


def test_a_checkpoint_from_before_the_field_still_loads(tmp_path: Path) -> None:
    write_model(tiny_model(), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for part in ("image", "text", "multimodal"):
        del config["model"][part]["drop_path"]
    path.write_text(json.dumps(config))
    loaded = load_pretrained(tmp_path)
    assert isinstance(loaded, Flava)
    assert loaded.config == tiny_config()
