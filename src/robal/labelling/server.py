"""The labelling page's server: the page itself, images, and a few calls in JSON, on an address of this machine."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files
from typing import Annotated, Any

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from robal.errors import InputError, RobalError
from robal.labelling.desk import Desk, NotPending
from robal.labelling.gate import Gate, is_loopback, token_of
from robal.oracles import Judgement

_PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_Name = Annotated[str, Field(min_length=1, max_length=60)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _One(_Strict):
    key: Annotated[str, Field(min_length=8, max_length=64, pattern=r"^[A-Za-z0-9-]+$")]
    image: Annotated[int, Field(ge=0, lt=2**53)]
    label: Annotated[int, Field(ge=-3, lt=2**31)] | None
    decides: bool = False
    guess_seen: bool = False


class _Said(_Strict):
    who: _Name
    question: Annotated[str, Field(max_length=64)]
    judgements: Annotated[list[_One], Field(min_length=1, max_length=200)]


class _NewClass(_Strict):
    who: _Name
    name: Annotated[str, Field(min_length=1, max_length=200)]


class _Nothing(_Strict):
    pass


def application(desk: Desk) -> Starlette:
    """The calls, without the gate before them."""

    def page(path: str, request: Request) -> Response:
        name, kind = _PAGE[path]
        return Response(files("robal.labelling").joinpath(name).read_bytes(), media_type=kind)

    def view(request: Request) -> Response:
        return JSONResponse(desk.view(request.query_params.get("who", "")[:60] or desk.you))

    def image(request: Request) -> Response:
        if request.path_params["version"] != desk.version:
            raise InputError("there is no such image")
        headers = {"Cache-Control": "private, max-age=86400, immutable"}
        return Response(desk.png(request.path_params["index"]), media_type="image/png", headers=headers)

    def guesses(request: Request) -> Response:
        return JSONResponse(desk.guesses())

    def judge(body: _Said) -> Any:
        return desk.judge([Judgement(who=body.who, **one.model_dump()) for one in body.judgements], body.question)

    def new_class(body: _NewClass) -> Any:
        return {"label": desk.add_class(body.name, body.who)}

    def go_on(body: _Nothing) -> Any:
        desk.go_on()
        return {}

    routes = [Route(path, _answering(partial(page, path))) for path in _PAGE]
    routes += [
        Route("/api/view", _answering(view)),
        Route("/api/guesses", _answering(guesses)),
        Route("/image/{version}/{index:int}.png", _answering(image)),
        Route("/api/judgements", _taking(_Said, judge), methods=["POST"]),
        Route("/api/classes", _taking(_NewClass, new_class), methods=["POST"]),
        Route("/api/go-on", _taking(_Nothing, go_on), methods=["POST"]),
    ]
    return Starlette(routes=routes)


def _answering(work: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return await run_in_threadpool(work, request)
        except RobalError as error:
            return _refusal(error)

    return endpoint


def _taking(kind: type[_Strict], work: Callable[[Any], Any]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint that reads a `kind` and answers with what `work` makes of it."""

    async def endpoint(request: Request) -> Response:
        try:
            body = kind.model_validate_json(await request.body())
        except ValidationError as error:
            return JSONResponse({"error": f"not what is expected: {error.errors()[0]['msg']}"}, 422)
        try:
            return JSONResponse(await run_in_threadpool(work, body))
        except RobalError as error:
            return _refusal(error)

    return endpoint


def _refusal(error: RobalError) -> Response:
    """409: the page is behind; 422: that cannot be; 507: it could not be written."""
    status = 409 if isinstance(error, NotPending) else 422 if isinstance(error, InputError) else 507
    return JSONResponse({"error": str(error)}, status)


def serve(
    desk: Desk,
    port: int,
    host: str = "127.0.0.1",
    *,
    exposed: bool = False,
    ready: Callable[[str], None] = print,
) -> None:
    """Serve the page of a desk until Ctrl-C.

    Args:
        desk: the run.
        port: where to listen; 0: any that is free.
        host: the address to listen at.
        exposed: must be said for an address that others on the network can reach.
        ready: told the link, as soon as the page can be opened.

    Raises:
        InputError: for a port that is taken, or an address beyond loopback without `exposed`.
    """
    if not is_loopback(host) and not exposed:
        raise InputError(
            f"--host {host} lets others on the network reach the page; the link's secret would cross it unencrypted. "
            "Where you trust the network, add --exposed; else reach it through a tunnel: ssh -L"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By this protocol's number asyncio knows that small parts of an answer must not wait for each other (40 ms).
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(128)  # who comes before the server is up waits
        except (OSError, OverflowError) as error:
            advice = "; try --port 0" if port else ""
            raise InputError(f"the page cannot be served at {host}, port {port}: {error}{advice}") from None
        port = listener.getsockname()[1]
        desk.open()
        token = token_of(desk.folder)
        gate = Gate(application(desk), token, port, host)
        shown = f"[{host}]" if ":" in host else socket.gethostname() if host == "0.0.0.0" else host
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        settings = uvicorn.Config(
            gate,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            http="h11",
            h11_max_incomplete_event_size=32 * 1024,
            timeout_graceful_shutdown=2,
        )
        ready(f"http://{shown}:{port}/?token={token}")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the desk is closed then too
        try:
            uvicorn.Server(settings).run(sockets=[listener])
        finally:
            desk.close()
