"""The ASGI application: every protocol's endpoints over the served models."""

import asyncio
import hmac
import re
import time
import uuid
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route

from yizhi.errors import InputError
from yizhi.serving import page
from yizhi.serving.answers import json_response
from yizhi.serving.endpoint import Endpoint, Exchange, Protocol, parse
from yizhi.serving.limits import Limits
from yizhi.serving.log import Log
from yizhi.serving.metrics import Metrics
from yizhi.serving.model import ServedModel
from yizhi.serving.openapi import describe
from yizhi.serving.protocols import huggingface, oip, openai, own, rerank, tei
from yizhi.serving.refusals import (
    ENCODED,
    FAILED,
    GONE,
    INVALID,
    NO_METHOD,
    NO_ROUTE,
    OVERLOADED,
    TOO_LARGE,
    TOO_LATE,
    UNAUTHORIZED,
    Refused,
)
from yizhi.serving.tracing import describe_span, start_span

T = TypeVar("T")

ENDPOINTS: tuple[Endpoint, ...] = (
    *own.ENDPOINTS,
    *tei.ENDPOINTS,
    *openai.ENDPOINTS,
    *rerank.ENDPOINTS,
    *oip.ENDPOINTS,
    *huggingface.ENDPOINTS,
    page.PAGE,
)
# Of the artifact that answered: the sha256 of its artifact.json, which has that of every other file.
DIGEST_HEADER = "x-yizhi-artifact-sha256"
REQUEST_ID = "x-request-id"


class Server:
    """The state that all requests of an application share."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        limits: Limits,
        api_key: str | None,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self.models = {model.name: model for model in models}
        self.limits = limits
        self.metrics = metrics
        self.log = log
        self.draining = False
        self._key = None if api_key is None else api_key.encode()
        self._computing = 0

    def route(self, endpoint: Endpoint) -> Route:
        """The endpoint as Starlette has it."""
        body = TypeAdapter(endpoint.body) if endpoint.body and not endpoint.raw else None

        async def serve(request: Request) -> Response:
            return await self._serve(endpoint, body, request)

        return Route(endpoint.path, serve, methods=[endpoint.method], name=endpoint.handle.__name__)

    async def refuse(self, request: Request, error: Exception) -> Response:
        """The answer for an unknown path or method, and for a failure. A client learns no details of a failure."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        exchange = getattr(request.state, "exchange", None) or Exchange(self.models, self.limits, _id(request))
        kind = {404: NO_ROUTE, 405: NO_METHOD}.get(status, FAILED)
        told = {
            NO_ROUTE: "there is no such path; /openapi.json lists all paths",
            NO_METHOD: f"this path takes no {request.method}",
            FAILED: f"the request failed; its id is {exchange.id}",
        }[kind]
        response = self._end(request, exchange, Refused(kind, told))
        if kind is NO_METHOD:
            response.headers["allow"] = ", ".join(sorted(_methods_of(request)))
        return response

    async def _serve(self, endpoint: Endpoint, body: TypeAdapter[Any] | None, request: Request) -> Response:
        request.state.endpoint = endpoint
        exchange = request.state.exchange = Exchange(
            self.models, self.limits, _id(request), request.headers, request.path_params, draining=self.draining
        )
        with start_span(f"{endpoint.method} {endpoint.path}", request.headers) as span:
            response = self._end(request, exchange, await self._answer_or_refuse(endpoint, body, request, exchange))
            describe_span(span, endpoint.path, response.status_code, exchange)
            return response

    async def _answer_or_refuse(
        self, endpoint: Endpoint, body: TypeAdapter[Any] | None, request: Request, exchange: Exchange
    ) -> Response | Refused:
        try:
            self._check_key(endpoint, request)
            return await self._answer(endpoint, body, request, exchange)
        except Refused as refused:
            return refused
        except InputError as error:
            return Refused(INVALID, exchange.model.tell(error) if exchange.model else "; ".join(error.faults))
        except TimeoutError:
            return Refused(TOO_LATE, f"no answer within {self.limits.seconds:g} seconds")
        except ClientDisconnect:
            return Refused(GONE, "the client has gone")

    async def _answer(
        self, endpoint: Endpoint, body: TypeAdapter[Any] | None, request: Request, exchange: Exchange
    ) -> Response:
        if not endpoint.computes:
            found = await endpoint.handle(exchange, None)
            return found if isinstance(found, Response) else json_response(found)
        if self._computing >= self.limits.requests:
            raise Refused(OVERLOADED, f"{self._computing} requests are being answered, which is this server's limit")
        self._computing += 1
        self.metrics.in_progress.inc()
        try:
            async with asyncio.timeout(self.limits.seconds):
                exchange.content = await _read(request, self.limits.body_bytes)
                given = None if body is None else parse(body, exchange.content)
                found = await _unless_gone(request, endpoint.handle(exchange, given))
        finally:
            self._computing -= 1
            self.metrics.in_progress.dec()
        return found if isinstance(found, Response) else json_response(found)

    def _check_key(self, endpoint: Endpoint, request: Request) -> None:
        if self._key is None or endpoint.open:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        key = given.strip() if scheme.lower() == "bearer" else ""
        if not hmac.compare_digest(key.encode(), self._key):
            raise Refused(UNAUTHORIZED, "expected the header `Authorization: Bearer KEY` with this server's key")

    def _end(self, request: Request, exchange: Exchange, found: Response | Refused) -> Response:
        """Count and log the answer, and return it."""
        endpoint: Endpoint | None = getattr(request.state, "endpoint", None)
        refused = found if isinstance(found, Refused) else None
        protocol = endpoint.protocol if endpoint else _protocol_of(request.url.path)
        response = protocol.refuse(found) if isinstance(found, Refused) else found
        response.headers[REQUEST_ID] = exchange.id
        if self.draining:
            response.headers["connection"] = "close"
        if exchange.model:
            response.headers[DIGEST_HEADER] = exchange.model.digest
        if refused and refused.kind is UNAUTHORIZED:
            response.headers["www-authenticate"] = "Bearer"
        if refused and refused.kind.retry_after:
            response.headers["retry-after"] = str(refused.kind.retry_after)
        seconds = time.perf_counter() - exchange.begin
        self.metrics.request(endpoint.path if endpoint else "other", response.status_code, seconds, refused)
        if not (endpoint and endpoint.open and response.status_code < 400):  # probes, every few seconds
            self.log.request(request, exchange, response, seconds, refused)
        return response


