"""All operations of torch that can be written out."""

from __future__ import annotations

from distopt.codegen import places, reductions, translate, views
from distopt.codegen.record import Recording
from distopt.codegen.translate import Handler, Translation

HANDLERS: dict[str, Handler] = {**translate.HANDLERS, **views.HANDLERS, **reductions.HANDLERS, **places.HANDLERS}
"""By name; those that act number by number are in ``elementwise``."""


def translated(recording: Recording, carries: int = 0) -> Translation:
    """A recording as loops; its first ``carries`` inputs go from round to round.

    Raises:
        Unsupported: an operation that cannot be written out, by name.
    """
    return Translation(recording, HANDLERS, carries)
