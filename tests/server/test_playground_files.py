"""The pages' files as they are served: whole, to those who may have them, and asking no other machine."""

import hashlib
import re
from pathlib import Path

import pytest
from serving import client_of

from engine.server import pages

STATIC = Path(pages.__file__).parent / "static"
FILES = {
    "/ui": "playground.html",
    "/ui/playground.js": "playground.js",
    "/ui/playground.css": "playground.css",
    "/docs/": "docs.html",
    "/docs/docs.js": "docs.js",
    "/docs/docs.css": "docs.css",
    "/docs/swagger-ui-bundle.js": "swagger/swagger-ui-bundle.js",
    "/docs/swagger-ui.css": "swagger/swagger-ui.css",
}
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


@pytest.mark.parametrize("path", FILES)
async def test_a_file_is_served_as_it_is(api, path):
    answer = await api.get(path)
    assert answer.status_code == 200
    assert answer.content == (STATIC / FILES[path]).read_bytes()
    assert answer.headers["content-type"].startswith(KINDS[Path(FILES[path]).suffix])
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_file_that_is_the_same_is_not_sent_again(api):
    first = await api.get("/docs/swagger-ui-bundle.js")
    again = await api.get("/docs/swagger-ui-bundle.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = await api.get("/docs/swagger-ui.css", headers={"if-none-match": first.headers["etag"]})
    assert other.status_code == 200


@pytest.mark.parametrize(("path", "target"), [("/docs", "docs/"), ("/ui/", "../ui")])
async def test_the_other_spelling_leads_there(api, path, target):
    """By a relative address, so that it holds behind a proxy that adds a prefix."""
    answer = await api.get(path)
    assert (answer.status_code, answer.headers["location"]) == (307, target)


@pytest.mark.parametrize("public_info", [False, True])
async def test_with_keys_the_pages_want_one_unless_info_is_public(make_app, public_info):
    async with client_of(make_app(api_keys=("secret",), public_info=public_info)) as client:
        for path in (*FILES, "/docs", "/ui/", "/openapi.json", "/api-doc/openapi.json"):
            bare = await client.get(path)
            assert (bare.status_code == 401) != public_info, path
            keyed = await client.get(path, headers={"authorization": "Bearer secret"})
            assert keyed.status_code in (200, 307)


def test_the_pages_name_no_other_machine():
    for path in STATIC.glob("*.*"):
        assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text(encoding="utf-8")) == [], path.name


def test_text_of_the_model_never_becomes_markup():
    script = (STATIC / "playground.js").read_text(encoding="utf-8")
    forbidden = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "localStorage")
    assert [word for word in forbidden if word in script] == []


def test_swagger_ui_is_what_was_published_with_its_licence():
    """Version 5.35.0 of swagger-ui-dist on npm; a new one is put here together with its digests."""
    published = {
        "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
        "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
        "LICENSE": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
        "NOTICE": "0d20d1adef18aee3f40dd258172155521ce702ac445cb5f7b7d60ed32dad2fb2",
        "swagger-ui-bundle.js.LICENSE.txt": "37eb6e7e59aed57b2c1acf076574b818ea07b74265717e0bd67b59e0baf9abbb",
    }
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (STATIC / "swagger").iterdir()}
    assert found == published
