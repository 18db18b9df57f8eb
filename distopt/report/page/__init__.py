"""The report: runs become one HTML file that needs no network. Charts by Bokeh, text by Jinja2, switches by ``chart.js``.

How a reader uses it: docs/reports.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distopt._version import __version__
from distopt.errors import InputError, RunError, printable
from distopt.report import study
from distopt.report.page import content, data, library, tunings
from distopt.report.page.columns import Pool
from distopt.runs.files import write_text
from distopt.runs.results import Run

PAGE = "report.html"
HERE = Path(__file__).parent
SCRIPTS = ("numbers.js", "chart.js", "legend.js", "paths.js", "page.js")
"""The page's scripts, in the order in which they are joined to one module."""


def write(runs: Sequence[Run | str | Path] | Mapping[str, Run] | Run | str | Path, out: str | Path) -> Path:
    """Write the report of some runs as one HTML file; returns its path. Of a folder of ``distopt tune`` it shows the search, too.

    Args:
        runs: a run, several, or folders of them (see ``distopt.report.study.read``).
        out: the file; or a folder, in which it is called ``report.html``.

    Raises:
        InputError: there is no run, or the place cannot be written.

    >>> import tempfile, distopt
    >>> run = distopt.simulate("ring", agents=4, scenario="moving_target", algorithm="gt", rounds=9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(run, folder).read_text()[:15]
    '<!doctype html>'
    """
    given = [*runs.values()] if isinstance(runs, Mapping) and not isinstance(runs, Run) else runs
    each: list[Any] = [given] if isinstance(given, Run | str | Path) else list(given)
    found = study.gathered(each)
    searches = [one for one in each if not isinstance(one, Run) and tunings.there(Path(one))]
    path = Path(out)
    path = path if path.suffix in (".html", ".htm") else path / PAGE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, html(found, [tunings.tuning(Path(one)) for one in searches]))
    except (OSError, RunError) as error:
        raise InputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    return path


def html(runs: Sequence[Run], searches: Sequence[tunings.Tuning] = ()) -> str:
    """The page of some runs, and of the searches for step sizes that came before, as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    pool, groups = Pool(), study.groups(runs)
    size = data.sizes(groups)
    sections = [content.section(group, pool, size) for group in groups]
    bokeh, version = library.script()
    shared = {
        "figure": library.chart(),
        "groups": [{**each.charts, "paths": each.paths.shown} for each in sections],
    }
    room = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    room.filters["plain"] = printable
    return room.get_template("page.html.j2").render(
        title=printable(sections[0].title if len(sections) == 1 else f"{len(sections)} problems"),
        sections=sections,
        searches=searches,
        status=content.status(runs),
        version=__version__,
        bokeh=Markup(bokeh),  # base64
        bokeh_version=version,
        numbers=Markup(pool.text()),  # base64
        data=Markup(embedded(shared)),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup("\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)),
    )


def embedded(value: Any) -> str:
    """A value as JSON that is safe in a script element: no text in it can end the element or begin another.

    >>> embedded({"name": "</script><!--"})
    '{"name":"\\\\u003c/script\\\\u003e\\\\u003c!--"}'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
