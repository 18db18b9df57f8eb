"""CSV files as programs write them: the separator, the encoding, and the line number of each row."""

from __future__ import annotations

import codecs
import csv
import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from distopt.errors import InputError

if TYPE_CHECKING:
    from _csv import Reader

SEPARATORS = (",", ";", "\t", "|")
LONGEST_LINE = 2**20  # characters
SAMPLE = "weather"  # the file that ships with the package
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # begins as the mark of UTF-16 does
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_SAYS = {
    "unexpected end of data": "a quote that opens here is never closed",
    "field larger than field limit (131072)": "a value is longer than 131,072 characters; perhaps a quote is not closed",
}


def composed(name: str) -> str:
    """A name in the form for comparisons: Unicode's normal form C, without blanks or a byte order mark around it.

    >>> composed(" u\\u0308ber") == "\\u00fcber"
    True
    """
    return unicodedata.normalize("NFC", name.strip().strip("\ufeff").strip())


def filled(row: list[str]) -> bool:
    """Whether a row is more than a blank line."""
    return len(row) > 1 or bool(row and row[0].strip())


@dataclass(frozen=True)
class Version:
    """Attributes that show whether a file has changed."""

    device: int
    inode: int
    changed: int
    size: int


@dataclass(frozen=True)
class CsvFile:
    """A file of values between separators.

    Attributes:
        path: as the user wrote it; errors name it so.
        separator: the character between two values.
    """

    path: str
    separator: str = ","

    @property
    def place(self) -> Path:
        """The path of the file."""
        return (
            Path(__file__).parent / "data" / f"{SAMPLE}.csv"
            if self.path == SAMPLE
            else Path(os.path.expanduser(self.path))
        )

    def version(self) -> Version:
        """Which content the file has now.

        Raises:
            InputError: the file does not exist, or is a folder, a device or a pipe.
        """
        try:
            found = self.place.stat()
        except (FileNotFoundError, NotADirectoryError):
            where = "" if self.place.is_absolute() else f" in {Path.cwd()}"
            raise InputError(
                f"stream: there is no file {self.path!r}{where}; give the path of a CSV file with a header line"
            ) from None
        except (
            OSError,
            ValueError,
        ) as fault:  # a folder that may not be entered, a path that is too long or holds a NUL
            why = getattr(fault, "strerror", None) or fault
            raise InputError(f"stream: cannot look at the file {self.path[:200]!r}: {why}") from None
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device, a pipe or a socket"
            raise InputError(
                f"stream: {self.path} is {kind}; give the path of a CSV file, which can be read more than once"
            )
        return Version(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)

    def open(self) -> TextIO:
        """The text of the file, line ends as they are.

        Raises:
            InputError: no permission to read it, or it begins like UTF-16 or UTF-32.
        """
        try:
            with self.place.open("rb") as handle:
                head = handle.read(4)
            for mark, name in _MARKS:
                if head.startswith(mark):
                    raise InputError(f"stream: {self.path} is in {name}; save it as UTF-8")
            return self.place.open(newline="", encoding="utf-8-sig")
        except OSError as fault:
            raise InputError(f"stream: cannot read {self.path}: {fault.strerror}") from None

    def reader(self, handle: TextIO) -> Reader:
        """The rows of the open file, blank lines among them."""
        return csv.reader(_lines(handle), delimiter=self.separator, strict=True)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Every row that is not blank, with the line on which it begins. Slow: for looking up where something is.

        Raises:
            InputError: for a broken quote or a line that is too long, with its line; for text that is not UTF-8.
        """
        with self.open() as handle:
            reader = self.reader(handle)
            while True:
                line = reader.line_num + 1
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except UnicodeDecodeError:
                    raise self.undecodable() from None
                except csv.Error as fault:
                    last = reader.line_num
                    place = f"line {line}" if last <= line else f"line {line} (the row goes on to line {last})"
                    raise InputError(
                        f"stream: {self.path}, {place}: {_SAYS.get(str(fault), fault)}; correct the file"
                    ) from None
                if filled(row):
                    yield line, row

    def header(self) -> tuple[int, list[str]]:
        """The line on which the header begins, and its names; no names for an empty file."""
        line, row = next(self.rows(), (1, []))
        return line, [composed(name) for name in row]

    def separated(self, label: str) -> CsvFile:
        """The file with the first separator (comma, semicolon, tab, bar) for which the header has a column ``label``.
        If none fits, the one that gives the header the most names.
        """
        made: dict[CsvFile, float] = {}
        for separator in SEPARATORS:
            file = CsvFile(self.path, separator)
            try:
                _, names = file.header()
            except InputError:  # a quote next to this separator is broken: reading will say so if no other fits
                made[file] = float("inf")
                continue
            if composed(label) in names:
                return file
            made[file] = len(names)
        return max(made, key=made.__getitem__)

    def fault(self, row: int, what: str, column: int | None = None) -> InputError:
        """The error for row ``row`` of the data, or for its value in ``column``; the line is looked up only now, which keeps
        reading fast.
        """
        for k, (line, texts) in enumerate(self.rows(), -1):  # the header is row -1
            if k == row:
                line += sum(map(_ends, texts[:column])) if column else 0
                return InputError(f"stream: {self.path}, line {line}{what}")
        return InputError(f"stream: {self.path} has changed while it was read; try again")

    def undecodable(self) -> InputError:
        """The error for a file that is not in UTF-8."""
        line = 1
        with self.place.open("rb") as handle:
            for raw in handle:
                try:
                    raw.decode()
                except UnicodeDecodeError as fault:
                    line += raw[: fault.start].count(b"\r")
                    return InputError(
                        f"stream: {self.path}, line {line} holds the byte 0x{raw[fault.start]:02x}, which is not UTF-8 "
                        "(is it Latin-1 or Windows-1252, or no text?); save the file as UTF-8"
                    )
                line += raw.count(b"\r") + (not raw.endswith(b"\r\n"))
        return InputError(f"stream: {self.path} has changed while it was read; try again")


def _lines(handle: TextIO) -> Iterator[str]:
    while line := handle.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise csv.Error(f"the line is longer than {LONGEST_LINE:,} characters")
        yield line


def _ends(text: str) -> int:
    """Line ends within a value."""
    return text.count("\n") + text.count("\r") - text.count("\r\n")