def create_app(
    models: Sequence[ServedModel],
    *,
    limits: Limits | None = None,
    api_key: str | None = None,
    metrics: Metrics | None = None,
    log: Log | None = None,
) -> Starlette:
    """The application over opened models. The first model answers requests that name none.

    api_key: clients must give it as `Authorization: Bearer KEY`, except for health checks.
    The caller closes the models. `app.state.server` is the Server.
    """
    server = Server(models, limits or Limits(), api_key, metrics or Metrics(), log or Log())
    for model in models:
        server.metrics.serve(model)
    routes = [server.route(endpoint) for endpoint in ENDPOINTS]
    routes += [server.route(endpoint) for endpoint in (_document(server), page.FILE)]
    handlers = {HTTPException: server.refuse, Exception: server.refuse}
    app = Starlette(routes=[*routes, server.metrics.route()], exception_handlers=handlers)
    app.state.server = server
    return app


def _document(server: Server) -> Endpoint:
    names = {"model": tuple(server.models), "version": (oip.VERSION,), "task": tuple(huggingface.TASKS)}
    document = describe(ENDPOINTS, names)

    async def openapi(exchange: Exchange, _: None) -> Any:
        return document

    return Endpoint("/openapi.json", tei.TEI, openapi, computes=False, open=True)


def _protocol_of(path: str) -> Protocol:
    """Whose form an error has where no endpoint says."""
    return openai.OPENAI if path.startswith("/v1/") else oip.OIP if path.startswith("/v2/") else tei.TEI


def _methods_of(request: Request) -> set[str]:
    """The methods of a path. Starlette's own error names only those of the path's first route."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in routes for method in route.methods}


def _id(request: Request) -> str:
    """The caller's id of a request, if it is short and plain. Otherwise a new id."""
    given = request.headers.get(REQUEST_ID, "")
    return given if re.fullmatch(r"[\w.:/+=-]{1,64}", given, re.ASCII) else uuid.uuid4().hex


async def _read(request: Request, most: int) -> bytes:
    """The body. Raises Refused as soon as it is too long."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(ENCODED, "expected a body that is not compressed")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise Refused(TOO_LARGE, f"expected a body of at most {most:,} bytes")
        parts.append(part)
    return b"".join(parts)


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The work's result. If the client leaves, cancels the work and raises Refused."""
    working = asyncio.ensure_future(work)
    going = asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({working, going}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Refused(GONE, "the client has gone")
    finally:
        for task in (working, going):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
