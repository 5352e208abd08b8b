"""Downloads: CIFAR from its publisher, mini-ImageNet through learn2learn. Only the prepared store stays."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import pickle
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from slabench.core import paths
from slabench.core.errors import DataError, DataMissingError
from slabench.core.files import temporary_folder
from slabench.core.versions import __version__
from slabench.data.catalog import DatasetInfo
from slabench.data.sources.detect import import_dataset
from slabench.data.sources.images import looks_like_html
from slabench.data.store import Store

if TYPE_CHECKING:
    from rich.console import Console

_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without a byte


def fetch(
    entry: DatasetInfo, folder: Path | None = None, *, console: Console | None = None, replace: bool = False
) -> tuple[Store, list[str]]:
    """Download `entry` and prepare its store.

    Args:
        entry: the data set, from the catalog.
        folder: the data folder; by default `SLABENCH_DATA` or the user's cache.
        console: where a progress bar is shown; None is silent.
        replace: write over a store that is already there.

    Returns:
        The store, and in words how it differs from the data set as published.

    Raises:
        DataMissingError: the publisher cannot be reached, or there is no download for this data set.
        DataError: what came is not the file that was asked for.
    """
    root = paths.data(folder)
    root.mkdir(parents=True, exist_ok=True)
    with temporary_folder(root / f"{entry.store}.download") as temporary:
        if entry.url:
            source = temporary / os.path.basename(entry.url)
            _download(entry.url, source, entry.md5, console)
        elif entry.store == "mini-imagenet":
            source = temporary
            _learn2learn_mini_imagenet(source)
        else:
            raise DataMissingError(f"there is no download for {entry.store}")
        return import_dataset(entry, source, folder, replace=replace, told=console.print if console else _nobody)


def _download(url: str, target: Path, md5: str, console: Console | None) -> None:
    """Fetch `url` to `target`; hold the bytes against the publisher's `md5`.

    MD5 detects a damaged download; the restricted reader and the digest in the catalog guard against a forged one.
    """
    # torchvision.datasets.utils.download_url has no time-out, falls back from https to plain http without a word, and reports a
    # cut-off file, a login page and wrong bytes with one and the same "File not found or corrupted".
    digest = hashlib.md5(usedforsecurity=False)
    request = urllib.request.Request(url, headers={"User-Agent": f"slabench/{__version__}"})
    head = b""
    received = 0
    try:
        # An opener of its own: urlopen keeps the proxies of its first call for as long as the process lives.
        with urllib.request.build_opener().open(request, timeout=_TIMEOUT) as response, open(target, "wb") as file:
            expected = int(response.headers.get("Content-Length") or 0)
            with _progress(console, target.name, expected) as advance:
                while chunk := response.read(_CHUNK):
                    head = head or chunk[:512]
                    received += len(chunk)
                    digest.update(chunk)
                    file.write(chunk)
                    advance(len(chunk))
    except http.client.IncompleteRead as error:
        raise _cut_off(url, received) from error
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        if received:
            raise _cut_off(url, received) from error
        raise DataMissingError(f"{url} cannot be reached ({getattr(error, 'reason', error)})") from error
    if looks_like_html(head):
        raise DataError(
            f"{url} gave an HTML page in place of the archive",
            "there may be a proxy or a login page in between: download it in a browser, then `slabench data import`",
        )
    if expected and received < expected:
        raise _cut_off(url, received, expected)
    if digest.hexdigest() != md5:
        raise DataError(
            f"{url} gave {received:,} bytes with md5 {digest.hexdigest()}, not {md5}", "try again: nothing was kept"
        )


def _cut_off(url: str, received: int, expected: int = 0) -> DataError:
    of = f" of {expected:,}" if expected else ""
    return DataError(f"the download of {url} broke off after {received:,}{of} bytes", "try again: nothing was kept")


@contextlib.contextmanager
def _progress(console: Console | None, name: str, total: int) -> Iterator[Callable[[int], None]]:
    if console is None:
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(name, total=total or None)
        yield lambda n: progress.update(task, advance=n)


def _nobody(text: str) -> None:
    """Told, and does nothing."""


class _DownloadedError(Exception):
    """The file is here: time to leave learn2learn's constructor."""


class _PickleStandIn:
    """In place of `pickle` inside learn2learn, whose constructor downloads and then unpickles without restriction."""

    UnpicklingError = pickle.UnpicklingError

    @staticmethod
    def load(file: io.BufferedReader) -> NoReturn:
        if looks_like_html(file.peek(512)):
            with contextlib.suppress(OSError):
                os.unlink(file.name)  # else it takes the page for a finished download
            raise pickle.UnpicklingError("invalid load key, '<'.")  # learn2learn then tries its second address
        raise _DownloadedError


def _learn2learn_mini_imagenet(target: Path) -> None:
    """Have learn2learn download its three caches into `target`, without letting it unpickle them."""
    if find_spec("learn2learn") is None:
        raise DataMissingError("its download needs learn2learn, which is not installed")
    module: Any = import_module("learn2learn.vision.datasets.mini_imagenet")
    for mode in ("train", "validation", "test"):
        unrestricted, module.pickle = module.pickle, _PickleStandIn
        try:
            module.MiniImagenet(root=str(target), mode=mode, download=True)
        except _DownloadedError:
            continue
        except pickle.UnpicklingError as error:
            raise DataMissingError(f"learn2learn's addresses of the '{mode}' cache give a web page") from error
        except OSError as error:  # requests' errors are OSErrors
            raise DataMissingError(f"learn2learn could not download the '{mode}' cache ({error})") from error
        finally:
            module.pickle = unrestricted
