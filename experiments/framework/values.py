"""Turning what experiments measure into JSON values and into short text for tables."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def to_json(value: Any, where: str) -> Any:
    """`value` in terms of JSON: numbers as Python numbers, arrays as nested lists.

    JSON has no NaN and no infinities: they become the strings "nan", "inf" and "-inf", which
    `float()` reads back. `where` names the value in the error.

    Raises:
        TypeError: a kind of value that JSON cannot hold.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, enum.Enum):
        return to_json(value.value, where)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, np.generic) or hasattr(value, "__array__"):
        return _array_to_json(np.asarray(value), where)
    raise TypeError(
        f"{where}: expected numbers, text, arrays, or lists and dicts of them, "
        f"got {type(value).__name__}; convert it before recording it"
    )


def _array_to_json(array: np.ndarray, where: str) -> Any:
    if array.dtype.kind in "biuU":
        return array.tolist()
    # bfloat16 and the 8-bit floats of JAX are of kind V, as records are, which do not convert.
    if array.dtype.kind in "fV" and array.dtype.fields is None:
        return to_json(array.astype(np.float64).tolist(), where)
    raise TypeError(
        f"{where}: expected an array of numbers or booleans, got dtype {array.dtype}; "
        "record its real parts, or its text"
    )


def as_bool(value: Any, where: str) -> bool:
    """`value` as a Python bool: True, False, or one boolean of NumPy or JAX; else TypeError."""
    if not isinstance(value, bool) and hasattr(value, "__array__") and np.ndim(value) == 0:
        value = np.asarray(value).item()
    if isinstance(value, bool):
        return value
    raise TypeError(
        f"{where}: expected True or False, got {value!r}; compare first, as in x < 1e-9"
    )


def show(value: Any, digits: int = 6) -> str:
    """Short text of a value for a table cell; floats with `digits` significant digits."""
    if isinstance(value, str):
        return value
    if value is None:
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return f"{float(value):.{digits}g}"
    if hasattr(value, "__array__"):
        value = np.asarray(value)
        if value.ndim == 0:
            return show(value.item(), digits)
    if isinstance(value, (list, tuple, np.ndarray)):
        items = [show(item, digits) for item in value[:8]]
        more = [f"… ({len(value)} in all)"] if len(value) > 8 else []
        return "(" + ", ".join(items + more) + ")"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {show(item, digits)}" for key, item in value.items())
    return str(value)


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that a reader, or a kill, meets the old file or the new, never half."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file in one atomic replacement."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
