"""Features of a data set's images, kept on disk so that each is computed once."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flava.checkpoints.digests import weights_digest
from flava.core.files import save_array
from flava.data.stored_images import Places, StoredImages
from flava.evaluation.shared_features import image_features
from flava.inference.features import FeatureExtractor
from flava.suite.data_mistakes import shortened


@dataclass(frozen=True)
class FeatureCache:
    """The features of one model, kept below a folder.

    Another weight, precision or view, or any file of a data set that has changed, makes them anew.
    """

    extractor: FeatureExtractor
    cache: Path

    def features(
        self, name: str, folder: Path, images: StoredImages, places: Places
    ) -> Float[np.ndarray, "places width"]:
        """The image encoder's [CLS] after its final norm, in 32 bits, of the images at ``places``.

        CLIP's protocol reads the same of its ViTs: features before the projection to the
        contrastive space (appendix A.3). ``folder`` holds the files of the data set ``name``.

        Raises:
            ValueError: some images cannot be decoded; they are listed.
            OSError: the features cannot be written.
        """
        path = self.cache / "features" / f"{name}-{self.digest(folder, places)}.npy"
        if path.is_file():
            return np.load(path)
        computed = image_features(self.extractor, images, places, title=name)
        if computed.errors:
            lines = shortened([f"{name}: {error}" for error in computed.errors])
            raise ValueError("some images cannot be used; get them again:\n  " + "\n  ".join(lines))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_array(path, computed.values)
        return computed.values

    def digest(self, folder: Path, places: Places) -> str:
        """Names the features by the model, its view and precision, the files and the places."""
        model, digest = self.extractor.model, hashlib.sha256()
        digest.update(weights_digest(model.image_encoder).encode())
        parts = (type(model).__name__, model.config.image, self.extractor.view)
        # Kept features of images that were turned as their EXIF says have no such word.
        digest.update(f"{parts} {self.extractor.precision} as stored".encode())
        for line in _stamps(folder):
            digest.update(line.encode(errors="surrogateescape"))
        digest.update(places.astype("<i8").tobytes())
        return digest.hexdigest()[:16]


def _stamps(folder: Path) -> list[str]:
    """A line for each file below a folder: its path, size and time of change, as git knows them."""
    files = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return [f"{p.relative_to(folder)}\0{s.st_size}\0{s.st_mtime_ns}\n" for p, s in files]
