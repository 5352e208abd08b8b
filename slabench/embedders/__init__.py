"""Frozen pre-trained networks and what they make of images: feature sets, stored once and read by row.

`open_features` is all that a suite needs. Names are resolved lazily, so that listing them imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "EmbedderFacts": "slabench.embedders.facts:EmbedderFacts",
    "FeatureSet": "slabench.embedders.store:FeatureSet",
    "open_features": "slabench.embedders.store:open_features",
}

__all__ = ["EmbedderFacts", "FeatureSet", "open_features"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'slabench.embedders' has no attribute '{name}'")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(import_module(module), attribute)


if TYPE_CHECKING:
    from slabench.embedders.facts import EmbedderFacts
    from slabench.embedders.store import FeatureSet, open_features
