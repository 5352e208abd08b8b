"""`slabench check`: does a head, backbone, loss, transformation set or data set keep what slabench relies on?

Each check says in a sentence what is wrong and what to do. Everything runs on tiny inputs on the CPU, in seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from slabench.core import registry
from slabench.core.errors import SlabenchError

S = TypeVar("S")


class Wrong(Exception):
    """What a check has found, in words."""


class NotApplicable(Exception):
    """Why a check does not apply."""


@dataclass(frozen=True)
class Check(Generic[S]):
    """One promise.

    Attributes:
        name: of the promise, a few words.
        run: raises `Wrong` or `NotApplicable`; any other exception counts as wrong. May return a remark.
        remedy: what to do when it is broken.
        needed: the later checks make no sense without it.
    """

    name: str
    run: Callable[[S], str | None]
    remedy: str
    needed: bool = False


@dataclass(frozen=True)
class Finding:
    """The outcome of a check: `message` says what is wrong, why it was skipped, or remarks on what is right."""

    check: str
    state: Literal["ok", "wrong", "skipped"]
    message: str = ""
    remedy: str = ""


def run_checks(subject: S, checks: Sequence[Check[S]]) -> list[Finding]:
    """All checks on `subject`, in order; after a needed one that fails the rest is skipped."""
    findings: list[Finding] = []
    blocked = ""
    for check in checks:
        if blocked:
            findings.append(Finding(check.name, "skipped", f"needs '{blocked}'"))
            continue
        try:
            with _states_put_back():
                findings.append(Finding(check.name, "ok", check.run(subject) or ""))
        except NotApplicable as reason:
            findings.append(Finding(check.name, "skipped", str(reason)))
        except Exception as error:
            text = str(error) if isinstance(error, Wrong) else f"it raises {type(error).__name__}: {error}"
            findings.append(Finding(check.name, "wrong", text, check.remedy))
            blocked = check.name if check.needed else ""
    return findings


def check(kind: str, name: str) -> list[Finding]:
    """Check what is registered as `name`.

    Args:
        kind: plural as in `slabench.core.registry.REGISTRIES`: heads, backbones, losses, transforms, datasets.
        name: its name.

    Raises:
        UsageError: there is none.
    """
    entry = registry.REGISTRIES[kind].entry(name)
    from slabench.conformance import backbones, datasets, heads, losses, transforms

    checks: dict[str, Callable[[Any], list[Finding]]] = {
        "heads": heads.check_head,
        "backbones": backbones.check_backbone,
        "losses": lambda _: losses.check_loss(name),
        "transforms": transforms.check_transforms,
        "datasets": datasets.check_dataset,
    }
    try:
        subject = registry.REGISTRIES[kind].get(entry.name)
    except SlabenchError as error:
        return [Finding("loads", "wrong", error.message, error.remedy)]
    return checks[kind](subject)


def expect(right: bool, message: str) -> None:
    """Raise `Wrong(message)` unless `right`."""
    if not right:
        raise Wrong(message)


def expect_shape(tensor: object, shape: Sequence[int], what: str) -> None:
    """Raise `Wrong` unless `tensor` is one, of this shape."""
    expect(isinstance(tensor, Tensor), f"{what} are a {type(tensor).__name__}, not a tensor")
    assert isinstance(tensor, Tensor)
    expect(list(tensor.shape) == list(shape), f"{what} have the shape {list(tensor.shape)}, not {list(shape)}")


def expect_finite(tensor: Tensor, what: str) -> None:
    """Raise `Wrong` if there is a NaN or an infinity."""
    bad = int((~tensor.isfinite()).sum())
    expect(not bad, f"{bad} of {tensor.numel()} {what} are NaN or infinite")


def expect_close(a: Tensor, b: Tensor, message: str, tolerance: float = 1e-5) -> None:
    """Raise `Wrong` unless a and b agree to `tolerance`, relative to the largest of b (at least 1)."""
    a, b = a.detach(), b.detach()
    off = float((a - b).abs().max()) / max(1.0, float(b.abs().max()))
    expect(off <= tolerance, f"{message} (they differ by {off:.2g}, allowed is {tolerance:g})")


@contextmanager
def unchanged(what: str, **tensors: Tensor) -> Iterator[None]:
    """Raise `Wrong` if the block changes one of the tensors in place."""
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    yield
    changed = [name for name, tensor in tensors.items() if not torch.equal(tensor, before[name])]
    expect(not changed, f"{what} changes its input in place: {', '.join(changed)}")


@contextmanager
def no_global_random(what: str) -> Iterator[None]:
    """Raise `Wrong` if the block draws from, or seeds, a global generator of torch, numpy or Python."""
    before = _global_states()
    yield
    after = _global_states()
    used = [
        name
        for name, same in (
            ("torch", torch.equal(before[0], after[0])),
            ("numpy", all(np.array_equal(x, y) for x, y in zip(before[1], after[1], strict=True))),
            ("random", before[2] == after[2]),
        )
        if not same
    ]
    expect(not used, f"{what} draws from the global generator of {', '.join(used)}")


def _global_states() -> tuple[Tensor, Any, Any]:
    return torch.random.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


@contextmanager
def _states_put_back() -> Iterator[None]:
    """Whatever a broken method draws: the caller's random numbers go on as if it had not been checked."""
    states = _global_states()
    try:
        yield
    finally:
        torch.random.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


OWN_GENERATOR = "draw from a generator of its own, seeded by name (slabench.core.seeding.torch_generator)"
COPY_FIRST = "work on a copy (x = x * y, not x *= y; no functions that end in _)"
