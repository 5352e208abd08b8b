"""Words of a command line that several commands read and keep: lists of numbers and of names, and the line for the record."""

from __future__ import annotations

from pathlib import Path


def numbers(text: str | None, flag: str, *, least: int = 1) -> list[int] | None:
    """`0,1,2` as distinct whole numbers of at least `least`; None where the flag was not given.

    Raises:
        UsageError: they are not.
    """
    from slabench.errors import UsageError

    if text is None:
        return None
    example = f"write for example {flag} {'0,1,2' if least == 0 else '5,10'}"
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{flag} {text} are not numbers", example) from error
    if min(found) < least or len(set(found)) < len(found):
        wanted = "not negative" if least == 0 else f"at least {least}"
        raise UsageError(f"{flag} {text}: {flag.strip('-')} are distinct and {wanted}", example)
    return found


def names(text: str, flag: str) -> list[str]:
    """`a, b` as its names.

    Raises:
        UsageError: there is none.
    """
    from slabench.errors import UsageError

    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise UsageError(f"{flag} '{text}' names nothing", f"leave {flag} out, or write for example {flag} a,b")
    return found


def public_argv(words: list[str]) -> list[str]:
    """The command line for the record, which others will read: without the folders of this machine."""
    public, skip = ["slabench"], False
    for word in words:
        if skip or word.startswith(("--results=", "--data-dir=")):
            skip = False
        elif word in ("--results", "--data-dir"):
            skip = True
        elif word.startswith("--plugin=") or public[-1] == "--plugin":
            flag, equals, file = word.partition("=") if word.startswith("--plugin=") else ("", "", word)
            public.append(f"{flag}{equals}{Path(file).name}")  # its digest is in the record's environment
        else:
            public.append(Path(word).name if Path(word).is_absolute() else word)
    return public
