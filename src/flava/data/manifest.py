"""manifest.json, which tells what the shards of a folder hold: found and read."""

import json
from pathlib import Path
from typing import Any

NAME = "manifest.json"


UNFINISHED = ".unfinished"
"""The folder, in that of the shards, of a build that goes on."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises ValueError: there is none, or it is damaged."""
    path = folder / NAME
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(
            f"{folder} has no {NAME}: give a folder that flava data build wrote. A build that was "
            "interrupted has none; the same command goes on with it"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): build the shards again") from error
    if not isinstance(content, dict) or "shards" not in content:
        raise ValueError(f"{path} is no manifest of shards: build them again")
    return content
