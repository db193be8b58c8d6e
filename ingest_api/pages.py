"""The pages that the API shows to people: plain HTML, one style, no script, and nothing that is fetched elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import re

from fastapi.responses import HTMLResponse

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #5b6675; --page: #fff; --box: #f2f4f7; --line: #d8dde4;
  --link: #0b57a4 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --dim: #9aa6b5; --page: #14181e; --box: #1f252d;
  --line: #333c47; --link: #7db8f5 } }
body { font: 1rem/1.55 system-ui, sans-serif; max-width: 50rem; margin: 2.5rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--page) }
a { color: var(--link) }
h1 { font-size: 1.9rem; line-height: 1.2 } h2 { margin-top: 2.5rem } h3 { margin: 0 0 .3rem; font-size: 1.05rem }
code, pre { font: .875em/1.5 ui-monospace, monospace }
pre { background: var(--box); padding: .8rem 1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; border-radius: .4rem }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: .925rem; margin: .5rem 0 1rem }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-top: 1px solid var(--line) }
th { font-weight: 600; white-space: nowrap; border-top: 0 } td:first-child { white-space: nowrap }
td { overflow-wrap: break-word } .dim { color: var(--dim) }
section { border-top: 1px solid var(--line); padding: 1.2rem 0 .2rem }
summary { cursor: pointer; color: var(--dim) }
.verb { display: inline-block; min-width: 4.2rem; font-weight: 700 }
.path { overflow-wrap: anywhere }
.alarm { background: #b00020; color: #fff; padding: 1rem; border-radius: .4rem; font-weight: 600 }
.note { background: #fff4d6; color: #1c2430; padding: 1rem; border-radius: .4rem }
"""
# The one style that may apply is named by its hash: text that slipped in unescaped could not even paint.
_CSP = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
_CODE = re.compile(r"`([^`]+)`")
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_LINK = re.compile(r"\[([^\]]+)\]\((https://[^)\s]+)\)")


def page(title: str, body: str, status: int = 200) -> HTMLResponse:
    """`body` is HTML; all in it that is not ours has been escaped."""
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>{body}</body></html>"
    )
    headers = {"Content-Security-Policy": _CSP, "Referrer-Policy": "no-referrer"}
    return HTMLResponse(text, status, headers)


def prose(text: str) -> str:
    """HTML of the little Markdown that our descriptions use: code, bold, links; paragraphs at empty lines."""
    return "".join(f"<p>{inline(paragraph)}</p>" for paragraph in text.strip().split("\n\n"))


def inline(text: str) -> str:
    """HTML of one paragraph."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    escaped = _LINK.sub(r'<a href="\2">\1</a>', escaped)
    return _BOLD.sub(r"<strong>\1</strong>", _CODE.sub(r"<code>\1</code>", escaped))
