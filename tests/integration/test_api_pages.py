"""The pages for people: complete, escaped, and without anything that runs or that comes from somewhere else."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from ingest_api.explanations import EXPLANATIONS
from ingest_api.pages import inline
from ingest_api.problems import catalogue
from tests.integration.api_server import Api


class Seen(HTMLParser):
    """What a browser would load, run or follow."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.loaded += [tag for _ in "x" if tag in {"script", "link", "img", "iframe", "object", "embed", "form"}]
        self.loaded += [name for name in named if name.startswith("on") or name in {"src", "srcset", "style"}]
        self.ids.add(named.get("id") or "")
        if tag == "a":
            self.links.append(named["href"] or "")
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


PAGES = ["/", "/docs", "/problems", *(f"/problems/{code}" for code in ("not-found", "too-large"))]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_needs_nothing_but_itself(api: Api, path: str) -> None:
    with api.make_client(key="") as anybody:
        answer = anybody.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    seen = Seen(answer.text)
    assert seen.loaded == []
    assert seen.open == []
    style = re.search("<style>(.*?)</style>", answer.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; ")
    assert "unsafe" not in policy
    for link in seen.links:
        if link.startswith("#"):
            assert link[1:] in seen.ids
        elif link.startswith("/"):
            assert api.client.get(link).status_code == 200, link


def test_the_reference_has_every_call_and_type(api: Api) -> None:
    schema = api.client.get("/openapi.json").json()
    text = api.client.get("/docs").text
    for path, verbs in schema["paths"].items():
        for verb, operation in verbs.items():
            assert f'<section id="{operation["operationId"]}"><h3><span class="verb">{verb.upper()}</span>' in text
            assert f'<code class="path">{path}</code>' in text
    for name in schema["components"]["schemas"]:
        assert f'id="type-{name}"' in text


def test_no_page_of_the_frameworks_is_left(api: Api) -> None:
    for path in ("/redoc", "/docs/oauth2-redirect"):
        assert api.client.get(path).status_code == 404


def test_every_problem_is_explained() -> None:
    assert set(EXPLANATIONS) == set(catalogue())


def test_what_is_described_is_escaped() -> None:
    assert inline("a <b> & `<i>` **x** [y](https://z/) [q](javascript:1)") == (
        'a &lt;b&gt; &amp; <code>&lt;i&gt;</code> <strong>x</strong> <a href="https://z/">y</a> [q](javascript:1)'
    )


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_may_ask_by_head(api: Api, path: str) -> None:
    answer = api.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
