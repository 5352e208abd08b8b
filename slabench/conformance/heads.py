"""What a head promises; see `slabench.heads`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from slabench.conformance import (
    COPY_FIRST,
    OWN_GENERATOR,
    Check,
    Finding,
    NotApplicable,
    Wrong,
    expect,
    expect_close,
    expect_finite,
    expect_shape,
    no_global_random,
    run_checks,
    unchanged,
)
from slabench.core.seeding import fork_for_init, torch_generator
from slabench.heads import Head
from slabench.heads.apart import query_gap
from slabench.sla import aggregate, joint_labels

B, N, K, Q, D, M = 3, 4, 3, 5, 8, 4
"""Episodes, ways, shots, queries, features and transformations of the tiny episode."""


@dataclass(frozen=True)
class Episode:
    """Support `[B, S, D]`, labels `[B, S]`, query `[B, Q, D]`, ways."""

    support: Tensor
    labels: Tensor
    query: Tensor
    ways: int

    def like(self, **changes: Any) -> Episode:
        """The same with changes."""
        return Episode(**({**self.__dict__, **changes}))


class Subject:
    """A head, and how it is called: its function, or the module it makes."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.learns = getattr(head, "module", None) is not None
        self._modules: dict[int, torch.nn.Module] = {}

    def __call__(self, e: Episode) -> Tensor:
        """Logits of an episode."""
        return self.function(e)(e.support, e.labels, e.query, e.ways)

    def function(self, e: Episode) -> Callable[..., Tensor]:
        """What maps tensors to logits, in the precision of the episode."""
        make = getattr(self.head, "module", None)
        if make is None:
            function = self.head.logits
            assert function is not None, "the head has neither logits nor a module"
            return function
        dim = e.support.shape[-1]
        if dim not in self._modules:
            with fork_for_init(0, "conformance"):
                self._modules[dim] = make(dim).eval()
        module: Callable[..., Tensor] = deepcopy(self._modules[dim]).to(e.support.dtype)
        return module


def episode(
    batch: int = B,
    ways: int = N,
    shots: int | tuple[int, ...] = K,
    queries: int = Q,
    dim: int = D,
    dtype: torch.dtype = torch.float64,
    spread: float = 1.0,
) -> Episode:
    """Features as a backbone ends with (not negative), classes around means of their own; supports in no order."""
    generator = torch_generator(0, "conformance", batch, ways, str(shots), queries, dim)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    means = 2 * normal(batch, ways, dim)
    each = (shots,) * ways if isinstance(shots, int) else shots
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(each)])
    labels = labels[torch.randperm(len(labels), generator=generator)]
    asked = torch.arange(queries) % ways
    support = (means[:, labels] + spread * normal(batch, len(labels), dim)).abs()
    query = (means[:, asked] + spread * normal(batch, queries, dim)).abs()
    return Episode(support.to(dtype), labels.expand(batch, -1).contiguous(), query.to(dtype), ways)


def _shape(s: Subject) -> None:
    for batch, ways, shots, queries in ((B, N, K, Q), (1, 2, 1, 1), (2, N, 1, 2 * N)):
        e = episode(batch, ways, shots, queries, dtype=torch.float32)
        logits = s(e)
        expect_shape(logits, (batch, queries, ways), f"the logits of {batch} {ways}-way {shots}-shot episodes")
        expect_finite(logits, "logits")


def _dtype(s: Subject) -> None:
    for dtype in (torch.float32, torch.float64):
        found = s(episode(dtype=dtype)).dtype
        expect(found == dtype, f"features in {dtype} give logits in {found}")


def _separated(s: Subject) -> None:
    if s.learns:
        raise NotApplicable("a head with learned parameters knows nothing yet")
    e = episode(ways=N, queries=2 * N, dim=D, spread=0.0)
    far = 10 * torch.eye(N, D, dtype=torch.float64)
    e = e.like(support=far[e.labels], query=far[torch.arange(2 * N) % N].expand(B, -1, -1).contiguous())
    right = float(s(e).argmax(-1).eq(torch.arange(2 * N) % N).double().mean())
    expect(right == 1, f"queries that equal the supports of their class: {right:.0%} are classified as it")


