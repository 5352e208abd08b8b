"""Errors that name what was wrong, with the value, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class SlabenchError(Exception):
    """Base of every error that slabench raises on purpose.

    Args:
        message: what was wrong, with the offending value.
        remedy: what the reader can do about it; printed on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message if not remedy else f"{message}\n{remedy}")
        self.message = message
        self.remedy = remedy


class UsageError(SlabenchError):
    """The request itself cannot be served (a wrong flag, an unknown name, an impossible combination): exit code 2."""

    exit_code = 2


class PluginError(SlabenchError):
    """A plug-in cannot be read, or provides something other than it should. Exit code 2: nothing has been run yet."""

    exit_code = 2


class DataError(SlabenchError):
    """A file or a data set is missing, damaged or not what it claims to be."""


class DataMissingError(DataError):
    """The data set is not on this machine. Exit code 2: nothing has been run yet."""

    exit_code = 2


class IntegrityError(DataError):
    """A digest does not match the bytes it belongs to."""


class UnsafePickleError(DataError):
    """A pickle asks for something that plain containers and numpy arrays do not need."""


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong in a file's values, as "place: what"."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where[:80]}: {first['msg']}"


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """The closest of `options` as a question, or the whole list when none is close.

    >>> did_you_mean("protonett", ["protonet", "ridge"])
    "did you mean 'protonet'?"
    """
    known = sorted(options)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close and "_" in name:
        close = [name.replace("_", "-")] if name.replace("_", "-") in known else []
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(known)}"


def unknown_name(kind: str, name: str, options: Iterable[str]) -> UsageError:
    """The error for a `name` that is not among the `options` of this `kind`."""
    return UsageError(f"unknown {kind} '{name}'", did_you_mean(name, options))
