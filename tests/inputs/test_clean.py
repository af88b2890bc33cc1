"""Cleaning the data that people bring: what goes and why, and that all is accounted for."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.cli.main import invoke
from selfreward.config import SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs.clean import Cleaned, Cleaning, clean
from selfreward.inputs.personal import kinds_in


def write(path: Path, rows: list[dict[str, Any]]) -> SeedSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SeedSource(path=str(path))


def cleaned(tmp_path: Path, rows: list[dict[str, Any]], **how: Any) -> tuple[Cleaned, Path]:
    out = tmp_path / "out"
    return clean(write(tmp_path / "rows.jsonl", rows), out, Cleaning(**how)), out


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def reasons(tmp_path: Path, rows: list[dict[str, Any]], **how: Any) -> list[str | None]:
    """Why each row went; None where it stayed as it was."""
    _, out = cleaned(tmp_path, rows, **how)
    went = {row["at"].rpartition(":")[2]: row["reason"] for row in lines(out / "dropped.jsonl")}
    stayed = [row for n, row in enumerate(rows, 1) if str(n) not in went]
    assert lines(out / "train.jsonl") == stayed
    return [went.get(str(number)) for number in range(1, len(rows) + 1)]


def asked(prompt: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response": "Yes.", **more}


def test_of_prompts_that_begin_alike_the_first_stays(tmp_path: Path) -> None:
    rows = [asked("Name a fruit."), asked("name  a FRUIT!"), asked("Name a tree."), asked("Name")]
    assert reasons(tmp_path, rows, prefix=12) == [None, "duplicate", None, None]


def test_a_system_turn_that_all_prompts_share_makes_no_duplicates_of_them(tmp_path: Path) -> None:
    system = "You are the assistant of a library. " * 5
    rows = [asked(f"Where is book {n}?", system=system) for n in range(3)]
    assert reasons(tmp_path, [*rows, rows[0]]) == [None, None, None, "duplicate"]


def test_rows_of_one_line_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"prompt": "Why?", "chosen": "So.", "rejected": "No."}] * 3))
    found = clean(SeedSource(path=str(path)), tmp_path / "out", Cleaning())
    assert found.dropped == {"duplicate": 2}


def test_a_short_prompt_is_no_duplicate_of_one_that_goes_on(tmp_path: Path) -> None:
    assert (
        reasons(tmp_path, [asked("Name a fruit"), asked("Name a fruit and a tree")]) == [None] * 2
    )


def test_rows_that_compare_answers_to_one_prompt_belong_together(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
        {"prompt": "Why?", "chosen": "So.", "rejected": "Oh."},
        {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "id": 3},
        {"prompt": "How?", "response": "Well.", "rank": 0},
        {"prompt": "How?", "response": "Badly.", "rank": 1},
    ]
    assert reasons(tmp_path, rows) == [None, None, "duplicate", None, None]


def test_what_prefers_nothing_goes(tmp_path: Path) -> None:
    rows = [
        {"prompt": "A", "chosen": "x", "rejected": " x\n"},
        {"prompt": "B", "response_a": "x", "response_b": "x", "label": "A"},
        {"prompt": "C", "response_a": "x", "response_b": "y", "label": "tie"},
        {"prompt": "D", "responses": [{"text": "x", "rank": 1}, {"text": "y", "rank": 1}]},
        {"prompt": "E", "response": "x", "rank": 2},
        {"prompt": "E", "response": "y", "rank": 2},
        {"prompt": "F", "responses": [{"text": "x", "score": 3}, {"text": "y", "score": 3}]},
        {"prompt": "G", "responses": [{"text": "x", "rank": 1}, {"text": "y", "rank": 2}]},
        {"prompt": "H", "response": "  "},
        {"prompt": "I", "chosen": "x", "rejected": " "},
        {"prompt": "J", "response_a": "", "response_b": "x", "label": "B"},
    ]
    assert reasons(tmp_path, rows) == [
        "equal texts", "equal texts", "all tied", "all tied", "all tied", "all tied", None, None,
        "empty", "empty", "empty",
    ]  # fmt: skip


def test_of_one_user_the_first_prompts_stay_and_rows_of_a_prompt_count_once(
    tmp_path: Path,
) -> None:
    rows = [
        asked("One", who="a"), asked("Two", who="a"), asked("Three", who="a"), asked("Four", who=7),
        {"prompt": "Five", "chosen": "x", "rejected": "y", "who": 7},
        {"prompt": "Five", "chosen": "x", "rejected": "z", "who": 7},
    ]  # fmt: skip
    found = reasons(tmp_path, rows, user="who", per_user=2)
    assert found == [None, None, "too many of a user", None, None, None]


def test_no_user_is_on_both_sides_of_the_split_and_more_data_moves_nobody(tmp_path: Path) -> None:
    rows = [asked(f"Prompt {n}", who=n % 20) for n in range(100)]
    sides = []
    for part in (rows[:60], rows):
        found, out = cleaned(tmp_path, part, user="who", test=0.3)
        sides.append([{r["who"] for r in lines(out / f"{s}.jsonl")} for s in ("train", "test")])
        assert found.users == 20
        for file in out.iterdir():
            file.unlink()
        out.rmdir()
    assert sides[0] == sides[1]
    train, test = sides[0]
    assert train and test and not train & test and len(train | test) == 20


def test_what_two_users_asked_alike_is_no_prompt_of_both(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Hi", "chosen": "x", "rejected": "y", "who": "a"},
        {"prompt": "Hi", "chosen": "y", "rejected": "z", "who": "b"},
        asked("One", who="b"),
    ]
    assert reasons(tmp_path, rows, user="who") == [None, "duplicate", None]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Write to jo.doe+x@mail.corp.org today", ["email"]),
        ("Write to jo@example.com or me@site.test", []),
        ("Call +49 (0)30 1234567 or (212) 736-5000", ["phone"]),
        ("Call 212-555-0123", []),  # reserved for fiction
        ("Ring 030 1234567", ["phone"]),
        ("Pay with 4111 1111 1111 1111.", ["card"]),
        ("Pay with 4111 1111 1111 1112.", []),  # the check digit is wrong
        ("0000 0000 0000 0000", []),
        ("From 8.8.8.8 and 2606:4700::1111", ["IP address"]),
        ("From 192.168.0.1, 127.0.0.1, 203.0.113.7 or ::1", []),  # private, loop, for examples
        ("Release 1.2.3.4.5 at 12:30:15, 300.1.1.1", []),
        ("It was 1999-2004, about 1,000,000 in 10 000 years; pi is 3.14159265358979", []),
        ("me@home, @jo and #12345678", []),
        ("xs[::2] and a::b, 0xdead::beef", []),
        ("jo@a-mail.com, 5500 0000 0000 0004", ["email", "card"]),
    ],
)
def test_personal_data_is_found_and_what_looks_alike_is_not(text: str, kinds: list[str]) -> None:
    assert kinds_in(text) == kinds


def test_personal_data_is_looked_for_in_every_text_and_not_in_other_columns(tmp_path: Path) -> None:
    rows = [
        {"prompt": "A", "response": "jo@corp.com"},
        {"prompt": "B", "chosen": "x", "rejected": "jo@corp.com"},
        {"prompt": "C", "responses": [{"text": "x", "rank": 1}, {"text": "8.8.8.8", "rank": 2}]},
        {"messages": [{"role": "user", "content": "I am jo@corp.com"},
                      {"role": "assistant", "content": "Hi."}]},
        {"prompt": "D", "response": "y", "who": "jo@corp.com"},
    ]  # fmt: skip
    found, out = cleaned(tmp_path, rows, user=None)
    assert found.personal == {"email": 3, "IP address": 1}
    assert lines(out / "train.jsonl") == rows[4:]


def test_it_may_be_kept(tmp_path: Path) -> None:
    assert reasons(tmp_path, [asked("Mail jo@corp.com")], keep_personal=True) == [None]


ROWS = st.lists(
    st.fixed_dictionaries(
        {"prompt": st.text("abc A", max_size=4), "response": st.text("ab ", max_size=2)},
        optional={"rank": st.integers(0, 2)},
    ),
    min_size=1,
    max_size=12,
)


@given(ROWS, st.integers(1, 5))
def test_rows_in_are_rows_out_and_drops(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], prefix: int
) -> None:
    folder = tmp_path_factory.mktemp("clean")
    try:
        found, out = cleaned(folder, rows, prefix=prefix)
    except ConfigError as error:
        assert "no row is left" in error.message and not (folder / "out").exists()
        return
    kept = lines(out / "train.jsonl")
    dropped = lines(out / "dropped.jsonl")
    every = Counter(map(json.dumps, [*kept, *(row["row"] for row in dropped)]))
    assert every == Counter(map(json.dumps, rows))
    assert found.read == len(rows) == sum(found.files.values())
    assert found.dropped == Counter(row["reason"] for row in dropped)


@pytest.mark.parametrize(
    ("rows", "how", "said"),
    [
        ([{"question": "Why?"}], {}, "needs a text in column 'prompt'"),
        ([asked("A")], {"user": "uid"}, "says nothing of its user in column 'uid'"),
        ([asked("A", uid="")], {"user": "uid"}, "which is empty"),
        ([asked("jo@corp.com")], {}, "no row is left; dropped: personal data 1"),
        ([asked("A", uid=1)], {"user": "uid", "test": 0.5}, "of so few users leaves nobody for"),
        ([], {}, "holds no rows"),
    ],
)
def test_what_cannot_be_cleaned_is_one_line_and_nothing_is_written(
    tmp_path: Path, rows: list[dict[str, Any]], how: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        cleaned(tmp_path, rows, **how)
    assert said in error.value.message and "\n" not in error.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["NaN", "-Infinity", '{"deep": [NaN]}'])
@pytest.mark.parametrize("row", ['"response": "Yes."', '"chosen": "A.", "rejected": "A."'])
def test_what_json_does_not_have_is_named_with_its_line(
    tmp_path: Path, value: str, row: str
) -> None:
    """Whether the row would stay or go."""
    path = tmp_path / "rows.jsonl"
    path.write_text(
        f'{json.dumps(asked("Name a tree."))}\n{{"prompt": "Why?", {row}, "x": {value}}}\n'
    )
    with pytest.raises(ConfigError, match=re.escape(f"{path}:2: ")) as error:
        clean(SeedSource(path=str(path)), tmp_path / "out", Cleaning())
    assert "NaN" in error.value.hint
    assert not (tmp_path / "out").exists()


def test_the_verb_says_how_many_went_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"q": "One", "a": "1"}, {"q": "one", "a": "2"}, {"q": "Two jo@corp.com", "a": "3"}]
    write(tmp_path / "rows.jsonl", rows)
    words = ["data", "clean", str(tmp_path / "rows.jsonl"), "--column", "prompt=q"]
    assert invoke([*words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "read 3 rows, kept 1" in said
    assert "duplicate 1" in said and "personal data 1" in said and "email 1" in said
    assert invoke([*words, "--out", str(tmp_path / "out")]) == 2
    assert "exists; nothing was written" in capsys.readouterr().err
    assert invoke([*words, "--out", str(tmp_path / "more"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dropped"] == {"duplicate": 1, "personal data": 1} and found["read"] == 3
    assert invoke([*words, "--column", "prompt", "--out", str(tmp_path / "x")]) == 2
    assert "expected OURS=THEIRS" in capsys.readouterr().err
    assert invoke([*words, "--out", str(tmp_path / "third"), "--column", "prompt=text"]) == 2
    assert "one of our names is given twice" in capsys.readouterr().err