def _batch(s: Subject) -> None:
    e = episode()
    together = s(e)
    for b in range(B):
        alone = s(e.like(support=e.support[b : b + 1], labels=e.labels[b : b + 1], query=e.query[b : b + 1]))
        expect_close(together[b : b + 1], alone, "an episode scored alone has other logits than among others")


def _queries(s: Subject) -> str | None:
    e = episode()
    gap = query_gap(s.function(e), e.support, e.labels, e.query, e.ways)
    if s.head.transductive:
        expect(gap > 1e-5, "it is declared transductive, and predicts each query alone as it does among the others")
        return "transductive, as declared: ranked in tables of its own"
    expect(
        gap <= 1e-5,
        "a query scored alone, or among the others in another order, has other logits: the head is transductive "
        f"(they differ by {gap:.2g} of the spread of the logits)",
    )
    return None


def _order(s: Subject) -> None:
    e = episode()
    turn = torch.randperm(e.labels.shape[1], generator=torch_generator(0, "order"))
    expect_close(
        s(e.like(support=e.support[:, turn], labels=e.labels[:, turn])), s(e), "supports in another order change it"
    )


def _names(s: Subject) -> None:
    e = episode()
    new = torch.tensor([2, 0, 3, 1])
    renamed = s(e.like(labels=new[e.labels]))
    expect_close(renamed[..., new], s(e), "classes in another order do not just change the order of the logits")


def _unequal(s: Subject) -> None:
    e = episode(shots=(1, 5, 2, 3))
    logits = s(e)
    expect_shape(logits, (B, Q, N), "the logits of an episode with 1, 5, 2 and 3 shots")
    expect_finite(logits, "logits with unequal shots")
    turn = torch.argsort(e.labels[0], stable=True)
    ordered = s(e.like(support=e.support[:, turn], labels=e.labels[:, turn]))
    expect_close(ordered, logits, "with unequal shots, supports in the order of their classes give other logits")


def _gradient(s: Subject) -> str | None:
    e = episode(2, 3, 2, 3, 4)
    support, query = e.support.clone().requires_grad_(), e.query.clone().requires_grad_()
    logits = s(e.like(support=support, query=query))
    if not logits.requires_grad:
        raise NotApplicable("no gradient reaches the features: it can score, and cannot train a backbone")
    truth = (torch.arange(3) % e.ways).expand(2, -1)
    loss = functional.cross_entropy(logits.flatten(0, 1), truth.flatten())
    found = torch.autograd.grad(loss, (support, query), allow_unused=True)
    reached = []
    for name, leaf, gradient in (("supports", support, found[0]), ("queries", query, found[1])):
        if gradient is not None and bool((gradient != 0).any()):
            expect_finite(gradient, f"entries of the gradient of the {name}")
            reached.append((name, leaf))
    expect(bool(reached), "the gradient is zero at every feature: nothing trains the backbone")
    function = s.function(e)
    leaves = {name for name, _ in reached}

    def call(*values: Tensor) -> Tensor:
        given = dict(zip([name for name, _ in reached], values, strict=True))
        return function(given.get("supports", e.support), e.labels, given.get("queries", e.query), e.ways)

    try:
        # Transductive heads go on for many rounds: one direction is enough of them.
        torch.autograd.gradcheck(
            call, [leaf for _, leaf in reached], eps=1e-6, atol=1e-4, rtol=1e-3, fast_mode=s.head.transductive
        )
    except RuntimeError as error:
        raise Wrong(f"the gradient is not the derivative: {str(error).splitlines()[0]}") from error
    missing = sorted({"supports", "queries"} - leaves)
    return f"no gradient reaches the {missing[0]}" if missing else None


def _inputs(s: Subject) -> None:
    e = episode()
    with unchanged("the head", support=e.support, labels=e.labels, query=e.query):
        s(e)


def _random(s: Subject) -> None:
    e = episode()
    function = s.function(e)
    with no_global_random("the head"):
        function(e.support, e.labels, e.query, e.ways)


