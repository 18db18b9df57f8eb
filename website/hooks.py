"""What the site adds to MkDocs: pages of files outside docs/, formulas, and links to papers. MkDocs calls the functions by their names."""

from __future__ import annotations

import posixpath
import re
import shutil

import methods
import places
from markdown import Extension, Markdown
from markdown.inlinepatterns import SimpleTextInlineProcessor
from mathematics import with_formulas
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

PACKAGE = places.ROOT / "build" / "package" / "distopt"
SENTENCE = 100
"""So many characters are a sentence: such cells of tables have a width of their own, so that they are not squeezed."""
ASSETS = places.ROOT / "website" / "assets"


class PlainText(Extension):
    """Text such as <s, v> is text, and so are x̄_t and x*_t: the pages write no HTML within a line, and emphasis with stars."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Take the pattern for HTML away, and take underscores before emphasis does."""
        md.inlinePatterns.deregister("html")
        literal = SimpleTextInlineProcessor(r"(_+|(?<=\w)\*(?=_))")
        md.inlinePatterns.register(literal, "literal", 65)  # betterem has 60, links and code more than 100


@event_priority(100)  # before mkdocstrings looks for the folder
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lay the package out as it is installed, since topologies/ and scenarios/ lie beside it in a checkout."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    shutil.copytree(places.ROOT / "distopt", PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("topologies", "scenarios"):
        shutil.copytree(places.ROOT / folder, PACKAGE / folder, ignore=shutil.ignore_patterns("__pycache__", "data"))
    config.markdown_extensions.append(PlainText())  # Markdown takes objects, too
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    origins = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    for name in places.at_the_top():
        text = (places.ROOT / name).read_text(encoding="utf-8")
        origins[name] = text
        level = InclusionLevel.UNDEFINED
        if name == "README.md":  # index.md is for readers of the site, but pages may link to a part of the README
            level, text = InclusionLevel.NOT_IN_NAV, f"---\ntitle: README\n---\n\n{text}"
        files.append(File.generated(config, places.page_of(name), content=text, inclusion=level))
    linked = (path for origin, text in origins.items() for path in places.links(text, origin))
    for place, text in places.source_pages(linked).items():
        files.append(File.generated(config, place, content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    for path in sorted(ASSETS.iterdir()):
        files.append(File.generated(config, f"assets/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are on the site, and links to papers."""
    place = page.file.src_uri
    if place.startswith("source/"):
        return markdown
    if place == "api/methods.md":
        return f"{markdown}\n{methods.lists()}"
    origin = place.removeprefix("project/") if place.startswith("project/") else f"docs/{place}"
    to_api = posixpath.relpath("api", posixpath.dirname(place) or ".")
    return methods.with_papers(places.relinked(places.with_titles(markdown, origin), origin), f"{to_api}/")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas in MathML, and a mark for the cells of tables that hold sentences."""
    try:
        made = with_formulas(html)
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error
    return re.sub(rf"<td>(?=(?:(?!</td>).){{{SENTENCE}}})", '<td class="long">', made, flags=re.S)
