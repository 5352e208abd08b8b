"""Pre-trained networks by name: `timm:NAME` and `clip:NAME`, weights from a file, and nothing from a network of computers.

timm and open_clip are extras (`slabench[timm]`, `slabench[clip]`), imported when a name asks for them. Resize and normalisation
are those of the model's own configuration. Images of a prepared store are squares already: they are scaled to the input, and
not cropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.core.files import sha256_file
from slabench.embedders.facts import UNKNOWN, EmbedderFacts
from slabench.embedders.last_block import Cut, cut_timm
from slabench.embedders.weights import fitted, read_weights


@dataclass(frozen=True, eq=False)
class Network:
    """A frozen network and how images get to it.

    Attributes:
        name: such as `timm:tf_efficientnet_lite0`.
        forward: float32 `[B, 3, size, size]`, normalised, to features `[B, D]`.
        module: holds the weights, in eval mode.
        size: height and width of its input.
        dim: D.
        mean: by channel, in units of 0..1.
        std: likewise.
        interpolation: `bicubic` or `bilinear`.
        weights_sha256: of the file of its weights.
        licence: of the weights, where the configuration says.
        cutting: gives the network in two parts, or None where nobody knows where its last block begins; see `cut`.
    """

    name: str
    forward: Callable[[Tensor], Tensor]
    module: nn.Module
    size: int
    dim: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    weights_sha256: str
    licence: str
    cutting: Callable[[], Cut | None] = lambda: None

    @cached_property
    def cut(self) -> Cut | None:
        """The network in two parts, before its last block; made when maps are asked for, since the second part is a copy."""
        return self.cutting()

    def inputs(self, images: Tensor) -> Tensor:
        """Normalised float32 `[B, 3, size, size]` of uint8 `[B, H, W, 3]`, on the device of the images."""
        x = images.permute(0, 3, 1, 2).float() / 255
        if x.shape[-1] != self.size or x.shape[-2] != self.size:
            size = (self.size, self.size)
            x = functional.interpolate(x, size, mode=self.interpolation, antialias=True, align_corners=False)
            x = x.clamp(0, 1)  # bicubic overshoots, as no picture can
        mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std

    def facts(self, precision: str, **told: Any) -> EmbedderFacts:
        """What records say of it; `told` overrides what the network itself does not know."""
        known = {
            "embedder": self.name,
            "resolution": self.size,
            "weights_sha256": self.weights_sha256,
            "licence": self.licence,
            "precision": precision,
        }
        return EmbedderFacts.model_validate(known | {key: value for key, value in told.items() if value is not None})


def open_network(model: str, weights: Path | None = None, size: int | None = None) -> Network:
    """The network called `model`, with its weights, in eval mode on the CPU.

    Args:
        model: `timm:NAME` or `clip:NAME`.
        weights: a safetensors or torch file of them; None looks into the cache that the library fills, and fetches nothing.
        size: height and width of the input, where not the model's own.

    Raises:
        UsageError: no such model, its library is not installed, there are no weights (says what to fetch), or it
            has a fixed size.
        DataError: the weights cannot be read safely, or are of another network.
    """
    kind, colon, name = model.partition(":")
    if not colon or not name or kind not in _OPENERS:
        known = " or ".join(f"{kind}:NAME" for kind in _OPENERS)
        raise UsageError(
            f"--model {model} is not the name of a network", f"write {known}, as timm:tf_efficientnet_lite0"
        )
    if size is not None and not 8 <= size <= 1024:
        raise UsageError(f"--size {size} is not between 8 and 1,024", "leave it out to take the model's own")
    network = _OPENERS[kind](name, weights, size)
    network.module.eval().requires_grad_(False)
    return network


def _timm(name: str, weights: Path | None, size: int | None) -> Network:
    timm = _library("timm", "timm", "timm")
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.partition('.')[0]}*")[:3] or timm.list_models(f"{name[:6]}*")[:3]
        raise UsageError(
            f"timm {timm.__version__} has no model '{name}'", f"as: {', '.join(close) or 'timm.list_models()'}"
        )
    module = timm.create_model(name, pretrained=False, num_classes=0)
    config = timm.data.resolve_model_data_config(module)
    own = int(config["input_size"][-1])
    if size not in (None, own) and module.pretrained_cfg.get("fixed_input_size"):
        raise UsageError(f"--size {size}: {name} takes images of {own} pixels alone", "leave --size out")
    repository = str(module.pretrained_cfg.get("hf_hub_id") or "")
    file = weights or _cached(repository)
    if file is None:
        raise _no_weights(f"timm:{name}", repository, str(module.pretrained_cfg.get("url") or ""))
    module.load_state_dict(fitted(read_weights(file), module.state_dict(), file))
    return Network(
        name=f"timm:{name}",
        forward=module,
        module=module,
        size=size or own,
        dim=int(module.num_features if not hasattr(module, "head_hidden_size") else module.head_hidden_size),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=_interpolation(config["interpolation"]),
        weights_sha256=sha256_file(file),
        licence=str(module.pretrained_cfg.get("license") or UNKNOWN),
        cutting=partial(cut_timm, module),
    )


def _timm_tail(name: str) -> nn.Module | None:
    timm = _library("timm", "timm", "timm")
    cut = cut_timm(timm.create_model(name, pretrained=False, num_classes=0)) if timm.is_model(name) else None
    return None if cut is None else cut.tail


def _clip(name: str, weights: Path | None, size: int | None) -> Network:
    """By open_clip's documented interface: `create_model(NAME, pretrained=None)`, `model.visual`, `encode_image`."""
    open_clip = _library("open_clip", "clip", "open_clip_torch")
    if name not in open_clip.list_models():
        raise UsageError(f"open_clip has no model '{name}'", f"as: {', '.join(open_clip.list_models()[:5])}")
    if weights is None:
        raise _no_weights(f"clip:{name}", "", "")
    module = open_clip.create_model(name, pretrained=None)
    module.load_state_dict(fitted(read_weights(weights), module.state_dict(), weights))
    visual = module.visual
    image_size = visual.image_size
    own = int(image_size[0] if isinstance(image_size, tuple | list) else image_size)
    if size not in (None, own):
        raise UsageError(f"--size {size}: {name} takes images of {own} pixels alone", "leave --size out")
    return Network(
        name=f"clip:{name}",
        forward=module.encode_image,
        module=module,
        size=own,
        dim=int(visual.output_dim),
        mean=tuple(visual.image_mean or open_clip.OPENAI_DATASET_MEAN),
        std=tuple(visual.image_std or open_clip.OPENAI_DATASET_STD),
        interpolation="bicubic",
        weights_sha256=sha256_file(weights),
        licence=UNKNOWN,
    )