def _twice(s: Subject) -> None:
    e = episode(dtype=torch.float32)
    expect(torch.equal(s(e), s(e)), "the same episode scored twice has two results")


def _views() -> tuple[Episode, Tensor, Tensor]:
    """An SLA episode of N*M classes, and its views: support `[B, S, M, D]`, query `[B, Q, M, D]`."""
    e = episode()
    generator = torch_generator(0, "views")

    def spread(x: Tensor) -> Tensor:
        noise = torch.randn(*x.shape[:2], M, D, generator=generator, dtype=x.dtype)
        return (x.unsqueeze(2) + 0.5 * noise).abs()

    support, query = spread(e.support), spread(e.query)
    joint = e.like(
        support=support.flatten(1, 2),
        labels=joint_labels(e.labels, M).flatten(1),
        query=query.flatten(1, 2),
        ways=N * M,
    )
    return joint, support, query


def _joint(s: Subject) -> None:
    joint, _, _ = _views()
    logits = s(joint)
    expect_shape(logits, (B, Q * M, N * M), f"the logits of SLA's joint episode of {N} ways and {M} transformations")
    expect_finite(logits, "joint logits")


@torch.no_grad()
def _decomposes(s: Subject) -> str | None:
    """Logits are compared up to a summand that all classes of a query share: an argmax and a softmax do not see it."""
    e = episode()
    others = torch.arange(N) != 1
    moved = torch.where((e.labels == 1).unsqueeze(-1), 3 * e.support + 1, e.support)

    def centred(logits: Tensor) -> Tensor:
        return logits - logits.mean(-1, keepdim=True)

    a, b = s(e)[..., others], s(e.like(support=moved))[..., others]
    off = float((centred(a) - centred(b)).abs().max()) / max(1.0, float(a.abs().max()))
    if not s.head.decomposes:
        return "its flag could be True, which is faster with SLA" if off <= 1e-9 else None
    expect(
        off <= 1e-5,
        f"decomposes is True, but other supports of one class change the logits of the others (by {off:.2g})",
    )
    joint, support, query = _views()
    together = aggregate(s(joint).unflatten(1, (Q, M)), M)
    apart = torch.stack([s(e.like(support=support[:, :, j], query=query[:, :, j])) for j in range(M)]).mean(0)
    expect_close(
        centred(together),
        centred(apart),
        "decomposes is True, but M views scored one by one differ from the joint episode",
    )
    return None


CHECKS: tuple[Check[Subject], ...] = (
    Check(
        "shape",
        _shape,
        "return logits [B, Q, N], finite, for any number of ways, shots, queries and episodes",
        needed=True,
    ),
    Check("precision", _dtype, "make new tensors in the dtype of the features: one_hot(labels, n).to(support.dtype)"),
    Check("separated classes", _separated, "a larger logit means more likely: a distance needs a minus sign"),
    Check(
        "episodes apart", _batch, "treat the first dimension as a batch: no mean, no norm, no stopping rule across it"
    ),
    Check(
        "queries apart",
        _queries,
        "predict each query from itself and the supports alone, or declare transductive=True, for tables of its own",
    ),
    Check("order of supports", _order, "find the class of a support in support_labels, never in its place"),
    Check("names of classes", _names, "treat all classes alike: no constant, order or tie-break by label"),
    Check(
        "unequal shots", _unequal, "count the supports of each class (one_hot(labels).sum(1)); do not reshape to [N, K]"
    ),
    Check("gradient", _gradient, "use differentiable torch functions; fix the backward of your own autograd.Function"),
    Check("inputs unchanged", _inputs, COPY_FIRST),
    Check("no global randomness", _random, OWN_GENERATOR),
    Check("same result twice", _twice, "remove randomness and state"),
    Check(
        "joint episode of SLA",
        _joint,
        "support N*M classes: build everything from n_classes, nothing from a fixed number",
    ),
    Check("decomposes", _decomposes, "set decomposes=False: always right, and slower only with SLA"),
)


def check_head(head: Head) -> list[Finding]:
    """All checks of a head, on CPU."""
    return run_checks(Subject(head), CHECKS)
