"""Measures the data path on one core: from a tar of JPEGs and captions to a batch with masks."""

import io
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2
from transformers import BertTokenizer, FlavaProcessor
from transformers.models.flava.image_processing_flava import (
    FlavaImageProcessor,
    FlavaMaskingGenerator,
)
from webdataset.compat import WebDataset
from webdataset.writer import TarWriter

from benchmarks import inputs
from benchmarks.measure import OURS, Result, compare
from benchmarks.turns import Here
from flava.core.batch import map_pixels
from flava.data.collate import ImageCollator, PairCollator, TextCollator
from flava.data.samples import caption_of
from flava.data.shards import RawSample, read_shard
from flava.data.tokenizers import VOCABULARY
from flava.data.transforms import CLIP_MEAN, CLIP_STD, ImageTransformConfig

SAMPLES = 64
SIZE = (500, 375)
"""Width and height in pixels of the images: the most common in COCO and Flickr30K, and the size in
which those of PMD are kept."""
CROP, SIDE, CODEBOOK_SIDE = (0.9, 1.0), 224, 112


def photo(rng: np.random.Generator) -> bytes:
    """A JPEG that compresses like a photo: random clouds of all scales, and some noise."""
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.float32)
    for cells in (4, 8, 16, 32, 64, 128):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        pixels += np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC)) / cells**0.7
    pixels *= 255 / pixels.max()
    pixels += rng.normal(scale=6, size=pixels.shape)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_shard(path: Path) -> None:
    rng = np.random.default_rng(0)
    with TarWriter(str(path)) as tar:
        for index, caption in enumerate(inputs.captions()[:SAMPLES]):
            tar.write({"__key__": f"{index:04d}", "jpg": photo(rng), "txt": caption})


def ours(shard: Path) -> object:
    config = ImageTransformConfig(crop_scale=CROP)
    texts = TextCollator(inputs.tokenizer(), inputs.PADDED, inputs.masker(), caption_of)
    collator = PairCollator(ImageCollator(config, 75 / 196), texts, 0.1)
    rng = np.random.default_rng(0)
    raw = [sample for sample in read_shard(shard) if isinstance(sample, RawSample)]
    return collator.collate([collator.decode(sample, rng) for sample in raw], rng)


class Torchvision:
    """A data path of webdataset, torchvision's transforms, and Hugging Face's tokeniser and masks.

    With ``pil``, images are decoded and resized by PIL; else by torchvision as tensors, for which
    it has no Lanczos filter.
    """

    def __init__(self, *, pil: bool) -> None:
        self.pil = pil
        self.crop = v2.RandomResizedCrop(SIDE, CROP, interpolation=v2.InterpolationMode.BICUBIC)
        lanczos = v2.InterpolationMode.LANCZOS if pil else v2.InterpolationMode.BICUBIC
        self.codebook = v2.Resize((CODEBOOK_SIDE, CODEBOOK_SIDE), interpolation=lanczos)
        self.tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
        self.normalise = v2.Normalize(CLIP_MEAN, CLIP_STD)
        self.mask = FlavaMaskingGenerator()
        self.tokenizer = BertTokenizer(str(VOCABULARY))

    def __call__(self, shard: Path) -> object:
        found = [self.image(sample) for sample in samples(shard)]
        texts = self.tokenizer([text for *_, text in found], padding=True, return_tensors="pt")
        pixels, codebook = (torch.stack(views) for views in list(zip(*found, strict=True))[:2])
        masks = torch.from_numpy(np.stack([self.mask() for _ in found]))
        return pixels, map_pixels(codebook), masks, texts

    def image(self, sample: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, str]:
        if self.pil:
            image = Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
        else:
            data = torch.frombuffer(bytearray(sample["jpg"]), dtype=torch.uint8)
            image = decode_image(data, ImageReadMode.RGB)
        crop = self.crop(image)
        text = sample["txt"].decode()
        return self.normalise(self.tensor(crop)), self.tensor(self.codebook(image)), text


def processor() -> Callable[[Path], object]:
    """The data path of Hugging Face's processor, which also makes masks and codebook pixels."""
    both: Any = FlavaProcessor(FlavaImageProcessor(), BertTokenizer(str(VOCABULARY)))

    def read(shard: Path) -> object:
        found = list(samples(shard))
        images = [Image.open(io.BytesIO(sample["jpg"])).convert("RGB") for sample in found]
        return both(
            images=images,
            text=[sample["txt"].decode() for sample in found],
            padding=True,
            return_codebook_pixels=True,
            return_image_mask=True,
            return_tensors="pt",
        )

    return read


def samples(shard: Path) -> Iterator[dict[str, Any]]:
    return iter(WebDataset(str(shard), shardshuffle=False))


def run(rounds: int) -> Iterator[Result]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "0.tar"
        write_shard(shard)
        readers: dict[str, Callable[[Path], object]] = {
            OURS: ours,
            "torchvision on tensors": Torchvision(pil=False),
            "torchvision on PIL": Torchvision(pil=True),
            "transformers' processor": processor(),
        }
        works = {name: Here(partial(read, shard)) for name, read in readers.items()}
        goals = {name: 1.0 for name in readers if name != OURS}
        yield compare(f"{SAMPLES} samples to a batch", works, goals, rounds=rounds)
    torch.set_num_threads(threads)
