"""What a figure is drawn from: records, gathered as the leaderboard gathers them, with names short enough to read."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from slabench.core.errors import DataError
from slabench.episodes.profiles import BALANCED
from slabench.plots import style
from slabench.ranking.entries import Entry, entries
from slabench.ranking.standard import standard
from slabench.records.record import ACCURACY, AUROC, RunRecord
from slabench.records.store import ResultStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PREDICTORS = ("single", "aggregated", "distilled")


class NothingToDraw(DataError):
    """The records hold nothing for this kind of figure; the remedy names a command that would make it."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure with the words that belong to it.

    Attributes:
        figure: what was drawn; `slabench.plots.style.render` makes a file of it.
        title: a few words.
        caption: what is shown, on how many episodes or images, and what the intervals are of.
        alt: the figure in words with its main numbers, for those who cannot see it.
    """

    figure: Figure
    title: str
    caption: str
    alt: str


@dataclass(frozen=True, eq=False)
class Group:
    """Entries that may be compared: one protocol on the same data and episodes, all stale or none, the best first.

    Attributes:
        title: the protocol in words, such as "fc100, 5-way 5-shot"; "(stale)" behind it where it is.
        entries: one per recipe and predictor.
        names: short names of recipes, by recipe digest; unique within the group.
        every: the entries that may be compared with these, those included that are not shown.
        unit: "episodes" or "images".
    """

    title: str
    entries: tuple[Entry, ...]
    names: Mapping[str, str]
    every: tuple[Entry, ...]

    @property
    def first(self) -> RunRecord:
        """A record of the group, for what all share."""
        return self.entries[0].records[0]

    @property
    def measure(self) -> str:
        """What the entries are judged by: `accuracy`, or of open sets `AUROC`."""
        return "AUROC" if self.entries[0].scores[0].metric == AUROC else ACCURACY

    @property
    def stale(self) -> str | None:
        """Why all of these entries are stale; None for present ones."""
        return self.entries[0].stale

    @property
    def unit(self) -> str:
        """What a test consists of."""
        return "episodes" if self.first.episodes else "images"

    @property
    def size(self) -> int:
        """How many test episodes or images."""
        return max(score.n for entry in self.entries for score in entry.scores)

    @property
    def predictors(self) -> list[str]:
        """The predictors that occur, in their usual order."""
        found = {entry.predictor for entry in self.entries}
        return [*(name for name in _PREDICTORS if name in found), *sorted(found - set(_PREDICTORS))]

    def name(self, entry: Entry) -> str:
        """The short name of the entry's recipe."""
        return self.names[entry.records[0].recipe_digest]

    def methods(self) -> list[list[Entry]]:
        """The entries by recipe, the best recipe first, predictors in their usual order."""
        gathered: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            gathered[entry.records[0].recipe_digest].append(entry)
        order = self.predictors
        return [sorted(own, key=lambda entry: order.index(entry.predictor)) for own in gathered.values()]

    def colours(self) -> dict[str, str]:
        """By objective."""
        return style.colours([entry.objective for entry in self.entries])

    def markers(self) -> dict[str, str]:
        """By recipe digest: recipes of one objective, which share a colour, differ in the marker."""
        gathered: dict[str, list[str]] = defaultdict(list)
        for entry in sorted(self.entries, key=lambda entry: (entry.images_seen, self.name(entry))):
            digests = gathered[entry.objective]
            if entry.records[0].recipe_digest not in digests:
                digests.append(entry.records[0].recipe_digest)
        marks = style.MARKERS
        return {digest: marks[i % len(marks)] for own in gathered.values() for i, digest in enumerate(own)}


def asked_first(groups: Sequence[Group]) -> list[Group]:
    """The standard protocols that are not stale; all groups where none is standard."""
    return [group for group in groups if standard(group.first) and not group.stale] or list(groups)


