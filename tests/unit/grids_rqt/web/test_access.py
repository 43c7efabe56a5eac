"""The page answers to local names only, with a token to everybody who knows it, and to no other web page."""

import asyncio

import pytest

pytest.importorskip("starlette", reason="bash requirements/setup.sh web")

from grids_rqt.web.access import Guard, bind_problem

TOKEN = "abcdef0123"


def ask(token="", kind="http", path="/", query="", **headers) -> list[dict]:
    """What the guard in front of a page that says yes sends for one request."""
    sent = []

    async def page(scope, receive, send):
        await send({"type": "yes"})

    async def receive():
        return {"type": f"{kind}.connect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind, "method": "GET", "path": path, "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    asyncio.run(Guard(page, token)(scope, receive, send))
    return sent


def text(sent: list[dict]) -> str:
    return b"".join(message.get("body", b"") for message in sent).decode()


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:9", "[::1]:8080", "localhost"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_local_names_pass_without_a_token(host, kind):
    assert ask(kind=kind, host=host) == [{"type": "yes"}]
    assert ask(kind=kind, host=host, origin=f"http://{host}") == [{"type": "yes"}]


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example"}, {}, {"host": "localhost", "origin": "http://evil.example"}]
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


@pytest.mark.parametrize(
    ("host", "token", "problem"),
    [
        ("127.0.0.1", "", ""),
        ("localhost", "", ""),
        ("::1", "", ""),
        ("0.0.0.0", TOKEN, ""),
        ("127.0.0.1", TOKEN, ""),
        ("0.0.0.0", "", "expected a --token too"),
        ("192.168.1.7", "", "expected a --token too"),
        ("0.0.0.0", "short", "at least 8 letters and digits, got 5"),
        ("127.0.0.1", "with blank", "at least 8 letters and digits"),
    ],
)
def test_a_wider_address_needs_a_token(host, token, problem):
    found = bind_problem(host, token)
    assert problem in found
    assert bool(found) == bool(problem)
