"""Files of features that people bring: npz, safetensors or parquet, never a pickle; every array checked before it is used.

What is in one, by name (in parquet by column, where `feature`, `label` and `id` are welcome too):

- `features`: float `[n, D]`, or `[n, M, D]` of M views, the plain image first;
- `ids`: whole numbers `[n]`, rows of `slabench.data.load(DATASET, SPLIT)`, and `split` where it is not `test`;
- `labels`: `[n]`, whole numbers with `class_names` beside them, or names.

In safetensors, which hold no text, `class_names` and `split` are JSON in the header, as are facts of the embedder (`embedder`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slabench.core.arrays import parse_npz
from slabench.core.errors import DataError, UsageError
from slabench.core.files import read_plain, write_bytes

SUFFIXES = (".npz", ".safetensors", ".parquet")

_LIMIT = 32 << 30
_FORMS = "docs/features.md says what such a file holds: features [n, D] or [n, M, D], and ids or labels"
_ALSO = {"feature": "features", "label": "labels", "id": "ids", "splits": "split", "classes": "class_names"}


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """What a file holds, checked.

    Attributes:
        features: float16 or float32 `[n, M, D]`, finite.
        ids: int64 `[n]`, distinct; None where there are none.
        labels: int64 `[n]`, indices into `class_names`; None where there are none.
        class_names: of the labels.
        splits: of each row; empty where the file names none.
        facts: of the embedder, as the file tells them.
    """

    features: npt.NDArray[np.floating[Any]]
    ids: npt.NDArray[np.int64] | None
    labels: npt.NDArray[np.int64] | None
    class_names: tuple[str, ...]
    splits: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)


def read_features(path: Path) -> FeatureFile:
    """Read and check a file of features.

    Raises:
        UsageError: there is no such file, or it is of no kind that is read (a pickle, a torch file).
        DataError: it is damaged, or an array in it is not as it should be: names the array and the row.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}", "name a file of features: .npz, .safetensors or .parquet")
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{path.name} is not read: a feature file is {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}",
            "pickles and torch files can run code: save the arrays with numpy.savez or safetensors.numpy.save_file",
        )
    arrays, facts = _READERS[path.suffix.lower()](path)
    arrays = {_ALSO.get(name, name): array for name, array in arrays.items()}
    if "features" not in arrays:
        raise DataError(f"{path.name} holds {', '.join(sorted(arrays)) or 'nothing'}, and no 'features'", _FORMS)
    features = _features(arrays["features"], path)
    n = len(features)
    for name in ("ids", "labels"):
        if name in arrays and arrays[name].shape != (n,):
            raise DataError(f"{path.name}: {name} is {list(arrays[name].shape)}, and features has {n:,} rows", _FORMS)
    if "ids" not in arrays and "labels" not in arrays:
        raise DataError(f"{path.name} has neither ids nor labels: nobody can tell what its rows are of", _FORMS)
    ids = _whole(arrays["ids"], "ids", path) if "ids" in arrays else None
    splits = _splits(arrays.get("split"), n, path)
    labels, names = _labels(arrays.get("labels"), arrays.get("class_names"), path)
    return FeatureFile(features, ids, labels, names, splits, facts)


def write_features(
    path: Path,
    features: npt.NDArray[np.floating[Any]],
    *,
    ids: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    class_names: tuple[str, ...],
    split: str,
    facts: Mapping[str, Any],
) -> None:
    """Write a file that `read_features` reads, atomically; of the kind that its name says.

    Raises:
        UsageError: it says none.
    """
    suffix = path.suffix.lower()
    about = {"class_names": json.dumps(list(class_names)), "split": split, "embedder": json.dumps(dict(facts))}
    if suffix == ".npz":
        buffer = io.BytesIO()
        np.savez(
            buffer,
            allow_pickle=False,
            features=features,
            ids=ids,
            labels=labels,
            class_names=np.array(class_names),
            split=np.array(split),
            embedder=np.array(about["embedder"]),
        )
        write_bytes(path, buffer.getvalue())
    elif suffix == ".safetensors":
        from safetensors.numpy import save

        arrays = {"features": np.ascontiguousarray(features), "ids": ids, "labels": labels}
        write_bytes(path, save(arrays, metadata=about))
    elif suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        n, m, d = features.shape
        flat = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), d)
        names = pa.array([class_names[label] for label in labels])
        columns = {"features": pa.FixedSizeListArray.from_arrays(flat, m), "ids": pa.array(ids), "labels": names}
        table = pa.table(columns | {"split": pa.array([split] * n)}).replace_schema_metadata(about)
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        write_bytes(path, buffer.getvalue())
    else:
        raise UsageError(f"{path.name} does not say what to write", f"end it in {', '.join(SUFFIXES)}")


