"""What the commands print: a reader that has gone stops nothing, and what a stream cannot show is put in plainer signs."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

_ERRORS = "slabench-plain"
_PLAIN = {"±": "+-", "…": "...", "–": "-", "—": "-", "−": "-", "×": "x"} | dict(
    zip("▁▂▃▄▅▆▇█", "._-=+*%#", strict=True)
)


def plain(text: str, encoding: str) -> str:
    """`text` with what `encoding` cannot hold in other signs: +- for ±, letters without their accents, else a question mark."""
    return text.encode(encoding, _ERRORS).decode(encoding)


def _in_plain_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    shown = []
    for sign in error.object[error.start : error.end]:
        letter = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
        shown.append(_PLAIN.get(sign) or letter or "?")
    return "".join(shown), error.end


codecs.register_error(_ERRORS, _in_plain_signs)


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Within the block, stdout and stderr outlive their readers (`| head -1`) and show what their encoding can."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed (`>&-`): else the next file that is opened would become the output
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_lasting(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):  # it was raised when it was printed
                    stream.flush()
        sys.stdout, sys.stderr = before


def forgive() -> None:
    """From now on, output that cannot be written (a full disk) is lost without a word: the work of this command matters more."""
    for stream in (sys.stdout, sys.stderr):
        buffer = getattr(stream, "buffer", None)
        raw = getattr(buffer, "raw", buffer)
        if isinstance(raw, _Lasting):
            raw.forgiving = True


def _lasting(stream: Any) -> Any:
    if type(stream) is not io.TextIOWrapper:  # captured, or replaced by somebody who knows why
        return stream
    stream.flush()
    raw = getattr(stream.buffer, "raw", None)
    below: Any = _Lasting(raw or stream.buffer)
    return io.TextIOWrapper(
        io.BufferedWriter(below) if raw is not None else below,  # python -u does without a buffer
        encoding=stream.encoding,
        errors=_ERRORS,
        newline="\n" if os.linesep == "\n" else None,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Lasting(io.RawIOBase):
    """Passes on what is written for as long as somebody reads it."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._gone = False
        self.forgiving = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        return bool(self._raw.isatty())

    def write(self, data: Any) -> int | None:
        if not self._gone:
            try:
                written: int | None = self._raw.write(data)
                return written
            except OSError as error:  # Windows says EINVAL of a pipe that nobody reads
                unread = error.errno == errno.EPIPE or (os.name == "nt" and error.errno == errno.EINVAL)
                if not unread and not self.forgiving:
                    raise
                self._gone = unread
        return len(data)


class Screen(Console):
    """A console that lays tables out in the signs that its stream can show, so that columns stay in line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"highlight": False, **settings})

    def render_str(self, text: str, **settings: Any) -> Text:
        """As rich does; a cell of a table comes through here."""
        return super().render_str(plain(text, self.encoding), **settings)

    def on_broken_pipe(self) -> None:
        """Say no more; rich would end the process."""
        self.quiet = True


def export(text: str) -> None:
    """Write a table for programs to stdout: UTF-8 whatever the terminal's encoding, the same bytes as in a file (`-o`)."""
    out: TextIO | None = sys.stdout
    if out is None:
        return
    out.flush()
    buffer = getattr(out, "buffer", None)
    if buffer is None:
        out.write(text)
    else:
        buffer.write(text.encode())
        buffer.flush()
    out.flush()
