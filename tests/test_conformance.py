"""The conformance suite: slabench's own methods keep every promise, and each check fails for a method that breaks it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from findings import calls as _calls
from findings import wrong
from processes import here
from torch import Tensor, nn
from torch.nn import functional

from slabench.conformance import check
from slabench.conformance import heads as of_heads
from slabench.conformance import losses as of_losses
from slabench.conformance import transforms as of_transforms
from slabench.conformance.heads import check_head
from slabench.conformance.losses import check_loss
from slabench.conformance.transforms import check_transforms
from slabench.core.registry import HEADS, LOSSES, REGISTRIES
from slabench.heads import Head
from slabench.heads.metric import class_means, prototype_logits
from slabench.sla.transforms import FunctionSet, TransformSet, function_set

pytestmark = pytest.mark.usefixtures("registries")


# Their gradients are those of hundreds of steps of a fit, which gradcheck takes many times.
SLOW = {"baseline-plus-plus", "cosine-fitted"}
OWN = [
    pytest.param(kind, name, marks=[pytest.mark.slow] if name in SLOW else [])
    for kind in ("heads", "losses", "transforms")
    for name in REGISTRIES[kind].names()
]


@pytest.mark.parametrize(("kind", "name"), OWN)
def test_slabenchs_own_conform(kind: str, name: str) -> None:
    assert wrong(check(kind, name)) == {}


# ---------------------------------------------------------------------------------------------- broken heads


def head(function: Callable[..., Any], decomposes: bool = False) -> dict[str, str]:
    return wrong(check_head(Head("broken", function, decomposes)))


class _Doubled(torch.autograd.Function):
    """Identity whose backward is twice the derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g


def _fixed_shots(s: Tensor, y: Tensor, q: Tensor, n: int) -> Tensor:
    order = y.argsort(dim=1, stable=True)
    ordered = s.gather(1, order.unsqueeze(-1).expand_as(s))
    means = ordered.unflatten(1, (n, -1)).mean(2)
    return -torch.cdist(q, means).square()


def _no_order(s: Tensor, y: Tensor, q: Tensor, n: int) -> Tensor:
    """Takes the k-th block of supports for class k."""
    means = torch.stack([block.mean(1) for block in s.tensor_split(n, 1)], 1)
    return -torch.cdist(q, means).square()


def _in_place(s: Tensor, y: Tensor, q: Tensor, n: int) -> Tensor:
    out = prototype_logits(s, y, q, n)
    if not q.requires_grad:
        q -= q.mean()
    return out


def _random(s: Tensor, y: Tensor, q: Tensor, n: int) -> Tensor:
    return prototype_logits(s, y, q, n) + 1e-12 * torch.randn(())


def _counting(s: Tensor, y: Tensor, q: Tensor, n: int) -> Tensor:
    _calls[0] += 1
    return prototype_logits(s, y, q, n) + 1e-6 * _calls[0]


BROKEN_HEADS: dict[str, tuple[Callable[..., Any], str]] = {
    "shape": (
        lambda s, y, q, n: prototype_logits(s, y, q, n).mT,
        "the logits of 3 4-way 3-shot episodes have the shape",
    ),
    "precision": (
        lambda s, y, q, n: prototype_logits(s, y, q, n).float(),
        "torch.float64 give logits in torch.float32",
    ),
    "separated classes": (lambda s, y, q, n: -prototype_logits(s, y, q, n), "are classified as it"),
    "episodes apart": (
        lambda s, y, q, n: prototype_logits(s - s.mean(), y, q - s.mean(), n) * s.mean(),
        "scored alone",
    ),
    "queries apart": (lambda s, y, q, n: prototype_logits(s, y, q - q.mean(1, keepdim=True), n), "transductive"),
    "order of supports": (_no_order, "supports in another order"),
    "names of classes": (
        lambda s, y, q, n: prototype_logits(s, y, q, n) * (1 + torch.arange(n)),
        "order of the logits",
    ),
    "unequal shots": (_fixed_shots, "it raises"),
    "gradient": (lambda s, y, q, n: _Doubled.apply(prototype_logits(s, y, q, n)), "the gradient is not the derivative"),
    "inputs unchanged": (_in_place, "changes its input in place: query"),
    "no global randomness": (_random, "global generator of torch"),
    "same result twice": (_counting, "two results"),
    "joint episode of SLA": (
        lambda s, y, q, n: prototype_logits(s, y, q, n) if n <= 8 else prototype_logits(s, y, q, n)[..., :8],
        "SLA's joint episode",
    ),
}


@pytest.mark.parametrize("name", BROKEN_HEADS)
def test_each_check_of_heads_can_fail(name: str) -> None:
    function, message = BROKEN_HEADS[name]
    found = head(function)
    assert message in found.get(name, ""), found


