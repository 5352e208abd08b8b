"""Episodes: a vectorised sampler for training, balanced frozen files for evaluation.

An episode is N classes (ways) with K support and Q query images each. A batch of E episodes is one index tensor
`[E, N, K+Q]` of rows of an image set, the first K of the last axis being the supports. Where classes have unequal shots or
queries (`slabench.episodes.profiles`), K and Q are the largest of them and -1 fills the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slabench.core.errors import DataError, UsageError
from slabench.data.mapped_tensor import MappedTensor
from slabench.episodes import MOST_EPISODES
from slabench.episodes.profiles import BALANCED, Profile

Rows = NDArray[np.int64]
_MOST_ROWS = 2**28  # of all episodes of a file together: 2 GB as they are drawn


@dataclass(frozen=True)
class Episodes:
    """E episodes as indices.

    Attributes:
        rows: int64 `[E, N, K+Q]`, rows of the image set; supports first. -1 means no image.
        classes: int64 `[E, N]`, the class behind each way.
        shots: K, columns of supports.
    """

    rows: Tensor
    classes: Tensor
    shots: int

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    @property
    def ways(self) -> int:
        """N, classes of an episode."""
        return int(self.rows.shape[1])

    @property
    def queries(self) -> int:
        """Q, columns of queries."""
        return int(self.rows.shape[2]) - self.shots

    @property
    def support(self) -> Tensor:
        """Rows of the supports `[E, N, K]`."""
        return self.rows[..., : self.shots]

    @property
    def query(self) -> Tensor:
        """Rows of the queries `[E, N, Q]`."""
        return self.rows[..., self.shots :]

    def flat(self, query: bool) -> tuple[Tensor, Tensor]:
        """Rows and ways of all supports (or queries), class by class: int64 `[E, S]` each.

        Raises:
            DataError: the episodes do not all have the same number of them.
        """
        part = self.query if query else self.support
        there = part >= 0
        sizes = there.flatten(1).sum(1)
        if bool((sizes != sizes[:1]).any()):
            what = "queries" if query else "supports"
            raise DataError(
                f"episodes have {int(sizes.min())} to {int(sizes.max())} {what}",
                "all episodes of a file must have equally many",
            )
        ways = torch.arange(self.ways, device=part.device)[:, None].expand_as(part)
        return part[there].view(len(self), -1), ways[there].view(len(self), -1)

    def __getitem__(self, part: slice) -> Episodes:
        return Episodes(self.rows[part], self.classes[part], self.shots)


class Asked(NamedTuple):
    """What episodes are for, and the settings that a person types for their sizes; for errors."""

    split: str = "the split"
    whose: str = ""
    ways: str = "--ways"
    shots: str = "--shots"
    queries: str = "--queries"


TEST = Asked()
VALIDATION = Asked("the validation split", " of validation episodes")
TRAINING = Asked("the training split", " of training episodes", "train.ways", "train.shots", "train.queries")


def check_sizes(
    sizes: Sequence[int], names: Sequence[str], ways: int, shots: int, queries: int, asked: Asked = TEST
) -> None:
    """Refuse an N-way K-shot Q-query episode that classes of these sizes cannot serve, naming the class and the counts."""
    check_ways(len(sizes), ways, shots, queries, asked)
    short = [i for i, size in enumerate(sizes) if size < shots + queries]
    if short:
        least = min(short, key=lambda i: sizes[i])
        raise UsageError(
            f"class '{names[least]}' has {sizes[least]} images, and {shots} shots + {queries} queries{asked.whose} need "
            f"{shots + queries}" + (f" ({len(short)} classes fall short)" if len(short) > 1 else ""),
            f"give fewer {asked.shots} or {asked.queries}: together at most {sizes[least]}",
        )


def check_ways(n_classes: int, ways: int, shots: int, queries: int, asked: Asked = TEST) -> None:
    """Refuse sizes that are not positive, or more ways than classes."""
    for what, value in ((asked.ways, ways), (asked.shots, shots), (asked.queries, queries)):
        if value < 1:
            raise UsageError(f"{what} {value} is not positive", f"give {what} 1 or more")
    if ways < 2:
        raise UsageError(f"{asked.ways} {ways}: an episode needs at least 2 classes", f"give {asked.ways} 2 or more")
    if ways > n_classes:
        raise UsageError(
            f"{ways} ways were asked for, and {asked.split} has {n_classes} classes",
            f"give {asked.ways} {n_classes} or fewer",
        )


def _distinct(generator: np.random.Generator, high: Rows, count: int) -> Rows:
    """For each r, `count` distinct integers below `high[r]`, every ordered choice equally likely: int64 `[R, count]`."""
    # Drawing all at once and drawing again the rows with a repetition keeps the distribution exact, and pays as long
    # as repetitions are rare: count^2 / (2 high) expected pairs. Beyond that, order random keys.
    if count * count < 2 * int(high.min()):
        chosen = (generator.random((len(high), count)) * high[:, None]).astype(np.int64)
        pending = np.arange(len(high))
        while len(pending):
            drawn = np.sort(chosen[pending], axis=1)
            pending = pending[(drawn[:, 1:] == drawn[:, :-1]).any(1)]
            chosen[pending] = (generator.random((len(pending), count)) * high[pending, None]).astype(np.int64)
        return chosen
    keys = generator.random((len(high), int(high.max())))
    keys[np.arange(keys.shape[1]) >= high[:, None]] = 2.0  # beyond the class: never among the smallest
    return np.argsort(keys, axis=1)[:, :count]


class EpisodeSampler:
    """Uniform episodes, vectorised, from a generator of its own.

    Args:
        class_rows: for each class its rows of the image set.
        ways: N, at most the number of classes (all of them is legal).
        shots: K.
        queries: Q per class.
        generator: numpy generator; nothing else is drawn from.
        class_names: for error messages.
        asked: likewise.

    Raises:
        UsageError: if the classes cannot serve such episodes; it names the class and the counts.
    """

    def __init__(
        self,
        class_rows: Sequence[NDArray[np.integer]],
        ways: int,
        shots: int,
        queries: int,
        generator: np.random.Generator,
        class_names: Sequence[str] | None = None,
        asked: Asked = TEST,
    ) -> None:
        sizes = [len(rows) for rows in class_rows]
        check_sizes(sizes, class_names or [str(i) for i in range(len(sizes))], ways, shots, queries, asked)
        self.ways, self.shots, self.queries = ways, shots, queries
        self.generator = generator
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)[:-1]]).astype(np.int64)
        self._rows = np.concatenate([np.asarray(rows, dtype=np.int64) for rows in class_rows])

    def sample(self, n: int = 1) -> Episodes:
        """Draw `n` episodes: classes without replacement, then images of each class without replacement."""
        n_classes = len(self._sizes)
        classes = _distinct(self.generator, np.full(n, n_classes, dtype=np.int64), self.ways)
        flat = classes.reshape(-1)
        within = _distinct(self.generator, self._sizes[flat], self.shots + self.queries)
        rows = self._rows[self._starts[flat][:, None] + within]
        return Episodes(
            torch.from_numpy(rows.reshape(n, self.ways, self.shots + self.queries)),
            torch.from_numpy(classes),
            self.shots,
        )

    def __iter__(self) -> Iterator[Episodes]:
        while True:
            yield self.sample()


def gather(images: Tensor, rows: Tensor) -> Tensor:
    """`images[rows]` for any shape of `rows`, several times faster than indexing.

    Args:
        images: `[n, ...]`, contiguous.
        rows: int64 `[*shape]` on the device of `images`.

    Returns:
        `[*shape, ...]`. `index_select` of flattened images copies whole rows; fancy indexing of uint8 goes by element.
    """
    if isinstance(images, MappedTensor):
        return images.index_select(0, rows.reshape(-1)).view(*rows.shape, *images.shape[1:])
    flat = images.reshape(images.shape[0], -1).index_select(0, rows.reshape(-1))
    return flat.view(*rows.shape, *images.shape[1:])


class _Deck:
    """Deals a pile again and again, shuffled: every card is used equally often, to within one."""

    def __init__(self, size: int, generator: np.random.Generator) -> None:
        self._size, self._generator = size, generator
        self._pile = generator.permutation(size)

    def deal(self, count: int) -> Rows:
        """`count` distinct cards, the least used ones first."""
        rest, self._pile = self._pile[:count], self._pile[count:]
        missing = count - len(rest)
        if missing:
            fresh = self._generator.permutation(self._size)
            held = np.isin(fresh, rest)
            fresh = np.concatenate([fresh[~held], fresh[held]])
            rest, self._pile = np.concatenate([rest, fresh[:missing]]), fresh[missing:]
        # Which of the dealt cards is dealt first must not tell how often it was used.
        return self._generator.permutation(rest).astype(np.int64)


def balanced_episodes(
    class_rows: Sequence[NDArray[np.integer]],
    ways: int,
    shots: int,
    queries: int,
    n: int,
    generator: np.random.Generator,
    class_names: Sequence[str] | None = None,
    support_profile: Profile | None = None,
    query_profile: Profile | None = None,
    asked: Asked = TEST,
) -> Episodes:
    """`n` episodes that use every class, and every image of a class, equally often to within one deal.

    Random episodes over few classes (FC100 tests on 20) use some a fifth more often than others; balancing takes that part
    of the variance out of the mean accuracy. Arguments as in `EpisodeSampler`; the profiles share an episode's supports and
    queries out among its classes, None evenly (then each class is dealt K+Q images a time, and nothing else is drawn).
    """
    sizes = [len(rows) for rows in class_rows]
    names = class_names or [str(i) for i in range(len(sizes))]
    # Before anything is allocated; a profile may ask for more of a class than the mean, as is seen below.
    check_ways(len(sizes), ways, shots, queries, asked)
    if not 1 <= n <= MOST_EPISODES or n * ways * (shots + queries) > _MOST_ROWS:
        raise UsageError(
            f"{n:,} episodes of {ways} x ({shots} + {queries}) images are more than fit into a file",
            f"give --episodes at most {min(MOST_EPISODES, _MOST_ROWS // (ways * (shots + queries))):,}; 2,000 are usual",
        )
    k = _counts(support_profile, ways, shots, n, generator, least=1)
    q = _counts(query_profile, ways, queries, n, generator, least=0)
    most_shots, most_queries = int(k.max()), int(q.max())
    check_sizes(sizes, names, ways, most_shots, most_queries, asked)
    classes = _Deck(len(class_rows), generator)
    images = [_Deck(size, generator) for size in sizes]
    chosen = np.empty((n, ways), dtype=np.int64)
    rows = np.full((n, ways, most_shots + most_queries), -1, dtype=np.int64)
    for episode in range(n):
        chosen[episode] = classes.deal(ways)
        for way, label in enumerate(chosen[episode]):
            supports, count = k[episode, way], k[episode, way] + q[episode, way]
            dealt = np.asarray(class_rows[label])[images[label].deal(int(count))]
            rows[episode, way, :supports] = dealt[:supports]
            rows[episode, way, most_shots : most_shots + count - supports] = dealt[supports:]
    return Episodes(torch.from_numpy(rows), torch.from_numpy(chosen), most_shots)


def _counts(profile: Profile | None, ways: int, mean: int, n: int, generator: np.random.Generator, least: int) -> Rows:
    return (profile or Profile(BALANCED, 0.0)).counts(ways, mean, n, generator, least)


def with_unknown(
    episodes: Episodes,
    class_rows: Sequence[Rows],
    unknown: int,
    queries: int,
    generator: np.random.Generator,
    names: Sequence[str],
) -> Episodes:
    """The episodes with U further classes each, drawn uniformly from those that are no way of it: queries, and no supports.

    Args:
        episodes: E of them, with N ways.
        class_rows: rows of every class.
        unknown: U.
        queries: of each unknown class, drawn uniformly; in the last columns.
        generator: decides the draw.
        names: of the classes, for errors.

    Returns:
        Rows `[E, N+U, K+Q]` and classes `[E, N+U]`; no row (-1) stands where an unknown class would have supports.

    Raises:
        UsageError: there are too few other classes, or a class has too few images.
    """
    n, ways, columns = episodes.rows.shape
    if unknown < 1 or unknown > len(class_rows) - ways:
        raise UsageError(
            f"{unknown} unknown classes were asked for beside {ways} ways, and there are {len(class_rows)} classes",
            f"give --open-set a number from 1 to {len(class_rows) - ways}"
            if len(class_rows) > ways
            else "give fewer --ways",
        )
    sizes = np.array([len(rows) for rows in class_rows])
    if sizes.min() < queries:
        least = int(sizes.argmin())
        raise UsageError(
            f"class '{names[least]}' has {sizes[least]} images, and {queries} queries of an unknown class need {queries}",
            f"give {sizes[least]} --queries or fewer",
        )
    keys = generator.random((n, len(class_rows)))
    np.put_along_axis(keys, episodes.classes.numpy(), 2.0, axis=1)  # ways come last
    chosen = np.argsort(keys, axis=1)[:, :unknown]
    places = _distinct(generator, sizes[chosen].reshape(-1), queries)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])[chosen].reshape(-1, 1)
    drawn = np.full((n, unknown, columns), -1, np.int64)
    drawn[..., columns - queries :] = np.concatenate(class_rows)[starts + places].reshape(n, unknown, queries)
    rows = torch.cat([episodes.rows, torch.from_numpy(drawn)], 1)
    return Episodes(rows, torch.cat([episodes.classes, torch.from_numpy(chosen)], 1), episodes.shots)


def closed(episodes: Episodes, ways: int) -> Episodes:
    """Open episodes without the classes that have no supports: the first `ways` alone."""
    return Episodes(episodes.rows[:, :ways], episodes.classes[:, :ways], episodes.shots)
