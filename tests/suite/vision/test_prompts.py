"""The names and templates of ``prompts.json`` fit the labels of the data sets."""

import subprocess
import sys

import pytest

from flava.evaluation.prompts import PROMPTS
from flava.suite.vision.datasets import DATA_SETS

KEYWORDS = {
    "eurosat": "annual forest brush highway industrial pasture permanent residential river lake",
    "clevr": "3 4 5 6 7 8 9 10",
    "fer2013": "angry disgusted fearful happy sad surprised neutral",
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck",
    "stl10": "airplane bird car cat deer dog horse monkey ship truck",
    "pcam": "node tumor",
    "rendered_sst2": "negative positive",
    "kitti": "side nearby distance no",
}
"""A word of each class's name, in the order of the labels."""


def names(data_set: str) -> list[str]:
    return [" / ".join(each) for each in PROMPTS[data_set].classes]


def test_every_class_of_every_data_set_has_a_name() -> None:
    assert set(PROMPTS) == {data.name for data in DATA_SETS}
    for data in DATA_SETS:
        prompts = PROMPTS[data.name]
        assert len(prompts.classes) == data.classes, data.name
        assert all("{}" in template for template in prompts.templates)


@pytest.mark.parametrize("name", KEYWORDS)
def test_names_are_in_the_order_of_the_labels(name: str) -> None:
    for keyword, title in zip(KEYWORDS[name].split(), names(name), strict=True):
        assert keyword in title.replace(".", "").replace("brushland", "brush").split()


def test_names_in_alphabetical_order_are_those_of_folders_and_lists() -> None:
    for name in ("cifar100", "food101", "dtd", "aircraft"):
        assert names(name) == sorted(names(name))
    assert names("pets") == sorted(names("pets"), key=str.casefold)  # as its list.txt
    # As ClassName.txt, in which "/" and "_" stand where CLIP has blanks: jail/indoor, jail_cell.
    scenes = names("sun397")
    assert scenes[205:209] == ["jacuzzi indoor", "jail indoor", "jail cell", "jewelry shop"]
    assert sorted(scenes) == [*scenes[:206], scenes[207], scenes[206], *scenes[208:]]
    # As classInd.txt, whose names have no blanks: 35 Hammering, 36 HammerThrow, 37
    # HandstandPushups; 47 JumpingJack, 48 JumpRope. CLIP lists these two pairs the other way round.
    actions = [name.replace(" ", "").casefold() for name in names("ucf101")]
    assert actions == sorted(actions)
    places = {35: "Hammering", 36: "Hammer Throw", 47: "Jumping Jack", 48: "Jump Rope"}
    assert {number: names("ucf101")[number - 1] for number in places} == places
    # A background, then two kinds of faces: capitals come before small letters.
    assert names("caltech101")[:3] == ["background", "off-center face", "centered face"]


def test_flowers_are_named_as_torchvision_names_them() -> None:
    from torchvision.datasets import Flowers102

    pairs = list(zip(names("flowers102"), Flowers102.classes, strict=True))
    differing = [(ours, theirs) for ours, theirs in pairs if ours != theirs]
    assert len(differing) < 10, differing


def test_imagenet_is_named_as_open_clip_names_it() -> None:
    """Which has CLIP's templates, and names that were corrected since."""
    metadata = pytest.importorskip("open_clip.zero_shot_metadata")
    templates = [template("X") for template in metadata.OPENAI_IMAGENET_TEMPLATES]
    assert [t.replace("{}", "X") for t in PROMPTS["imagenet"].templates] == templates
    pairs = zip(names("imagenet"), metadata.IMAGENET_CLASSNAMES, strict=True)
    assert sum(ours == theirs for ours, theirs in pairs) > 900


def test_the_suite_does_not_import_torchvision_until_it_reads() -> None:
    """Its import takes two seconds."""
    code = "import sys, flava.suite.vision; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