def test_a_declared_transductive_head_conforms_and_a_false_declaration_does_not() -> None:
    tim = HEADS.get("tim")
    (found,) = (finding for finding in check_head(tim) if finding.check == "queries apart")
    assert (found.state, found.message) == ("ok", "transductive, as declared: ranked in tables of its own")
    assert "is transductive" in wrong(check_head(replace(tim, transductive=False)))["queries apart"]
    assert (
        "declared transductive" in wrong(check_head(replace(HEADS.get("protonet"), transductive=True)))["queries apart"]
    )


def test_a_dishonest_decomposes_is_found_and_a_modest_one_remarked() -> None:
    ridge = HEADS.get("metaoptnet-rr")
    assert "decomposes is True, but other supports" in wrong(check_head(replace(ridge, decomposes=True)))["decomposes"]
    modest = check_head(replace(HEADS.get("protonet"), decomposes=False))[-1]
    assert modest.state == "ok"
    assert "could be True" in modest.message


def test_a_shared_summand_is_no_dependence_on_other_classes() -> None:
    def normalised(s: Tensor, y: Tensor, q: Tensor, n: int) -> Tensor:
        return prototype_logits(s, y, q, n).log_softmax(-1)

    assert head(normalised, decomposes=True) == {}


def test_a_gradient_that_is_not_finite_or_zero_is_found() -> None:
    def nan(s: Tensor, y: Tensor, q: Tensor, n: int) -> Tensor:
        zero = (q - q).sum(-1, keepdim=True)  # the derivative of the root at 0 is infinite
        return prototype_logits(s, y, q, n) + zero.sqrt()

    assert "NaN or infinite" in head(nan)["gradient"]
    assert (
        "zero at every feature"
        in head(lambda s, y, q, n: prototype_logits(s, y, q, n).detach() + 0 * q.sum())["gradient"]
    )


def test_a_head_without_gradient_is_told_what_it_cannot() -> None:
    findings = check_head(Head("scores", lambda s, y, q, n: prototype_logits(s, y, q, n).detach(), True))
    (gradient,) = (finding for finding in findings if finding.check == "gradient")
    assert gradient.state == "skipped"
    assert "cannot train a backbone" in gradient.message


def test_after_a_wrong_shape_the_rest_is_skipped() -> None:
    findings = check_head(Head("broken", lambda s, y, q, n: q, False))
    assert [finding.state for finding in findings] == ["wrong"] + ["skipped"] * (len(of_heads.CHECKS) - 1)
    assert findings[1].message == "needs 'shape'"


class _Learned(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, s: Tensor, y: Tensor, q: Tensor, n: int) -> Tensor:
        means = class_means(self.linear(s), y, n)
        return -(self.linear(q).unsqueeze(2) - means.unsqueeze(1)).square().sum(-1)


def test_a_head_with_learned_parameters_is_made_for_the_features() -> None:
    findings = check_head(Head("learned", None, True, _Learned))
    assert wrong(findings) == {}
    assert [finding.check for finding in findings if finding.state == "skipped"] == ["separated classes"]


# ---------------------------------------------------------------------------------------------- broken losses


