"""Safe reading of files that may be damaged, crafted or special: the worst outcome is a refusal in one line."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from distopt.errors import InputError

TEXT_BYTES = 2**27
"""No manifest is longer: it would be that of some hundred thousand chunks."""

_BLOCK = 2**20
_LOCAL = struct.Struct("<26x2H")  # before a member's name: the lengths of the name and of its extra field
_HEADERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@contextmanager
def regular(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """A regular file, open for reading, and its size. To open a pipe or a device does not wait for it.

    Raises:
        InputError: there is none, or it is a folder, a pipe or a device, or cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise InputError(f"{_shown(path)}: {getattr(error, 'strerror', None) or error}") from error
    with (
        os.fdopen(handle, "rb", closefd=True)
        if stat.S_ISREG(os.fstat(handle).st_mode)
        else _closed(handle, path) as file
    ):
        yield file, os.fstat(handle).st_size


def _closed(handle: int, path: Path) -> IO[bytes]:
    os.close(handle)
    raise InputError(f"{_shown(path)}: a folder, a pipe or a device, where a file is expected")


def text(path: Path, most: int = TEXT_BYTES) -> str:
    """The text of a regular file.

    Raises:
        InputError: it cannot be read, is no UTF-8, or is longer than ``most`` bytes.
    """
    with regular(path) as (file, size):
        if size > most:
            raise InputError(f"{_shown(path)}: {size:,} bytes, where at most {most:,} are expected")
        try:
            return file.read(most).decode()
        except OSError as error:
            raise InputError(f"{_shown(path)}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{_shown(path)}: not UTF-8 ({error.reason} at byte {error.start})") from error


def parsed(path: Path, found: str | bytes) -> Any:
    """The value of a JSON text from the file ``path``.

    Raises:
        InputError: it is none, or nested too deeply.
    """
    try:
        return json.loads(found)
    except (ValueError, RecursionError) as error:
        told = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{_shown(path)}: damaged or not JSON ({told})") from error


def digest(file: IO[bytes], size: int) -> str:
    """The SHA-256 of the next ``size`` bytes, in hex digits."""
    found = hashlib.sha256()
    while size > 0 and (piece := file.read(min(size, _BLOCK))):
        found.update(piece)
        size -= len(piece)
    return found.hexdigest()


def described(path: Path, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """The manifest's entry for a file of ``arrays``: its size and digest, the shape and type of each. ``arrays`` below compares."""
    with regular(path) as (file, size):
        return {
            "bytes": size,
            "sha256": digest(file, size),
            "arrays": {name: _form(each) for name, each in arrays.items()},
        }


def _form(array: NDArray[Any]) -> str:
    return f"{array.dtype.name} {list(array.shape)}"


Checked = dict[Path, tuple[int, int, int]]
"""Files whose check sums have been found right, as they were then: inode, time of the last change, size."""


def arrays(
    path: Path,
    told: Mapping[str, Any] | None = None,
    wanted: Callable[[str], bool] = lambda name: True,
    checked: Checked | None = None,
) -> dict[str, NDArray[Any]]:
    """The ``wanted`` arrays of an .npz file. No more memory is taken than the file has bytes, and nothing in it is unpickled.

    Args:
        path: of the file.
        told: what ``described`` said of it when it was written; None where nobody wrote that down.
        wanted: which arrays are read, by name.
        checked: of a file that is in there, and has not changed since, the check sum is not computed again; others are added.

    Raises:
        InputError: it cannot be read, is damaged, or is not the file that was described.
    """
    with regular(path) as (file, size):
        try:
            about = os.fstat(file.fileno())
            stamp = (about.st_ino, about.st_mtime_ns, size)
            if told is not None and (checked is None or checked.get(path) != stamp):
                if size != told["bytes"] or digest(file, size) != told["sha256"]:
                    raise InputError("it is not the file that the run wrote: its checksum differs")
                file.seek(0)
                if checked is not None:
                    checked[path] = stamp
            found = dict(_members(file, wanted))
            if told is not None and (
                wrong := [name for name, each in found.items() if told["arrays"].get(name) != _form(each)]
            ):
                raise InputError(f"{wrong[0]} has another shape or type than the run wrote")
        # numpy, zipfile and zlib raise a dozen kinds of errors on damaged bytes, and no list of them is complete
        except Exception as error:
            what = " ".join(f"{error}".split())[:200] or type(error).__name__
            raise InputError(f"{_shown(path)}: damaged or not a chunk of a run ({what})") from error
    return found


def _members(file: IO[bytes], wanted: Callable[[str], bool]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of an .npz file as ``numpy.savez`` writes it, each of at most as many bytes as its member has."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = [each.filename.removesuffix(".npy") for each in members]
        if len(set(names)) < len(names) or not all(each.filename.endswith(".npy") for each in members):
            raise InputError("it does not only hold arrays")
        end = 0
        for (
            each
        ) in members:  # one after the other, uncompressed, so that none can be more than its bytes, and none is missing
            file.seek(end)
            lengths = _LOCAL.unpack(file.read(_LOCAL.size))
            if (
                each.header_offset != end
                or each.compress_type != zipfile.ZIP_STORED
                or each.file_size != each.compress_size
            ):
                raise InputError("its arrays do not lie one after the other, as the run wrote them")
            end += _LOCAL.size + sum(lengths) + each.file_size
        if end != archive.start_dir:
            raise InputError("it has bytes outside of its arrays")
        for name, each in zip(names, members, strict=True):
            if wanted(name):
                with archive.open(each) as member:
                    yield name, _array(member, each.file_size)


def _array(member: IO[bytes], size: int) -> NDArray[Any]:
    version = np.lib.format.read_magic(member)
    if version not in _HEADERS:
        raise InputError(f"an array in format {version}")
    shape, fortran, dtype = _HEADERS[version](member)
    count = 1
    for length in shape:  # in whole numbers without end: a product in numpy's would overflow
        count *= length
    left = size - member.tell()
    if dtype.kind not in "biufc" or any(length < 0 for length in shape) or count * dtype.itemsize != left:
        raise InputError(f"an array of shape {list(shape)} and type {dtype} in {left} bytes")
    array = np.frombuffer(bytearray(member.read()), dtype=dtype, count=count)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _shown(path: Path) -> str:
    """A path in one line."""
    return str(path) if str(path).isprintable() else ascii(str(path))
