"""The identity of something registered: a digest of its code, wherever that was written, and why it cannot be known, if so.

Code in files goes by their bytes (`slabench.core.source_files`). What was typed at a prompt, in a cell of a notebook, piped in or
given by `-c` has no file: then the object itself is walked through. Its functions count by their source, where Python has kept
it, or by their compiled code, with defaults, closures and the globals that they name; all other values by their content.
"""

from __future__ import annotations
import __future__

import dis
import hashlib
import inspect
import linecache
import sys
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import or_
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from slabench.core.files import digest_json
from slabench.core.registry import Entry, Registry
from slabench.core.source_files import Files, imported_elsewhere, is_file, is_own, nested

_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, type(...), type(NotImplemented))
_FUTURE = reduce(or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names))
_LONG = 1000
_MOST = 100_000
"""Values that are looked at; what holds more is taken for unknown."""


@dataclass(frozen=True)
class Code:
    """What is known of the code behind a name.

    Attributes:
        sha256: hex, of all that is known.
        unknown: why that is not all; None where it is.
    """

    sha256: str
    unknown: str | None = None


def code_of(kind: Registry, entry: Entry) -> Code:
    """The code behind an entry that is not slabench's own.

    A file counts by its bytes, a package by those of all its Python files, and both with the own modules that they import.

    Raises:
        PluginError: a package cannot be imported.
    """
    if isinstance(entry.target, str):
        kind.get(entry.name)  # imports it, with an error that names the plug-in
        return _code_of_module(entry.target.partition(":")[0])
    files = Files()
    if entry.file is not None:
        files.add_main(entry.file)
    walk = _Walk(files)
    value = walk.visit(entry.target, f"what is registered as '{entry.name}'")
    if entry.file is not None and not walk.loose:
        return Code(files.digest(), _first(files.unknown))
    sha256 = digest_json({"files": sorted(files.found.items()), "value": value})
    return Code(sha256, _first([*files.unknown, *walk.unknown]))


def _code_of_module(name: str) -> Code:
    top: Any = sys.modules[name.partition(".")[0]]
    file = getattr(top, "__file__", None)
    if file is not None and Path(file).name == "__init__.py":
        folder = Path(file).parent
        paths = sorted(path for ending in ("py", "so", "pyd") for path in folder.rglob(f"*.{ending}"))
        package = [[path.relative_to(folder).as_posix(), _sha256(path.read_bytes())] for path in paths]
        others = imported_elsewhere(folder)
        whole = [package, others.digest()] if others.found else package
        return Code(digest_json(whole), _first(others.unknown))
    # A module of its own, or in a namespace package, of which only the module itself is known to be the plug-in's.
    file = getattr(sys.modules[name], "__file__", None)
    if file is None:
        return Code(digest_json(name), f"the module '{name}' has no file")
    files = Files()
    files.add_main(file, getattr(sys.modules[name], "__package__", None) or "")
    return Code(files.digest(), _first(files.unknown))


