"""A value as plain JSON, for fingerprints: equal for values that give the same results."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distopt.catalog.spec_files import paths
from distopt.errors import InputError
from distopt.optional import users_class


def plain(value: Any, above: tuple[int, ...] = ()) -> Any:
    """A value as JSON: content where it can be read, else its type's name. ``above`` holds the ids on the way here (cycles)."""
    if isinstance(value, str):
        return _with_content(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if id(value) in above or len(above) > 20:
        return kind
    inner = (*above, id(value))
    if isinstance(value, Tensor):
        value = value.detach().to_dense().cpu()
        value = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        if value.ndim == 0 and value.dtype.kind in "biuf":
            return value.item()
        content = repr(value.tolist()).encode() if value.dtype.hasobject else np.ascontiguousarray(value).tobytes()
        return f"array{value.shape}{value.dtype}:" + hashlib.sha256(content).hexdigest()[:16]
    if isinstance(value, list | tuple):
        return [plain(item, inner) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item, inner) for key, item in value.items()}
    if hasattr(value, "edges") and hasattr(value, "nodes"):  # networkx
        return {
            "type": kind,
            "nodes": [str(n) for n in value.nodes],
            "edges": sorted(f"{edge[0]}-{edge[1]}" for edge in value.edges),
        }
    if callable(getattr(value, "tocoo", None)):  # scipy sparse
        coordinates = value.tocoo()
        return {"type": kind, "entries": [plain(np.asarray(each)) for each in (*coordinates.coords, coordinates.data)]}
    fields = dict(getattr(value, "__dict__", {}))
    if dataclasses.is_dataclass(value):
        # a field that came later is left out where it is None: what lacks it keeps the fingerprint that it had
        told = {f: getattr(value, f.name) for f in dataclasses.fields(value)}
        fields = {f.name: each for f, each in told.items() if each is not None or "later" not in f.metadata}
    described = {key: plain(item, inner) for key, item in sorted(fields.items()) if _told(item)}
    return {"type": kind, "code": _code(users_class(type(value))), **described}


def _told(value: Any) -> bool:
    """Whether a field affects results: functions have no content to read, but directions and schedules have numbers."""
    return not callable(value) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _code(kind: type) -> str:
    """A digest of a class's text, so that two classes of one name differ; empty where there is no text to read."""
    try:
        return hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return ""


def _with_content(spec: str) -> str:
    """The content of the files in a spec is part of the fingerprint, which must change when a file does."""
    try:
        return spec + "".join(f" #{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}" for path in paths(spec))
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror or error}") from error
