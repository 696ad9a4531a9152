"""Who may talk to the labelling page: this browser, from this page, with the link that was printed, and nobody else."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Any
from urllib.parse import parse_qs

from robal.errors import RunFolderError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

LARGEST_BODY = 256 * 1024  # bytes; a grid of judgements is a hundredth of it
# The page itself goes on to "/": after a link in a mail or a chat, a redirect would come without the cookie.
_ONWARD = (
    b'<!doctype html><meta http-equiv="refresh" content="0;url=/"><link rel="icon" href="data:,">'
    b'<title>robal</title><a href="/">To the page</a>'
)
_HEADERS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}


@dataclass(frozen=True)
class Gate:
    """Stands before an application and lets through what is meant for it.

    A request needs the token, in the link once and in an HttpOnly cookie from then on; a Host that is ours, so that
    no name of somebody else's can be pointed at this server (DNS rebinding); and, where it changes something, an Origin
    that is ours (cross-site request forgery). Bodies are JSON of at most 256 KiB. What is refused is logged.

    Args:
        inner: the application.
        token: the secret of the link.
        port: where the server listens.
        host: the address it was told to listen at. Beyond loopback, any address in numbers is ours; of names, `host`
            itself and this machine's.
    """

    inner: Application
    token: str
    port: int
    host: str = "127.0.0.1"

    @property
    def cookie(self) -> str:
        """Its name; cookies are shared between the ports of a host."""
        return f"robal-{self.port}"

    def is_ours(self, host: str) -> bool:
        """Whether a Host header names this server."""
        if self.port == 80 and not host.endswith(":80"):
            host += ":80"  # which browsers leave out
        name, _, port = host.rpartition(":")
        if not name or port != str(self.port):
            return False
        name = name.strip("[]").lower()
        if name in ("localhost", self.host.lower()) or (name == gethostname().lower() and not is_loopback(self.host)):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not is_loopback(self.host)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        hosts = [value for name, value in scope["headers"] if name.lower() == b"host"]
        if len(hosts) != 1 or not self.is_ours(headers.get(b"host", "")):
            await self._refuse(scope, send, 421, "this address is not the page's own", headers.get(b"host", ""))
        elif scope["method"] not in ("GET", "HEAD") and not self._from_here(headers):
            await self._refuse(scope, send, 403, "the request comes from another site", headers.get(b"origin", ""))
        elif self._has_token(scope) and scope["path"] == "/":
            value = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            kind = {b"content-type": b"text/html; charset=utf-8", b"set-cookie": value.encode()}
            await self._send(send, 200, _ONWARD, kind)
        elif not self._has_cookie(headers):
            await self._refuse(scope, send, 403, "open the link that `robal label` printed", "no token, or another")
        else:
            await self._pass_on(scope, receive, send, headers)

    async def _pass_on(self, scope: Message, receive: Receive, send: Send, headers: dict[bytes, str]) -> None:
        body = b""
        if scope["method"] not in ("GET", "HEAD"):
            if headers.get(b"content-type", "").partition(";")[0].strip() != "application/json":
                await self._refuse(scope, send, 415, "send JSON", headers.get(b"content-type", ""))
                return
            more = True
            while more and len(body) <= LARGEST_BODY:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > LARGEST_BODY:
                await self._refuse(scope, send, 413, f"at most {LARGEST_BODY:,} bytes", "a longer body")
                return
        given = False

        async def whole_body() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *((k, v) for k, v in _HEADERS.items() if k not in known)]
                if message["status"] >= 400:
                    _log(scope, message["status"], "")
            await send(message)

        await self.inner(scope, whole_body, with_headers)

    def _from_here(self, headers: dict[bytes, str]) -> bool:
        site = headers.get(b"sec-fetch-site", "same-origin")
        return headers.get(b"origin") == f"http://{headers[b'host']}" and site == "same-origin"

    def _has_token(self, scope: Message) -> bool:
        try:
            said = parse_qs(scope["query_string"].decode("ascii"), max_num_fields=5).get("token", [])
        except ValueError:
            return False
        return any(hmac.compare_digest(one.encode(), self.token.encode()) for one in said)

    def _has_cookie(self, headers: dict[bytes, str]) -> bool:
        pairs = [one.strip().partition("=") for one in headers.get(b"cookie", "").split(";")]
        return any(
            name == self.cookie and hmac.compare_digest(value.encode(), self.token.encode()) for name, _, value in pairs
        )

    async def _refuse(self, scope: Message, send: Send, status: int, what: str, why: str) -> None:
        _log(scope, status, why)
        await self._send(send, status, f"robal: {what}\n".encode(), {b"content-type": b"text/plain; charset=utf-8"})

    async def _send(self, send: Send, status: int, body: bytes, headers: dict[bytes, bytes]) -> None:
        both = _HEADERS | headers | {b"content-length": str(len(body)).encode(), b"connection": b"close"}
        await send({"type": "http.response.start", "status": status, "headers": list(both.items())})
        await send({"type": "http.response.body", "body": body})


def is_loopback(host: str) -> bool:
    """Whether a server at this address can be reached from this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("lab.example")
    (True, True, False, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token_of(folder: Path) -> str:
    """The secret of a run's link: drawn once and kept in the folder, so that a page survives a restart of its server.

    Raises:
        RunFolderError: if it can be neither read nor written.
    """
    path = folder / ".label-token"
    try:
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(24), encoding="ascii")
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} could not be used: {error}") from None
    if len(token) < 24:
        path.unlink()  # a kill, or a full disk, came between its two halves
        return token_of(folder)
    return token


def _log(scope: Message, status: int, why: str) -> None:
    client = (scope.get("client") or ("?",))[0]
    shown = ascii(f"{scope['method']} {scope['path']}")[1:-1][:200]
    reason = f" ({ascii(why)[:120]})" if why else ""
    with suppress(OSError):  # the log may lie on the disk that is full
        print(f"robal label: refused {shown} from {client}: {status}{reason}", file=sys.stderr, flush=True)
