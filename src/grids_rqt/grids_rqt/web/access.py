"""Who may open the page: from another computer with a token only, and no other web page in the same browser."""

import hmac
import ipaddress
import secrets
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.responses import PlainTextResponse, RedirectResponse, Response

LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))
MIN_TOKEN = 8
COOKIE = "grids_view"


def is_loopback(host: str) -> bool:
    """Whether an address or name is this computer's own, which other computers cannot reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind_problem(host: str, token: str) -> str:
    """Why the page may not be served at this address with this token; "" if it may."""
    if token and (len(token) < MIN_TOKEN or not token.isascii() or not token.isalnum()):
        return f"--token: expected at least {MIN_TOKEN} letters and digits, got {len(token)} characters"
    if token or is_loopback(host):
        return ""
    return (
        f"--host {host}: expected a --token too, because everybody in that network could move the arm; "
        f"for example --token {secrets.token_hex(8)}, or ssh -L 8080:localhost:8080 ROBOT without --host"
    )


def _headers(scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _host_name(address: str) -> str:
    """The name in a Host header, without port and brackets."""
    return urlsplit(f"//{address}").hostname or ""


class Guard:
    """ASGI middleware around everything, web sockets too. Without a token the page answers to local names only.

    Another page in the user's browser could otherwise send requests here, or give this computer a name of its own.
    """

    def __init__(self, app, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()  # websocket.connect
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        else:
            await refusal(scope, receive, send)

    def _refusal(self, scope) -> Response | None:
        """The response instead of the page's; None if the request may pass."""
        headers = _headers(scope)
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if origin and urlsplit(origin).netloc != host:
            return PlainTextResponse(f"expected a request from this page, got one from {origin}\n", 403)
        if not self._token:
            if _host_name(host) in LOCAL_NAMES:
                return None
            return PlainTextResponse(f"expected the address localhost or 127.0.0.1, got {host or 'none'}\n", 403)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if given and self._right(given):
            return self._remember(scope["path"])
        kept = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        if not given and kept is not None and self._right(kept.value):
            return None
        got = "a wrong one" if given or kept is not None else "none"
        return PlainTextResponse(f"expected the token in the address that ./grids view printed, got {got}\n", 401)

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _remember(self, path: str) -> Response:
        """The same page without the token in its address, which would stay in the browser's history."""
        response = RedirectResponse(path or "/", 303)
        response.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
        return response
