"""What the layouts of a whole FLAVA share: a model from published tensors, and the way back."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from flava.checkpoints.layout import QUERY_KEY_VALUE, Stored, Table, export, fill, sources, unfilled
from flava.checkpoints.reading import DECODER, read_tensors
from flava.models.codebook import initialise_convolution
from flava.models.flava import INITIAL_LOGIT_SCALE, Flava, FlavaConfig, initialise_module

DECODER_PREFIX = "codebook.decoder."

HEADS = ("mim_head", "mlm_head", "mmm_image_head", "mmm_text_head", "itm_head")


def assemble(
    config: FlavaConfig,
    tensors: Mapping[str, Tensor],
    table: Table,
    missing_parts: Collection[str],
    stored: Stored,
) -> Flava:
    """A model filled from published tensors, and from the codebook's decoder if it lies beside.

    Args:
        absent: of `OPTIONAL_PARTS` those that the layout does not hold, the decoder aside.

    Raises:
        ValueError: entries are missing, unexpected or misshapen; all of them in one error.
    """
    decoder = read_decoder(stored.folder)
    if decoder:
        width = len(decoder.get(f"{DECODER_PREFIX}input.bias", ()))
        codebook = replace(config.codebook, decoder_input_width=max(1, width))
        config = replace(config, codebook=codebook)
    model = unfilled(lambda: Flava(config))
    model.missing_parts = frozenset(missing_parts) | (set() if decoder else {"codebook.decoder"})
    ours = loaded(model)
    published = (name for name in ours if not name.startswith(DECODER_PREFIX))
    entries = {
        **sources(published, table, QUERY_KEY_VALUE),
        **{name: [name] for name in ours if name.startswith(DECODER_PREFIX)},
    }
    fill(model, {**tensors, **decoder}, entries, origin=stored.origin)
    for part in model.missing_parts:
        initialise_part(model, part)
    return model.eval()


def initialise_part(model: Flava, part: str) -> None:
    """Give an absent part the initial values that a new model has."""
    if part == "logit_scale":
        nn.init.constant_(model.logit_scale, INITIAL_LOGIT_SCALE)
        return
    for module in model.get_submodule(part).modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        if part.startswith("codebook."):
            initialise_convolution(module)
        else:
            initialise_module(module, model.config.init_std)


def loaded(model: Flava) -> dict[str, Tensor]:
    """The tensors of a model without those of absent parts."""
    missing_parts = tuple(model.missing_parts)
    return {name: t for name, t in model.state_dict().items() if not name.startswith(missing_parts)}


def published_state(model: Flava, table: Table) -> dict[str, Tensor]:
    """The tensors of a model under published names, without the decoder and absent parts."""
    ours = {n: t for n, t in loaded(model).items() if not n.startswith(DECODER_PREFIX)}
    return {name: tensor.contiguous() for name, tensor in export(ours, table).items()}


def read_decoder(folder: Path | None) -> dict[str, Tensor]:
    """The decoder's tensors by our names, or nothing where the file is not there."""
    if folder is None or not (folder / DECODER).is_file():
        return {}
    return {f"{DECODER_PREFIX}{n}": t for n, t in read_tensors(folder / DECODER).items()}


def write_decoder(model: Flava, folder: Path) -> None:
    """The codebook's decoder in a file of its own, unless it is absent."""
    if "codebook.decoder" not in model.missing_parts:
        state = model.codebook.decoder.state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / DECODER)
