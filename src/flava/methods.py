"""The registry of pretraining methods: one row for each, from which everything else is derived.

A new method needs a model, an objective, a recipe, and a row of `METHODS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, runtime_checkable

from flava.core.batch import Kind
from flava.data.data_config import DataConfig
from flava.data.tokenizers import Vocabulary
from flava.models import (
    Clip,
    ClipConfig,
    Codebook,
    CodebookConfig,
    Dino,
    DinoConfig,
    Flava,
    FlavaConfig,
    ImageConfig,
    MaskedImageConfig,
    MaskedImageModel,
    MaskedTextConfig,
    MaskedTextModel,
    TextConfig,
)
from flava.models.config import Model, ModelConfig
from flava.objectives import (
    ClipObjective,
    ClipObjectiveConfig,
    CodebookObjective,
    CodebookObjectiveConfig,
    DinoObjective,
    DinoObjectiveConfig,
    FlavaObjective,
    FlavaObjectiveConfig,
    MaskedObjective,
    MaskedObjectiveConfig,
)
from flava.objectives.objective import Objective, ObjectiveConfig


class Validator(Enum):
    """What measures a pretraining run every ``validate_every`` steps and at its end. Its first
    metric chooses the checkpoint that is kept as best."""

    IMAGENET = "imagenet"
    """Zero-shot accuracy on ImageNet-1k's validation images, with CLIP's class names and all of its
    80 templates: the paper's (supplement, B.1)."""
    EMBEDDED = "embedded"
    """Zero-shot accuracy on the embedded corpus's validation pictures: of emoji alone."""
    PAIRS = "pairs"
    """Retrieval among the pairs of ``validation``: the mean R@5 of both ways."""
    LOSS = "loss"
    """The loss on ``validation``, of masked modelling of one kind of data."""
    NONE = "none"
    """Nothing: there is no best checkpoint, only the last."""

    @property
    def needs_shards(self) -> bool:
        """Whether it reads the shards that ``validation`` names."""
        return self in (Validator.PAIRS, Validator.LOSS)


@runtime_checkable
class Initialization(Protocol):
    """What a method reads of where its model's parts come from: of an `InitConfig`."""

    @property
    def codebook(self) -> str | None: ...


@runtime_checkable
class MethodRun(Protocol):
    """What a method reads of a run's configuration: of a `flava.training.run.Run`."""

    @property
    def model(self) -> Any: ...
    @property
    def objective(self) -> Any: ...
    @property
    def data(self) -> DataConfig: ...
    @property
    def init(self) -> Initialization: ...
    @property
    def max_steps(self) -> int: ...


def _no_errors(_run: MethodRun) -> list[str]:
    return []


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way of pretraining a model."""

    name: str
    """What error messages call it: "NAME is trained on images alone"."""
    model_config: type[ModelConfig]
    """Configuration of its model. No other method has the same one."""
    model: type[Model]
    """The model: ``model(model_config(...))`` has initial weights."""
    objective_config: type[ObjectiveConfig]
    """Configuration of its objective; several methods may share one."""
    objective: Callable[[MethodRun, Any], Objective]
    """Makes the objective around a model."""
    sources: tuple[Kind, ...]
    """The sources of `DataConfig` that it can be trained on."""
    reads_crops: bool = False
    """Whether its images are cut into several crops each, as ``DataConfig.crops`` says."""
    check_data: Callable[[MethodRun], list[str]] = _no_errors
    """Lists what of the data does not fit the model, one line each."""
    validators: tuple[Validator, ...] = (Validator.NONE,)
    """The validators that a run may have."""
    former_validator: Validator = Validator.NONE
    """The validator of runs that were saved before runs named theirs."""
    next_command: str
    """The command that a trained model is used with, to which its folder is appended."""

    def build(self, run: MethodRun) -> Objective:
        """The objective around a fresh model, whose initial weights torch's generator draws."""
        return self.objective(run, self.model(run.model))

    def data_errors(self, run: MethodRun) -> list[str]:
        """What of the data does not fit the method or its model, one line each."""
        data = run.data
        found = [
            f"data.{name} is set, but {self.name} is trained on {' and '.join(self.sources)} "
            "alone: leave it out"
            for name in data.sources
            if name not in self.sources
        ]
        found += self.check_data(run)
        if data.crops is not None and not self.reads_crops:
            found.append(f"data.crops is set, which {self.name} does not read: leave it out")
        return found

    def validator_errors(self, validator: Validator, validation: tuple[str, ...]) -> list[str]:
        """Whether a run of this method may have that validator, which reads ``validation``."""
        told = f"validator is {validator.value}"
        if validator not in self.validators:
            allowed = ", ".join(each.value for each in self.validators)
            return [f"{told}, which cannot measure a {self.model_config.__name__}: use {allowed}"]
        if validator.needs_shards and not validation:
            return [f"{told}, but validation is empty: name the shards that it reads"]
        if validation and validator in (Validator.EMBEDDED, Validator.NONE):
            return [f"validation is set, but {told}, which does not read it: leave it out"]
        return []


