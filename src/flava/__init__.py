"""FLAVA: one model for images, texts and both together.

`flava.load` gives a pretrained model, ready to use; it is imported when it is asked for, so that
``import flava`` alone takes no time.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flava.inference.load import load
    from flava.inference.pretrained import Pretrained

__all__ = ["Pretrained", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from flava.inference.load import load

        return load
    if name == "Pretrained":
        from flava.inference.pretrained import Pretrained

        return Pretrained
    raise AttributeError(f"module 'flava' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
