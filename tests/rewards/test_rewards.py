"""The shipped reward functions, by cases worked out by hand."""

import importlib
import json
import sys

import pytest

from selfreward.inputs import shipped
from selfreward.rewards.constraints import check, keeps, loose, loose_all, strict, strict_all
from selfreward.rewards.mathematics import equal
from selfreward.rewards.repetition import distinct, ended
from selfreward.rewards.votes import final_answer, share


@pytest.mark.parametrize(
    ("name", "value", "kept", "broken"),
    [
        ("max_words", 3, "A red plum", "A red ripe plum"),
        ("min_words", 3, "A red plum", "A plum"),
        ("max_sentences", 1, "It is 3.5 m.", "It rains. It pours!"),
        ("min_sentences", 2, "It rains. It pours!", "It rains."),
        ("max_paragraphs", 1, "One\ntwo", "One\n\ntwo"),
        ("min_paragraphs", 2, "One\n\ntwo", "One\ntwo"),
        ("format", "json", '```json\n{"a": 1}\n```', "{a: 1}"),
        ("format", "bullets", "Fruits:\n- plum\n- pear", "plum, pear"),
        ("format", "numbers", "1. plum\n2) pear", "1 plum"),
        ("items", 2, "* plum\n* pear", "* plum"),
        ("keywords", ["plum"], "A Plum.", "Plums."),
        ("no_keywords", ["plum"], "Plums.", "A plum."),
        ("case", "lower", "a plum", "A plum"),
        ("case", "upper", "A PLUM", "A plum"),
        ("starts_with", "Well", "well, yes", "Yes, well"),
        ("ends_with", "Yes?", "No. Yes?", "Yes? No."),
    ],
)
def test_each_constraint_is_kept_by_one_text_and_broken_by_another(
    name: str, value: object, kept: str, broken: str
) -> None:
    assert keeps(kept, name, value)
    assert not keeps(broken, name, value)


def test_the_share_is_by_constraint_and_all_by_answer() -> None:
    both = [{"max_words": 2, "case": "lower"}] * 2 + [None]
    texts = ["a plum", "A plum", "any"]
    assert strict(texts, constraints=both) == [1, 0.5, None]
    assert strict_all(texts, constraints=both) == [1, 0, None]


def test_loose_forgives_a_frame_that_strict_does_not() -> None:
    framed, asked = ["Sure:\n**a plum**\nEnjoy!"], [{"max_words": 2, "starts_with": "a"}]
    assert strict(framed, constraints=asked) == [0]
    assert loose(framed, constraints=asked) == loose_all(framed, constraints=asked) == [1]


@pytest.mark.parametrize("bad", [{"max_word": 2}, {"max_words": "2"}, {"format": "xml"}, [1]])
def test_a_constraint_that_there_is_not_is_an_error_and_not_a_broken_one(bad: object) -> None:
    with pytest.raises(ValueError):
        strict(["a"], constraints=[bad])


def test_repeated_sequences_count_once_in_their_share() -> None:
    # a b a b a b a b: abab, baba, abab, baba, abab: two of five are different
    assert distinct(["a b a b a b a b", "a b c d e", "a b c"]) == [0.4, 1, None]


def test_an_answer_that_breaks_off_has_not_ended() -> None:
    assert ended(["It rains.", "It rains and", "- plum)"]) == [1, 0, 1]


@pytest.mark.parametrize(
    ("code", "kept", "broken"),
    [
        ("de", "Der Himmel ist blau, weil die Luft Licht streut.", "The sky is blue today."),
        ("en", "The sky is blue because air scatters light.", "Le ciel est bleu."),
        (
            "ja",
            "\u7a7a\u304c\u9752\u3044\u306e\u306f\u3001\u7a7a\u6c17\u304c\u5149\u3092\u6563\u4e71\u3059\u308b\u304b\u3089\u3067\u3059\u3002",
            "42!",
        ),
    ],
)
def test_an_answer_is_in_the_language_that_it_is_to_be_in(
    code: str, kept: str, broken: str
) -> None:
    pytest.importorskip("py3langid")
    assert strict([kept, broken], constraints=[{"language": code}] * 2) == [1, 0]


def test_a_language_is_a_code() -> None:
    pytest.importorskip("py3langid")
    with pytest.raises(ValueError, match="language takes a code such as de or zh, found 'German'"):
        check({"language": "German"})


def test_without_its_library_a_language_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    check({"max_words": 3})
    with pytest.raises(ImportError, match=r"pip install 'selfreward-loop\[language\]'"):
        check({"max_words": 3, "language": "de"})


def test_equal_values_are_equal_however_they_are_written() -> None:
    texts = ["So it is \\boxed{0.5}", "The answer is 3.", "any"]
    assert equal(texts, answer=["1/2", 4, None]) == [1, 0, None]


def test_without_its_library_mathematics_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    monkeypatch.delitem(sys.modules, "selfreward.rewards.mathematics")
    with pytest.raises(ImportError, match=r"pip install 'selfreward-loop\[math\]'"):
        importlib.import_module("selfreward.rewards.mathematics")


def test_all_that_the_shipped_questions_are_held_to_can_be_computed() -> None:
    path = shipped.prompts_directory() / "seed" / "questions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    held = [row["constraints"] for row in rows if "constraints" in row]
    assert len(held) == 19
    assert all(isinstance(keeps("An answer.", *one), bool) for of in held for one in of.items())
    assert strict(["It arrives at 17:25."], constraints=[rows[7]["constraints"]]) == [1]
    assert strict(["It arrives at 16:85."], constraints=[rows[7]["constraints"]]) == [0]


@pytest.mark.parametrize(
    ("text", "final"),
    [
        (r"So 6 x 7 = \boxed{42}.", "42"),
        (r"\boxed{1} or rather \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("2 + 2 = 4\nThe answer is 4.", "4"),
        ("The answer is **(B)**, since A is 3.", "b"),
        ("Answer: 1,250.00 dollars", "1250"),
        ("#### -0.50", "-0.5"),
        ("The answer is 7 because 3 + 4 is 7.", "7"),
        ("First 3, then 12 in all", "12"),
        ("Half of it, 1/2", "1/2"),
        ("No idea.", None),
        ("", None),
        ("The answer is .5.", "0.5"),
        ("The answer is 0.50.", "0.5"),
        ("-.25", "-0.25"),
        (r"\boxed{\sqrt{2}}", r"\sqrt{2}"),
        (r"\boxed{2x}", "2x"),
        (r"\boxed{x^2}", "x^2"),
        (r"\boxed{\frac12}", r"\frac12"),
        ("answer: (B) 4", "b) 4"),
        (r"\boxed{\$42}", "42"),
        (r"\boxed{42\text{ cm}}", "42"),
        (r"\boxed{90^\circ}", "90"),
        ("so x = 4 and the answer is x = 4", "4"),
    ],
)
def test_the_final_answer_of_a_text_is_found(text: str, final: str | None) -> None:
    assert final_answer(text) == final


def test_a_vote_is_the_share_of_all_that_was_sampled_with_the_same_final_answer() -> None:
    texts = ["It is 12.", "Answer: 12", "The answer is 11.", "No idea."]
    assert share(texts, [texts] * 4) == [0.5, 0.5, 0.25, None]