def ce(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def _loss_in_place(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    counts /= counts.sum()
    return ce(logits, labels)


def _loss_counting(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    _calls[0] += 1
    return ce(logits, labels) + 1e-4 * (_calls[0] % 7)


def _numpy_random(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    np.random.rand()  # noqa: NPY002
    return ce(logits, labels)


BROKEN_LOSSES: dict[str, tuple[Callable[..., Tensor], str]] = {
    "shape": (lambda z, y, n: ce(z, y).mean(), "have the shape [], not [12]"),
    "extreme values": (lambda z, y, n: functional.nll_loss(z.softmax(1).log(), y, reduction="none"), "NaN or infinite"),
    "gradient": (lambda z, y, n: _Doubled.apply(ce(z, y)), "the gradient is not the derivative"),
    "right classes pay": (lambda z, y, n: -ce(z, y), "does not lower its loss"),
    "samples apart": (lambda z, y, n: ce(z - z.mean(0) * 0.5, y), "depends on the other samples"),
    "names of classes": (lambda z, y, n: ce(z + torch.arange(z.shape[1]), y), "classes in another order"),
    "joint classes of SLA": (
        lambda z, y, n: ce(z[:, :4], y.clamp_max(3)),
        "tells the transformations of a class apart",
    ),
    "inputs unchanged": (_loss_in_place, "changes its input in place: counts"),
    "no global randomness": (_numpy_random, "global generator of numpy"),
    "same result twice": (_loss_counting, "two losses"),
}


@pytest.mark.parametrize("name", BROKEN_LOSSES)
def test_each_check_of_losses_can_fail(name: str) -> None:
    function, message = BROKEN_LOSSES[name]
    LOSSES.add("broken", function, "broken")
    found = wrong(check_loss("broken"))
    assert message in found.get(name, ""), found


# ------------------------------------------------------------------------------------- broken transformations


def same(images: Tensor) -> Tensor:
    return images


def mirrored(images: Tensor) -> Tensor:
    return images.flip(3)


def _turning(images: Tensor) -> Tensor:
    images.copy_(images.flip(2))
    return images


def _python_random(images: Tensor) -> Tensor:
    random.random()
    return mirrored(images)


def _shuffled(images: Tensor) -> Tensor:
    return images.flip(3) if _calls[0] % 2 else images.flip(2)


class _Stale(FunctionSet):
    def apply_each(self, images: Tensor, which: Tensor) -> Tensor:
        return images


class _Views(FunctionSet):
    def apply(self, images: Tensor) -> Tensor:
        flat = torch.as_strided(images, images.shape, torch.empty(images.shape).stride())
        return torch.stack([images, flat.flip(3)], 1).flatten(0, 1)


def _alternating(images: Tensor) -> Tensor:
    _calls[0] += 1
    return images.flip(2 + _calls[0] % 2)


BROKEN_SETS: dict[str, tuple[TransformSet, str]] = {
    "number": (function_set("one", [same]), "M is 1"),
    "shape": (function_set("narrow", [lambda x: x[..., 1:]] * 2), "not [6, 3, 8, 8]"),
    "identity first": (function_set("late", [mirrored, same]), "t_0 is not the identity"),
    "apply and apply_each": (_Stale("stale", (), (same, mirrored)), "row b*M + 1 of apply is not t_1"),
    "images apart": (
        function_set("mixed", [same, lambda x: x.flip(0)]),
        "depend on the others",
    ),
    "all differ": (
        function_set("double", [same, mirrored, mirrored]),
        "t_2 and t_1 turn an image into the same picture",
    ),
    "memory format": (_Views("strided", (), (same, mirrored)), "channels-last"),
    "inputs unchanged": (function_set("inplace", [same, _turning]), "changes its input in place: images"),
    "no global randomness": (function_set("random", [same, _python_random]), "global generator of random"),
    "same result twice": (function_set("moving", [same, _alternating]), "two ways"),
}


@pytest.mark.parametrize("name", BROKEN_SETS)
def test_each_check_of_transformations_can_fail(name: str) -> None:
    transforms, message = BROKEN_SETS[name]
    found = wrong(check_transforms(transforms))
    assert message in found.get(name, ""), found


# ------------------------------------------------------------------------------------------------- together


def test_every_check_has_a_broken_example() -> None:
    shown = {of_heads: {*BROKEN_HEADS, "decomposes"}, of_losses: set(BROKEN_LOSSES), of_transforms: set(BROKEN_SETS)}
    for module, names in shown.items():
        assert {check.name for check in module.CHECKS} == names
        assert all(check.remedy for check in module.CHECKS)


def test_the_global_generators_are_put_back() -> None:
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    check_head(Head("broken", _random, False))
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == random.getstate()


WRONG_FILE = """
import slabench
from slabench.heads.metric import prototype_logits
slabench.HEADS.add("backwards", slabench.Head("backwards", lambda s, y, q, n: -prototype_logits(s, y, q, n), True), "")
"""


def test_the_command_says_what_is_wrong_and_exits_1(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(WRONG_FILE, encoding="utf-8")
    code, output = here("check", str(path))
    assert code == 1
    assert "heads: backwards  1 of 14 checks fail" in output
    assert "WRONG  separated classes" in output
    assert "remedy: a larger logit means more likely" in output
    code, output = here("check", str(path), "--json")
    assert code == 1
    (told,) = json.loads(output)
    assert [c["check"] for c in told["checks"] if c["state"] == "wrong"] == ["separated classes"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["protonett"], "did you mean 'protonet'"),
        (["protonet", "--kind", "head"], "did you mean 'heads'"),
        (["protonet", "--kind", "losses"], "unknown name (or plug-in file) 'protonet'"),
        (["no.py"], "plug-in no.py: there is no such file"),
    ],
)
def test_what_cannot_be_checked_exits_2(words: list[str], message: str) -> None:
    code, output = here("check", *words)
    assert code == 2
    assert message in output


def test_a_name_of_two_kinds_asks_which() -> None:
    LOSSES.add("rotation", ce, "a loss of that name")
    code, output = here("check", "rotation")
    assert code == 2
    assert "is the name of several things: losses, transforms" in output
    code, output = here("check", "rotation", "--kind", "transforms")
    assert code == 0, output
