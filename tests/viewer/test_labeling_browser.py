"""Labeling in a real browser: by keys alone, with undo, blind, by two people, and inert."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from selfreward.storage.directory import Run
from selfreward.storage.label import Label, in_force
from selfreward.storage.labels import Labels, reading
from tests.support.runs import runs  # noqa: F401  (fixture)

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
WAIT_S = 30
"""As long as Playwright waits by itself."""
pytestmark = [pytest.mark.view, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "no chromium: `make view-test` installs what this needs"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def run(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:  # noqa: F811
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    for name in ("whole", "hostile"):
        shutil.copytree(runs / name, tmp_path / name)
    return Run(tmp_path / "whole")


class Viewer:
    """`selfreward view` as people start it."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "selfreward", "view", "--port", "0", "--no-browser"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(r"(http://[^/]+)/\?token=(\S+)", line):
                self.host, self.token = found.groups()
                return
        raise AssertionError("the viewer did not start")

    def url(self, path: str, **params: str) -> str:
        query = "&".join(
            f"{name}={value}" for name, value in {**params, "token": self.token}.items()
        )
        return f"{self.host}{path}?{query}"

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def viewer(run: Run) -> Iterator[Viewer]:
    viewer = Viewer()
    yield viewer
    viewer.stop()


class Page:
    """A page on which a person labels; what goes wrong on it fails the test."""

    def __init__(self, browser: Any, viewer: Viewer, **options: Any) -> None:
        self.context = browser.new_context(
            **{"viewport": {"width": 1400, "height": 900}, **options}
        )
        self.page = self.context.new_page()
        self.viewer = viewer
        self.problems: list[str] = []
        self.answers: list[tuple[str, str]] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._said)
        self.page.on("dialog", lambda dialog: self.problems.append(f"dialog {dialog.message}"))
        self.page.on("response", self._answered)

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    def _answered(self, response: Any) -> None:
        if "/labels" in response.url:
            self.answers.append((response.url, response.text()))

    def told(self) -> list[dict[str, Any]]:
        """What the page was sent as the next item, each time."""
        return [json.loads(text) for url, text in self.answers if "/next" in url]

    def open(self, run: str = "whole", wait: str = ".choices", **params: str) -> "Page":
        self.page.goto(self.viewer.url(f"/run/{run}/label", **params))
        self.page.wait_for_selector(wait)
        return self

    def press(self, *keys: str) -> None:
        """Keys one after another, each on the item that is shown then."""
        for key in keys:
            before = self.texts()
            self.page.keyboard.press(key)
            if key in LABELS:
                self.page.wait_for_function(CHANGED, arg=before)

    def texts(self) -> str:
        return str(self.page.evaluate(TEXTS))

    def progress(self, begins: str) -> None:
        """Wait until the page tells so much progress."""
        self.page.wait_for_function(
            "begins => document.querySelector('.progress').textContent.startsWith(begins)",
            arg=begins,
        )

    def close(self) -> None:
        self.context.close()
        assert self.problems == []


LABELS = {"ArrowLeft", "ArrowRight", "1", "2", "t", "s", "u"}
TEXTS = "[...document.querySelectorAll('.stage .model')].map(n => n.dataset.key).join()"
WITHOUT_TEXTS = """() => {
    const main = document.querySelector("main").cloneNode(true);
    main.querySelectorAll(".model").forEach(node => node.remove());
    return main.innerHTML;
}"""
"""The page without what models wrote, and without the handles beside it."""
WIDE = """[...document.querySelectorAll("main *")]
    .filter(node => node.getBoundingClientRect().right > innerWidth)
    .map(node => node.tagName + "." + node.className)"""
CHANGED = f"before => {TEXTS} !== before || document.querySelector('.stage .empty')"


@pytest.fixture
def open_page(browser: Any, viewer: Viewer) -> Iterator[Any]:
    pages: list[Page] = []

    def open_one(**options: Any) -> Page:
        pages.append(Page(browser, viewer, **options))
        return pages[-1]

    yield open_one
    for page in pages:
        page.close()


def kept(run: Run, wanted: int, page: Page) -> list[Label]:
    """The labels that count, once so many are there: they are sent behind the page."""
    found: list[Label] = []

    def are_there() -> bool:
        with reading(run) as labels:
            found[:] = in_force(labels.history()) if labels else []
        return len(found) >= wanted

    until(page, are_there)
    return found


def until(page: Page, is_so: Callable[[], bool]) -> None:
    """Wait for something that is not on the page, and let the page go on meanwhile."""
    end = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end, "it never came"
        page.page.wait_for_timeout(50)


def test_two_answers_are_compared_by_keys_alone(run: Run, open_page: Any) -> None:
    page = open_page().open(wait="#labeler")
    page.page.keyboard.type("Zoë")
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector(".choices")
    page.press("ArrowLeft", "1", "ArrowRight", "2", "t", "s")
    page.progress("5 comparisons")
    found = kept(run, 6, page)
    assert {one.labeler for one in found} == {"Zoë"}
    sides = [None if one.ranks is None else _side(one) for one in found]
    assert sides == ["first", "first", "second", "second", "tie", None]
    assert all(one.seconds is not None and one.seconds < 60 for one in found)
    page.open()  # the name is asked once
    page.progress("5 comparisons")


def _side(label: Label) -> str:
    assert label.ranks is not None
    if len(set(label.ranks)) == 1:
        return "tie"
    best = label.item.samples[label.ranks.index(1)]
    return "first" if label.shown[0] == best else "second"


