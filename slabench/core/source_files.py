"""The files behind own code: a file, and the modules beside it that it imports, in turn.

Beside it are modules that Python finds and that nobody installed: not those of the standard library, of site-packages or of
slabench. Imports are read from the compiled code, also those within functions, and nothing is imported to follow them.
"""

from __future__ import annotations

import dis
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType
from typing import Any

from slabench.core.files import digest_json

_BY_NAME = ("import_module", "__import__", "spec_from_file_location", "run_path", "run_module")
_INSTALLED = ("site-packages", "dist-packages")
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Source:
    """One file as this process has read it: sha256 of its bytes, the modules it imports, and what cannot be followed."""

    sha256: str
    imports: tuple[str, ...] = ()
    unknown: str | None = None


_main: dict[str, Source] = {}
_modules: dict[str, tuple[ModuleSpec, Source]] = {}


def remember(file: str, data: bytes | None = None, package: str = "") -> None:
    """Keep what `file` holds now, or the `data` that were run in its name: an editor may change it while this process runs.

    Relative imports in it start from `package`.
    """
    _main[file] = _source(Path(file).read_bytes() if data is None else data, file, package)


def is_file(name: str | None) -> bool:
    """Whether code of that `co_filename` or `__file__` lies in a file; not what was typed, piped in or made by exec."""
    return bool(name) and (name in _main or (not str(name).startswith("<") and Path(str(name)).is_file()))


