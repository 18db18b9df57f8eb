r"""Formulas as MathML, which browsers show by themselves: no script and no font is loaded.

Pages write ``$x_t$`` within a line and ``$$...$$`` for a line of its own. The extension arithmatex finds them and leaves
``\(x_t\)`` and ``\[...\]`` in the HTML, which is where this module takes over.
"""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.S)
_OPERATOR = re.compile(r"\\operatorname\*?\{(?P<name>.*?)\}|\\arg\s*\\(?P<which>min|max)\b")
_DIGITS = {"bold": 0x1D7CE, "double-struck": 0x1D7D8}
"""Where Unicode has the digits of a font: browsers ignore the font that MathML names for them."""


def with_formulas(page: str) -> str:
    r"""The HTML of a page with its formulas as MathML.

    Raises:
        ValueError: see ``mathml``.

    >>> with_formulas(r'<p><span class="arithmatex">\(x_t\)</span></p>')[-57:]
    '<mrow><msub><mi>x</mi><mi>t</mi></msub></mrow></math></p>'
    """
    return _FORMULA.sub(lambda match: mathml(html.unescape(match["tex"]), block=match["tag"] == "div"), page)


def mathml(tex: str, *, block: bool) -> str:
    r"""A formula as MathML. Its LaTeX stays in the attribute ``alttext``, for programs that read pages aloud.

    Raises:
        ValueError: the formula has a command that is not known.

    >>> mathml(r"\operatorname*{arg\,min}_x \mathbf{1}", block=False)[-62:]
    'min</mo><mi>x</mi></msub><mrow><mn>𝟏</mn></mrow></mrow></math>'
    """
    known = _OPERATOR.sub(_operator, tex.strip())
    made: str = convert(known, display="block" if block else "inline")
    made = re.sub(r'<mn mathvariant="(bold|double-struck)">(\d+)</mn>', _digits, made)
    if (unknown := re.search(r">\\\w+", made)) is not None:
        raise ValueError(f"{tex.strip()}: {unknown[0][1:]} is not known here; write it with other commands")
    return made.replace("<math ", f'<math alttext="{html.escape(tex.strip())}" ', 1)


def _operator(match: re.Match[str]) -> str:
    """The name of an operator in the words that latex2mathml has."""
    name = f"arg{match['which']}" if match["which"] else re.sub(r"\\,|\s", "", match["name"])
    return rf"\{name} " if name in ("argmin", "argmax") else rf"\operatorname{{{name}}}"


def _digits(match: re.Match[str]) -> str:
    return f"<mn>{''.join(chr(_DIGITS[match[1]] + int(digit)) for digit in match[2])}</mn>"
