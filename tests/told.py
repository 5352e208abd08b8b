"""What an error must tell, without its whole English sentence: the offending values, and the token that is the remedy."""

from __future__ import annotations

import re

from slabench.core.errors import SlabenchError

AGAIN = ("again", "import")
"""The remedy of files that may be cut off."""


def names(said: SlabenchError | tuple[str, str], *values: object, remedy: str | tuple[str, ...]) -> None:
    """Hold an error, or the message and the remedy that a command printed, to what they must name.

    Args:
        said: the error, or message and remedy.
        values: what was wrong, each of which the message must hold as whole words: `3` is not found in `32`.
        remedy: the tokens that the reader needs (a command, an option, a number), each as whole words of the remedy.
    """
    message, advice = (said.message, said.remedy) if isinstance(said, SlabenchError) else said
    for value in values:
        assert _holds(message, str(value)), f"'{value}' is not named: {message}"
    for token in (remedy,) if isinstance(remedy, str) else remedy:
        assert _holds(advice, token), f"'{token}' is not the remedy: {advice}"


def _holds(text: str, words: str) -> bool:
    """Whether `words` stand in `text`, and end where a word ends."""
    return re.search(rf"(?<![\w.-]){re.escape(words)}(?![\w])", text) is not None
