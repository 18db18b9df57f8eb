"""Random changes of texts and of bytes, for fuzzing."""

from __future__ import annotations

import random
import re

NUMBERS = (
    "0",
    "1",
    "2",
    "3",
    "-1",
    "0.5",
    "1.0",
    "1e3",
    "1e-3",
    "-0",
    "-0.0",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "Infinity",
    "1e308",
    "1e309",
    "-1e308",
    "5e-324",
    "1e-320",
    "1e999",
    "9" * 20,
    "-" + "9" * 20,
    str(2**31),
    str(2**63),
    str(2**63 - 1),
    str(2**64),
    "1_0",
    "0_1",
    "1__0",
    "_1",
    "１２",
    "٣",
    "1e5",
    "0x10",
    "0b1",
    "1e",
    ".5",
    "5.",
    "+3",
    "--1",
    "1,5",
    "1 0",
    "0601",
    "00",
    "1e-9",
    "1" + "0" * 400,
    "9" * 5000,
    "True",
    "None",
    "none",
    "½",
    "²",
    "1j",
    "1e1_0",
)
CHARS = (
    "'",
    '"',
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    ",",
    ":",
    "=",
    ";",
    "|",
    "#",
    "%",
    "\\",
    "/",
    ".",
    "..",
    "~",
    "$",
    "&",
    "*",
    "?",
    "!",
    "\t",
    "\n",
    "\r",
    "\0",
    "\x1b[31m",
    "\x07",
    "\x85",
    "\u2028",
    "\u202e",
    "\ufeff",
    "\u200b",
    "\u00a0",
    "é",
    "e\u0301",
    "ß",
    "🙂",
    "\ud800",
    "𝟙",
    "ﬁ",
    "İ",
    " ",
    "  ",
)


def mutate(rng: random.Random, text: str, pieces: tuple[str, ...] = CHARS + NUMBERS, most: int = 3) -> str:
    """The text with some of it dropped, doubled, exchanged or replaced."""
    for _ in range(rng.randint(1, most)):
        a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        b = min(b, a + rng.choice((1, 1, 2, 5, 40)))
        way = rng.randrange(6)
        if way == 0:
            text = text[:a] + text[b:]
        elif way == 1:
            text = text[:a] + rng.choice(pieces) + text[a:]
        elif way == 2:
            text = text[:a] + rng.choice(pieces) + text[b:]
        elif way == 3:
            text = text[:b] + text[a:b] * rng.choice((1, 1, 2, 50)) + text[b:]
        elif way == 4:
            text = text[:a]
        else:
            words = re.split(r"(\W+)", text)
            i, j = rng.randrange(len(words)), rng.randrange(len(words))
            words[i], words[j] = words[j], words[i]
            text = "".join(words)
    return text


def damage(rng: random.Random, data: bytes, most: int = 4) -> bytes:
    """The bytes with some flipped, dropped, doubled, cut off or exchanged."""
    out = bytearray(data)
    for _ in range(rng.randint(1, most)):
        if not out:
            break
        a = rng.randrange(len(out))
        b = min(len(out), a + rng.choice((1, 2, 4, 16, 200)))
        way = rng.randrange(7)
        if way == 0:
            out[a] ^= 1 << rng.randrange(8)
        elif way == 1:
            out[a:b] = b""
        elif way == 2:
            out[a:a] = out[a:b]
        elif way == 3:
            out[a:] = b"" if rng.random() < 0.5 else out[a:]
        elif way == 4:
            out[a:b] = rng.randbytes(b - a)
        elif way == 5:
            out[a] = rng.choice((0, 9, 10, 13, 26, 34, 44, 59, 127, 128, 239, 255))
        else:
            c = rng.randrange(len(out))
            out[a], out[c] = out[c], out[a]
    return bytes(out)