def test_answers_are_ranked_by_digits_with_ties(run: Run, open_page: Any) -> None:
    page = open_page().open(mode="ranking", labeler="ann")
    count = page.page.locator(".answer").count()
    assert count == 3
    page.page.keyboard.press("Enter")  # not before all are ranked
    for key in ("2", "1", "Backspace", "ArrowUp", "2", "2", "1"):
        page.page.keyboard.press(key)
    page.page.keyboard.press("Enter")
    page.progress("1 ranking")
    (found,) = kept(run, 1, page)
    shown = dict(zip(found.item.samples, found.ranks or (), strict=True))
    assert sorted(shown.values()) == [1, 2, 2]
    assert page.page.evaluate("document.activeElement.tagName") in ("BODY", "MAIN")


def test_an_answer_is_rated_with_boxes_and_a_note(run: Run, open_page: Any) -> None:
    page = open_page().open(mode="rating", labeler="ann")
    for key in ("Enter", "3", "6", "f", "h", "f", "c", "v", "n"):
        page.page.keyboard.press(key)
    page.page.keyboard.type("s, u and 7 are letters here")
    page.page.keyboard.press("Escape")
    page.page.keyboard.press("Enter")
    page.progress("1 rating")
    (found,) = kept(run, 1, page)
    assert (found.rating, found.flags) == (6, ("hallucination", "violates"))
    assert found.note == "s, u and 7 are letters here"


def test_undo_takes_one_label_after_another_back_and_shows_what_was_said(
    run: Run, open_page: Any
) -> None:
    page = open_page().open(mode="rating", labeler="ann")
    first = page.page.inner_text(".answer .model")
    for rating in "52":
        page.page.keyboard.press(rating)
        page.page.keyboard.press("h")
        page.page.keyboard.press("Enter")
        page.page.wait_for_function("() => !document.querySelector('.points[aria-pressed=true]')")
    page.progress("2 ratings")
    for rating in "25":
        page.press("u")
        assert page.page.inner_text(".points[aria-pressed=true]") == rating
        assert page.page.locator(".box[aria-pressed=true]").count() == 1
    assert page.page.inner_text(".answer .model") == first
    page.progress("0 ratings")
    with Labels(run) as labels:
        assert in_force(labels.history()) == [] and len(labels.history()) == 4
    page.page.keyboard.press("7")
    page.page.keyboard.press("Enter")
    page.progress("1 rating ")
    assert [one.rating for one in kept(run, 1, page)] == [7]


def test_neither_the_page_nor_what_it_is_sent_holds_a_score_a_model_or_a_place(
    run: Run, open_page: Any
) -> None:
    """The answers of the label addresses, key by key, and all words of the page."""
    page = open_page()
    for number, mode in enumerate(("ab", "ranking", "rating"), 1):
        page.open(mode=mode, labeler="ann")
        page.press("s")
        until(page, lambda wanted=2 * number: len(page.told()) >= wanted)
        html = page.page.evaluate(WITHOUT_TEXTS).lower()
        for word in ("score", "chosen", "rejected", "margin", "vote", "iteration", "sample", "m1"):
            assert word not in html, word
    for found in page.told():
        assert found.keys() == {"item", "labeled", "prompts"}
        assert found["item"].keys() <= {"handle", "mode", "prompt", "answers", "boxes"}
        assert all(answer.keys() == {"handle", "text"} for answer in found["item"]["answers"])


def test_two_labelers_at_once_agree_on_what_both_are_asked(
    run: Run, open_page: Any, viewer: Viewer
) -> None:
    for turn, name in enumerate(("ann", "bob")):
        page = open_page().open(labeler=name, overlap="1")
        for _ in range(12):
            answers = page.page.locator(".answer .model").all_inner_texts()
            longer = max(answers, key=lambda text: (len(text), text))
            page.press("ArrowLeft" if answers[0] == longer else "ArrowRight")
        page.page.wait_for_selector(".stage .empty")
        assert len(kept(run, 12 * (turn + 1), page)) == 12 * (turn + 1)
    page.page.click("summary")
    page.page.wait_for_selector("details table", timeout=60_000)
    said = page.page.inner_text("details")
    assert "ann" in said and "bob" in said
    assert "Two labelers order 100.0%" in said and "as people do" in said


def test_hostile_texts_are_shown_and_do_nothing(run: Run, open_page: Any) -> None:
    page = open_page().open("hostile", labeler="%1b<img src=x onerror=alert(1)>", wait=".problem")
    assert "no name of a labeler" in page.page.inner_text(".problem")
    page.problems.clear()  # the browser notes that it was refused
    for mode in ("ab", "ranking", "rating"):
        page.open("hostile", mode=mode, labeler="<b>bold</b>")
        assert page.page.locator(".answer .control").count() > 10
        assert page.page.locator("main b, main img, main script, main style").count() == 0
        assert "<b>bold</b>" in page.page.inner_text(".labelhead")


def test_a_label_that_cannot_be_sent_is_said_and_sent_again(
    run: Run, open_page: Any, viewer: Viewer
) -> None:
    page = open_page().open(labeler="ann")
    page.page.route("**/labels", lambda route: route.abort())
    page.page.keyboard.press("1")
    page.page.wait_for_selector(".problem")
    assert "does not answer" in page.page.inner_text(".problem")
    page.page.unroute("**/labels")
    page.page.click("text=Try again")
    page.page.wait_for_selector(".choices")
    assert len(kept(run, 1, page)) == 1
    page.progress("1 comparison ")
    page.problems.clear()  # the browser notes the request that failed


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(run: Run, open_page: Any, scheme: str) -> None:
    page = open_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    for mode in ("ab", "ranking", "rating"):
        page.open(mode=mode, labeler="ann")
        wide = page.page.evaluate(WIDE)
        width = page.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, (mode, wide)
        for button in page.page.locator(".choices .main button").all():
            box = button.bounding_box()
            assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390
