"""The page answers to local names only, with a token to everybody who knows it, and to no other web page."""

import asyncio

import pytest

pytest.importorskip("starlette", reason="bash requirements/setup.sh web")

from starlette.responses import PlainTextResponse

from grids_rqt.web.access import Guard, bind_problem

TOKEN = "abcdef0123"


def ask(token="", kind="http", path="/", query="", method="GET", **headers) -> list[dict]:
    """What the guard in front of a page that says yes sends for one request."""
    sent = []

    async def page(scope, receive, send):
        await send({"type": "yes"})

    async def receive():
        return {"type": f"{kind}.connect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind, "method": method, "path": path, "query_string": query.encode(),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    asyncio.run(Guard(page, token)(scope, receive, send))
    return sent


def text(sent: list[dict]) -> str:
    return b"".join(message.get("body", b"") for message in sent).decode()


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:9", "127.0.0.2:9", "[::1]:8080", "localhost"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_local_names_pass_without_a_token(host, kind):
    assert ask(kind=kind, host=host) == [{"type": "yes"}]
    assert ask(kind=kind, host=host, origin=f"http://{host}") == [{"type": "yes"}]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {},
        {"host": "localhost", "origin": "http://evil.example"},
        {"host": "localhost", "origin": "null"},
        {"host": "localhost", "origin": "http://["},
        {"host": "[", "origin": "http://["},
        {"host": "localhost:word"},
    ],
)
def test_another_name_and_another_page_are_refused(headers):
    sent = ask(**headers)
    assert sent[0]["status"] == 403
    assert "expected" in text(sent)
    assert ask(kind="websocket", **headers)[0]["type"] == "websocket.close"


def test_a_token_is_asked_for_remembered_and_taken_out_of_the_address():
    none = ask(TOKEN, host="robot:8080")
    assert (none[0]["status"], "got none" in text(none)) == (401, True)
    wrong = ask(TOKEN, query="token=abcdef0124", host="robot:8080")
    assert (wrong[0]["status"], "got a wrong one" in text(wrong)) == (401, True)
    right = ask(TOKEN, query=f"token={TOKEN}", host="robot:8080")
    headers = {name.decode(): value.decode() for name, value in right[0]["headers"]}
    assert (right[0]["status"], headers["location"]) == (303, "/")
    assert "HttpOnly" in headers["set-cookie"]
    cookie = headers["set-cookie"].split(";")[0]
    assert ask(TOKEN, host="robot:8080", cookie=cookie) == [{"type": "yes"}]
    assert ask(TOKEN, kind="websocket", host="robot:8080", cookie=cookie) == [{"type": "yes"}]
    assert ask(TOKEN, kind="websocket", host="robot:8080")[0]["type"] == "websocket.close"
    assert ask(TOKEN, host="robot:8080", cookie=cookie, origin="http://evil.example")[0]["status"] == 403


def logged_in(host: str) -> str:
    """The cookie that the page at this address sets."""
    headers = dict(ask(TOKEN, query=f"token={TOKEN}", host=host)[0]["headers"])
    return headers[b"set-cookie"].decode().split(";")[0]


def test_two_robots_on_one_host_keep_a_cookie_each():
    one, other = logged_in("robot:8080"), logged_in("robot:8081")
    assert one.split("=")[0] != other.split("=")[0]
    assert ask(TOKEN, host="robot:8080", cookie=f"{other.split('=')[0]}=0000000000; {one}") == [{"type": "yes"}]


def test_the_cookie_is_found_beside_those_of_other_programs():
    cookie = logged_in("robot:8080")
    beside = f'settings={{"a": [1, 2]}}; {cookie}; theme=dark'
    assert ask(TOKEN, host="robot:8080", cookie=beside) == [{"type": "yes"}]


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_token_in_the_address_lets_other_methods_pass(method):
    assert ask(TOKEN, method=method, path="/estop", query=f"token={TOKEN}", host="robot:8080") == [{"type": "yes"}]
    assert ask(TOKEN, method=method, path="/estop", query="token=wrong1234", host="robot:8080")[0]["status"] == 401


def test_a_login_link_leads_to_this_page_only():
    headers = dict(ask(TOKEN, path="//evil.example/", query=f"token={TOKEN}", host="robot:8080")[0]["headers"])
    assert headers[b"location"] == b"/evil.example/"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_page_may_only_link_here(site):
    link = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert ask(host="localhost:8080", **link) == [{"type": "yes"}]
    assert ask(host="localhost:8080", method="POST", **link)[0]["status"] == 403
    assert ask(host="localhost:8080", **link | {"sec_fetch_dest": "iframe"})[0]["status"] == 403
    image = {"sec_fetch_site": site, "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}
    assert ask(path="/camera/front", host="localhost:8080", **image)[0]["status"] == 403
    assert ask(TOKEN, host="robot:8080", cookie=logged_in("robot:8080"), **image)[0]["status"] == 403
    assert ask(host="localhost:8080", **image | {"sec_fetch_site": "same-origin"}) == [{"type": "yes"}]
    chat = ask(TOKEN, query=f"token={TOKEN}", host="robot:8080", **link)
    assert b"samesite=lax" in dict(chat[0]["headers"])[b"set-cookie"].lower()


@pytest.mark.parametrize("answer", ["page", "refused", "login"])
def test_no_page_may_show_this_one_in_a_frame(answer):
    query = {"page": "", "refused": "token=wrong1234", "login": f"token={TOKEN}"}[answer]
    sent = []

    async def page(scope, receive, send):
        await PlainTextResponse("page")(scope, receive, send)

    async def send(message):
        sent.append(message)

    host = b"localhost" if answer == "page" else b"robot:8080"
    scope = {
        "type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": [(b"host", host)]
    }  # fmt: skip
    asyncio.run(Guard(page, "" if answer == "page" else TOKEN)(scope, None, send))
    assert sent[0]["status"] == {"page": 200, "refused": 401, "login": 303}[answer]
    assert dict(sent[0]["headers"])[b"content-security-policy"] == b"frame-ancestors 'none'"


@pytest.mark.parametrize(
    ("host", "token", "problem"),
    [
        ("127.0.0.1", "", ""),
        ("localhost", "", ""),
        ("::1", "", ""),
        ("0.0.0.0", TOKEN, ""),
        ("127.0.0.1", TOKEN, ""),
        ("0.0.0.0", "", "expected a token too"),
        ("192.168.1.7", "", "expected a token too"),
        ("0.0.0.0", "short", "at least 8 letters and digits, got 5"),
        ("127.0.0.1", "with blank", "at least 8 letters and digits"),
    ],
)
def test_a_wider_address_needs_a_token(host, token, problem):
    found = bind_problem(host, token)
    assert problem in found
    assert bool(found) == bool(problem)
