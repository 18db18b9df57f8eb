"""The syntax of the setting ``churn``: how agents leave and join."""

from __future__ import annotations

import re
from numbers import Real
from typing import Any

from distopt.catalog.spec import real, shown, whole
from distopt.errors import InputError


def leaving(churn: Any) -> str:
    """The setting ``churn`` in its normal form; "" for none.

    >>> leaving("join=0.1, leave=0.01"), leaving(0.05), leaving("leave=0.1,until=50"), leaving("0")
    ('leave=0.01,join=0.1', 'leave=0.05,join=0.05', 'leave=0.1,join=0.0,until=50', '')

    Raises:
        InputError: it is none of these, or no probabilities.
    """
    if isinstance(churn, str) and not churn:
        return ""
    fault = InputError(
        f"churn={shown(churn)}: must be two probabilities per round, such as leave=0.01,join=0.1, that sum to at most 1, "
        "or one number for both, at most 0.5; until=T stops churn at round T"
    )
    number = isinstance(churn, Real) and not isinstance(churn, bool)
    try:
        text = re.sub(r"\s", "", churn) if isinstance(churn, str) else repr(float(churn)) if number else "?"
        if "=" not in text:
            text = f"leave={real(text)!r},join={real(text)!r}"
        given = [each.partition("=")[::2] for each in text.split(",")]
        values = {name: whole(value) if name == "until" else real(value) for name, value in given}
    except (ValueError, OverflowError):
        raise fault from None
    leave, join, until = values.get("leave", -1), values.get("join", 0.0), values.get("until", 1)
    if len(values) < len(given) or set(values) - {"leave", "join", "until"} or leave < 0 or join < 0 or until < 1:
        raise fault
    if leave + join > 1:
        raise fault
    ends = f",until={until}" if "until" in values else ""
    return f"leave={float(leave)!r},join={float(join)!r}{ends}" if leave else ""
