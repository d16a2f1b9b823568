"""Fills parts of a new model with weights of other runs, or with published weights."""

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
    """Where parts of the model get their initial weights from.

    A source is a run's folder (of its best checkpoint, or else its last), a checkpoint of this
    package or of another library, an id on the Hugging Face hub, or "shipped:NAME" for weights that
    come with this package.
    """

    image: str | None = None
    """Source of the image encoder: a run, a checkpoint or the hub id of a model that has an image
    encoder."""
    text: str | None = None
    """Source of the text encoder: a run, a checkpoint or the hub id of a model that has a text
    encoder."""
    codebook: str | None = None
    """Source of the frozen codebook: a run, a checkpoint, a hub id or "shipped:NAME". Losses that
    predict its codes need one."""

    @property
    def given(self) -> dict[str, str]:
        """The fields that are set."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}


@dataclass(frozen=True, kw_only=True)
class InitReport:
    """Which weights a part of the model got from its source: a line of ``init.json``."""

    part: str
    source: str
    tensors: int
    """Number of tensors that were copied."""
    not_taken: Mapping[str, int]
    """Number of tensors of the source that were not used, by part of the source's model."""
    not_there: Mapping[str, int]
    """Number of tensors that the source does not have, and that keep their initial values."""
    differing: Sequence[str]
    """Settings in which the source and the model differ and that do not change weights."""

    def __str__(self) -> str:
        text = f"{self.part.replace('_', ' ')}: {_counted(self.tensors)} from {self.source}"
        if self.not_there:
            text += f"; not in it, and left at initial values: {_listed(self.not_there)}"
        if self.not_taken:
            text += f"; not taken: {_listed(self.not_taken)}"
        return "; ".join([text, *self.differing])


def initialise(model: nn.Module, init: InitConfig) -> list[InitReport]:
    """Copy weights into the parts of a model for which ``init`` names a source.

    Returns a report for each part. A decoder that a codebook's source lacks is added to the
    ``missing_parts`` of codebook and model.

    Raises:
        FileNotFoundError: a source is not there.
        ValueError: a source has no such part, or one of another geometry; the errors of all sources
            are listed.
    """
    parts = [_find_part(model, field, source) for field, source in init.given.items()]
    if errors := [line for part in parts for line in part.errors()]:
        raise ValueError("the model cannot be initialised:\n  " + "\n  ".join(errors))
    reports = [part.copy_weights() for part in parts]
    if isinstance(model, Flava):
        model.missing_parts |= {f"codebook.{part}" for part in model.codebook.missing_parts}
    return reports


def save_init_reports(reports: Sequence[InitReport], folder: Path) -> None:
    """Write ``init.json``.

    Raises:
        OSError: it could not be written.
    """
    content = json.dumps([asdict(each) for each in reports], indent=2)
    write_atomically(folder / "init.json", content.encode() + b"\n")


@dataclass(frozen=True, kw_only=True)
class PartSource:
    """A part of the model, and the part of another model whose weights it is to get."""

    field: str
    """Field of `InitConfig`."""
    origin: str
    """Path of the source, for messages."""
    target: nn.Module
    """The part of the model."""
    model: nn.Module
    """The model that the source holds."""
    name: str
    """The part's name in ``model``; empty if it is the whole of it."""
    part: nn.Module | None
    """The part of ``model``; None if it has no such part."""

    @property
    def missing_parts(self) -> tuple[str, ...]:
        """Prefixes of the names of those tensors that the source does not have."""
        prefix = f"{self.name}." if self.name else ""
        names = missing_parts_of(self.model)
        inside = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
        return (*inside, *getattr(self.part, "missing_parts", ()))

    @property
    def weights(self) -> dict[str, Tensor]:
        """The tensors that can be copied, by their names in the part."""
        assert self.part is not None
        state, missing_parts = self.part.state_dict(), self.missing_parts
        return {
            name: tensor for name, tensor in state.items() if not name.startswith(missing_parts)
        }

    def errors(self) -> list[str]:
        """Why the weights cannot be copied, one line each: settings first, then shapes."""
        start = f"init.{self.field}: {self.origin}"
        if self.part is None:
            what = PARTS[self.field].replace("_", " ")
            return [
                f"{start} holds a {type(self.model).__name__}, which has no {what} of this kind"
            ]
        if "encoder" in self.missing_parts:
            return [f"{start} holds no weights of its codebook's encoder"]
        differing = [
            f"{name} is {theirs} there, {ours} in model.{self.field}"
            for name, (theirs, ours) in self.settings().items()
            if name != "norm_eps"
        ]
        shapes = _differing_shapes(self.weights, self.target.state_dict())
        return [f"{start}: {line}" for line in differing + shapes]

    def settings(self) -> dict[str, tuple[object, object]]:
        """The fields of the two configurations that differ: their values (there, here)."""
        theirs, ours = (asdict(module.config) for module in (self.part, self.target))  # pyright: ignore
        # No weights depend on the first; the second is not known without a decoder.
        ignored = {
            "drop_path",
            "decoder_input_width" if "decoder" in self.missing_parts else "",
        }
        return {
            name: (theirs[name], value)
            for name, value in ours.items()
            if name not in ignored and theirs[name] != value
        }

    def copy_weights(self) -> InitReport:
        weights = self.weights
        self.target.load_state_dict(weights, strict=False)
        if isinstance(self.target, Codebook):
            self.target.missing_parts = frozenset(self.missing_parts)
        prefix = f"{self.name}." if self.name else ""
        return InitReport(
            part=PARTS[self.field],
            source=self.origin,
            tensors=len(weights),
            not_taken=_by_part(n for n in self.model.state_dict() if not n.startswith(prefix)),
            not_there=_by_part(n for n in self.target.state_dict() if n not in weights),
            differing=[
                f"its {name} is {theirs}, {ours} here"
                for name, (theirs, ours) in self.settings().items()
            ],
        )


def _find_part(model: nn.Module, field: str, source: str) -> PartSource:
    """Raises FileNotFoundError or ValueError: as `load_pretrained`."""
    path = locate(source)
    loaded, target = load_pretrained(path), model.get_submodule(PARTS[field])
    same = [(name, part) for name, part in loaded.named_modules() if type(part) is type(target)]
    # DINO has two image encoders. The teacher's is the right one, and has the shorter name.
    name, part = min(same, key=lambda each: len(each[0]), default=("", None))
    return PartSource(
        field=field, origin=str(path), target=target, model=loaded, name=name, part=part
    )


def _differing_shapes(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> list[str]:
    """Tensors whose shapes differ, one line each; the same tensor of all blocks has one line."""
    kinds: Counter[str] = Counter(
        f"{re.sub(r'[0-9]+', '*', name)} is {list(theirs[name].shape)} there, "
        f"{list(tensor.shape)} in the model"
        for name, tensor in ours.items()
        if name in theirs and theirs[name].shape != tensor.shape
    )
    return [kind if n == 1 else f"{kind} ({n} times)" for kind, n in kinds.items()]


def _by_part(names: Iterable[str]) -> dict[str, int]:
    """Number of tensors of each part, in their order."""
    return dict(Counter(name.split(".")[0] for name in names))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({_counted(count)})" for name, count in counts.items())


def _counted(tensors: int) -> str:
    return f"{tensors} tensor" if tensors == 1 else f"{tensors} tensors"
