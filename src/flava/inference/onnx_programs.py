"""Exports a model as ONNX programs, which run without flava and without PyTorch.

There is a program for images, one for texts and, for FLAVA, one for pairs; a README.md beside them
lists their inputs and outputs (docs/decisions/0028-onnx.md).
"""

import importlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.export import Dim

from flava.models import Clip, Flava

README_TEXT = Template("""\
# A $kind as ONNX programs

The programs compute in 32 bits and run without PyTorch, for example in
[ONNX Runtime](https://onnxruntime.ai).

| program | | name | type | shape |
| --- | --- | --- | --- | --- |
$table

- `pixel_values`: RGB images, processed as `preprocessor_config.json` says: resized and cropped to
  $side x $side pixels; pixel values are multiplied by `rescale_factor`, `image_mean` is subtracted,
  and the result is divided by `image_std`. Channels come first.
- `input_ids`: token ids of this folder's tokeniser, with its special tokens, at most $longest in a
  text. Shorter texts are padded with its padding token to the longest of the batch, or further.
- `attention_mask`: 1 at tokens, 0 at padding.
- `image_embeds`, `text_embeds`: unit vectors of the contrastive space. $scaled
$joint
```python
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
texts = tokenizer(["a cat", "a big dog"], padding=True, truncation=True, return_tensors="np")
program = onnxruntime.InferenceSession("text.onnx")
(embeds,) = program.run(None, {name: texts[name] for name in ("input_ids", "attention_mask")})
```

If the weights of a program are larger than 2 GB, they are in a file of their own, such as
`image.onnx.data` beside `image.onnx`. Keep both together.
""")


def _readme(model: Flava | Clip, programs: Sequence[Path]) -> str:
    """The README.md that describes these program files of a model."""
    scale = model.logit_scale.exp().item()
    unscaled = isinstance(model, Flava) and "logit_scale" in model.missing_parts
    matching = isinstance(model, Flava) and "itm_head" not in model.missing_parts
    joint = "- `multimodal_embeds`: the multimodal [CLS] state after the final LayerNorm.\n"
    probability = (
        "- `match_probability`: the probability that image and text match, by the matching head.\n"
    )
    return README_TEXT.substitute(
        kind=type(model).__name__,
        table="\n".join(row for path in programs for row in _table_rows(path)),
        side=model.config.image.image_size,
        longest=model.config.text.max_length,
        scaled="" if unscaled else f"Logits are their dot products times {scale:.6g}.",
        joint=joint * isinstance(model, Flava) + probability * matching,
    )


def _table_rows(path: Path) -> Iterator[str]:
    """A row of the table for each input and output of a program."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    for role, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            shape = ", ".join(str(each.dim_param or each.dim_value) for each in tensor.shape.dim)
            yield f"| `{path.name}` | {role} | `{value.name}` | {dtype} | {shape} |"


EXAMPLE_BATCH, EXAMPLE_LENGTH = 3, 2
"""Sizes of the example inputs for tracing. A size of 1 would become a constant, and every text
encoder can read two tokens."""


class ImageProgram(nn.Module):
    """Pixels to unit vectors of the contrastive space."""

    def __init__(self, model: Flava | Clip) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, pixel_values: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch projection"]:
        return self.model.encode_image(pixel_values)


class TextProgram(nn.Module):
    """Token ids and attention mask to unit vectors of the contrastive space."""

    def __init__(self, model: Flava | Clip) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch projection"]:
        return self.model.encode_text(input_ids, attention_mask.bool())


class PairProgram(nn.Module):
    """Pairs to multimodal [CLS] states (h_CLS,M), and match probabilities if there is a head."""

    def __init__(self, model: Flava) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        pixel_values: Float[Tensor, "batch 3 height width"],
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Int[Tensor, "batch length"],
    ) -> tuple[Tensor, ...]:
        model, attention_mask = self.model, attention_mask.bool()
        image = model.image_encoder(pixel_values)
        joint = model.multimodal(
            image, model.text_encoder(input_ids, attention_mask), attention_mask
        )
        if "itm_head" in model.missing_parts:
            return (joint[:, 0],)
        return joint[:, 0], model.itm_head(joint).softmax(dim=1)[:, 1]


@dataclass(frozen=True)
class Program:
    """A program to write: its file, what it computes, and the names of its inputs and outputs."""

    file: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


IMAGE, TEXT = ("pixel_values",), ("input_ids", "attention_mask")
"""Inputs have the names that transformers' processors give them."""


def _programs_of(model: Flava | Clip) -> list[Program]:
    programs = [
        Program("image.onnx", ImageProgram(model), IMAGE, ("image_embeds",)),
        Program("text.onnx", TextProgram(model), TEXT, ("text_embeds",)),
    ]
    if isinstance(model, Flava):
        matching = () if "itm_head" in model.missing_parts else ("match_probability",)
        outputs = ("multimodal_embeds", *matching)
        programs.append(Program("pair.onnx", PairProgram(model), IMAGE + TEXT, outputs))
    return programs


def write_programs(model: Flava | Clip, folder: Path) -> None:
    """Write the programs of a model, and a README.md that describes them, into a folder.

    A file of ONNX can hold 2 GB. Larger weights are written beside it, such as into
    ``image.onnx.data`` for ``image.onnx``.

    Raises:
        ValueError: onnx or onnxscript is not installed.
    """
    _check_libraries()
    programs, was_training = _programs_of(model), model.training
    model.eval()
    try:
        for each in programs:
            _write_program(each, model, folder / each.file)
    finally:
        model.train(was_training)
    text = _readme(model, [folder / each.file for each in programs])
    (folder / "README.md").write_text(text, encoding="utf-8")


def _check_libraries() -> None:
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the layout onnx needs {error.name}, which is not installed: pip install 'flava[onnx]'"
        ) from error


def _write_program(program: Program, model: Flava | Clip, path: Path) -> None:
    """Trace a program, write it, and check the file with ONNX's own checker."""
    import onnx

    side, longest = model.config.image.image_size, model.config.text.max_length
    batch, length = Dim("batch"), Dim("length", max=longest)
    pixels = torch.zeros(EXAMPLE_BATCH, 3, side, side)
    tokens = torch.ones(EXAMPLE_BATCH, EXAMPLE_LENGTH, dtype=torch.int64)
    examples = {
        "pixel_values": (pixels, {0: batch}),
        "input_ids": (tokens, {0: batch, 1: length}),
        # If both were one tensor, it would be traced as one input.
        "attention_mask": (tokens.clone(), {0: batch, 1: length}),
    }
    inputs, axes = zip(*(examples[name] for name in program.inputs), strict=True)
    inputs = tuple(each.to(model.logit_scale.device) for each in inputs)
    # Without strict, len(tensor) fails, and torch.onnx then keeps the example's batch size.
    traced = torch.export.export(program.module.eval(), inputs, dynamic_shapes=axes, strict=True)
    with warnings.catch_warnings():
        # Two inputs share an axis on purpose.
        warnings.filterwarnings("ignore", message=r"# The axis name: \w+ will not be used")
        translated = torch.onnx.export(
            traced,
            input_names=program.inputs,
            output_names=program.outputs,
            dynamic_shapes=axes,
            dynamo=True,
            verbose=False,
        )
    assert translated is not None
    translated.save(path)
    onnx.checker.check_model(path, full_check=True)
