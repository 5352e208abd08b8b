"""Which heads are scored where nobody names every one of them, and which cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slabench.core.errors import UsageError
from slabench.core.registry import HEADS
from slabench.heads import Head

HEAD_GROUPS = {"all": False, "transductive": True}
"""Names of several heads at once, by `Head.transductive`. `all` is of the task that most ask about, predicting one query, and
would take twice as long with the others."""


def heads_of_run(asked: Sequence[str] | None, own: str, learner: str) -> tuple[list[str], list[str]]:
    """The heads to score on a trained run, and a line for each that was left out.

    Args:
        asked: names and `HEAD_GROUPS`; None for `all`.
        own: the head that the run was trained with.
        learner: how it was trained.
    """

    def untrained(name: str, head: Head) -> str | None:
        if head.module is not None and (name != own or learner != "episodic"):
            return f"{name} learns from episodes, and this run was trained with {own}"
        return None

    return _chosen(asked, untrained, "slabench run fewshot --head {}")


def heads_of_features(asked: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The heads to score on features of a frozen network, and a line for each that was left out."""

    def untrained(name: str, head: Head) -> str | None:
        return (
            None if head.module is None else f"{name} learns from episodes, and frozen features have learned from none"
        )

    return _chosen(asked, untrained, "choose another head than {} (slabench list heads)")


def _chosen(
    asked: Sequence[str] | None, untrained: Callable[[str, Head], str | None], remedy: str
) -> tuple[list[str], list[str]]:
    chosen: list[str] = []
    left_out = [
        f"{name} is transductive, and ranked in tables of its own: --heads transductive"
        for name in (HEADS.names() if asked is None or list(asked) == ["all"] else ())
        if HEADS.get(name).transductive
    ]
    for name, by_name in _named(asked).items():
        why = untrained(name, HEADS.get(name))
        if why is None:
            chosen.append(name)
        elif by_name:
            raise UsageError(why, remedy.format(name))
        else:
            left_out.append(why)
    if not chosen:
        raise UsageError("there is no head to score", f"known: {', '.join(HEADS.names())}")
    return chosen, left_out


def _named(asked: Sequence[str] | None) -> dict[str, bool]:
    """Heads in the order asked for, and whether each was asked for by its own name or as one of a group."""
    found: dict[str, bool] = {}
    for name in asked or ("all",):
        wanted = HEAD_GROUPS.get(name)
        for head in [name] if wanted is None else HEADS.names():
            if wanted is None or HEADS.get(head).transductive == wanted:
                found[head] = found.get(head, False) or wanted is None
    return found
