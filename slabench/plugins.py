"""Plug-ins: single files (`--plugin FILE`, `load_plugin`), and what a result owes to which plug-in.

Packages are found through entry points, by `slabench.core.registry`. A plug-in's code runs in this process with all rights of
the user; it is loaded only when it is named (a file) or when a name of it is used (a package).
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slabench.core import registry, source_files
from slabench.core.code_digest import code_of
from slabench.core.errors import PluginError, SlabenchError, UsageError
from slabench.core.files import digest_json
from slabench.core.registry import Entry, Registry

if TYPE_CHECKING:
    from slabench.recipes.base import BaseRecipe

_KEYS = (
    ("data", "dataset", registry.DATASETS),
    ("model", "backbone", registry.BACKBONES),
    ("model", "head", registry.HEADS),
    ("loss", "name", registry.LOSSES),
    ("sla", "transforms", registry.TRANSFORMS),
)


@dataclass(frozen=True)
class Plugin:
    """A loaded file: its own name, the sha256 of its bytes, and what it registered, as (kind, name)."""

    file: str
    sha256: str
    names: tuple[tuple[str, str], ...]


_loaded: dict[Path, Plugin] = {}


def load_plugin(path: str | Path) -> Plugin:
    """Run a Python file that registers heads, backbones, losses, transformation sets or data sets.

    A file that was loaded before is not run again. When it fails, nothing that it registered stays.

    Args:
        path: of the file.

    Raises:
        UsageError: there is no such file, or one of its names is taken (the message names both origins).
        PluginError: it fails when it is run, or registers nothing.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        near = "it is a folder" if file.is_dir() else "there is no such file"
        raise UsageError(f"plug-in {path}: {near}", "give a Python file; a package is found by its entry points")
    data = file.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if file in _loaded:
        if _loaded[file].sha256 != sha256:
            raise PluginError(f"plug-in {file.name} has changed since it was loaded", "start a new process")
        return _loaded[file]
    name = f"slabench_plugin_{sha256[:12]}"
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(file))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(file)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    try:
        source_files.remember(str(file), data)
        with registry.registering(file.name, str(file)):
            # The very bytes that the digest is of: an editor may write between two readings.
            exec(compile(data, str(file), "exec"), module.__dict__)
        names = tuple((kind.kind, entry.name) for kind, entry in _entries() if entry.file == str(file))
        if not names:
            raise PluginError(
                f"plug-in {file.name} registers nothing", 'for example: slabench.HEADS.add("my-head", ...)'
            )
    except BaseException as error:
        del sys.modules[name]
        for kind in registry.REGISTRIES.values():
            kind.remove(str(file))
        if isinstance(error, SlabenchError | KeyboardInterrupt):
            raise
        raise PluginError(
            f"plug-in {file.name} cannot be loaded: {type(error).__name__}: {error}{_where(error, file)}",
            "fix the file",
        ) from error
    _loaded[file] = Plugin(file.name, sha256, names)
    return _loaded[file]


def files() -> list[Path]:
    """Where the files are that this process has loaded, in the order of loading: for a process that is to know the same names."""
    registered = {entry.file for _, entry in _entries()}
    return [file for file in _loaded if str(file) in registered]


def loaded() -> list[Plugin]:
    """The files that this process has loaded."""
    return list(_loaded.values())


def installed() -> list[tuple[str, str, str]]:
    """Kind, name and origin of everything that is not slabench's own, without importing it."""
    return [(kind.kind, entry.name, entry.origin) for kind, entry in _entries() if not entry.built_in]


def problems() -> list[SlabenchError]:
    """What is wrong with installed plug-ins, as far as it shows without importing them."""
    for kind in registry.REGISTRIES.values():
        kind.names()
    return [error for kind in registry.REGISTRIES.values() for error in kind.problems.values()]


def used(recipe: BaseRecipe) -> list[dict[str, str]]:
    """What a recipe takes from plug-ins: kind, name, origin and the sha256 of the code; empty for slabench's own names.

    The code is that of `slabench.core.code_digest`; where it cannot be known, `unknown` says why. There is no path in it.
    """
    found = []
    for section, key, kind in _KEYS:
        name = getattr(getattr(recipe, section, None), key, None)
        if name is None or name not in kind:
            continue
        entry = kind.entry(name)
        if not entry.built_in:
            code = code_of(kind, entry)
            facts = {"kind": kind.kind, "name": name, "origin": entry.origin, "sha256": code.sha256}
            found.append(facts | ({"unknown": code.unknown} if code.unknown else {}))
    return found


def recorded(environment: Mapping[str, Any], key: str = "plugins") -> list[dict[str, str]]:
    """What `used` said of a trial, from its record's environment; entries that say something else are left out."""
    found = environment.get(key)
    entries = found if isinstance(found, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and {"kind", "name", "sha256"} <= entry.keys()]


def untold(plugins: Sequence[Mapping[str, str]]) -> str | None:
    """Why the code of some plug-ins cannot be known, as a phrase; None where all of it is."""
    for plugin in plugins:
        if "unknown" in plugin:
            return (
                f"the code of the {plugin['kind']} '{plugin['name']}' cannot be told from another: {plugin['unknown']}"
            )
    return None


def bound(digest: str, plugins: Sequence[Mapping[str, str]]) -> str:
    """`digest` (of a trial or a recipe) together with the code of the plug-ins it uses; unchanged where there are none."""
    if not plugins:
        return digest
    code = sorted([plugin["kind"], plugin["name"], plugin["sha256"]] for plugin in plugins)
    return digest_json({"of": digest, "plugins": code})


def _entries() -> list[tuple[Registry, Entry]]:
    return [(kind, entry) for kind in registry.REGISTRIES.values() for entry in kind]


def _where(error: BaseException, file: Path) -> str:
    """The line of the plug-in in which it failed."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line})" if line else ""
