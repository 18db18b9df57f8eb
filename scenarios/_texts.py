"""The meaning of a value in a CSV file: missing, a number, something that looks like one, or a name."""

from __future__ import annotations

import unicodedata

from distopt.scenarios._ranges import LARGEST

MISSING = frozenset(  # compared in lower case
    (
        "na",
        "n/a",
        "n.a.",
        "n.a",
        "n/d",
        "nan",
        "-nan",
        "+nan",
        "null",
        "(null)",
        "[null]",
        "<na>",
        "<nan>",
        "<null>",
        "<nil>",
        "<none>",
        "\\n",
        "#na",
        "#n/a",
        "#n/a n/a",
        "#null!",
        "#value!",
        "#ref!",
        "#div/0!",
        "#num!",
        "#name?",
        "1.#qnan",
        "-1.#qnan",
        "1.#ind",
        "-1.#ind",
    )
)
MISSING_AS_WRITTEN = frozenset(
    {"None", "NaT"}
)  # as Python and pandas write them; "none" may be a category (none, mild, severe)


def missing(text: str) -> bool:
    """Whether a text marks a missing value: pandas' marks, those of spreadsheets, and texts of only dots, dashes or question marks.

    >>> [text for text in ("", " ", "NaN", "null", "None", "#N/A", "-", "?", "none", "0", "-1") if missing(text)]
    ['', ' ', 'NaN', 'null', 'None', '#N/A', '-', '?']
    """
    if not text.isascii():  # full-width letters, and characters that are not seen
        text = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) not in ("Cf", "Cc"))
    text = text.strip()
    return (
        text.lower() in MISSING
        or text in MISSING_AS_WRITTEN
        or not text.strip("-.?\u2010\u2011\u2012\u2013\u2014\u2015\u2212")
    )


def number(text: str) -> float | None:
    """A decimal number in ASCII digits, perhaps infinite; None for any other text.

    >>> number(" 1.5e3 "), number("1_000"), number("0x10"), number("1,5"), number("five")
    (1500.0, None, None, None, None)
    """
    text = text.strip()
    try:
        return float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None


def looks_like_number(text: str) -> bool:
    """Whether a text may be meant as a number: one of at most 1e100 in size, perhaps with decimal commas or in other digits.

    >>> [looks_like_number(text) for text in ("1.5", "1,5", "1,234,567", "\uff11\uff12", "1_0", "5e9120", "inf", "2024-01-01")]
    [True, True, True, True, False, False, False, False]
    """
    try:
        value = float(text.replace(",", "").replace("\u2212", "-"))  # the minus sign of typesetters
    except ValueError:
        return False
    return abs(value) <= LARGEST and "_" not in text


def fault(text: str, numeric: bool) -> str | None:
    """What is wrong with a value, or None."""
    value, shown = number(text), repr(text.strip()[:100])
    if missing(text):
        return f"has no value ({shown})"
    if not numeric:
        return f"holds a NUL byte ({shown})" if "\0" in text else None
    if value is None and looks_like_number(text):
        return f"is {shown}; a number is written in the digits 0 to 9 with a decimal point, as in 1234.5"
    if value is None:
        return f"is {shown}, but the column holds numbers"
    return None if abs(value) <= LARGEST else f"is {text.strip()[:100]}, not a finite number of at most {LARGEST:g}"


def in_print(text: str) -> str:
    """A text without what cannot be seen: composed or not, blanks of other widths, characters that are not shown."""
    if text.isascii():
        return text
    shown = (" " if c.isspace() else c for c in text if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFC", "".join(shown))
