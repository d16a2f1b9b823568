"""From a run to the model and the objective that it trains."""

from flava.checkpoints.native import build_model
from flava.models import Clip, Codebook, Dino, Flava, MaskedImageModel, MaskedTextModel
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
from flava.objectives.objective import Objective
from flava.training.run import Run


def objective_of(run: Run) -> Objective:
    """The objective around a fresh model."""
    match run.objective, build_model(run.model):
        case CodebookObjectiveConfig() as config, Codebook() as model:
            return CodebookObjective(config, model)
        case DinoObjectiveConfig() as config, Dino() as model:
            return DinoObjective(config, model, run.max_steps)
        case FlavaObjectiveConfig() as config, Flava() as model:
            leave_out(model, untrained(run))
            return FlavaObjective(config, model)
        case ClipObjectiveConfig() as config, Clip() as model:
            return ClipObjective(config, model)
        case MaskedObjectiveConfig(), MaskedImageModel() | MaskedTextModel() as model:
            return MaskedObjective(model)
    raise AssertionError("Run checks that objective and model fit")


def untrained(run: Run) -> frozenset[str]:
    """The parts of a FLAVA that no loss of the run reads."""
    masked_pairs = "pairs" in run.data.sources and run.data.mask_pairs
    images, text = ("images" in run.data.sources), ("text" in run.data.sources)
    with_codes = predicts_codes(run) or run.init.codebook is not None
    read = {
        "mim_head": images,
        "mlm_head": text,
        "mmm_image_head": masked_pairs,
        "mmm_text_head": masked_pairs,
        "itm_head": masked_pairs,
        "codebook.encoder": with_codes,
        "codebook.decoder": with_codes,
    }
    return frozenset(part for part, is_read in read.items() if not is_read)


def predicts_codes(run: Run) -> bool:
    """Whether any loss has the codes of hidden patches for its targets."""
    return "images" in run.data.sources or ("pairs" in run.data.sources and run.data.mask_pairs)


def leave_out(model: Flava, parts: frozenset[str]) -> None:
    """Parts that stay at initial values: neither trained nor passed off as trained."""
    model.missing_parts = parts
    for part in parts:
        model.get_submodule(part).requires_grad_(False)