def _npz(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    remedy = "write it again with numpy.savez: arrays of numbers, and of text for names, no objects"
    arrays = parse_npz(read_plain(path), path.name, remedy, limit=_LIMIT, text=True)
    told = arrays.pop("embedder", None)
    return arrays, _facts(str(told), path) if told is not None else {}


def _safetensors(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            about = file.metadata() or {}
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:  # AttributeError: bfloat16
        raise DataError(
            f"{path.name} is not a readable safetensors file: {str(error)[:200]}",
            "write it again, as float32 or float16",
        ) from error
    if "class_names" in about:
        names = _json(about["class_names"], "class_names", path)
        arrays["class_names"] = np.array([str(name) for name in names] if isinstance(names, list) else [])
    if "split" in about:
        arrays["split"] = np.array(about["split"])
    return arrays, _facts(about["embedder"], path) if "embedder" in about else {}


def _parquet(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        with pq.ParquetFile(path) as file:
            table = file.read().combine_chunks()
        for name in table.column_names:
            if _ALSO.get(name, name) not in ("features", "ids", "labels", "split"):
                continue
            column = table.column(name).combine_chunks()
            sizes = []
            while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
                n = len(column)
                values = column.flatten()
                sizes.append(len(values) // n if n else 0)
                lengths = set(pa.compute.list_value_length(column).unique().to_pylist())
                if len(lengths) > 1 or None in lengths:
                    raise ValueError(f"rows of '{name}' have different lengths: {sorted(lengths, key=str)[:4]}")
                column = values
            flat = np.array(column.to_pylist() if pa.types.is_string(column.type) else column.to_numpy(False))
            if flat.dtype == object:
                raise ValueError(f"'{name}' has empty cells, or no numbers")
            arrays[name] = flat.reshape(table.num_rows, *sizes) if sizes else flat
        about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    except Exception as error:  # a damaged file: ArrowException and OSError, and what its conversion raises
        raise DataError(f"{path.name} is not a readable parquet file: {str(error)[:200]}", _FORMS) from error
    return arrays, _facts(about["embedder"], path) if "embedder" in about else {}


_READERS = {".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}


def _json(text: str, what: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name}: {what} is no JSON", _FORMS) from error


def _facts(text: str, path: Path) -> dict[str, Any]:
    found = _json(text, "embedder", path)
    if not isinstance(found, dict):
        raise DataError(f"{path.name}: embedder is no table of facts", _FORMS)
    return found


def _features(array: npt.NDArray[Any], path: Path) -> npt.NDArray[np.floating[Any]]:
    if array.dtype.kind != "f" or array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(
            f"{path.name}: features is {array.dtype} {list(array.shape)}, not numbers [n, D] or [n, M, D]", _FORMS
        )
    if array.ndim == 2:
        array = array[:, None]
    if array.dtype not in (np.float16, np.float32):
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    finite = np.isfinite(array).reshape(len(array), -1).all(1)
    if not finite.all():
        row, count = int(finite.argmin()), int((~finite).sum())
        raise DataError(f"{path.name}: row {row} of features is NaN or infinite ({count:,} such rows)", "mend them")
    return array


def _whole(array: npt.NDArray[Any], what: str, path: Path) -> npt.NDArray[np.int64]:
    if array.dtype.kind not in "iu":
        raise DataError(f"{path.name}: {what} is {array.dtype}, not whole numbers", _FORMS)
    if len(array) and int(array.min()) < 0:
        raise DataError(f"{path.name}: row {int(array.argmin())} of {what} is {int(array.min())}", _FORMS)
    return array.astype(np.int64)


def _splits(array: npt.NDArray[Any] | None, n: int, path: Path) -> tuple[str, ...]:
    if array is None:
        return ()
    if array.dtype.kind != "U" or array.shape not in ((), (1,), (n,)):
        raise DataError(f"{path.name}: split is {array.dtype} {list(array.shape)}, not a name or one a row", _FORMS)
    names = [str(name) for name in array.reshape(-1)]
    return tuple(names if len(names) == n else names * n)


def _labels(
    array: npt.NDArray[Any] | None, names: npt.NDArray[Any] | None, path: Path
) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]:
    if array is None:
        return None, ()
    if array.dtype.kind == "U":
        found, labels = np.unique(array, return_inverse=True)
        return labels.astype(np.int64), tuple(str(name) for name in found)
    labels = _whole(array, "labels", path)
    if names is None:
        width = len(str(int(labels.max())))
        return labels, tuple(f"class-{label:0{width}}" for label in range(int(labels.max()) + 1))
    if names.dtype.kind != "U" or names.ndim != 1 or len(set(names.tolist())) != len(names):
        raise DataError(f"{path.name}: class_names is {names.dtype} {list(names.shape)}, not distinct names", _FORMS)
    if int(labels.max()) >= len(names):
        row = int(labels.argmax())
        raise DataError(f"{path.name}: row {row} has the label {labels[row]}, and there are {len(names)} names", _FORMS)
    return labels, tuple(str(name) for name in names)