_OPENERS: Mapping[str, Callable[[str, Path | None, int | None], Network]] = {"timm": _timm, "clip": _clip}
_TAILS: Mapping[str, Callable[[str], nn.Module | None]] = {"timm": _timm_tail}


def open_tail(model: str) -> nn.Module:
    """What makes features of the maps before the last block of a network, with weights that mean nothing yet.

    Args:
        model: as a feature set names its network.

    Raises:
        UsageError: its library is not installed, or no longer knows such a network.
    """
    kind, _, name = model.partition(":")
    tail = _TAILS[kind](name) if kind in _TAILS else None
    if tail is None:
        raise UsageError(
            f"the last block of {model} cannot be made here: networks that can are {', '.join(f'{k}:NAME' for k in _TAILS)}",
            "choose --adapter linear or mlp, which need no block",
        )
    return tail.requires_grad_(True)


def _library(module: str, extra: str, package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{package} cannot be imported: {error}", f'pip install "slabench[{extra}]" (or pip install {package})'
        ) from error


def _interpolation(name: str) -> str:
    return name if name in ("bicubic", "bilinear") else "bicubic"


def _cached(repository: str) -> Path | None:
    """The weights in the local cache of huggingface_hub, if another program has fetched them."""
    if not repository:
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(repository, "model.safetensors")
    return Path(found) if isinstance(found, str) else None


def _no_weights(name: str, repository: str, url: str) -> UsageError:
    where = [f"https://huggingface.co/{repository} (model.safetensors)"] if repository else []
    where += [url] if url else []
    ways = " or ".join(where) or "a safetensors or torch file of its publisher"
    return UsageError(
        f"there are no weights of {name} on this machine, and slabench downloads none",
        f"fetch {ways} on a machine with a network, and name the file: --weights FILE",
    )
