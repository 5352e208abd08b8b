"""What a loss promises; see `slabench.losses`."""

from __future__ import annotations

import torch
from torch import Tensor

from slabench.conformance import (
    COPY_FIRST,
    OWN_GENERATOR,
    Check,
    Finding,
    expect,
    expect_close,
    expect_finite,
    expect_shape,
    no_global_random,
    run_checks,
    unchanged,
)
from slabench.core.seeding import torch_generator
from slabench.losses.loss import Loss, build_loss

COUNTS = (500, 120, 30, 5)
B, C, M = 12, len(COUNTS), 3


def _batch(rows: int = B, classes: int = C) -> tuple[Tensor, Tensor]:
    """Cosines (which every layer could give) float32 `[B, C]`, and labels that hold each class."""
    generator = torch_generator(0, "conformance", "loss", rows, classes)
    logits = torch.rand(rows, classes, generator=generator) * 2 - 1
    return logits, torch.arange(rows) % classes


class Subject:
    """A loss by its name, built for any class counts."""

    def __init__(self, name: str) -> None:
        self.name = name

    def build(self, counts: tuple[int, ...] = COUNTS) -> Loss:
        """For these classes."""
        return build_loss(self.name, counts)


def _shape(s: Subject) -> None:
    logits, labels = _batch()
    losses = s.build()(logits, labels)
    expect_shape(losses, (B,), f"the losses of {B} samples")
    expect(losses.dtype == torch.float32, f"float32 logits give losses in {losses.dtype}")
    expect_finite(losses, "losses")


def _extreme(s: Subject) -> None:
    logits, labels = _batch(classes=2)
    for scale in (1.0, 100.0):
        expect_finite(
            s.build((5000, 1))(scale * logits, labels), f"losses of logits up to {scale:g} and counts 5000 and 1"
        )


def _gradient(s: Subject) -> None:
    logits, labels = _batch()
    logits.requires_grad_()
    loss = s.build()
    total = loss(logits, labels).sum()
    expect(total.requires_grad, "no gradient reaches the logits")
    (gradient,) = torch.autograd.grad(total, logits)
    expect_finite(gradient, "entries of the gradient")
    expect(bool((gradient != 0).any()), "the gradient is zero: nothing is learned")
    # Along the gradient itself, where a wrong length shows, and along others, where a wrong direction does.
    others = torch.randn(4, *gradient.shape, generator=torch_generator(0, "ways"))
    h, length = 1e-2, float(gradient.norm())
    for way in (gradient, *others):
        way = way / way.norm()
        with torch.no_grad():
            ahead, behind = loss(logits + h * way, labels), loss(logits - h * way, labels)
        slope, expected = float((ahead.double() - behind.double()).sum()) / (2 * h), float((gradient * way).sum())
        expect(
            abs(slope - expected) < 0.02 * length,
            f"the gradient is not the derivative: the loss changes by {slope:.4g} where the gradient says {expected:.4g}",
        )


def _descends(s: Subject) -> None:
    logits, labels = _batch()
    loss = s.build()
    own = torch.nn.functional.one_hot(labels, C)
    better, worse = loss(logits + own, labels), loss(logits, labels)
    expect(bool((better < worse).all()), "a larger logit of the sample's own class does not lower its loss")


def _apart(s: Subject) -> None:
    logits, labels = _batch()
    loss = s.build()
    alone = torch.cat([loss(logits[i : i + 1], labels[i : i + 1]) for i in range(B)])
    expect_close(loss(logits, labels), alone, "a sample's loss depends on the other samples of the batch", 1e-4)


def _names(s: Subject) -> None:
    logits, labels = _batch()
    new = torch.tensor([2, 0, 3, 1])
    counts, renamed = list(COUNTS), torch.empty_like(logits)
    for old, place in enumerate(new.tolist()):
        counts[place] = COUNTS[old]
    renamed[:, new] = logits
    expect_close(
        s.build(tuple(counts))(renamed, new[labels]),
        s.build()(logits, labels),
        "classes in another order change it",
        1e-4,
    )


def _joint(s: Subject) -> None:
    logits, labels = _batch(B * M, C * M)
    joint = s.build().joint(M)
    losses = joint(logits, labels)
    expect_shape(losses, (B * M,), f"the losses of {C} classes under {M} transformations")
    expect_finite(losses, "losses of joint classes")
    # Transformations of a class are alike: swapping two of them everywhere changes nothing.
    swap = torch.arange(C * M).unflatten(0, (C, M))[:, [1, 0, 2]].flatten()
    expect_close(
        joint(logits[:, swap], swap.argsort()[labels]), losses, "it tells the transformations of a class apart", 1e-4
    )


def _inputs(s: Subject) -> None:
    logits, labels = _batch()
    loss = s.build()
    with unchanged("the loss", logits=logits, labels=labels, counts=loss.counts):
        loss(logits, labels)


def _random(s: Subject) -> None:
    logits, labels = _batch()
    loss = s.build()
    with no_global_random("the loss"):
        loss(logits, labels)


def _twice(s: Subject) -> None:
    logits, labels = _batch()
    loss = s.build()
    expect(torch.equal(loss(logits, labels), loss(logits, labels)), "the same batch has two losses")


CHECKS: tuple[Check[Subject], ...] = (
    Check("shape", _shape, "return one finite float32 loss of each sample, [B]: no mean", needed=True),
    Check(
        "extreme values", _extreme, "use log_softmax and cross_entropy, which do not overflow, instead of log(softmax)"
    ),
    Check("gradient", _gradient, "use differentiable torch functions; fix the backward of your own autograd.Function"),
    Check(
        "right classes pay",
        _descends,
        "the loss must fall as the logit of the sample's class rises: look for a wrong sign",
    ),
    Check(
        "samples apart",
        _apart,
        "compute each sample's loss from its own logits; weights of classes are balance.reweight",
    ),
    Check("names of classes", _names, "take what differs between classes from counts, not from the label"),
    Check(
        "joint classes of SLA", _joint, "take the number of classes from logits.shape[1]; counts come repeated M times"
    ),
    Check("inputs unchanged", _inputs, COPY_FIRST),
    Check("no global randomness", _random, OWN_GENERATOR),
    Check("same result twice", _twice, "remove randomness and state"),
)


def check_loss(name: str) -> list[Finding]:
    """All checks of the loss called `name`."""
    return run_checks(Subject(name), CHECKS)
