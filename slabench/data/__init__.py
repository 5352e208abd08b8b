"""Data sets: catalog, sources, prepared stores, class splits. `load` is all that a suite needs.

Names are resolved lazily, so that listing data sets imports no numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "load": "slabench.data.loading:load",
    "ensure": "slabench.data.loading:ensure",
    "ImageSet": "slabench.data.imageset:ImageSet",
}

__all__ = ["ImageSet", "ensure", "load"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'slabench.data' has no attribute '{name}'")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(import_module(module), attribute)


if TYPE_CHECKING:
    from slabench.data.imageset import ImageSet
    from slabench.data.loading import ensure, load
