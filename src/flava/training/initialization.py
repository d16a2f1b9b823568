"""Initial weights that come from other runs, and from what others published."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from torch import Tensor, nn

from flava.checkpoints.native import missing_parts_of
from flava.checkpoints.reading import locate
from flava.checkpoints.recognise import load_pretrained
from flava.core.files import write_atomically
from flava.models import Codebook, Flava

PARTS = {"image": "image_encoder", "text": "text_encoder", "codebook": "codebook"}
"""The fields of `InitConfig`, and the parts of a model that they fill."""


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Where parts of the model come from before the first update.

    A source is a run's folder (its best checkpoint is taken, else its last), a checkpoint, what
    others published, its id on the hub, or "shipped:NAME".
    """

    image: str | None = None
    """The image encoder's source: a run, a checkpoint or a hub id, of an encoder or any model with
    one."""
    text: str | None = None
    """The text encoder's source, as for the image encoder."""
    codebook: str | None = None
    """The frozen codebook's source, or "shipped:NAME". What predicts codes needs one."""

    @property
    def given(self) -> dict[str, str]:
        """The fields that are set."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}


@dataclass(frozen=True, kw_only=True)
class InitReport:
    """What a part of the model got from its source. Counts are of tensors."""

    part: str
    source: str
    tensors: int
    not_taken: Mapping[str, int]
    """The rest of the source, part by part."""
    not_there: Mapping[str, int]
    """What the source lacks of the part, which keeps its initial values."""
    differing: Sequence[str]
    """Settings of the source that are no weights, and that the model does not share."""

    def __str__(self) -> str:
        said = f"{self.part.replace('_', ' ')}: {counted(self.tensors)} from {self.source}"
        if self.not_there:
            said += f"; not in it, and left at initial values: {listed(self.not_there)}"
        if self.not_taken:
            said += f"; not taken: {listed(self.not_taken)}"
        return "; ".join([said, *self.differing])


def initialise(model: nn.Module, init: InitConfig) -> list[InitReport]:
    """Fill parts of a model from their sources, and tell what was taken.

    A decoder that a codebook's source lacks goes into the ``missing_parts`` of codebook and model.

    Raises:
        FileNotFoundError: a source is not there.
        ValueError: a source has no such part, or one of another geometry; the misfits of all
            sources are in one error.
    """
    found = [find(model, field, source) for field, source in init.given.items()]
    if wrong := [line for each in found for line in each.misfits()]:
        raise ValueError("the model cannot be initialised:\n  " + "\n  ".join(wrong))
    taken = [each.fill() for each in found]
    if isinstance(model, Flava):
        model.missing_parts |= {f"codebook.{part}" for part in model.codebook.missing_parts}
    return taken


def save_init_reports(taken: Sequence[InitReport], folder: Path) -> None:
    """Write ``init.json``.

    Raises:
        OSError: it could not be written.
    """
    content = json.dumps([asdict(each) for each in taken], indent=2)
    write_atomically(folder / "init.json", content.encode() + b"\n")


@dataclass(frozen=True, kw_only=True)
class PartSource:
    """A part of the model, and the part of its source that it is to be filled from."""

    field: str
    origin: str
    ours: nn.Module
    whole: nn.Module
    """The model that the source holds."""
    name: str
    """The part's name in it, which may be empty: then it is the whole."""
    theirs: nn.Module | None

    @property
    def missing_parts(self) -> tuple[str, ...]:
        """What the source lacks of the part."""
        prefix = f"{self.name}." if self.name else ""
        of_the_whole = (
            a.removeprefix(prefix) for a in missing_parts_of(self.whole) if a.startswith(prefix)
        )
        return (*of_the_whole, *getattr(self.theirs, "missing_parts", ()))

    @property
    def weights(self) -> dict[str, Tensor]:
        """What can be taken, by the part's own names."""
        assert self.theirs is not None
        state, missing_parts = self.theirs.state_dict(), self.missing_parts
        return {
            name: tensor for name, tensor in state.items() if not name.startswith(missing_parts)
        }

    def misfits(self) -> list[str]:
        """Why one cannot be filled from the other: a line each, settings first, then shapes."""
        start = f"init.{self.field}: {self.origin}"
        if self.theirs is None:
            what = PARTS[self.field].replace("_", " ")
            return [
                f"{start} holds a {type(self.whole).__name__}, which has no {what} of this kind"
            ]
        if "encoder" in self.missing_parts:
            return [f"{start} holds no weights of its codebook's encoder"]
        differing = [
            f"{name} is {theirs} there, {ours} in model.{self.field}"
            for name, (theirs, ours) in self.settings().items()
            if name != "norm_eps"
        ]
        shapes = differing_shapes(self.weights, self.ours.state_dict())
        return [f"{start}: {line}" for line in differing + shapes]

    def settings(self) -> dict[str, tuple[object, object]]:
        """The fields of the two geometries that differ: (there, here)."""
        theirs, ours = (asdict(module.config) for module in (self.theirs, self.ours))  # pyright: ignore
        # No weights depend on the first; the second is not known without a decoder.
        passed_over = {
            "drop_path",
            "decoder_input_width" if "decoder" in self.missing_parts else "",
        }
        return {
            name: (theirs[name], value)
            for name, value in ours.items()
            if name not in passed_over and theirs[name] != value
        }

    def fill(self) -> InitReport:
        weights = self.weights
        self.ours.load_state_dict(weights, strict=False)
        if isinstance(self.ours, Codebook):
            self.ours.missing_parts = frozenset(self.missing_parts)
        prefix = f"{self.name}." if self.name else ""
        return InitReport(
            part=PARTS[self.field],
            source=self.origin,
            tensors=len(weights),
            not_taken=by_part(n for n in self.whole.state_dict() if not n.startswith(prefix)),
            not_there=by_part(n for n in self.ours.state_dict() if n not in weights),
            differing=[
                f"its {name} is {theirs}, {ours} here"
                for name, (theirs, ours) in self.settings().items()
            ],
        )


def find(model: nn.Module, field: str, source: str) -> PartSource:
    """Raises FileNotFoundError or ValueError: as `load_pretrained`."""
    place = locate(source)
    whole, ours = load_pretrained(place), model.get_submodule(PARTS[field])
    same = [(name, part) for name, part in whole.named_modules() if type(part) is type(ours)]
    # DINO has two: the teacher's, which is the one to take, stands uppermost.
    name, theirs = min(same, key=lambda each: len(each[0]), default=("", None))
    return PartSource(
        field=field, origin=str(place), ours=ours, whole=whole, name=name, theirs=theirs
    )


def differing_shapes(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> list[str]:
    """A line for each kind of tensor of another shape; those of all blocks are one kind."""
    kinds: Counter[str] = Counter(
        f"{re.sub(r'[0-9]+', '*', name)} is {list(theirs[name].shape)} there, "
        f"{list(tensor.shape)} in the model"
        for name, tensor in ours.items()
        if name in theirs and theirs[name].shape != tensor.shape
    )
    return [kind if n == 1 else f"{kind} ({n} times)" for kind, n in kinds.items()]


def by_part(names: Iterable[str]) -> dict[str, int]:
    """How many tensors each part has, in their order."""
    return dict(Counter(name.split(".")[0] for name in names))


def listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({counted(count)})" for name, count in counts.items())


def counted(tensors: int) -> str:
    return f"{tensors} tensor" if tensors == 1 else f"{tensors} tensors"