@dataclass(eq=False)
class Source:
    """Records to draw from.

    Attributes:
        entries: as `slabench.ranking.entries.entries` gathers them.
        store: reads the files beside the records; None when there are none.
        columns: panels side by side.
        problems: files that could not be read, a line each; filled while drawing.
        shown: the entries that are drawn, by identity; None for all. The others still give names, titles and controls.
    """

    entries: tuple[Entry, ...]
    store: ResultStore | None = None
    columns: int = 1
    problems: list[str] = field(default_factory=list)
    shown: frozenset[int] | None = None

    @classmethod
    def of(
        cls,
        records: Iterable[RunRecord],
        store: ResultStore | None = None,
        *,
        include_limited: bool = False,
        columns: int = 1,
        among: Iterable[RunRecord] | None = None,
    ) -> Source:
        """Gather the finished ones of `records`; a side file that is damaged becomes a problem and not an error.

        Where `records` are only some of a folder's, `among` is all of them, as in `slabench.ranking.entries.entries`.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = entries(records, store.episodes if store else None, include_limited, among)
        problems = list(dict.fromkeys(str(warning.message) for warning in caught))
        return cls(tuple(found), store, columns, problems)

    def only(self, keep: Callable[[Entry], bool]) -> Source:
        """The same source with the entries for which `keep` holds; problems are shared."""
        return replace(self, entries=tuple(filter(keep, self.entries)))

    def showing(self, chosen: Iterable[Entry]) -> Source:
        """The same source, of which only `chosen` is drawn."""
        return replace(self, shown=frozenset(map(id, chosen)))

    def draws(self, entry: Entry) -> bool:
        """Whether the entry is drawn."""
        return self.shown is None or id(entry) in self.shown

    def groups(self) -> list[Group]:
        """The entries by protocol, in the order of the leaderboard: stale ones stand apart, and last."""
        return list(self._groups)

    @cached_property
    def _groups(self) -> list[Group]:
        """Each kind of figure asks for them several times."""
        gathered: dict[tuple[Any, ...], list[Entry]] = defaultdict(list)
        for entry in sorted(self.entries, key=lambda entry: entry.stale is not None):
            gathered[entry.group, entry.stale].append(entry)
        titles = [title(own[0].records[0]) + (" (stale)" if own[0].stale else "") for own in gathered.values()]
        made = []
        for heading, own in zip(titles, gathered.values(), strict=True):
            twin = f" [{own[0].records[0].protocol_digest[:6]}]" if titles.count(heading) > 1 else ""
            drawn = tuple(filter(self.draws, own))
            if drawn:
                made.append(Group(heading + twin, drawn, short_names(own), tuple(own)))
        return made


def title(record: RunRecord) -> str:
    """The protocol of a record in words."""
    ways, shots = record.setting("protocol", "ways"), record.setting("protocol", "shots")
    seen = (", transductive" if record.transductive else "") + (", pre-trained" if record.pretrained else "")
    if ways is not None and shots is not None:
        queries = record.setting("protocol", "queries")
        more = f", {queries} queries" if queries not in (None, 15) else ""
        for images in ("support", "query"):
            profile = record.setting("protocol", f"{images}_profile")
            more += f", {images} {profile}" if profile not in (None, BALANCED) else ""
        unknown = record.setting("protocol", "unknown")
        more += f", {unknown} unknown classes" if unknown else ""
        more += f", trained on {record.setting('data', 'dataset')}" if (record.derived or {}).get("on") else ""
        return f"{record.dataset}, {ways}-way {shots}-shot{more}{seen}"
    if record.suite == "allclasses":
        return f"{record.dataset}, {shots} image{'s' * (shots != 1)} of every class{seen}"
    # imbalanced/cifar100/exp-r100/standard: what stands between the data set's name and the end describes it
    rest = [part for part in record.protocol.split("/") if part not in (record.suite, record.dataset)]
    # Long tails go by the name that the field has for them.
    start = [f"{record.dataset}-LT"] if record.suite == "imbalanced" else [record.dataset, record.suite]
    return ", ".join([*start, *rest]) + seen


_TELLING = (
    ("model", "learner"),
    ("model", "backbone"),
    ("model", "head"),
    ("model", "embedder"),
    ("loss", "name"),
    ("sla", "objective"),
    ("sla", "transforms"),
    ("train", "ways"),
    ("train", "shots"),
)


def short_names(own: Sequence[Entry]) -> dict[str, str]:
    """Names of recipes without the folders that all share.

    Twins get the settings in which they differ, or the beginning of their recipe's digest where none of `_TELLING` does.
    """
    names = {entry.records[0].recipe_digest: entry.records[0].name for entry in own}
    parts = [name.split("/") for name in names.values()]
    common = 0
    while all(len(part) > common + 1 for part in parts) and len({part[common] for part in parts}) == 1:
        common += 1
    short = {digest: "/".join(name.split("/")[common:]) for digest, name in names.items()}
    limited = {entry.records[0].recipe_digest for entry in own if entry.records[0].limited}
    firsts = {entry.records[0].recipe_digest: entry.records[0] for entry in own}
    for name in set(short.values()):
        twins = [firsts[digest] for digest in short if short[digest] == name]
        telling = [place for place in _TELLING if len({str(twin.setting(*place)) for twin in twins}) > 1]
        for twin in twins:
            short[twin.recipe_digest] = " ".join([name, *(_told(place, twin.setting(*place)) for place in telling)])
    listed = list(short.values())
    return {
        digest: name + (f" {digest[:6]}" if listed.count(name) > 1 else "") + (" (quick)" if digest in limited else "")
        for digest, name in short.items()
    }


def _told(place: Sequence[str], value: Any) -> str:
    return value if isinstance(value, str) else f"{'.'.join(place)}={value}"


def tested_on(groups: Sequence[Group]) -> str:
    """ "2,000 frozen test episodes", or a range where protocols differ."""
    parts = []
    for unit in ("episodes", "images"):
        sizes = sorted({group.size for group in groups if group.unit == unit})
        if sizes:
            span = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
            parts.append(f"{span} {'frozen test episodes' if unit == 'episodes' else 'test images'}")
    return " or ".join(parts)


def units(groups: Sequence[Group]) -> str:
    """ "episodes", "images" or both."""
    return " or ".join(sorted({group.unit for group in groups}))


def seeds_of(groups: Sequence[Group]) -> str:
    """ "1 seed", "1 to 3 seeds"."""
    counts = sorted({len(entry.records) for group in groups for entry in group.entries})
    if not counts:
        return "no seeds"
    span = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{span} seed{'' if counts[-1] == 1 else 's'}"
