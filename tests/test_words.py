"""Words of a command line: lists, and the line that a record keeps."""

from __future__ import annotations

import pytest

from slabench.cli.common import names, numbers, public_argv
from slabench.core.errors import UsageError


def test_lists() -> None:
    assert numbers(None, "--ways") is None
    assert numbers("5, 10", "--ways") == [5, 10]
    assert numbers("0", "--seeds", least=0) == [0]
    assert names("a, b,", "--heads") == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "least", "words"),
    [
        ("x", 1, "--ways x are not numbers"),
        ("5,", 1, "are not numbers"),
        ("0", 1, "ways must be distinct and at least 1"),
        ("5,5", 1, "ways must be distinct"),
        ("-1", 0, "ways must be distinct and not negative"),
    ],
)
def test_wrong_numbers_are_named(text: str, least: int, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        numbers(text, "--ways", least=least)
    assert words in caught.value.message


def test_no_name_is_no_list() -> None:
    with pytest.raises(UsageError, match="--heads ' , ' names nothing"):
        names(" , ", "--heads")


def test_a_record_keeps_the_command_without_folders() -> None:
    typed = ["score", "ab12", "--heads", "all", "--results", "/home/me/r", "--data-dir=/d", "/home/me/mine.toml"]
    assert public_argv(typed) == ["slabench", "score", "ab12", "--heads", "all", "mine.toml"]
    assert public_argv(["run", "--plugin", "/x/p.py", "--plugin=/y/q.py"]) == [
        *("slabench", "run", "--plugin", "p.py", "--plugin=q.py"),
    ]
