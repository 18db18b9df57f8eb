r"""Formulas as MathML, which browsers show by themselves: no script and no font is loaded.

Pages write ``$x_t$`` within a line and ``$$...$$`` for a line of its own. The extension arithmatex finds them and leaves
``\(x_t\)`` and ``\[...\]`` in the HTML, which is where this module takes over.
"""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">(?P<open>\\[(\[])(?P<tex>.*?)\\[)\]]</(?P=tag)>', re.S)


def with_formulas(page: str) -> str:
    r"""The HTML of a page with its formulas as MathML.

    >>> with_formulas(r'<p><span class="arithmatex">\(x_t\)</span></p>')[-57:]
    '<mrow><msub><mi>x</mi><mi>t</mi></msub></mrow></math></p>'
    """
    return _FORMULA.sub(lambda match: mathml(html.unescape(match["tex"]), block=match["tag"] == "div"), page)


def mathml(tex: str, *, block: bool) -> str:
    """A formula as MathML. Its LaTeX stays in the attribute ``alttext``, for programs that read pages aloud."""
    made: str = convert(tex.strip(), display="block" if block else "inline")
    return made.replace("<math ", f'<math alttext="{html.escape(tex.strip())}" ', 1)