def _flava_objective(run: MethodRun, model: Flava) -> FlavaObjective:
    """Parts that no loss of the run trains are frozen, and recorded as missing."""
    masked_pairs = "pairs" in run.data.sources and run.data.mask_pairs
    with_codes = _predicts_codes(run.data) or run.init.codebook is not None
    used = {
        "mim_head": "images" in run.data.sources,
        "mlm_head": "text" in run.data.sources,
        "mmm_image_head": masked_pairs,
        "mmm_text_head": masked_pairs,
        "itm_head": masked_pairs,
        "codebook.encoder": with_codes,
        "codebook.decoder": with_codes,
    }
    model.missing_parts = frozenset(part for part, is_used in used.items() if not is_used)
    for part in model.missing_parts:
        model.get_submodule(part).requires_grad_(False)
    return FlavaObjective(run.objective, model)


def _predicts_codes(data: DataConfig) -> bool:
    """Whether a loss predicts the codes of masked patches."""
    return "images" in data.sources or ("pairs" in data.sources and data.mask_pairs)


def _check_flava_data(run: MethodRun) -> list[str]:
    image, text = run.model.image, run.model.text
    return _text_errors(run, text, Vocabulary.BERT) + _size_errors(run, image) + _code_errors(run)


def _check_clip_data(run: MethodRun) -> list[str]:
    found = []
    if run.data.mask_pairs:
        found.append("data.mask_pairs is True, but CLIP is trained on whole pairs: set it to False")
    found += _text_errors(run, run.model.text, Vocabulary.CLIP)
    return found + _size_errors(run, run.model.image)


def _check_dino_data(run: MethodRun) -> list[str]:
    crops, image = run.data.crops, run.model.image
    if crops is None:
        return ["data.crops is not set, and DINO is trained on them: give their sizes"]
    found = []
    if crops.global_size != image.image_size:
        found.append(
            f"data.crops.global_size is {crops.global_size}, model.image.image_size is "
            f"{image.image_size}: make them equal"
        )
    if crops.local_size % image.patch_size:
        found.append(
            f"data.crops.local_size is {crops.local_size}: use a multiple of "
            f"model.image.patch_size {image.patch_size}"
        )
    return found


def _text_errors(run: MethodRun, text: TextConfig, wanted: Vocabulary) -> list[str]:
    """Texts that are too long for the text encoder, or have tokens that it does not know."""
    data = run.data
    lengths = (
        ("text_max_length", data.text, data.text_max_length),
        ("pair_max_length", data.pairs, data.pair_max_length),
    )
    found = [
        f"data.{name} is {length}, more than model.text.max_length {text.max_length}"
        for name, source, length in lengths
        if source is not None and length > text.max_length
    ]
    if data.vocabulary is not wanted:
        found.append(
            f"data.vocabulary is {data.vocabulary.value}, but a {type(run.model).__name__} "
            f"reads {wanted.value}'s tokens: set it to {wanted.value}"
        )
    elif text.vocabulary_size < (tokens := wanted.tokenizer().size):
        found.append(
            f"model.text.vocabulary_size is {text.vocabulary_size}, fewer than the "
            f"tokeniser's {tokens} token ids"
        )
    return found


def _size_errors(run: MethodRun, image: ImageConfig) -> list[str]:
    """Images of another size than the image encoder's."""
    if (size := run.data.image.image_size) == image.image_size:
        return []
    return [
        f"data.image.image_size is {size}, model.image.image_size is {image.image_size}: make "
        "them equal"
    ]


