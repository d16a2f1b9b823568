"""Features of a data set's images, computed once: kept by what model, transform and data hold."""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from flava.checkpoints.digests import weights_digest
from flava.core.files import write_atomically
from flava.data.errors import SampleError
from flava.data.stored_images import Places, StoredImages, open_image, shortened
from flava.data.views import View, clip_view, encoder_view
from flava.evaluation.embedded_data import Texts
from flava.evaluation.features import Settings, evaluating, progress
from flava.models import Clip
from flava.models.flava import unit_length

Uint8Image = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class FeatureExtractor:
    """A model's features of images, with everything that decides them."""

    model: Any
    """Whatever has an ``image_encoder``."""
    settings: Settings
    threads: int = field(default_factory=torch.get_num_threads)
    """That decode images."""
    shown: bool = True
    """Whether progress is shown."""
    upright: bool = False
    """Whether images are turned as their EXIF says, which the suite's are not."""

    def shown_as(self, name: str) -> str | None:
        """The name of a progress bar, if there is to be one."""
        return name if self.shown else None

    @property
    def view(self) -> View:
        """What the image encoder sees: CLIP the image's middle, FLAVA all of it, squared."""
        size = self.model.config.image.image_size
        return clip_view(size) if isinstance(self.model, Clip) else encoder_view(size)

    def features(
        self, name: str, folder: Path, images: StoredImages, places: Places
    ) -> Float[np.ndarray, "places width"]:
        """The image encoder's [CLS] after its final norm, in 32 bits, of the images at ``places``.

        CLIP's protocol reads the same of its ViTs: features before the projection to the
        contrastive space (appendix A.3). They are kept in ``settings.cache``; another weight,
        precision or view, or any file of ``folder`` that has changed, makes them anew.

        Raises:
            ValueError: some images cannot be decoded; they are listed.
            OSError: the features cannot be written.
        """
        path = self.settings.cache / "features" / f"{name}-{self.digest(folder, places)}.npy"
        if path.is_file():
            return np.load(path)
        features = self.compute(name, images, places)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = BytesIO()
        np.save(content, features)
        write_atomically(path, content.getvalue())
        return features

    def digest(self, folder: Path, places: Places) -> str:
        digest = hashlib.sha256()
        digest.update(weights_digest(self.model.image_encoder).encode())
        parts = (type(self.model).__name__, self.model.config.image, self.view)
        # Kept features of images that were turned as their EXIF says have no such word.
        digest.update(f"{parts} {self.settings.precision} as stored".encode())
        for line in stamps(folder):
            digest.update(line.encode(errors="surrogateescape"))
        digest.update(places.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def compute(
        self, name: str, images: StoredImages, places: Places
    ) -> Float[np.ndarray, "places width"]:
        features = np.empty((len(places), self.model.config.image.width), np.float32)
        failed: list[str] = []
        done = 0
        with (
            evaluating(self.model, self.settings.precision),
            progress(self.shown_as(name), len(places)) as step,
        ):
            for batch in self.batches(images, places):
                failed += [f"{name}: {each}" for each in batch if isinstance(each, SampleError)]
                if not failed:
                    features[done : done + len(batch)] = self.encode(batch)
                done += len(batch)
                step(len(batch))
        if failed:
            raise ValueError(
                "some images cannot be used; get them again:\n  " + "\n  ".join(shortened(failed))
            )
        return features

    def batches(
        self, images: StoredImages, places: Places
    ) -> Iterator[list[Uint8Image | SampleError]]:
        """Decoded and resized by threads, a batch ahead of the model."""
        ahead: deque[list[Future[Uint8Image | SampleError]]] = deque()
        size = self.settings.batch_size
        with ThreadPoolExecutor(self.threads) as pool:
            for start in range(0, len(places), size):
                batch = places[start : start + size].tolist()
                ahead.append([pool.submit(self.read, images, place) for place in batch])
                if len(ahead) > 1:
                    yield [each.result() for each in ahead.popleft()]
            yield from ([each.result() for each in batch] for batch in ahead)

    def read(self, images: StoredImages, place: int) -> Uint8Image | SampleError:
        image = None
        try:
            image = images[place]
            return self.view.transform(open_image(image, upright=self.upright))
        except SampleError as error:
            where = image if isinstance(image, Path) else f"sample {place}"
            return SampleError(f"{where}: {error}")

    def encode(self, levels: list[Any]) -> np.ndarray:
        device = next(self.model.parameters()).device
        pixels = self.view.normalise(levels).to(device)
        states: Tensor = self.model.image_encoder.cls(pixels)[:, 0]
        return self.model.image_encoder.norm(states).float().cpu().numpy()

    def project(
        self, features: Float[np.ndarray, "images width"]
    ) -> Float[Tensor, "images projection"]:
        """Unit vectors of the contrastive space, computed in 32 bits, from such features."""
        device = next(self.model.parameters()).device
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            projected = self.model.image_projection(torch.from_numpy(features).to(device))
        return unit_length(projected).cpu()

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "texts projection"]:
        """Unit vectors of texts in the contrastive space, as one batch."""
        made = Texts(list(texts), list(texts), self.model.config)
        device = next(self.model.parameters()).device
        return self.model.encode_text(made.input_ids.to(device), made.attention_mask).float().cpu()


def stamps(folder: Path) -> list[str]:
    """A line for each file below a folder: its path, size and time of change, as git knows them."""
    files = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return [f"{p.relative_to(folder)}\0{s.st_size}\0{s.st_mtime_ns}\n" for p, s in files]
