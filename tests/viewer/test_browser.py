"""The viewer in a real Chromium: each screen and key, live runs, lost connections.

`make view-test` installs what this needs and runs it.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="make view-test installs it")
pytest.importorskip("starlette", reason="make view-test installs it")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from selfreward.config.load import build_config
from selfreward.inputs.collect import create_run
from selfreward.records import Drop, JudgePair, Judgment, Prompt, Response
from selfreward.storage.directory import Run
from tests.support.browser import (
    TOKEN,
    Server,
    Visitor,
    chromium,
    indexed,
    scroll,
    settled,
    text_of,
    wait_until,
)
from tests.support.questions import ask_four
from tests.support.runs import SMALL
from tests.support.runs import runs as runs  # a fixture

pytestmark = [pytest.mark.view, pytest.mark.timeout(180)]

SCREENS = {
    "runs": "/",
    "run": "/run/whole",
    "iteration": "/run/whole?iteration=1",
    "prompt": "/run/whole/prompt/1/{attempt}?unfold=1&diff=1",
    "prompts": "/run/whole/list?kind=prompts",
    "answers": "/run/whole/list?kind=responses&sort=score&order=desc",
    "votes": "/run/whole/list?kind=judgments",
    "left out": "/run/whole/list?kind=drops",
    "training": "/run/whole/training/1",
    "questions": "/run/asked/questions?result=won",
    "question": "/run/asked/question/0?diff=1",
    "compare": "/compare?a=whole:1&b=whole:2",
    "label": "/run/whole/label?labeler=Ada",
    "not there": "/run/none",
}


@pytest.fixture(scope="module")
def browser(runs: Path) -> Iterator[Browser]:  # the scripted runs come first: they need a loop
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(runs: Path) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(runs))
        add(create_run(build_config({}, SMALL), "many"), range(160))
        ask_four(create_run(build_config({}, SMALL), "asked"))
        judge_judgments(create_run(build_config({}, SMALL), "metajudged"))
    server = Server(runs)
    yield server
    server.stop()


@pytest.fixture
def visitor(browser: Browser, server: Server) -> Iterator[Visitor]:
    visitor = Visitor(browser, server)
    yield visitor
    found = visitor.acted()
    visitor.close()
    assert found == []


@pytest.fixture(scope="module")
def attempts(runs: Path) -> list[int]:
    """Prompts of iteration 1 of the run ``whole`` with pairs, in order."""
    with Run(runs / "whole").store() as store:
        rows = store.query("SELECT attempt FROM pairs WHERE iteration = 1 ORDER BY attempt")
        return [row[0] for row in rows]


# Screens


def test_the_list_of_runs_leads_to_a_run_and_back(visitor: Visitor) -> None:
    page = visitor.open("/")
    page.get_by_role("link", name="whole", exact=True).click()
    expect(page).to_have_url(f"{visitor.base}/run/whole")
    expect(page.locator("h1")).to_contain_text("whole")
    page.go_back()
    expect(page.locator("h1")).to_have_text("Runs")
    assert page.evaluate("document.activeElement.closest('tr').dataset.key") == "run-whole"


def test_a_run_says_first_in_words_what_was_found(visitor: Visitor) -> None:
    page = visitor.open("/run/whole")
    found = page.locator("section.found li")
    assert found.count() >= 1
    first = page.locator("section").first
    assert "found" in (first.get_attribute("class") or "")
    expect(page.locator("table.iterations tbody tr")).to_have_count(3)
    for name in ("Lineage", "Iterations", "What was found"):
        expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()


def test_each_count_of_an_iteration_leads_to_a_list_of_as_many(visitor: Visitor) -> None:
    page = visitor.open("/run/whole")
    links = page.locator("table.iterations tbody tr:nth-child(2) td.number a")
    checked = 0
    for at in range(links.count()):
        link, href = links.nth(at), links.nth(at).get_attribute("href") or ""
        count = link.inner_text()
        if "/list?" not in href or not count.isdecimal() or "sort" in href:
            continue
        visitor.open(href)
        indexed(page)
        rows = page.locator("table.list tbody tr").count()
        dropped = "kind=prompts" in href  # that list has the prompts that were not accepted, too
        assert rows >= int(count) if dropped else rows == int(count), href
        visitor.open("/run/whole")
        checked += 1
    assert checked >= 2


def test_each_bar_of_a_histogram_leads_to_the_answers_it_counts(visitor: Visitor) -> None:
    page = visitor.open("/run/whole?iteration=1")
    bars = page.locator(".histogram.large a.bin")
    counts = [int(n or 0) for n in page.locator(".histogram.large .n").all_inner_texts()]
    links = [bars.nth(at).get_attribute("href") or "" for at in range(bars.count())]
    assert sum(counts) > 0
    for count, href in zip(counts, links, strict=True):
        visitor.open(href)
        indexed(page)
        found = page.locator("table.list tbody tr").count()
        assert found >= count, href  # those that were cut off have scores, too


def test_a_prompt_shows_answers_votes_and_why(visitor: Visitor, attempts: list[int]) -> None:
    page = visitor.open(f"/run/whole/prompt/1/{attempts[0]}")
    expect(page.locator("article.answer")).to_have_count(3)
    expect(page.locator("article.chosen")).to_have_count(1)
    expect(page.locator("article.rejected")).to_have_count(1)
    assert "margin" in text_of(page, "section.outcome")
    assert re.search(r"rule best_worst", text_of(page, "section.outcome"))
    assert page.locator("article.answer .dots circle").count() > 3
    assert page.locator("article.answer details[open]").count() == 0
    page.locator("article.answer details summary").first.click()
    assert page.locator("article.answer details[open] .model").first.is_visible()


def test_a_prompt_shows_the_pair_of_its_judgments(visitor: Visitor) -> None:
    page = visitor.open("/run/metajudged/prompt/1/0")
    pair = text_of(page, "section.outcome p.pair")
    said = " ".join(pair.split())
    assert said == "judgments of answer 0: vote 1 12 over vote 0 \u221212 Elo"
    ballots = page.locator("article.answer .ballot")
    expect(ballots.nth(1).locator(".badge.chosen")).to_have_count(1)
    expect(ballots.nth(0).locator(".badge.rejected")).to_have_count(1)
    expect(page.locator(".ballot .badge.chosen")).to_have_count(1)
    visitor.open("/run/metajudged/prompt/1/1")
    assert "no pair of judgments tie" in " ".join(text_of(page, "section.outcome").split())


def test_a_list_can_be_filtered_sorted_and_searched(visitor: Visitor) -> None:
    page = visitor.open("/run/whole/list?kind=responses")
    indexed(page)
    page.get_by_label("Sort by").select_option("score")
    page.get_by_label("Order").select_option("desc")
    expect(page).to_have_url(re.compile(r"sort=score&order=desc"))
    visitor.drawn()
    scores = [float(s) for s in column(page, 3)]
    assert scores == sorted(scores, reverse=True) and len(scores) > 5
    word = page.locator("table.list td.text").nth(2).inner_text().split()[0]
    page.get_by_label("Search", exact=True).fill(word)
    page.get_by_label("Search", exact=True).press("Enter")
    expect(page).to_have_url(re.compile(f"q={word}"))
    expect(page.locator("table.list mark").first).to_have_text(word)
    for text in page.locator("table.list td.text").all_inner_texts():
        assert word in text


def test_a_list_says_that_it_is_not_whole_until_all_is_indexed(
    visitor: Visitor,
) -> None:
    page = visitor.page
    part = {"items": [], "next": None, "count": 0, "index": {"done": 3, "total": 9}}
    page.route("**/api/run/whole/list?*", lambda route: route.fulfill(json=part))
    visitor.open("/run/whole/list?kind=responses")
    expect(page.locator(".index")).to_contain_text("3 of 9 records")
    expect(page.locator(".empty")).to_contain_text("being indexed")
    page.unroute("**/api/run/whole/list?*")
    indexed(page)
    assert page.locator("table.list tbody tr").count() > 10


def test_a_list_of_many_loads_more_when_its_end_is_seen(visitor: Visitor) -> None:
    page = visitor.open("/run/many/list?kind=judgments")
    indexed(page)
    scroll(page)
    page.reload()
    visitor.drawn()
    assert page.locator("table.list tbody tr").count() > 100


def test_a_training_has_its_curves_and_steps(visitor: Visitor) -> None:
    page = visitor.open("/run/whole/training/1")
    assert "loss" in text_of(page, "table")
    page.locator("details summary").click()
    expect(page.locator("details table tbody tr")).to_have_count(2)


def test_the_answers_to_a_question_stand_beside_that_of_m1(visitor: Visitor) -> None:
    page = visitor.open("/run/asked/questions")
    expect(page.locator("table.questions tbody tr")).to_have_count(4)
    assert column(page, 6, "questions") == ["100%", "100%", "50%", "0%"]
    page.get_by_label("Result against M1").select_option("won")
    expect(page).to_have_url(re.compile(r"result=won$"))
    expect(page.locator("table.questions tbody tr")).to_have_count(1)
    page.get_by_label("Judge").select_option("1")
    expect(page.locator("table.questions td.text")).to_contain_text("Say it.")
    page.get_by_label("Judge").select_option("0")
    expect(page.locator("table.questions td.text")).to_contain_text("Name four letters.")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/run/asked/question/0\?judge=0&result=won$"))
    visitor.drawn()
    heads = page.locator("article.answer h2").all_inner_texts()
    assert [head.split()[0] for head in heads] == ["M1", "M2", "M3", "Reference"]
    last = text_of(page, "article.answer >> nth=2")
    assert "from M2" in last and "7 characters \u00b10" in last and "50% changed" in last
    assert re.search(r"won v M1, by M1\s+lost v M2, by M1\s+tie v M1, by hosted", last)


def test_keys_turn_questions_models_and_the_words_that_differ(visitor: Visitor) -> None:
    page = visitor.open("/run/asked/question/0?sort=number")
    assert page.locator("ins, del").count() == 0
    page.keyboard.press("d")
    expect(page.locator("article.answer").nth(2).locator("ins")).to_have_text(["x y"])
    expect(page.locator("article.answer").first.locator("del")).to_have_text(["c d"])
    page.keyboard.press("[")
    expect(page).to_have_url(re.compile("model=M2"))
    expect(page.locator("article.answer del")).to_have_count(0)  # M2 says what M1 does
    page.keyboard.press("]")
    expect(page.locator("article.answer del")).to_have_count(1)
    page.keyboard.press("n")
    expect(page).to_have_url(re.compile(r"/question/1\?model=M3&sort=number&diff=1$"))
    expect(page.locator("h1")).to_contain_text("question 1")
    page.keyboard.press("p")
    expect(page.locator("h1")).to_contain_text("question 0")
    page.keyboard.press("c")
    expect(page.locator("#said")).to_contain_text("Copied")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert (copied["number"], copied["reference"]) == (0, "a b c d")
    page.locator("h1 a").click()  # back to the list, as it was asked for
    expect(page.locator("table.questions tbody tr")).to_have_count(4)
    expect(page).to_have_url(re.compile(r"/questions\?model=M3&sort=number"))


def test_a_run_leads_to_its_questions_and_they_come_as_models_answer(
    visitor: Visitor, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visitor.open("/run/whole?iteration=1")
    page.get_by_role("link", name="Question by question").click()
    expect(page).to_have_url(re.compile("/run/whole/questions\\?model=M2$"))
    expect(page.locator("table.questions tbody tr")).to_have_count(60)
    monkeypatch.setenv("SELFREWARD_RUNS", str(server.runs))
    waiting = create_run(build_config({}, SMALL), "waiting")
    visitor.open("/run/waiting/questions")
    expect(page.get_by_text("No model has answered yet")).to_be_visible()
    ask_four(waiting)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # asks at once
    expect(page.locator("table.questions tbody tr")).to_have_count(4)
    page.get_by_role("link", name="Overview").click()
    page.get_by_role("link", name="Questions").click()
    expect(page.get_by_role("heading", name="Questions", exact=True)).to_be_visible()


def test_two_to_compare_are_chosen_by_address_or_by_hand(visitor: Visitor) -> None:
    page = visitor.open("/compare")
    page.get_by_role("combobox", name="Run").first.select_option("whole")
    expect(page).to_have_url(re.compile(r"a=whole"))
    page.get_by_role("combobox", name="Run").nth(1).select_option("whole")
    expect(page).to_have_url(re.compile(r"a=whole&b=whole"))
    visitor.open("/compare?a=whole:1&b=whole:2")
    assert page.get_by_role("combobox", name="Iteration").nth(1).input_value() == "2"


@pytest.mark.parametrize(
    ("path", "says"),
    [("/run/none", "no run 'none'"), ("/run/whole/prompt/1/9999", "no attempt 9999"),
     ("/run/whole/list?kind=nothing", "kind"), ("/nowhere", "Not Found"),
     ("/run/whole/training/77", "no training"),
     ("/run/asked/question/4", "no held-out question 4"),
     ("/run/asked/questions?kind=x", "Known: naming, saying")],
)  # fmt: skip
def test_what_is_not_there_is_said_in_words(visitor: Visitor, path: str, says: str) -> None:
    visitor.page.goto(visitor.base + path)
    expect(visitor.page.locator("body")).to_contain_text(says)


# Keys and addresses


def test_j_and_k_go_through_rows_and_enter_opens_one(visitor: Visitor) -> None:
    page = visitor.open("/run/whole/list?kind=prompts")
    indexed(page)
    keys = [r.get_attribute("data-key") for r in page.locator("[data-row]").all()]
    focused = "document.activeElement.closest('[data-row]').dataset.key"
    page.keyboard.press("j")
    assert page.evaluate(focused) == keys[0]
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.evaluate(focused) == keys[1]
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/prompt/\d+/\d+"))
    visitor.drawn()
    page.go_back()  # which ends before the page has begun to draw
    wait_until(page, f"document.activeElement.closest('[data-row]')?.dataset.key === '{keys[1]}'")


def test_n_and_p_turn_prompts_and_keep_what_is_unfolded(
    visitor: Visitor, attempts: list[int]
) -> None:
    page = visitor.open(f"/run/whole/prompt/1/{attempts[0]}")
    first = page.url
    page.keyboard.press("e")
    expect(page).to_have_url(f"{first}?unfold=1")
    expect(page.locator("article.answer details[open]").first).to_be_visible()
    page.keyboard.press("n")
    expect(page).not_to_have_url(f"{first}?unfold=1")
    assert "unfold=1" in page.url
    visitor.drawn()
    page.keyboard.press("p")
    expect(page).to_have_url(f"{first}?unfold=1")
    visitor.drawn()
    page.reload()
    visitor.drawn()
    assert page.locator("article.answer details[open]").count() > 0
    page.keyboard.press("e")
    expect(page).to_have_url(first)
    expect(page.locator("article.answer details[open]")).to_have_count(0)


def test_brackets_turn_iterations(visitor: Visitor, attempts: list[int]) -> None:
    page = visitor.open("/run/whole?iteration=1")
    page.keyboard.press("]")
    expect(page).to_have_url(re.compile("iteration=2"))
    expect(page.locator("#iteration")).to_contain_text("Iteration 2")
    page.keyboard.press("[")
    expect(page.locator("#iteration")).to_contain_text("Iteration 1")
    visitor.open("/run/whole/training/1")
    page.keyboard.press("]")
    expect(page).to_have_url(re.compile("/training/2"))
    visitor.open(f"/run/whole/prompt/1/{attempts[0]}")
    page.keyboard.press("]")
    expect(page).to_have_url(re.compile("/run/whole/prompt/2/"))


def test_slash_searches_and_escape_leaves_the_field(visitor: Visitor) -> None:
    page = visitor.open("/run/whole")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.press("j")  # a letter of the search, not a key
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.type") != "search"
    page.keyboard.press("/")
    page.keyboard.type("word")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/run/whole/list\?kind=responses&q=word"))


def test_d_marks_the_words_that_differ(visitor: Visitor, attempts: list[int]) -> None:
    page = visitor.open(f"/run/whole/prompt/1/{attempts[0]}")
    before = page.locator("article.chosen .model").first.inner_text()
    page.keyboard.press("d")
    expect(page).to_have_url(re.compile("diff=1"))
    assert page.locator("article.chosen ins").count() > 0
    assert page.locator("article.rejected del").count() > 0
    assert page.locator("article.chosen .model").first.inner_text() == before


def test_c_copies_the_page_as_json(visitor: Visitor, attempts: list[int]) -> None:
    page = visitor.open(f"/run/whole/prompt/1/{attempts[0]}")
    page.keyboard.press("c")
    expect(page.locator("#said")).to_contain_text("Copied")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert copied["attempt"] == attempts[0]


def test_the_question_mark_opens_help_and_escape_closes_it(visitor: Visitor) -> None:
    page = visitor.open("/run/whole")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("j")  # does nothing behind it
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Keys and help").click()
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_theme_is_that_of_the_system_until_it_is_switched(visitor: Visitor) -> None:
    page = visitor.open("/")
    color = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(color)
    page.keyboard.press("t")
    dark = page.evaluate(color)
    assert dark != light
    page.reload()
    visitor.drawn()
    assert page.evaluate(color) == dark


@pytest.mark.parametrize("screen", [name for name in SCREENS if name != "not there"])
def test_a_reload_gives_the_same_view(visitor: Visitor, attempts: list[int], screen: str) -> None:
    page = visitor.open(SCREENS[screen].format(attempt=attempts[0]))
    settled(page)  # what is computed for the first time is there from then on
    page.reload()
    before = settled(page)
    page.reload()
    assert settled(page) == before


# Runs that go on, connections that do not


def test_a_run_that_goes_on_is_followed_in_place(
    browser: Browser, server: Server, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(server.runs))
    live = create_run(build_config({}, SMALL), "live")
    add(live, range(30))
    page = visitor.open("/run/live/list?kind=responses&iteration=1")
    indexed(page)
    expect(page.locator("#live")).to_have_text("stopped")
    with live.owned() as store:
        page.reload()
        visitor.drawn()
        expect(page.locator("#live")).to_have_text("running")
        indexed(page)
        page.keyboard.press("j")
        page.keyboard.press("j")
        focused = "document.activeElement.closest('[data-row]').dataset.key"
        before, top = page.evaluate(focused), page.evaluate("scrollY")
        page.evaluate("document.querySelector('table.list').dataset.mark = 'same'")
        store.add(made(range(30, 33)))
        store.set_progress(1, "responses", 33, 40, 2.0)
        wait_until(page, "/\\b33 found/.test(document.querySelector('.count').textContent)")
        assert page.evaluate(focused) == before
        assert page.evaluate("scrollY") == top
        assert page.evaluate("document.querySelector('table.list').dataset.mark") is None
    expect(page.locator("#live")).to_have_text("stopped")


def test_a_lost_connection_is_said_and_found_again(browser: Browser, server: Server) -> None:
    own = Server(server.runs)
    visitor = Visitor(browser, own)
    try:
        page = visitor.open("/run/whole")
        expect(page.locator("#live")).to_have_text("finished")
        own.stop()
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # asks at once
        expect(page.locator("#live")).to_have_text("connection lost")
        expect(page.locator("h1")).to_contain_text("whole")  # what is there stays
        page.get_by_role("link", name="Training").click()
        expect(page.get_by_role("heading", name="Connection lost")).to_be_visible()
        own = Server(server.runs, port=own.port)
        expect(page.locator("#live")).to_have_text("finished")
        expect(page.locator("h1")).to_contain_text("Training")  # by itself
    finally:
        visitor.close()
        own.stop()


def test_a_run_that_is_removed_is_said_to_be(visitor: Visitor, server: Server, runs: Path) -> None:
    shutil.copytree(runs / "whole", runs / "brief")
    page = visitor.open("/run/brief")
    while (runs / "brief").exists():  # SQLite may put a file beside the records for a reader
        shutil.rmtree(runs / "brief", ignore_errors=True)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#live")).to_have_text("run removed")


# For everyone


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_screen_shuts_anyone_out(
    browser: Browser, server: Server, attempts: list[int], theme: str
) -> None:
    visitor = Visitor(browser, server, theme=theme)
    serious = []
    for name, path in SCREENS.items():
        if name in ("iteration", "prompts", "votes"):
            continue  # made of the same parts as others
        page = visitor.open(path.format(attempt=attempts[0]))
        if "/list" in path:
            indexed(page)
        wait_until(page, "!document.body.innerText.includes('Drawing\u2026')")
        serious += [f"{name}: {one}" for one in barriers(page)]
    page.keyboard.press("?")
    serious += [f"help: {one}" for one in barriers(page)]
    visitor.close()
    assert serious == []


@pytest.mark.parametrize("width", [390, 320])
def test_no_screen_is_wider_than_a_phone(
    browser: Browser, server: Server, attempts: list[int], width: int
) -> None:
    visitor = Visitor(browser, server, width=width)
    hostile = ["/run/hostile/prompt/1/0?unfold=1", "/run/hostile/list?kind=judgments"]
    wide = {}
    narrowest = [SCREENS[name] for name in ("run", "prompt", "left out", "label")]
    for path in [*(SCREENS.values() if width == 390 else narrowest), *hostile]:
        page = visitor.open(path.format(attempt=attempts[0]))
        found = page.evaluate("document.documentElement.scrollWidth")
        if found > width:
            wide[path] = found
    visitor.close()
    assert wide == {}


def test_a_self_judged_mean_never_stands_without_saying_so(
    visitor: Visitor, attempts: list[int]
) -> None:
    for name in ("runs", "run", "prompt", "answers"):
        page = visitor.open(SCREENS[name].format(attempt=attempts[0]))
        if name == "answers":
            indexed(page)
        expect(page.get_by_text("judge\u2019s own opinion").first).to_be_visible()


def test_without_the_token_nothing_is_shown(browser: Browser, server: Server) -> None:
    context = browser.new_context()
    page = context.new_page()
    answer = page.goto(f"{server.base}/run/whole")
    assert answer is not None and answer.status == 401
    page.goto(f"{server.base}/run/whole?token={TOKEN}")
    expect(page).to_have_url(f"{server.base}/run/whole")
    expect(page.locator("h1")).to_contain_text("whole")
    context.close()


# Parts


def barriers(page: Page) -> list[str]:
    """What axe finds that shuts people out."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:200]} {node.get('failureSummary')}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"][:2]
    ]


def column(page: Page, number: int, table: str = "list") -> list[str]:
    return page.locator(f"table.{table} tbody td:nth-child({number})").all_inner_texts()


def made(attempts: range) -> list:
    """Records of iteration 1: a prompt each, with one answer and one vote."""
    return [
        record
        for a in attempts
        for record in (
            Prompt(1, a, f"prompt {a}", f"prompt {a}", None, "", 3),
            Response(1, a, 0, f"answer {a}", "stop", 3),
            Judgment(1, a, 0, 0, "written", f"Score: {a % 6}", float(a % 6)),
        )
    ]


def judge_judgments(run: Run) -> None:
    """Of two prompts the judgments of the first gave a pair."""
    with run.owned() as store:
        store.plan({1: run.config.stages(1)})
        store.add([*made(range(2)), Judgment(1, 0, 0, 1, "written", "Score: 4", 4.0)])
        store.add([JudgePair(1, 0, 0, 1, 0, 12.0, -12.0), Drop(1, "judge_pairs", "1", "tie")])


def add(run: Run, attempts: range) -> None:
    with run.owned() as store:
        store.plan({1: run.config.stages(1)})
        store.add(made(attempts))
        store.set_progress(1, "responses", len(attempts), 40, 1.0)
