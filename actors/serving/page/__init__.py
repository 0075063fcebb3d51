"""The page at `/`, on which a person asks the judge: a few static files, without a build and without the network.

Candidates are hostile. The page shows texts as text nodes only, and its policy lets a browser run nothing but the
files of this folder, even if that should fail one day.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

import evals.reports

_FOLDER = Path(__file__).parent
_STATIC = {
    "house.css": Path(evals.reports.__file__).with_name("page.css"),  # the look of the reports
    **{name: _FOLDER / name for name in ("page.css", "page.js", "answer.js", "request.js")},
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a new server's page is never run with the old one's script
}

router = APIRouter(tags=["page"], include_in_schema=False)


@router.get("/")
async def index() -> FileResponse:
    """The page itself. It needs no key: the requests that it sends do."""
    return FileResponse(_FOLDER / "index.html", headers=_HEADERS)


@router.get("/static/{name}")
async def static(name: str) -> FileResponse:
    """A script or a style sheet of the page; 404 for any other name."""
    if name not in _STATIC:
        raise HTTPException(404, "The page has no such file")
    return FileResponse(_STATIC[name], headers=_HEADERS)
