"""Text that would act if a page took it for more than text, in every field, in a real Chromium."""

import re
import shutil
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

pytest.importorskip("playwright", reason="make view-test installs it")
pytest.importorskip("starlette", reason="make view-test installs it")

from playwright.sync_api import Page, expect

from selfreward.config.load import build_config
from selfreward.inputs.collect import create_run
from tests.support.browser import (
    Server,
    Visitor,
    chromium,
    indexed,
    scroll,
    text_of,
    wait_until,
)
from tests.support.payloads import HUGE, MARKUP, PAYLOADS, fill
from tests.support.runs import SMALL

pytestmark = [pytest.mark.view, pytest.mark.timeout(300)]
HOSTILE_NAME = "<img src=x onerror=owned()>"


@pytest.fixture(scope="module")
def visitor_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    """One for all tests, before the run ``evil`` and one like it with a name that wants to act."""
    runs = tmp_path_factory.mktemp("evil") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(runs))
        evil = create_run(build_config({"model": f"org/{MARKUP[4]}"}, SMALL), "evil")
        fill(evil)
        shutil.copytree(evil.path, runs / HOSTILE_NAME)
    server = Server(runs)
    with chromium() as browser:
        visitor = Visitor(browser, server)
        yield visitor
        visitor.close()
    server.stop()


@pytest.fixture
def visitor(visitor_of_all: Visitor) -> Iterator[Visitor]:
    yield visitor_of_all
    assert visitor_of_all.acted() == []


def test_there_are_many_payloads() -> None:
    assert len(set(PAYLOADS)) >= 60


def test_no_payload_acts_in_any_field(visitor: Visitor) -> None:
    page = visitor.open("/")
    for attempt, payload in enumerate(PAYLOADS):
        turn(page, *prompt(attempt))
        harmless(page)
        said = page.locator("section.request .model").first.inner_text()
        shown = plain(page, payload)
        assert squeezed(said) == squeezed(shown), payload
    page.mouse.click(300, 300)
    assert visitor.acted() == []


def test_no_payload_acts_in_a_question_or_an_answer_to_it(visitor: Visitor) -> None:
    page = visitor.open("/")
    for number, payload in enumerate(PAYLOADS):
        turn(page, f"/run/evil/question/{number}?diff=1", f" question {number}")
        harmless(page)
        shown = plain(page, f"{payload} one")
        said = page.locator("article.answer .model.diff").first.inner_text()
        assert squeezed(said) == squeezed(shown), payload
    visitor.open("/run/evil/questions")
    expect(page.locator("table.questions tbody tr")).to_have_count(len(PAYLOADS) + 1)
    harmless(page)
    visitor.open(f"/run/evil/question/{len(PAYLOADS)}")
    harmless(page)
    assert f"{len(HUGE) + len(' one'):,} characters" in text_of(page, "article.answer")
    visitor.open("/run/evil?iteration=1")
    harmless(page)
    page.mouse.click(300, 300)
    assert visitor.acted() == []


def test_no_payload_acts_in_a_prompt_that_was_dropped(visitor: Visitor) -> None:
    page = visitor.open("/")
    for attempt in range(len(PAYLOADS) + 1, 2 * len(PAYLOADS) + 1, 3):
        turn(page, *prompt(attempt))
        harmless(page)
        assert "not accepted" in text_of(page)
    assert visitor.acted() == []


@pytest.mark.parametrize("kind", ["prompts", "responses", "judgments", "drops"])
def test_no_payload_acts_in_a_list(visitor: Visitor, kind: str) -> None:
    page = visitor.open(f"/run/evil/list?kind={kind}")
    indexed(page)
    scroll(page)
    harmless(page)
    for payload in (MARKUP[4], MARKUP[-6]):
        page.goto(f"{visitor.base}/run/evil/list?" + query(kind=kind, q=payload, reason=payload))
        page.wait_for_selector("main h1")
        harmless(page)
    assert visitor.acted() == []


def test_no_payload_acts_in_the_name_of_a_run(visitor: Visitor) -> None:
    page = visitor.open("/")
    expect(page.get_by_role("link", name=HOSTILE_NAME, exact=True)).to_be_visible()
    harmless(page)
    page.get_by_role("link", name=HOSTILE_NAME, exact=True).click()
    visitor.drawn()
    expect(page.locator("h1")).to_contain_text(HOSTILE_NAME)
    harmless(page)
    visitor.open("/compare?" + query(a=HOSTILE_NAME, b="evil"))
    harmless(page)
    page.keyboard.press("?")
    assert visitor.acted() == []


def test_two_million_characters_are_shown_as_far_as_they_are_asked_for(visitor: Visitor) -> None:
    page = visitor.open(f"/run/evil/prompt/1/{len(PAYLOADS)}?unfold=1")
    harmless(page)
    assert len(text_of(page, "section.request")) < 10_000
    page.locator("section.request button.more").first.click()
    expect(page.locator("section.request .model").first).to_contain_text("wörd")
    assert page.evaluate("document.querySelector('.request .model').textContent.length") > 90_000
    assert f"{len(HUGE):,}" in text_of(page, "section.request")
    visitor.open("/run/evil")
    visitor.open("/run/evil/list?kind=responses&sort=length&order=desc")
    harmless(page)


# Parts


def query(**params: str) -> str:
    return urlencode(params)


def harmless(page: Page) -> None:
    """No element, attribute or link was made of text."""
    assert page.evaluate(
        """() => {
        const odd = [];
        const count = (selector, most) => {
          const n = document.querySelectorAll(selector).length;
          if (n > most) odd.push(`${n} ${selector}`);
        };
        count('script', 1); count('img', 1); count('style', 0); count('base', 0);
        count('iframe, object, embed, video, audio, marquee, template, math, image', 0);
        count('foreignObject, animate, form[action], meta[http-equiv], [data-owned]', 0);
        count('use:not([href^="#"])', 0);
        count('b, [srcset], [srcdoc], input[name], #main + #main, dialog', 0);
        for (const link of document.querySelectorAll('link'))
          if (!link.getAttribute('href').startsWith('/static/')) odd.push(link.outerHTML);
        for (const element of document.querySelectorAll('*')) {
          for (const { name, value } of element.attributes) {
            if (name.startsWith('on')) odd.push(`${name}=${value}`);
            if (name === 'href' && !/^[/#]/.test(value)) {
              const url = new URL(value, location.href);
              if (url.origin !== location.origin) odd.push(`${name}=${value}`);
            }
            if (name === 'href' && value.startsWith('//')) odd.push(`${name}=${value}`);
          }
        }
        return odd;
    }"""
    ) == []  # fmt: skip


def plain(page: Page, text: str) -> str:
    """A text as it is shown, with the names of what is not seen."""
    return page.evaluate("async (text) => (await import('/static/text.js')).plain(text)", text)  # type: ignore[no-any-return]


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def prompt(attempt: int) -> tuple[str, str]:
    """The address of a prompt of the run ``evil``, and how its title ends."""
    return f"/run/evil/prompt/1/{attempt}?unfold=1&diff=1", f" prompt {attempt}"


def turn(page: Page, path: str, title: str) -> None:
    """Go to a page as a link would, which is faster than loading it."""
    page.evaluate("(detail) => document.dispatchEvent(new CustomEvent('goto', { detail }))", path)
    wait_until(
        page,
        f"document.querySelector('h1')?.textContent.endsWith('{title}')"
        " && !document.body.hasAttribute('aria-busy')",
    )
