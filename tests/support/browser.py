"""A real Chromium before a real viewer: what each of its pages did is kept, and can be asked."""

import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.support import ROOT

TOKEN = "token-of-the-browser"
WAIT = 30_000
"""Milliseconds that a page may take before a test fails; a busy machine is slow."""
expect.set_options(timeout=WAIT)
WATCH = """
window.acted = [];
window.owned = () => window.acted.push('script ran');
addEventListener('securitypolicyviolation', (event) =>
  window.acted.push(`policy: ${event.violatedDirective} ${event.blockedURI}`));
"""
"""Runs before any page; what tells of an attack that got anywhere, stopped by the policy or not."""


class Server:
    """A viewer as its own process, as people start it."""

    def __init__(self, runs: Path, port: int = 0) -> None:
        self.runs = runs
        command = [sys.executable, "-m", "selfreward", "view", "--no-browser", "--token", TOKEN]
        env = os.environ | {"SELFREWARD_RUNS": str(runs), "PYTHONPATH": str(ROOT)}
        env |= {"SELFREWARD_CACHE": str(runs.parent / "cache"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=ROOT, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.base = self._address()

    def _address(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 60)
        line = self.process.stdout.readline() if ready else ""
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found is not None, f"the viewer printed {line!r}"
        return found[0]

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])

    def stop(self) -> None:
        """End it. Idempotent."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    place = shutil.which("chromium") or shutil.which("chromium-browser")
    assert place is not None, "there is no chromium: make view-test installs it where apt is"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=place, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """A page of a browser that knows the token, and what happened in it.

    Args:
        width: Of the window.
        theme: ``light`` or ``dark``, as of the system.
    """

    def __init__(
        self, browser: Browser, server: Server, width: int = 1400, theme: str = "light"
    ) -> None:
        self.base = server.base
        self.context: BrowserContext = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=theme,  # type: ignore[arg-type]
            permissions=["clipboard-read", "clipboard-write"],
        )
        self.context.set_default_timeout(WAIT)
        self.context.add_init_script(WATCH)
        self.happened: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.on("dialog", self._dialog)
        self.page.on("pageerror", lambda error: self.happened.append(f"error: {error}"))
        self.page.on("request", self._request)
        self.context.on("page", lambda page: self.happened.append(f"opened {page.url}"))
        self.context.add_cookies(
            [{"name": f"selfreward-{server.port}", "value": TOKEN, "url": server.base}]
        )

    def _dialog(self, dialog: object) -> None:
        self.happened.append("a dialog")
        dialog.dismiss()  # type: ignore[attr-defined]

    def _request(self, request: object) -> None:
        url: str = request.url  # type: ignore[attr-defined]
        if not url.startswith((self.base + "/", "data:")):
            self.happened.append(f"asked for {url}")

    def open(self, path: str) -> Page:
        """Go to a page of the viewer, and wait until it is drawn."""
        self.page.goto(self.base + path)
        return self.drawn()

    def drawn(self) -> Page:
        """The page, once nothing is under way."""
        self.page.wait_for_selector("main h1")
        self.page.wait_for_selector("body:not([aria-busy])")
        return self.page

    def acted(self) -> list[str]:
        """All that a page did which text must not do."""
        return [*self.happened, *self.page.evaluate("window.acted")]

    def close(self) -> None:
        self.context.close()


def wait_until(page: Page, expression: str) -> None:
    """Wait until an expression of JavaScript is true; the policy lets no page wait for it."""
    end = time.monotonic() + WAIT / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(50)


def text_of(page: Page, selector: str = "main") -> str:
    return page.locator(selector).first.inner_text()


def indexed(page: Page) -> None:
    """Wait until all records of a run are in its index, and the first page of its list is whole.

    On a slow machine a filtered page may come in parts; the next one comes by itself.
    """
    wait_until(
        page,
        "!document.querySelector('.index') && document.querySelector('table.list, .empty')"
        " && (!document.querySelector('button[data-key=more]')"
        " || document.querySelectorAll('table.list tbody tr').length >= 50)"
        " && !document.body.hasAttribute('aria-busy')",
    )


def scroll(page: Page) -> None:
    """Go down a list until more than a hundred of its rows are there."""
    for rows in (50, 100):
        page.mouse.wheel(0, 100_000)
        wait_until(page, f"document.querySelectorAll('table.list tbody tr').length > {rows}")


def settled(page: Page) -> str:
    """What a page says once nothing of it is still being read, computed or drawn."""
    page.wait_for_selector("main h1")
    if "/list" in page.url:
        indexed(page)
    wait_until(
        page,
        "!document.body.hasAttribute('aria-busy')"
        " && !/Drawing\u2026|being computed/.test(document.body.innerText)",
    )
    return text_of(page)