def _code_errors(run: MethodRun) -> list[str]:
    """Codes of which there is not one for each patch, or no codebook to compute them."""
    if not _predicts_codes(run.data):
        return []
    found, image, grid = [], run.data.image, run.model.image.grid
    if image.grid != grid:
        found.append(
            f"data.image.codebook_size {image.codebook_size} makes {image.grid} codes a side, the "
            f"model has {grid} patches a side: use codebook_size {8 * grid}"
        )
    if run.init.codebook is None:
        found.append(
            "init.codebook is not set, and the losses of masked images predict its codes: train "
            "one by `flava train codebook-tiny`, and give its folder with --init.codebook"
        )
    return found


_OF_CONTRAST = (Validator.IMAGENET, Validator.EMBEDDED, Validator.PAIRS, Validator.NONE)
"""The validators of models that compare images with texts."""
_OF_LOSS = (Validator.LOSS, Validator.NONE)

METHODS: tuple[Method, ...] = (
    Method(
        name="FLAVA",
        model_config=FlavaConfig,
        model=Flava,
        objective_config=FlavaObjectiveConfig,
        objective=_flava_objective,
        sources=("pairs", "images", "text"),
        check_data=_check_flava_data,
        validators=_OF_CONTRAST,
        former_validator=Validator.EMBEDDED,
        next_command="flava evaluate",
    ),
    Method(
        name="a codebook",
        model_config=CodebookConfig,
        model=Codebook,
        objective_config=CodebookObjectiveConfig,
        objective=lambda run, model: CodebookObjective(run.objective, model),
        sources=("images",),
        next_command="flava train flava-tiny --init.codebook",
    ),
    Method(
        name="CLIP",
        model_config=ClipConfig,
        model=Clip,
        objective_config=ClipObjectiveConfig,
        objective=lambda run, model: ClipObjective(run.objective, model),
        sources=("pairs",),
        check_data=_check_clip_data,
        validators=_OF_CONTRAST,
        former_validator=Validator.EMBEDDED,
        next_command="flava evaluate",
    ),
    Method(
        name="DINO",
        model_config=DinoConfig,
        model=Dino,
        objective_config=DinoObjectiveConfig,
        objective=lambda run, model: DinoObjective(run.objective, model, run.max_steps),
        sources=("images",),
        reads_crops=True,
        check_data=_check_dino_data,
        next_command="flava train flava-tiny --init.image",
    ),
    Method(
        name="masked image modelling",
        model_config=MaskedImageConfig,
        model=MaskedImageModel,
        objective_config=MaskedObjectiveConfig,
        objective=lambda _, model: MaskedObjective(model),
        sources=("images",),
        check_data=lambda run: _size_errors(run, run.model.image) + _code_errors(run),
        validators=_OF_LOSS,
        former_validator=Validator.LOSS,
        next_command="flava train flava-tiny --init.image",
    ),
    Method(
        name="masked language modelling",
        model_config=MaskedTextConfig,
        model=MaskedTextModel,
        objective_config=MaskedObjectiveConfig,
        objective=lambda _, model: MaskedObjective(model),
        sources=("text",),
        check_data=lambda run: _text_errors(run, run.model.text, Vocabulary.BERT),
        validators=_OF_LOSS,
        former_validator=Validator.LOSS,
        next_command="flava train flava-tiny --init.text",
    ),
)


def method_of(model: ModelConfig) -> Method:
    """The method that trains a model of that configuration.

    Raises:
        ValueError: there is none.
    """
    for method in METHODS:
        if type(model) is method.model_config:
            return method
    names = ", ".join(each.model_config.__name__ for each in METHODS)
    raise ValueError(f"no method trains a {type(model).__name__}: use one of {names}")


def models() -> dict[type[ModelConfig], type[Model]]:
    """The models of all methods, by their configurations."""
    return {method.model_config: method.model for method in METHODS}


def objective_configs() -> list[type[ObjectiveConfig]]:
    """The configurations of the objectives of all methods, each once."""
    return list(dict.fromkeys(method.objective_config for method in METHODS))


def former_validator(model: str, validation: bool) -> Validator:
    """The validator of a run that was saved before runs named theirs.

    ``model`` is the name of its model's configuration, and ``validation`` tells whether the run
    names shards to validate on.
    """
    for method in METHODS:
        if method.model_config.__name__ == model:
            if method.former_validator.needs_shards and not validation:
                return Validator.NONE
            return method.former_validator
    return Validator.NONE
