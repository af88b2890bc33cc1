"""Text that wants to act, in every text field of a run: no verb lets it, anywhere it writes."""

import csv
import json
import re
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import get_type_hints

import pytest

from selfreward.config.load import build_config
from selfreward.inputs.collect import create_run
from selfreward.storage.tables import TABLES
from tests.support import DATA, ROOT, payloads
from tests.support.fuzz import Law
from tests.support.payloads import MARKUP, PAYLOADS, fill
from tests.support.runs import SMALL, UNSAFE

OWN = {
    ("Judgment", "form"), ("Comparison", "form"), ("MetaJudgment", "form"),
    ("Response", "dropped"), ("Drop", "stage"), ("Drop", "item"),
}  # fmt: skip
"""Fields whose words are ours alone, or numbers."""
ACTS = {"script", "iframe", "object", "embed", "base", "form", "input", "video", "audio", "link",
    "image", "animate", "foreignobject", "math", "template", "dialog"}  # fmt: skip
FORMULA = re.compile(r"[=+@\t\r]|-(?![\d.]+$)")
"""What a spreadsheet would calculate; a negative number it may."""
READERS = [
    "status evil", "ls", "scores evil", "scores evil --all", "show evil", "show evil --best 9",
    "show evil --worst 9", "show evil --disagree 9", "show evil --failed",
    *(f"show evil {number}" for number in range(len(PAYLOADS))),
    "pairs evil", "report evil --output report.html",
    "export evil --output csv --format csv", "export evil --output jsonl --format jsonl",
]  # fmt: skip
"""Command lines that show records, or write what they say."""


def test_every_text_field_of_every_record_is_attacked_as_the_page_on_security_says() -> None:
    """A field that is added later is, too, or is named as our own words."""
    made = payloads._records(0, 1, PAYLOADS[0]) + payloads._records(1, 2, PAYLOADS[0])
    found = {
        (type(record).__name__, field.name)
        for record in made
        for field in fields(record)
        if PAYLOADS[0][:20] in str(getattr(record, field.name))
    }
    texts = {
        (kind.__name__, name)
        for kind in TABLES
        for name, hint in get_type_hints(kind).items()
        if "str" in str(hint)
    }
    assert texts == found | OWN and not found & OWN
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    attacks = (DATA / "attacks.jsonl").read_text(encoding="utf-8").count("\n")
    for count, what in (
        (attacks, "a response"),
        (len(PAYLOADS), "would act"),
        (len(found), "of records"),
    ):
        assert re.search(rf"^\|.*{what}.*\| {count} \|$", page, re.M), (count, what)


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("evil")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(place / "runs"))
        fill(create_run(build_config({"model": f"org/{MARKUP[4]}"}, SMALL), "evil"), PAYLOADS)
    return place


@pytest.mark.parametrize("words", READERS)
def test_no_verb_lets_text_act(
    law: Law, evil: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(evil / "runs"))
    monkeypatch.chdir(evil)
    said = law.obey(words.split())
    assert said.code == 0, said
    assert not (UNSAFE - {"\n"}) & set(said.out + said.err), words
    for path in evil.glob("csv/*.csv"):
        csv.field_size_limit(10**8)
        with open(path, newline="", encoding="utf-8") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        acting = [cell for cell in cells if FORMULA.match(cell)]
        assert not acting, (path, acting[:3])
    for path in evil.glob("jsonl/*.jsonl"):
        assert all(map(json.loads, path.read_text(encoding="utf-8").split("\n")[:-1]))
    if words.startswith("report"):
        page = Page()
        page.feed((evil / "report.html").read_text(encoding="utf-8"))
        assert page.odd == []


class Page(HTMLParser):
    """What of a page could act."""

    def __init__(self) -> None:
        super().__init__()
        self.odd: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        odd = tag in ACTS or any(
            name.startswith(("on", "srcdoc", "data-owned"))
            or (
                name in ("href", "src")
                and re.match(r"\W*(?:\w+script|https?|//|data:text)", value or "")
            )
            for name, value in attrs
        )
        self.odd += [f"{tag} {attrs}"] if odd else []
