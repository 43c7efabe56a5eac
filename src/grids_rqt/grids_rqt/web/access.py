"""Who may open the page: from another computer with a token only, and no other web page in the same browser."""

import hmac
import ipaddress
import secrets
from urllib.parse import SplitResult, parse_qs, urlsplit

from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response

MIN_TOKEN = 8
NO_FRAME = (b"content-security-policy", b"frame-ancestors 'none'")  # no other page may lay its own over the buttons


def is_loopback(host: str) -> bool:
    """Whether an address or name is this computer's own, which other computers cannot reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind_problem(host: str, token: str) -> str:
    """Why the page may not be served at this address with this token; "" if it may."""
    if token and (len(token) < MIN_TOKEN or not token.isascii() or not token.isalnum()):
        return f"token: expected at least {MIN_TOKEN} letters and digits, got {len(token)} characters"
    if token or is_loopback(host):
        return ""
    return (
        f"--host {host}: expected a token too, because everybody in that network could move the arm; for example "
        f"GRIDS_VIEW_TOKEN={secrets.token_hex(8)} in the environment; or ssh -L 8080:localhost:8080 ROBOT, no --host"
    )


def _headers(scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _split(address: str) -> SplitResult:
    """The parts of an address; all are empty if it is none."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises ValueError if it is no number
    except ValueError:
        return urlsplit("")
    return parts


def cookie_name(host: str) -> str:
    """The token's cookie for a Host header. Browsers do not separate cookies by port, and robots may share a host."""
    return f"grids_view_{_split(f'//{host}').port or 80}"


def _from_another_page(headers: dict[str, str], method: str) -> bool:
    """Whether a browser says that another page sent this, and it is no link that the user opened in a window."""
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return False
    opened = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return not (opened and method == "GET")


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

        async def unframed(message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), NO_FRAME]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, unframed)
        elif scope["type"] == "websocket":
            await receive()  # websocket.connect
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})
        else:
            await refusal(scope, receive, unframed)

    def _refusal(self, scope) -> Response | None:
        """The response instead of the page's; None if the request may pass."""
        headers, method = _headers(scope), scope.get("method", "")
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if (origin and _split(origin).netloc != host) or _from_another_page(headers, method):
            return PlainTextResponse(f"expected a request from this page, got one from {origin or 'another'}\n", 403)
        if not self._token:
            if is_loopback(_split(f"//{host}").hostname or ""):
                return None
            return PlainTextResponse(f"expected the address localhost or 127.0.0.1, got {host or 'none'}\n", 403)
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if given and self._right(given):
            return self._remember(scope["path"], host) if method == "GET" else None
        kept = cookie_parser(headers.get("cookie", "")).get(cookie_name(host))
        if not given and kept is not None and self._right(kept):
            return None
        got = "a wrong one" if given or kept is not None else "none"
        return PlainTextResponse(f"expected the token in the address that ./grids view printed, got {got}\n", 401)

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _remember(self, path: str, host: str) -> Response:
        """The same page without the token in its address, which would stay in the browser's history.

        The cookie comes along when a link in another page is opened, as after a login from a chat; `_refusal` looks
        at everything else that another page sends.
        """
        response = RedirectResponse(f"/{path.lstrip('/')}", 303)
        response.set_cookie(cookie_name(host), self._token, httponly=True, samesite="lax")
        return response
