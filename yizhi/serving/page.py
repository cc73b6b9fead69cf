"""The page at `/` for people. Its files use only this server's own endpoints."""

from pathlib import Path

from starlette.responses import Response

from yizhi.serving.endpoint import Endpoint, Exchange
from yizhi.serving.protocols.tei import TEI
from yizhi.serving.refusals import NO_ROUTE, Refused

_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOLDER = Path(__file__).with_name("static")
FILES = {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.suffix in _TYPES}
_HEADERS = {
    # Nothing from elsewhere, nothing inline, no text as HTML, in nobody's frame.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


async def page(exchange: Exchange, _: None) -> Response:
    """A file of the page. Without a name: the page itself."""
    name = exchange.path.get("file", "index.html")
    if name not in FILES:
        raise Refused(NO_ROUTE, "the page has no such file")
    return Response(FILES[name], headers=_HEADERS, media_type=_TYPES[Path(name).suffix])


# Open: without the key, the page asks for it.
PAGE = Endpoint("/", TEI, page, summary="A page for people", computes=False, open=True)
FILE = Endpoint("/static/{file}", TEI, page, computes=False, open=True)
