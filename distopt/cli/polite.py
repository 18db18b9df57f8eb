"""How a command ends: an error becomes one line and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from distopt.errors import InputError, RunError, by_command, printable, shortened, slip


@contextmanager
def polite(traceback: bool) -> Iterator[None]:
    """Turn an error, which names options, into one line on stderr and an exit code; ``traceback`` shows its traceback too."""
    try:
        with by_command():
            yield
    except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
        raise
    except (InputError, RunError) as error:
        code, message = (2 if isinstance(error, InputError) else 1), str(error)
        failure: BaseException = error
    except KeyboardInterrupt as error:
        code, message, failure = 130, "interrupted", error
    except Exception as error:
        from distopt.numerics import room

        code, failure = 1, error
        lines = str(error).strip().splitlines()
        at = f"{place}; " if (place := slip(error)) else ""
        message = f"unexpected {type(error).__name__}{': ' + lines[0] if lines else ''} ({at}--traceback shows where)"
        message = room.NO_MEMORY if room.exhausted(error) else message
    else:
        return
    if traceback:
        import traceback as tracebacks

        tracebacks.print_exception(failure)
    click.echo(f"distopt: {shortened(printable(' '.join(message.split())))}", err=True)
    raise SystemExit(code)
