"""A real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from playwright.sync_api import Browser, Page, sync_playwright

from tests.servers.process import need

T = TypeVar("T")
PATIENCE = 240.0
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Chromium:
    """A browser, and the one thread that may speak to it: Playwright leaves its event loop running there, and no test
    that runs one of its own could follow it in the same thread."""

    origin: str  # of the pages
    _browser: Browser
    _thread: ThreadPoolExecutor

    def visit(self, page: str, *visits: Callable[[Page], T]) -> list[T]:
        """Open a page of tests/clients/pages in a fresh profile and do these things there, one visit after another:
        what it keeps in its storage outlives a visit."""
        return self._thread.submit(self._visit, page, visits).result(PATIENCE * 2)

    def _visit(self, name: str, visits: tuple[Callable[[Page], T], ...]) -> list[T]:
        said: list[str] = []
        with self._browser.new_context() as context:
            context.set_default_timeout(PATIENCE * 1000)
            done = []
            for visit in visits:
                with context.new_page() as page:
                    page.on("console", lambda message: said.append(message.text))
                    page.goto(f"{self.origin}/pages/{name}", wait_until="load")
                    try:
                        done.append(visit(page))
                    except Exception as exc:
                        exc.add_note("the console said:\n" + "\n".join(said))
                        raise
            return done

    def send(self, page: str, *files: Path, **options: Any) -> dict[str, Any]:
        """Choose the files and have the page upload them; what its `send(options)` resolves with."""
        return self.visit(page, sending(*files, **options))[0]


def sending(*files: Path, **options: Any) -> Callable[[Page], dict[str, Any]]:
    """A visit that chooses the files and calls the page's `send(options)`."""

    def visit(page: Page) -> dict[str, Any]:
        page.set_input_files("#file", files)
        found: dict[str, Any] = page.evaluate("options => send(options)", options)
        return found

    return visit


@contextlib.contextmanager
def chromium(origin: str) -> Iterator[Chromium]:
    """Run it until the block ends, for the pages at this origin."""
    program = need("chromium", "apt-get install chromium")

    def start() -> tuple[Any, Browser]:
        playwright = sync_playwright().start()
        try:
            return playwright, playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        except BaseException:
            playwright.stop()
            raise

    with ThreadPoolExecutor(1, thread_name_prefix="playwright") as thread:
        playwright, browser = thread.submit(start).result(60)
        try:
            yield Chromium(origin, browser, thread)
        finally:
            thread.submit(browser.close).result(60)
            thread.submit(playwright.stop).result(60)
