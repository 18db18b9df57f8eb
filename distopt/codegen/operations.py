"""All operations of torch that can be written out."""

from __future__ import annotations

from distopt.codegen import places, reductions, translate, views
from distopt.codegen.recording import Recording
from distopt.codegen.translate import Handler, Translation

HANDLERS: dict[str, Handler] = {**translate.HANDLERS, **views.HANDLERS, **reductions.HANDLERS, **places.HANDLERS}
"""Operations by name; those on single numbers are in ``elementwise``."""


def translated(recording: Recording, changing: int = 0) -> Translation:
    """A recording as loops; its first ``changing`` inputs are not the same whenever a round runs, all others are data.

    Raises:
        Unsupported: an operation that cannot be written out, by name.
    """
    return Translation(recording, HANDLERS, changing)
