"""The Crammer-Singer dual of many episodes at once, solved to rounding: ADMM finds the free set, a linear system the rest.

The problem of one episode with n supports and N classes, A = K + ridge I, K the Gram matrix, Y the one-hot labels:

    minimise 1/2 sum_m a_m' A a_m - sum_i a_i[y_i]   subject to   a <= C Y entry by entry, and every row of a sums to zero

(Crammer and Singer, JMLR 2001; the ridge is MetaOptNet's, Lee et al., CVPR 2019). A general solver sees nN unknowns; here
nothing is larger than n x n:

* ADMM (Boyd et al. 2011, section 5) needs one n x n inverse per episode and then, an iteration, one product with it and one
  projection of rows, which has a closed form. Some twenty iterations tell which entries stay below their bound.
* Given this free set the solution is linear: a factorisation per class of the rows that are free in it (often half of them),
  and one n x n Schur complement for the row sums. Its optimality is then checked, not assumed; where it fails, the free
  set is corrected a few times (primal-dual active set, Hintermueller et al. 2002), and after that ADMM goes on.
* What resists (Gram matrices of low rank, a million times the ridge) gets a primal-dual interior point, which does not mind
  conditioning, and the free set from there: N factorisations of n x n an iteration, ten times dearer.
* The same factors give the derivative: the solution moves with A on the free set only.

Everything is float64 whatever the inputs are: rounding of A would be divided by the ridge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RELAXATION = 1.6  # over-relaxation of ADMM; 1.5 to 1.8 is the usual range (Boyd et al. 2011, section 3.4.3)
_BLOCKS = (30, 30, 60)  # ADMM iterations between two attempts to finish, while attempts fail
_INTERIOR = 60  # interior-point iterations at most; 10 to 25 are usual
_CORRECTIONS = 12  # linear systems an attempt may solve
_CHUNK_FLOATS = 2**25  # float64 numbers of the class-wise matrices that are handled at once: 256 MiB


@dataclass(frozen=True)
class FreeSystem:
    """The factorised optimality system of G episodes on their free sets; s is the largest free set of a class.

    Attributes:
        rows: int64 `[G]`, which episodes of the batch these are.
        index: int64 `[G, N, s]`, the free samples of each class, padded with samples that are not free.
        inverse: `[G, N, s, s]`, inverse of A on them, zero on the padding.
        schur: `[G, n, n]`, Cholesky factor of the sum over classes of these inverses.
    """

    rows: Tensor
    index: Tensor
    inverse: Tensor
    schur: Tensor

    def solve(self, g: Tensor, row_sums: float | Tensor = 0.0) -> Tensor:
        """v `[G, n, N]`, zero off the free set: (A v)_im + t_i = g_im on it, with rows summing to `row_sums`."""
        picked = g.mT.gather(2, self.index).unsqueeze(-1)  # [G, N, s, 1]
        sums = self._spread(self.inverse @ picked, g).sum(1)  # [G, n]
        t = torch.cholesky_solve((sums - row_sums).unsqueeze(-1), self.schur).mT  # [G, 1, n]
        shift = t.expand(-1, g.shape[2], -1).gather(2, self.index).unsqueeze(-1)
        return self._spread(self.inverse @ (picked - shift), g).mT

    def part(self, which: Tensor) -> FreeSystem:
        """Some of the episodes."""
        return FreeSystem(self.rows[which], self.index[which], self.inverse[which], self.schur[which])

    def _spread(self, values: Tensor, like: Tensor) -> Tensor:
        """`[G, N, s, 1]` on the free samples as `[G, N, n]`; a sample appears once in a class, so nothing is added."""
        return torch.zeros_like(like.mT, memory_format=torch.contiguous_format).scatter_(
            2, self.index, values.squeeze(-1)
        )


@dataclass(frozen=True)
class Solution:
    """What `solve` returns, by episode.

    Attributes:
        alpha: float64 `[B, n, N]`.
        residual: float64 `[B]`, the KKT residual: the largest entry of |a - P(a - grad / c)| / C, where P projects onto
            the feasible set and c is the mean of the diagonal of A. Zero exactly at the solution; unchanged when features
            are scaled by s, C by 1/s^2 and the ridge by s^2.
        iterations: int64 `[B]`, ADMM iterations.
        systems: int64 `[B]`, systems factorised, those of the interior point counted.
        converged: bool `[B]`, residual within the tolerance.
        free: the factorised systems at the solution, for the derivative; empty where it was not asked for.
    """

    alpha: Tensor
    residual: Tensor
    iterations: Tensor
    systems: Tensor
    converged: Tensor
    free: Sequence[FreeSystem]


def project(z: Tensor, C: float) -> tuple[Tensor, Tensor]:
    """Rows of `z` `[..., N]` projected onto {x <= 0, sum x = -C}: min(z - t, 0), and t `[..., 1]`.

    t is the least of (C + the k smallest entries of z) / k over k: each bounds it from above, the right one meets it.
    """
    ordered = z.sort(-1).values.cumsum(-1)
    count = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    t = ((ordered + C) / count).amin(-1, keepdim=True)
    return (z - t).clamp(max=0), t


def solve(
    gram: Tensor,
    one_hot: Tensor,
    C: float,
    ridge: float,
    tolerance: float = 1e-9,
    keep_factors: bool = False,
) -> Solution:
    """Solve the duals of B episodes; see the head of this file.

    Args:
        gram: float64 `[B, n, n]`.
        one_hot: float64 `[B, n, N]`.
        C: upper bound of the own class's alpha, positive.
        ridge: positive; without it the free set alone does not determine alpha.
        tolerance: KKT residual up to which an episode counts as converged.
        keep_factors: keep what the derivative needs.
    """
    batch, n, classes = one_hot.shape
    size = max(1, _CHUNK_FLOATS // (n * n * classes))
    parts = [
        _Chunk(gram[i : i + size], one_hot[i : i + size], i, C, ridge).run(tolerance, keep_factors)
        for i in range(0, batch, size)
    ]
    if len(parts) == 1:
        return parts[0]
    fields = ("alpha", "residual", "iterations", "systems", "converged")
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in fields}
    return Solution(**joined, free=[system for part in parts for system in part.free])


def factorise(A: Tensor, free: Tensor, rows: Tensor) -> FreeSystem:
    """The system of `A` `[G, n, n]` on the free set `[G, n, N]` (bool, at least one entry of a row)."""
    G, n, classes = free.shape
    by_class = free.mT.contiguous()  # [G, N, n]
    counts = by_class.sum(-1, keepdim=True)
    s = max(1, int(counts.max()))
    index = by_class.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :s].contiguous()
    used = torch.arange(s, device=A.device) < counts  # [G, N, s]
    cells = index.unsqueeze(-1) * n + index.unsqueeze(-2)  # [G, N, s, s]
    cells += (torch.arange(G, device=A.device) * n * n).view(G, 1, 1, 1)
    cells = cells.view(-1)
    blocks = A.reshape(-1).index_select(0, cells).view(G, classes, s, s)
    padding = (~used).to(A.dtype)
    if s > int(counts.min()):
        blocks = blocks * used.unsqueeze(-1) * used.unsqueeze(-2)
        blocks.diagonal(dim1=-2, dim2=-1).add_(padding)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(blocks).L)
    inverse.diagonal(dim1=-2, dim2=-1).sub_(padding)
    schur = torch.zeros(G * n * n, dtype=A.dtype, device=A.device).scatter_add_(0, cells, inverse.mT.reshape(-1))
    return FreeSystem(rows, index, inverse, torch.linalg.cholesky_ex(schur.view(G, n, n)).L)


class _Chunk:
    """Episodes that are solved together. In here alpha is shifted by C Y, so that its bound is 0 and its rows sum to -C."""

    def __init__(self, gram: Tensor, one_hot: Tensor, first: int, C: float, ridge: float) -> None:
        self.C, self.first, self.Y = C, first, one_hot
        self.A = gram + ridge * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        self.linear = one_hot - C * (self.A @ one_hot)  # minus the gradient at C Y
        self.scale = self.A.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1)

    def run(self, tolerance: float, keep_factors: bool) -> Solution:
        """ADMM and attempts to finish, on fewer and fewer episodes; the interior point for what is left."""
        self.tolerance, self.keep_factors = tolerance, keep_factors
        batch = len(self.A)
        self.alpha, self.residual = torch.zeros_like(self.Y), torch.full_like(self.scale, torch.inf).flatten()
        self.systems = torch.zeros(batch, dtype=torch.long, device=self.A.device)
        iterations = torch.zeros_like(self.systems)
        self.kept: list[FreeSystem] = []
        # Features that are not finite have no solution: their residual stays infinite.
        left = self.A.isfinite().all(-1).all(-1).nonzero().squeeze(1)
        admm = _Admm(self, left)
        for block in _BLOCKS:
            if not len(left):
                break
            admm.iterate(block)
            iterations[left] += block
            open_ = self._finish(left, admm.point() < 0)
            if len(open_) < len(left):
                left = left[open_]
                admm.keep(open_)
        if len(left):
            point, multiplier, count = interior_point(self.A[left], self.linear[left], self.C)
            self.systems[left] += count
            self._offer(left, point, self._check(point, left)[0])
            left = left[self._finish(left, point + multiplier / self.scale[left] < 0)]
        if len(left) and keep_factors:  # not converged: the derivative of the best point's own free set
            free = self._check(self.alpha[left], left)[1]
            self.kept.append(factorise(self.A[left], free, left + self.first))
        converged = self.residual <= tolerance
        return Solution(self.alpha + self.C * self.Y, self.residual, iterations, self.systems, converged, self.kept)

    def _finish(self, left: Tensor, free: Tensor) -> Tensor:
        """Solve on the free set `[G, n, N]` of the episodes `left`, correct it where it was wrong; those still open `[<= G]`."""
        open_ = torch.arange(len(left), device=left.device)
        for _ in range(_CORRECTIONS):
            if not len(open_):
                break
            where = left[open_]
            system = factorise(self.A[where], free, where + self.first)
            found = system.solve(self.linear[where], row_sums=-self.C)
            # One refinement: rounding in the inverses counts where features are a thousand times longer than the ridge.
            rest = -self.C - found.sum(-1)
            found = found + system.solve(self.linear[where] - self.A[where] @ found, row_sums=rest)
            error, free = self._check(found, where)
            self._offer(where, found, error)
            self.systems[where] += 1
            wrong = ~(error <= self.tolerance)
            if self.keep_factors and not bool(wrong.all()):
                self.kept.append(system.part(~wrong))
            open_, free = open_[wrong], free[wrong]
        return open_

    def _offer(self, where: Tensor, point: Tensor, error: Tensor) -> None:
        """Keep `point` for the episodes in which it is better than what there was."""
        better = error < self.residual[where]
        self.alpha[where[better]], self.residual[where[better]] = point[better], error[better]

    def _check(self, shifted: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """KKT residual `[G]` of `shifted` `[G, n, N]` for the episodes `where`, and the free set that its gradient asks for."""
        gradient = self.A[where] @ shifted - self.linear[where]
        projected, _ = project(shifted - gradient / self.scale[where], self.C)
        return (projected - shifted).abs().amax((1, 2)) / self.C, projected < 0


class _Admm:
    """ADMM in scaled form (Boyd et al. 2011, section 3.1.1): x solves the equations, z obeys the bounds, w is the multiplier.

    The state is h = x + w before projection: z = min(h - t, 0) and w = max(h, t), which is h - z.
    """

    def __init__(self, chunk: _Chunk, left: Tensor) -> None:
        self.A, self.linear, self.C = chunk.A[left], chunk.linear[left], chunk.C
        self.iterations = 0
        # Between the small eigenvalues, which say how far alpha must go, and the great ones of class and overall means.
        self.rho = chunk.scale[left]
        self._factorise()
        self.w = torch.zeros_like(self.linear)
        self.h = torch.zeros_like(self.linear)
        self.moved = torch.zeros_like(self.linear)

    def iterate(self, count: int) -> None:
        """`count` iterations, then the penalty for the next ones: equal primal and dual residuals (section 3.4.1)."""
        if self.iterations:
            self._balance()
        h, w, shift = self.h, self.w, self.linear / self.rho
        before = h
        for _ in range(count):
            before, w_before = h, w
            x_plus_w = torch.baddbmm(w, self.inverse, torch.add(h + shift, w, alpha=-2))
            h = torch.lerp(h, x_plus_w, RELAXATION)
            _, t = project(h, self.C)
            w = torch.maximum(h, t)
        self.primal = (x_plus_w - w_before - (h - w)).square().sum((1, 2), keepdim=True).sqrt()
        self.dual = ((h - w) - (before - w_before)).square().sum((1, 2), keepdim=True).sqrt()
        self.h, self.w = h, w
        self.iterations += count

    def point(self) -> Tensor:
        """The feasible iterate z `[G, n, N]`."""
        return self.h - self.w

    def keep(self, which: Tensor) -> None:
        """Go on with these episodes only."""
        for name in ("A", "linear", "rho", "inverse", "h", "w", "primal", "dual"):
            setattr(self, name, getattr(self, name)[which])

    def _balance(self) -> None:
        z = self.point()
        w_part = self.rho * self.w
        primal = self.primal / z.square().sum((1, 2), keepdim=True).sqrt()
        dual = self.rho * self.dual / self.linear.square().sum((1, 2), keepdim=True).sqrt()
        self.rho = self.rho * (primal / dual.clamp_min(1e-300)).sqrt().clamp(0.1, 10)
        self.w = w_part / self.rho
        self.h = z + self.w
        self._factorise()

    def _factorise(self) -> None:
        n = self.A.shape[-1]
        shifted = self.A + self.rho * torch.eye(n, dtype=self.A.dtype, device=self.A.device)
        self.inverse = self.rho * torch.cholesky_inverse(torch.linalg.cholesky_ex(shifted).L)


def interior_point(A: Tensor, linear: Tensor, C: float) -> tuple[Tensor, Tensor, int]:
    """Mehrotra's predictor-corrector for min 1/2 x'Ax - linear x over {x <= 0, rows sum to -C}.

    It starts strictly feasible in x and in the multiplier and stays so; what shrinks is their product.

    Returns:
        x `[G, n, N]`, the multiplier of x <= 0, and the iterations it took.
    """
    G, n, classes = linear.shape
    slack = torch.full_like(linear, C / classes)
    pull = linear + A @ slack  # minus the gradient
    spread = pull.amax(-1, keepdim=True) - pull.amin(-1, keepdim=True)
    multiplier = pull - pull.amin(-1, keepdim=True) + 0.1 * spread.amax(1, keepdim=True)
    rows, index = torch.arange(G, device=A.device), torch.arange(n, device=A.device).expand(G, classes, n)
    goal = 1e-13 * C * multiplier.amax((1, 2), keepdim=True)
    for count in range(_INTERIOR):
        mu = (slack * multiplier).mean((1, 2), keepdim=True)
        if bool((mu <= goal).all()):
            return -slack, multiplier, count
        weights = multiplier / slack
        blocks = A.unsqueeze(1) + torch.diag_embed(weights.mT)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(blocks).L)
        system = FreeSystem(rows, index, inverse, torch.linalg.cholesky_ex(inverse.sum(1)).L)

        def step(target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Changes of slack and multiplier that bring their product to `target`, and how far both may go."""
            needed = (target - slack * multiplier) / slack  # noqa: B023
            d_slack = -system.solve(-needed)  # noqa: B023
            d_multiplier = needed - weights * d_slack  # noqa: B023
            fall = torch.maximum(-d_slack / slack, -d_multiplier / multiplier).amax((1, 2), keepdim=True)  # noqa: B023
            return d_slack, d_multiplier, 1 / fall.clamp_min(1)

        d_slack, d_multiplier, length = step(torch.zeros_like(slack))
        after = ((slack + length * d_slack) * (multiplier + length * d_multiplier)).mean((1, 2), keepdim=True)
        d_slack, d_multiplier, length = step((after / mu) ** 3 * mu - d_slack * d_multiplier)
        # An episode that is there already stays: steps beyond rounding would spoil it.
        length = torch.where(mu > goal, 0.995 * length, 0)
        slack, multiplier = slack + length * d_slack, multiplier + length * d_multiplier
    return -slack, multiplier, _INTERIOR
