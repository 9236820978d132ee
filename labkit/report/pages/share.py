"""A run as one HTML file, to send: all its pages within, as sections that plain links switch.

Each page's ids get a mark of their own, and each link leads to a section of the file, or out of it
to the web; what leads to another file of the run keeps its text and is a link no more. Nothing runs
and nothing is fetched: without CSS's `:has`, the sections stand one below the other.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from html import escape, unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

from labkit.base.paths import read_json, text_in
from labkit.base.places import try_file, write_result
from labkit.errors import LabkitError, ParameterError
from labkit.report.folders import entries, find_run
from labkit.report.pages.html import templates
from labkit.report.pages.index import run_page

LARGEST = 6_000_000  # bytes of a file that mail servers take
_HOME = "index.html"
_WEB = ("http", "https", "mailto")
_ENDINGS = (".html", ".htm")
_TAG = re.compile(r"<[a-zA-Z][^>]*>")
_ATTRIBUTE = re.compile(
    r'(?<=\s)(id|for|aria-labelledby|aria-describedby|(?:xlink:)?href)="([^"]*)"'
)


def pages_of(run: Path) -> dict[str, str]:
    """The pages of a run by their paths within it: its own, made anew, and those of its notebooks.

    Raises LabkitError for a page that cannot be read.
    """
    found = {_HOME: run_page(run)}
    for entry in entries(read_json(run / "run.json")):
        path = f"reports/{entry['name']}.html"
        if (run / path).is_file():
            try:
                found[path] = text_in(run / path)
            except (OSError, ValueError) as error:
                raise LabkitError(
                    f"{path} cannot be read ({error}). `make reports RUN={run.resolve().name}` "
                    "makes it anew."
                ) from None
    return found


def one_file(pages: Mapping[str, str], title: str, name: str) -> str:
    """The pages as one; the first is shown first. title, name: of the run.

    Raises LabkitError for a page that is not of ours.
    """
    marks = {path: f"p{number}" for number, path in enumerate(pages)}
    bodies = [(marks[path], _section(path, page, marks)) for path, page in pages.items()]
    return (
        templates()
        .get_template("share.html.j2")
        .render(title=title, name=name, pages=bodies, script_hash=None)
    )


def _section(path: str, page: str, marks: Mapping[str, str]) -> str:
    """What stands in a page's <main>, with ids and links that fit the one file."""
    start, end = page.find("<main>"), page.rfind("</main>")
    if not 0 <= start < end:
        raise LabkitError(f"{path} is no page of ours: `make reports` with FORCE=1 makes it anew.")
    body = page[start + len("<main>") : end]
    return _TAG.sub(lambda tag: _fitted(tag[0], path, marks), body)


def _fitted(tag: str, path: str, marks: Mapping[str, str]) -> str:
    """A tag with marked ids, and with a link that leads somewhere, or with none."""
    tag = tag.replace("url(#", f"url(#{marks[path]}-")
    return _ATTRIBUTE.sub(lambda found: _attribute(found[1], found[2], path, marks), tag)


def _attribute(name: str, value: str, path: str, marks: Mapping[str, str]) -> str:
    if not name.endswith("href"):
        ids = " ".join(f"{marks[path]}-{one}" for one in value.split())
        return f'{name}="{ids}"'
    target = _target(unescape(value), path, marks)
    return "" if target is None else f'{name}="{escape(target)}"'


def _target(href: str, path: str, marks: Mapping[str, str]) -> str | None:
    """Where a link of a page leads in the one file; None where to nowhere."""
    try:
        parts = urlsplit(href)
    except ValueError:
        return None
    if parts.scheme or parts.netloc:
        return href if parts.scheme in _WEB else None
    told = unquote(parts.path, errors="surrogateescape")
    place = posixpath.normpath(posixpath.join(posixpath.dirname(path), told)) if told else path
    if place not in marks:
        return None
    return f"#{marks[place]}" + (f"-{parts.fragment}" if parts.fragment else "")


def share(name: str, target: Path | None = None) -> Path:
    """Write a run as one file, and return where. name: a folder, or a name in outputs. target: by
    default the run's name with .html, in the current folder.

    Raises ParameterError for no run and for a target that is no HTML file or is a page of the run,
    LabkitError where a page cannot be read or the file would be larger than LARGEST,
    UnwritableError where it cannot be written.
    """
    run = find_run(name)
    own = run.resolve().name
    path = target or Path(f"{own}.html")
    if path.suffix.lower() not in _ENDINGS:
        raise ParameterError(f"FILE must end in {' or '.join(_ENDINGS)}; it is {path.name!r}.")
    pages = pages_of(run)
    if any(path.resolve() == (run / page).resolve() for page in pages):
        raise ParameterError(f"{path} is a page of the run itself; give another FILE.")
    title = str(read_json(run / "run.json").get("title") or own)
    content = one_file(pages, title, own).encode("utf-8", "replace")
    if len(content) > LARGEST:
        raise LabkitError(
            f"the pages of {own} make a file of {len(content) / 1e6:.1f} MB; allowed are "
            f"{LARGEST / 1e6:.0f} MB, so that it can be sent. Send its folder instead."
        )
    try_file(path, "the file", "give another FILE")
    write_result(path, content, "the file", "give another FILE")
    return path
