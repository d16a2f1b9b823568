"""What stands beside ONNX programs for those who run them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template

from flava.model import Clip, Flava

TEXT = Template("""\
# A $kind as ONNX programs

They run without PyTorch, in [ONNX Runtime](https://onnxruntime.ai) for instance, in 32 bits.

| program | | name | type | shape |
| --- | --- | --- | --- | --- |
$table

- `pixel_values`: RGB images as `preprocessor_config.json` says: resized, cut to $side x $side
  pixels, levels times `rescale_factor`, less `image_mean`, over `image_std`; channels first.
- `input_ids`: the tokeniser's ids with its special tokens, at most $longest a text; shorter texts
  are padded to the longest of their batch, or further, with its padding.
- `attention_mask`: 1 at a text's tokens, 0 at padding.
- `image_embeds`, `text_embeds`: unit vectors of one space. $scaled
$joint
```python
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
texts = tokenizer(["a cat", "a big dog"], padding=True, truncation=True, return_tensors="np")
program = onnxruntime.InferenceSession("text.onnx")
(embeds,) = program.run(None, {name: texts[name] for name in ("input_ids", "attention_mask")})
```

Weights of more than 2 GB are in a file of their own, `image.onnx.data` beside `image.onnx`: keep
both together.
""")


def readme(model: Flava | Clip, programs: Sequence[Path]) -> str:
    """A page that describes these programs of a model, as they are in their files."""
    scale = model.logit_scale.exp().item()
    unscaled = isinstance(model, Flava) and "logit_scale" in model.absent
    matching = isinstance(model, Flava) and "itm_head" not in model.absent
    joint = "- `multimodal_embeds`: the multimodal [CLS] after the final norm.\n"
    probability = (
        "- `match_probability`: how probably a text is its image's, by the matching head.\n"
    )
    return TEXT.substitute(
        kind=type(model).__name__,
        table="\n".join(row for path in programs for row in rows_of(path)),
        side=model.config.image.image_size,
        longest=model.config.text.max_length,
        scaled="" if unscaled else f"Logits are their products times {scale:.6g}.",
        joint=joint * isinstance(model, Flava) + probability * matching,
    )


def rows_of(path: Path) -> Iterator[str]:
    """A line of the table for each input and output of a program."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    for role, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            shape = ", ".join(str(each.dim_param or each.dim_value) for each in tensor.shape.dim)
            yield f"| `{path.name}` | {role} | `{value.name}` | {dtype} | {shape} |"
