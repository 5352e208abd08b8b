"""The SVM head beside learn2learn's (qpth) and liblinear, forward and backward, and how its cost grows; the logistic head beside
scikit-learn's LogisticRegression as RFS calls it.

Everything solves the same problems: clustered random features, 640 dimensions, mean squared length 300. learn2learn's head
takes one episode a call and needs qpth, which imports cvxpy without using it here (an empty stand-in does).
`python benchmarks/speed/heads.py [OUTPUT.json] [--growth]`; the growth table is printed as Markdown.
"""

from __future__ import annotations

import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _measure import Row, compare, peer, report
from torch import Tensor
from torch.nn import functional

from slabench.core.seeding import torch_generator
from slabench.heads.logistic import logistic_logits
from slabench.heads.metaoptnet import svm_logits, svm_solution
from slabench.training.device import keep_heap

DIM, SQUARED_LENGTH, C, QUERIES = 640, 300.0, 0.1, 15


def features(episodes: int, ways: int, shots: int, m: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """float32 support `[B, ways*m*shots, D]`, labels, and query with 15 a class; the m views of a class lie close."""
    g = torch_generator(0, f"heads {ways} {shots} {m}")
    centre = torch.randn((episodes, ways, 1, 1, DIM), generator=g)
    view = centre + 0.5 * torch.randn((episodes, ways, m, 1, DIM), generator=g)
    x = (0.5 * view + torch.randn((episodes, ways, m, shots + QUERIES, DIM), generator=g)).relu()
    x = x * (SQUARED_LENGTH / x.square().sum(-1).mean()).sqrt()
    labels = torch.arange(ways * m).repeat_interleave(shots).expand(episodes, -1)
    return x[..., :shots, :].flatten(1, 3).contiguous(), labels, x[..., shots:, :].flatten(1, 3).contiguous()


def ours(support: Tensor, labels: Tensor, query: Tensor, ways: int, backward: bool) -> Callable[[], object]:
    """All episodes in one call."""
    truth = torch.arange(ways).repeat_interleave(query.shape[1] // ways).expand(len(query), -1)

    def run() -> None:
        s, q = support.clone().requires_grad_(backward), query.clone().requires_grad_(backward)
        logits = svm_logits(s, labels, q, ways, C)
        if backward:
            functional.cross_entropy(logits.flatten(0, 1), truth.flatten()).backward()

    return run


def learn2learn_head(
    support: Tensor, labels: Tensor, query: Tensor, ways: int, backward: bool
) -> Callable[[], object] | None:
    """Episode by episode, as its only interface has it; float32 and 15 iterations, its defaults."""
    sys.modules.setdefault("cvxpy", types.ModuleType("cvxpy"))
    if not (peer("qpth") and peer("learn2learn")):
        return None
    from learn2learn.nn import SVClassifier

    truth = torch.arange(ways).repeat_interleave(query.shape[1] // ways)

    def run() -> None:
        for s, y, q in zip(support, labels, query, strict=True):
            s, q = s.clone().requires_grad_(backward), q.clone().requires_grad_(backward)
            logits = SVClassifier(s, y, ways=ways, C_reg=C)(q)
            if backward:
                functional.cross_entropy(logits, truth).backward()

    return run


def liblinear(support: Tensor, labels: Tensor, query: Tensor) -> Callable[[], object]:
    """Forward with scikit-learn's LinearSVC at its own tolerance, 1e-4, on [X, I]."""
    from sklearn.svm import LinearSVC

    eye = np.eye(support.shape[1])
    x, y, q = support.double().numpy(), labels.numpy(), query.double().numpy()

    def run() -> None:
        for i in range(len(x)):
            model = LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=C, max_iter=10_000, random_state=0)
            model.fit(np.hstack([x[i], eye]), y[i])
            q[i] @ model.coef_[:, :DIM].T

    return run


def logistic_rows() -> list[Row]:
    """Forward: all episodes in one call, solved to 1e-8, beside lbfgs at scikit-learn's own tolerance, episode by episode."""
    from sklearn.linear_model import LogisticRegression

    rows = []
    for name, episodes, peers, shape in (("5-way 5-shot", 64, 16, (5, 5, 1)), ("20-way 5-shot joint", 8, 2, (5, 5, 4))):
        ways = shape[0] * shape[2]
        support, labels, query = features(episodes, *shape)

        def ours_logistic(s: Tensor = support, y: Tensor = labels, q: Tensor = query, n: int = ways) -> None:
            logistic_logits(s, y, q, n)

        def theirs(s: Tensor = support, y: Tensor = labels, q: Tensor = query, n: int = peers) -> None:
            x, asked = functional.normalize(s, dim=-1).numpy(), functional.normalize(q, dim=-1).numpy()
            for i in range(n):
                LogisticRegression(C=1.0, max_iter=1000).fit(x[i], y[i].numpy()).decision_function(asked[i])

        note = f"{episodes} episodes a call, {query.shape[1]} queries, {torch.get_num_threads()} threads"
        reference = [("scikit-learn LogisticRegression (lbfgs)", theirs, peers)]
        rows += compare(
            f"head: {name}", ("slabench logistic, forward", ours_logistic, episodes), reference, "episodes/s", 7, note
        )
    return rows


def error_of(logits: Tensor, support: Tensor, labels: Tensor, query: Tensor, ways: int) -> float:
    """Greatest difference to the solution in float64, relative to the greatest logit."""
    exact = svm_logits(support.double(), labels, query.double(), ways, C)
    return float((logits.double() - exact).abs().max() / exact.abs().max())


def measure() -> list[Row]:
    """Episodes a second."""
    keep_heap()
    rows = []
    for name, episodes, peers, shape in (
        ("5-way 5-shot", 64, 16, (5, 5, 1)),
        ("20-way 5-shot joint", 1, 1, (5, 5, 4)),
        ("20-way 5-shot joint", 8, 1, (5, 5, 4)),
    ):
        ways = shape[0] * shape[2]
        support, labels, query = features(episodes, *shape)
        few = support[:peers], labels[:peers], query[:peers]
        solution = svm_solution(support, labels, ways, C)
        error = error_of(svm_logits(support, labels, query, ways, C), support, labels, query, ways)
        note = (
            f"{episodes} episodes a call, {query.shape[1]} queries, {torch.get_num_threads()} threads,"
            f" KKT residual {float(solution.residual.max()):.0e}, error {error:.0e}"
        )
        for backward in (False, True):
            what = "forward + backward" if backward else "forward"
            references: list[tuple[str, Callable[[], object], int]] = []
            if theirs := learn2learn_head(*few, ways, backward):
                references.append(("learn2learn SVClassifier (qpth)", theirs, peers))
            if not backward:
                references.append(("liblinear", liblinear(*few), peers))
            mine = (f"slabench svm, {what}", ours(support, labels, query, ways, backward), episodes)
            rows += compare(f"head: {name}", mine, references, "episodes/s", 7, note)
    return rows + logistic_rows()


def growth() -> None:
    """Milliseconds an episode (median of 5), forward and backward, 8 episodes a call; how many were not solved."""
    print("| ways | shots | M | samples | classes | ms an episode | free | systems | KKT residual | not solved |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for ways in (5, 10, 20):
        for shots in (1, 5, 15):
            for m in (1, 4):
                if ways * shots * m > 600:
                    continue
                support, labels, query = features(8, ways, shots, m)
                solution = svm_solution(support, labels, ways * m, C)
                free = (solution.alpha < C * functional.one_hot(labels, ways * m) - 1e-12).double().mean()
                run, times = ours(support, labels, query, ways * m, backward=True), []
                run()
                for _ in range(5):
                    start = time.perf_counter()
                    run()
                    times.append((time.perf_counter() - start) / 8 * 1e3)
                print(
                    f"| {ways} | {shots} | {m} | {ways * shots * m} | {ways * m} | {statistics.median(times):.2f} | {free:.0%}"
                    f" | {solution.systems.double().mean():.1f} | {float(solution.residual.max()):.0e}"
                    f" | {int((~solution.converged).sum())} |",
                    flush=True,
                )


if __name__ == "__main__":
    names = [argument for argument in sys.argv[1:] if argument != "--growth"]
    report(measure(), Path(names[0]) if names else None)
    if "--growth" in sys.argv:
        growth()