def is_own(file: str) -> bool:
    """Whether nobody installed the file: it is not Python's, not in site-packages and not slabench's."""
    path = Path(file).resolve()
    if path.is_relative_to(_PACKAGE) or any(part in _INSTALLED for part in path.parts):
        return False
    folders = (Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return not any(path.is_relative_to(folder) for folder in folders)


@dataclass
class Files:
    """A file and the own modules that it reaches, gathered by name; no path is part of the digest.

    Attributes:
        found: sha256 by module name; that of the first file under "".
        unknown: why what it runs cannot be known, if so.
    """

    found: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    _files: set[Path] = field(default_factory=set)

    def add_main(self, file: str, package: str = "") -> None:
        """The file in which something was registered, with what it imports."""
        if file not in _main:
            remember(file, package=package)
        self._files.add(Path(file).resolve())
        self.found[""] = _main[file].sha256
        self._follow(_main[file], Path(file).parent)

    def add_file(self, file: str, module: str) -> None:
        """The own file of some code, which says that it belongs to `module`."""
        if not is_own(file) or Path(file).resolve() in self._files:
            return
        spec = getattr(sys.modules.get(module), "__spec__", None)
        if spec is not None and spec.has_location and Path(str(spec.origin)).resolve() == Path(file).resolve():
            self.add_module(module)
            return
        if file not in _main:
            remember(file)
        self._files.add(Path(file).resolve())
        self.found[_main[file].sha256] = _main[file].sha256  # it has no name that another process would know
        self._follow(_main[file], Path(file).parent)

    def add_code(self, code: CodeType, package: str = "") -> None:
        """What code that lies in no file imports."""
        self._follow(Source("", *_imports(code, package)), None)

    def add_module(self, name: str, beside: Path | None = None) -> None:
        """The module called `name` and what it imports, if it is an own one. Unknown names are left to Python to refuse."""
        if name in self.found:
            return
        spec = _find(name, beside)
        if spec is None or not spec.has_location or not spec.origin or not is_own(spec.origin):
            return
        if (path := Path(spec.origin).resolve()) in self._files:
            return
        self._files.add(path)
        source = _read(name, spec)
        self.found[name] = source.sha256
        depth = name.count(".") + (spec.submodule_search_locations is not None)
        self._follow(source, path.parents[min(depth, len(path.parents) - 1)])

    def digest(self) -> str:
        """sha256 of all files: of a file that imports nothing of its own, that of its bytes."""
        if set(self.found) == {""}:
            return self.found[""]
        return digest_json({"modules": sorted(self.found.items())})

    def _follow(self, source: Source, beside: Path | None) -> None:
        if source.unknown:
            self.unknown.append(source.unknown)
        for name in source.imports:
            self.add_module(name, beside)


def imported_elsewhere(package: Path) -> Files:
    """The own modules outside a package that its Python files import."""
    found = Files()
    for file in sorted(package.rglob("*.py")):
        source = _source(file.read_bytes(), file.name, "")
        outside = tuple(name for name in source.imports if name.partition(".")[0] != package.name)
        found._follow(Source("", outside), None)
    return found


def _read(name: str, spec: ModuleSpec) -> Source:
    """The module's source; of one that is loaded, as it was when it was first asked for."""
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if name in _modules and _modules[name][0] is loaded:  # a reload has a spec of its own
        return _modules[name][1]
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    origin, loader = str(spec.origin), spec.loader
    try:
        data = Path(origin).read_bytes() if Path(origin).is_file() else loader.get_data(origin)  # type: ignore[union-attr]
    except (OSError, AttributeError) as error:
        return Source("", (), f"the module '{name}' cannot be read ({type(error).__name__})")
    source = _source(data, origin, package)
    if loaded is not None:
        _modules[name] = loaded, source
    return source


def _source(data: bytes, file: str, package: str) -> Source:
    sha256 = hashlib.sha256(data).hexdigest()
    if not file.endswith((".so", ".pyd", ".pyc")):
        try:
            return Source(sha256, *_imports(compile(data, file, "exec", dont_inherit=True), package))
        except (SyntaxError, ValueError):
            pass  # not Python: its bytes are all there is
    return Source(sha256)


def _find(name: str, beside: Path | None) -> ModuleSpec | None:
    """Where Python finds a module, or, with `beside`, in that folder; parents are looked up, and not imported."""
    parent, _, _ = name.rpartition(".")
    try:
        if not parent:
            found = importlib.util.find_spec(name)
            return found or (PathFinder.find_spec(name, [str(beside)]) if beside else None)
        above = _find(parent, beside)
        places = above.submodule_search_locations if above else None
        return PathFinder.find_spec(name, list(places)) if places else None
    except (ImportError, ValueError, AttributeError):
        return None


def _imports(code: CodeType, package: str) -> tuple[tuple[str, ...], str | None]:
    """The names of all modules that code may import, and what it does that leaves them open."""
    names: dict[str, None] = {}
    unknown: list[str] = []
    for own in nested(code):
        before: list[Any] = [None, None]
        for step in dis.get_instructions(own):
            if step.opname in ("EXTENDED_ARG", "CACHE"):
                continue
            if step.opname == "IMPORT_NAME":
                level, members = before
                names |= dict.fromkeys(_spelled(step.argval, level, members or (), package))
            elif step.argval == "exec" and step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                unknown.append("it runs code that it makes or reads (exec)")
            before = [before[1], step.argval]
        by_name = [name for name in _BY_NAME if name in own.co_names]
        if by_name:
            texts = [text for text in own.co_consts if isinstance(text, str)]
            given = [text for text in texts if _dotted(text) and _find(text, None) is not None]
            names |= dict.fromkeys(given)
            if not given:
                unknown.append(f"it imports a module by a name that is made when it runs ({by_name[0]})")
    return tuple(names), unknown[0] if unknown else None


def _dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def nested(code: CodeType) -> Iterator[CodeType]:
    """The code and all functions, classes and comprehensions within it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from nested(value)


def _spelled(name: str, level: int, members: tuple[str, ...], package: str) -> Iterator[str]:
    """`from .a.b import c`: a, a.b and a.b.c, as far as they are modules."""
    try:
        base = importlib.util.resolve_name("." * level + name, package) if level else name
    except ImportError:
        return
    parts = base.split(".")
    yield from (".".join(parts[: end + 1]) for end in range(len(parts)))
    yield from (f"{base}.{member}" for member in members if member != "*")
