"""JSON text with one spelling, NPZ, and files that are whole or not there."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from sim2real.types import Array, InputError

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
"""How a zip file begins, and an empty one."""


def canonical(data: object) -> str:
    """The one text for plain data: keys in their order, floats with the digits that read back."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False)


def parse(text: str, where: str) -> dict[str, Any]:
    """The JSON object in `text`; InputError where it is none, or a key stands twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"{where}: the key '{twice}' stands twice")
        return dict(pairs)

    try:
        data = json.loads(text, object_pairs_hook=unique)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{where} must be a JSON object, with keys and values")
    return data


def npz(arrays: Mapping[str, Array | str]) -> bytes:
    """The arrays (and texts) as an NPZ file; the same content gives the same bytes."""
    file = io.BytesIO()
    content: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez(file, **content)
    return file.getvalue()


def parse_npz(data: bytes, where: str) -> dict[str, Array]:
    """The arrays in an NPZ file; InputError where it is not whole, or holds Python objects."""
    if not data.startswith(ZIP):  # numpy takes it for a pickle, and says how to allow those
        raise InputError(f"{where} is not a whole NPZ file of plain arrays")
    try:
        file = np.load(io.BytesIO(data), allow_pickle=False)
        return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        said = "it holds Python objects" if "allow_pickle" in str(error) else str(error)
        raise InputError(f"{where} is not a whole NPZ file of plain arrays: {said}") from None


def write_atomically(path: Path, data: bytes) -> None:
    """All of `data` at `path`, or what was there before: never half of it, whenever killed."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    finally:
        with suppress(OSError):  # a folder that could not be made holds nothing to remove
            part.unlink(missing_ok=True)