class _Walk:
    """A value as nested lists of JSON, equal in every process that makes it the same way.

    Args:
        files: gathers the files of functions and classes that have one.

    Attributes:
        loose: whether some of its code lies in no file.
        unknown: what could not be told.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self.loose = False
        self.unknown: list[str] = []
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # what is made on the way must live on, or its id is another's

    def visit(self, value: Any, what: str) -> Any:
        """`value`, which is called `what` in reasons."""
        if type(value) in _PLAIN:
            long = isinstance(value, str | bytes) and len(value) > _LONG
            return [type(value).__name__, _sha256(repr(value).encode()) if long else repr(value)]
        if id(value) in self._seen:
            return ["again", self._seen[id(value)]]
        if len(self._kept) == _MOST:
            return self._give_up(f"{what} holds more than {_MOST:,} values")
        self._seen[id(value)] = len(self._kept)
        self._kept.append(value)
        try:
            return self._visit(value, what)
        except RecursionError:
            return self._give_up(f"{what} is nested too deeply")

    def _visit(self, value: Any, what: str) -> Any:
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            return ["method", self.visit(value.__func__, what), self.visit(value.__self__, what)]
        if isinstance(value, staticmethod | classmethod):
            return [type(value).__name__, self.visit(value.__func__, what)]
        if isinstance(value, property):
            return ["property", *(self.visit(part, what) for part in (value.fget, value.fset, value.fdel))]
        if isinstance(value, cached_property):
            return ["property", self.visit(value.func, what)]
        if isinstance(value, ModuleType):
            self.files.add_module(value.__name__)
            return ["module", value.__name__]
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, BuiltinFunctionType):
            owner = value.__self__
            named = owner is None or isinstance(owner, ModuleType)
            return ["built in", value.__module__, value.__qualname__, None if named else self.visit(owner, what)]
        if isinstance(value, list | tuple):
            return [type(value).__name__, *(self.visit(item, what) for item in value)]
        if isinstance(value, set | frozenset):
            return ["set", *sorted((self.visit(item, what) for item in value), key=repr)]
        if isinstance(value, Mapping) and not hasattr(value, "__dict__"):
            return ["mapping", *([self.visit(k, what), self.visit(v, what)] for k, v in value.items())]
        if hasattr(value, "detach") and "torch" in sys.modules:
            return self._tensor(value, what)
        return self._object(value, what)

    def _function(self, function: FunctionType) -> Any:
        code, name = function.__code__, function.__qualname__
        in_file = is_file(code.co_filename)
        if in_file and not is_own(code.co_filename) and _is_found(function):
            return ["function", function.__module__, name]
        used: dict[str, Any] = {}
        if in_file:
            # Its file tells all of it, but for what it was given: a wrapper of a library holds a function of the user's.
            self.files.add_file(code.co_filename, function.__module__)
        else:
            self.loose = True
            self.files.add_code(code, str(function.__globals__.get("__package__") or ""))
            used = {key: function.__globals__[key] for key in _globals_of(code) if key in function.__globals__}
        return [
            "function",
            name if in_file else _text(code),
            self.visit(function.__defaults__, f"a default of '{name}'"),
            self.visit(function.__kwdefaults__, f"a default of '{name}'"),
            [self._cell(cell, name) for cell in function.__closure__ or ()],
            [[key, self.visit(value, f"'{key}', which '{name}' uses,")] for key, value in used.items()],
        ]

    def _cell(self, cell: Any, name: str) -> Any:
        try:
            return self.visit(cell.cell_contents, f"a variable that '{name}' has from around it")
        except ValueError:
            return ["empty"]

    def _class(self, cls: type) -> Any:
        name, file = [cls.__module__, cls.__qualname__], _file_of(cls.__module__)
        if file is not None:
            self.files.add_file(file, cls.__module__)
        known = file is not None or cls.__module__.partition(".")[0] in sys.stdlib_module_names
        if known and cls.__module__ != "__main__":  # where a script's classes and those of the prompt behind it meet
            return ["class", *name]
        self.loose = self.loose or not known
        parts = {
            key: value
            for key, value in sorted(vars(cls).items())
            if not key.startswith(("__", "_abc_")) or isinstance(value, FunctionType | classmethod | staticmethod)
        }
        return [
            "class",
            name,
            [self.visit(base, cls.__qualname__) for base in cls.__bases__],
            [[key, self.visit(value, f"'{cls.__qualname__}.{key}'")] for key, value in parts.items()],
        ]

    def _tensor(self, value: Any, what: str) -> Any:
        torch = sys.modules["torch"]
        try:
            whole = value.detach().cpu().contiguous()
            data = whole.reshape(-1).view(torch.uint8).numpy().tobytes()
        except Exception:  # of another library, or a tensor without plain memory
            return self._object(value, what)
        return ["tensor", str(whole.dtype), list(whole.shape), _sha256(data)]

    def _object(self, value: Any, what: str) -> Any:
        """Anything else by what pickle would keep of it; nothing is pickled."""
        try:
            kept = value.__reduce_ex__(4)
        except Exception:
            return self._give_up(
                f"{what} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be read"
            )
        if isinstance(kept, str):  # a name to look up, as of a NumPy ufunc, or of a function with a cache around it
            return ["named", type(value).__module__, kept, self.visit(getattr(value, "__wrapped__", None), what)]
        parts = [list(part) if hasattr(part, "__next__") else part for part in kept]
        return ["object", *(self.visit(part, what) for part in parts)]

    def _give_up(self, why: str) -> Any:
        self.unknown.append(why)
        return ["unknown"]


def _is_found(function: FunctionType) -> bool:
    """Whether a library has the function under its own name; one that it made for somebody has none, or another's."""
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function and function.__module__ != "__main__"


def _file_of(module: str) -> str | None:
    """The file of a module, or of the package it is a compiled part of."""
    for name in (module, module.partition(".")[0]):
        file = getattr(sys.modules.get(name), "__file__", None)
        if (name != "__main__" and file is not None) or is_file(file):
            return str(file)
    return None


def _globals_of(code: CodeType) -> list[str]:
    """The global names that code and the functions within it use, sorted."""
    opcodes = ("LOAD_GLOBAL", "LOAD_NAME")
    steps = (step for own in nested(code) for step in dis.get_instructions(own))
    return sorted({str(step.argval) for step in steps if step.opname in opcodes})


def _text(code: CodeType) -> Any:
    """The source of a function, where Python has kept the very text that it was compiled from; else its compiled code.

    Several texts may go by one name, such as `<string>`, and a lambda may share its line with others.
    """
    lines = linecache.getlines(code.co_filename)
    if lines and code.co_name != "<lambda>":
        try:
            whole = compile("".join(lines), code.co_filename, "exec", code.co_flags & _FUTURE, dont_inherit=True)
            if any(own == code for own in nested(whole)):
                return "".join(inspect.getblock(lines[code.co_firstlineno - 1 :]))
        except (SyntaxError, ValueError, tokenize.TokenError):
            pass
    return _compiled(code)


def _compiled(code: CodeType) -> Any:
    values = [_compiled(value) if isinstance(value, CodeType) else _constant(value) for value in code.co_consts]
    counts = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
    names = [code.co_name, *code.co_names], [*code.co_varnames, *code.co_freevars, *code.co_cellvars]
    return [code.co_code.hex(), code.co_exceptiontable.hex(), counts, *map(list, names), values]


def _constant(value: Any) -> str:
    return repr(sorted(value, key=repr)) if isinstance(value, frozenset) else repr(value)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _first(reasons: list[str]) -> str | None:
    return reasons[0] if reasons else None
