"""Reads manifest.json, which `flava data build` writes beside the shards of a folder."""

import json
from pathlib import Path
from typing import Any

NAME = "manifest.json"


UNFINISHED = ".unfinished"
"""The folder within that of the shards that holds the files of an unfinished build."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of shards.

    Raises:
        ValueError: there is none, or it is damaged.
    """
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
