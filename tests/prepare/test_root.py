from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from flava.data.loader import Loader
from flava.prepare.sources import SOURCES
from flava.recipes import RECIPES
from flava.recipes.start import _how_to_build
from tests.prepare.made import built, write_pairs


def test_a_recipe_of_the_paper_finds_what_was_built_below_its_root(tmp_path: Path) -> None:
    config = write_pairs(tmp_path, 12)
    built(config, output=tmp_path / "root" / "pmd" / "cc12m")
    data = RECIPES["flava-mm"]().data
    assert data.pairs is not None
    few = replace(data.pairs, batch_size=4)
    data = replace(data, root=f"{tmp_path}/root/", pairs=few, workers=0)
    with Loader(data, seed=0) as loader:
        assert len(next(loader).keys) == 4


def test_without_them_the_error_lists_the_commands(tmp_path: Path) -> None:
    data = replace(RECIPES["flava"]().data, root=str(tmp_path))
    pairs, images, text, books = data.problems(partial(_how_to_build, data.root))
    for name, source in SOURCES.items():
        if source.pairs is not None:
            assert f"flava data build {name} --annotations FILES --images FOLDER" in pairs
            facts = f"({source.pairs:.1f} M pairs, about {source.gigabytes} GB; licence: "
            assert f"--output {tmp_path}/pmd/{name}  {facts}{source.licence})" in pairs
    for name, said in (("imagenet-1k", images), ("ccnews", text), ("bookcorpus", books)):
        assert f"flava data build {name} --annotations FILES --output {tmp_path}/{name}" in said


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_s_data_is_embedded_or_below_the_root(name: str) -> None:
    data = RECIPES[name]().data
    for source in (data.pairs, data.images, data.text):
        for shard in () if source is None else source.shards:
            assert shard.startswith(("embedded:", "root:"))
