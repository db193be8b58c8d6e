"""The lines for Uppy in docs/uploads.md, run as they stand there, in a browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page

from tests.e2e.clients import MIB, came, made
from tests.servers.chromium import Chromium
from tests.system import ROOT, System, until

# What a page around the snippet does: it has a key and some files.
AROUND = """async ({ key }) => {
  %s
  for (const file of document.querySelector('#file').files) {
    uppy.addFile({ name: file.name, type: file.type, data: file })
  }
  const { successful = [], failed = [] } = await uppy.upload()
  return { keys: successful.map(file => file.response.body.key), failed: failed.map(file => file.error) }
}"""


def snippet(api: str) -> str:
    """As it stands there, but for its two addresses and the size from which files go in parts."""
    [code] = re.findall(r"```js\n(import .*?)```", (ROOT / "docs/uploads.md").read_text(), re.DOTALL)
    code, replaced = re.subn(
        r"import (\{.*?\}) from '[^']*/uppy\.min\.mjs'",
        r"const \1 = await import('/node_modules/uppy5/dist/uppy.min.mjs')",
        code,
    )
    assert replaced == 1
    for before, after in (("https://files.example.com", api), ("100 * 2 ** 20", "6 * 2 ** 20")):
        assert before in code
        code = code.replace(before, after)
    return code


def _found(client: httpx.Client, url: str) -> dict[str, Any] | None:
    answer = client.get(url)
    found: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
    return found


def test_it_uploads(on_s3: System, browser: Chromium, tmp_path: Path) -> None:
    files = [made(tmp_path / f"{size}.csv", size) for size in (3 * MIB, 13 * MIB)]  # in one, and in parts
    api = f"http://127.0.0.1:{on_s3.port}"

    def visit(page: Page) -> dict[str, Any]:
        page.set_input_files("#file", files)
        found: dict[str, Any] = page.evaluate(AROUND % snippet(api), {"key": on_s3.key})
        return found

    [done] = browser.visit("uppy-s3.html", visit)
    assert done["failed"] == []
    sizes = {}
    with on_s3.client() as client:
        for key in done["keys"]:
            document_id = key.split("/")[-2]
            answer = until(lambda url=f"/v1/documents/{document_id}": _found(client, url), "it is a document", 60)
            sizes[answer["size"]] = document_id
    for file in files:
        document = came(on_s3, sizes[file.stat().st_size], file)
        assert document["via"] == ("post" if file.stat().st_size < 6 * MIB else "multipart")
