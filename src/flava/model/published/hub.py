"""Models of the Hugging Face hub."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from flava.model.published.files import weights_in

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""organisation/name."""

SAFE = ("*.json", "*.txt", "*.safetensors")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def looks_like_hub_id(source: str) -> bool:
    return HUB_ID.fullmatch(source) is not None


def download(repo_id: str) -> Path:
    """The hub's files of a model in the local cache: pickles only where there is nothing safer.

    Raises:
        FileNotFoundError: neither the hub nor the cache has it, or the hub is out of reach.
    """
    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=[*SAFE], ignore_patterns=["*/*"]))
        if weights_in(folder) is None:
            patterns = [*SAFE, *PICKLED]
            snapshot_download(repo_id, allow_patterns=patterns, ignore_patterns=["*/*"])
    except GatedRepoError as error:
        raise FileNotFoundError(
            f"{repo_id} is gated: accept its terms at https://huggingface.co/{repo_id}, then log "
            "in with `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{repo_id} is no file or folder here, and no model on the Hugging Face hub that you "
            "may read: check its spelling, or for a private one log in with `hf auth login`"
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{repo_id} is no file or folder here, and the Hugging Face hub cannot be reached "
            f"({type(error).__name__}): check the path or the connection, or download it where "
            f"there is one with `hf download {repo_id} --local-dir FOLDER` and give that folder"
        ) from error
    return folder
