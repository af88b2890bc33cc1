"""Writing prompts: cutting, filters, the pool, and an order that does not depend on timing."""

# ruff: noqa: RUF001

import asyncio
import random
import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfreward.config import PromptsConfig, SeedSource
from selfreward.engines.base import Generation, RequestError
from selfreward.inputs.columns import PromptRow
from selfreward.inputs.seeds import read_prompts
from selfreward.inputs.templates import find_template, load_template
from selfreward.records import FinishReason, Prompt
from selfreward.stages.pool import Pool, cut, cut_lines, rouge_l, why_dropped
from selfreward.stages.prompts import Author, draw_prompts, topic_of
from selfreward.stages.words import count_words, is_unspaced, words
from tests.support.scripted import ScriptedChat, ScriptedEngine, scripted_words

TEMPLATE = load_template(find_template("instruct/few_shot.jinja"), {"demonstrations"})
SEEDS = [f"Explain the number {word} to a curious child" for word in ("one", "two", "ten")]
SEEDS += [
    "Name five animals that live in a forest",
    "Write a short poem about the sea",
    "List the steps to boil rice well",
]

CUTS = [
    ("plain", "Explain gravity to a child.", "Explain gravity to a child."),
    ("leading space, as after '9.'", " Explain gravity.", "Explain gravity."),
    ("numbered", "9. Explain gravity.", "Explain gravity."),
    ("numbered with a parenthesis", "9) Explain gravity.", "Explain gravity."),
    ("bullet", "- Explain gravity.", "Explain gravity."),
    ("star", "* Explain gravity.", "Explain gravity."),
    ("dot", "• Explain gravity.", "Explain gravity."),
    ("goes on with the list", "Explain gravity.\n10. Name a bird.\n11. Sing.", "Explain gravity."),
    ("goes on on the same line", "Name a fruit. 10. Name a bird.", "Name a fruit."),
    ("answers on the next line", "Name a fruit.\nApple.", "Name a fruit."),
    ("answers on the same line", "Name a fruit. Answer: apple", "Name a fruit."),
    ("answers in bold", "Name a fruit. **Answer:** apple", "Name a fruit."),
    ("answers as an assistant", "What is 2 + 2? Assistant: 4", "What is 2 + 2?"),
    ("answers as A", "What is 2 + 2? A: 4", "What is 2 + 2?"),
    ("gives an output", "Sort 3, 1, 2. Output: 1, 2, 3", "Sort 3, 1, 2."),
    ("labelled", "Task: Name a fruit.", "Name a fruit."),
    ("labelled in bold", "**Instruction:** Name a fruit.", "Name a fruit."),
    ("labelled and numbered", "9. Request : Name a fruit.", "Name a fruit."),
    ("labelled Q", "Q: What is a quark?", "What is a quark?"),
    ("in quotes", '"Name a fruit."', "Name a fruit."),
    ("in curly quotes", "“Name a fruit.”", "Name a fruit."),
    ("in single quotes", "'Name a fruit.'", "Name a fruit."),
    ("in bold", "**Name a fruit.**", "Name a fruit."),
    ("in bold and quotes", '**"Name a fruit."**', "Name a fruit."),
    ("windows line end", "Name a fruit.\r\n10. Name a bird.", "Name a fruit."),
    ("runs of space", "Name   a\tfruit.", "Name a fruit."),
    ("blank lines before", "\n\n  Name a fruit.", "Name a fruit."),
    ("nothing", "", ""),
    ("only space", " \n ", ""),
    ("asks about an answer", "Is the answer: 42 or 43?", "Is the answer: 42 or 43?"),
    ("vitamin A", "Vitamin A: what is it good for?", "Vitamin A: what is it good for?"),
    ("quotes inside", "'Hi' and 'bye': which is a greeting?",
     "'Hi' and 'bye': which is a greeting?"),
    ("begins with a quotation", '"To be or not to be" is from which play?',
     '"To be or not to be" is from which play?'),
    ("begins with a number", "3 friends share 12 apples; how many each?",
     "3 friends share 12 apples; how many each?"),
    ("decimals", "What is 3.5 times 2. 5?", "What is 3.5 times 2. 5?"),
    ("version number", "What is new in Python 3.11 for typing?",
     "What is new in Python 3.11 for typing?"),
    ("fullwidth colon", "Task：Name a fruit.", "Name a fruit."),
    ("labelled in Chinese", "问题：光合作用是什么？", "光合作用是什么？"),
    ("answered in Japanese", "質問：月は何ですか？ 答え：衛星です。", "月は何ですか？"),
    ("numbered in Chinese", "9、写一首短诗。10、介绍一本书。", "写一首短诗。"),
    ("in corner brackets", "「写一首短诗。」", "写一首短诗。"),
    ("labelled in Korean", "질문: 달은 무엇인가요?", "달은 무엇인가요?"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "expected"), [c[1:] for c in CUTS], ids=[c[0] for c in CUTS])
def test_cut_takes_the_first_request_alone(raw: str, expected: str) -> None:
    assert cut(raw) == expected


@given(st.text())
def test_cut_gives_one_line_without_outer_space(raw: str) -> None:
    text = cut(raw)
    assert text == text.strip()
    assert "\n" not in text and "\r" not in text


LINES = [
    ("one line", "Name a fruit.", "Name a fruit."),
    ("numbered", " 9. Name a fruit.", "Name a fruit."),
    ("two lines", "Shorten this:\nthe cat  sat", "Shorten this:\nthe cat  sat"),
    ("windows line ends", "Shorten this:\r\nthe cat", "Shorten this:\nthe cat"),
    ("up to the next number", "Shorten this:\nthe cat\n10. Name a bird.", "Shorten this:\nthe cat"),
    ("up to the next number in bold", "Sort:\n3 1\n**10.** Name a bird.", "Sort:\n3 1"),
    ("up to the next number on the same line", "Name a fruit. 10. Name a bird.", "Name a fruit."),
    ("up to a marker", "Sort:\n3 1\n### Request\nmore", "Sort:\n3 1"),
    ("an answer on a line of its own", "Sort:\n3 1\nAnswer: 1 3", "Sort:\n3 1"),
    ("a list of its own", "Rank these:\n1. tea\n2. milk", "Rank these:\n1. tea\n2. milk"),
    ("a number that begins like the next one", "Sum:\n10.5\n7", "Sum:\n10.5\n7"),
    ("indented code", "Mend this:\n    if x:\n        y()", "Mend this:\n    if x:\n        y()"),
    ("a paragraph", "Reply to this.\n\nDear all, ...", "Reply to this.\n\nDear all, ..."),
    ("quoted as a whole", '"Sort:\n3 1"', "Sort:\n3 1"),
    ("nothing", " \n ", ""),
]


@pytest.mark.parametrize(("raw", "expected"), [c[1:] for c in LINES], ids=[c[0] for c in LINES])
def test_a_prompt_of_several_lines_ends_at_the_next_number_or_a_marker(
    raw: str, expected: str
) -> None:
    assert cut_lines(raw, 10) == expected


def test_where_there_is_no_list_a_number_ends_nothing() -> None:
    assert cut_lines("Rank these:\n10. tea\n11. milk") == "Rank these:\n10. tea\n11. milk"


def reason(text: str, finish: FinishReason = "stop", **settings: object) -> tuple[str | None, str]:
    config = PromptsConfig.model_validate({"min_words": 4, "max_words": 12, **settings})
    generation = Generation(text, (), finish)
    return why_dropped(text, generation, ScriptedChat(), Pool(SEEDS), config)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Describe how bread is baked", (None, "")),
        ("", ("empty", "")),
        ("?!... --", ("empty", "")),
        ("Sing a song", ("too short", "3 words")),
        ("why " * 13, ("too long", "13 words")),
        ("Describe the IMAGE, please, in words", ("keyword", "image")),
        ("Describe the imagery of this poem", (None, "")),
        ("Say <|im_end|> three times in a row", ("control token", "<|im_end|>")),
        (SEEDS[0], ("similar", SEEDS[0])),
        (SEEDS[0].upper() + "?!", ("similar", SEEDS[0])),
        ("Explain the number nine to a curious child", ("similar", SEEDS[0])),
    ],
)
def test_each_filter_gives_its_reason(text: str, expected: tuple) -> None:
    assert reason(text) == expected


ZH = read_prompts(SeedSource(path="seed/zh.jsonl"))
OTHERS = [
    "请写一封信，向朋友介绍你最近读过的一本书。", "为什么天空是蓝色的？",
    "東京で雨の日にできることを教えて", "りんごは何色ですか？", "ช่วยเขียนจดหมายถึงเพื่อน",
    "ทำไมท้องฟ้าจึงเป็นสีฟ้า", "사과는 무슨 색이야?",
    "봄에 관한 짧은 시를 써 주세요", "ຂຽນຈົດໝາຍຫາໝູ່", "សរសេរសំបុត្រមួយ",
]  # fmt: skip


@pytest.mark.parametrize("text", OTHERS)
def test_a_prompt_in_a_script_without_spaces_is_neither_short_nor_new_twice(text: str) -> None:
    settings = PromptsConfig()
    generation = Generation(text, (), "stop")
    fresh, known = Pool(SEEDS), Pool([text])
    assert why_dropped(text, generation, ScriptedChat(), fresh, settings) == (None, "")  # type: ignore[arg-type]
    near = text[:-2] + "x" + text[-1]
    assert why_dropped(near, generation, ScriptedChat(), known, settings) == ("similar", text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Don't stop_now: it's 3½ o'clock", "don t stop_now it s 3½ o clock"),
        ("Größe, été, Ёлка, שלום", "grösse été ёлка שלום"),
        ("हिन्दी में कविता", "हिन्दी में कविता"),
        ("读两本Python书", "读 两 本 python 书"),
        ("コーヒー2杯", "コ ー ヒ ー 2 杯"),
        ("กี่วัน", "กี่ วั น"),
        ("봄이 왔다.", "봄 이 왔 다"),
    ],
)
def test_words_of_many_scripts(text: str, found: str) -> None:
    assert words(text) == found.split()


@given(st.text(alphabet=st.characters(max_codepoint=0x2E7F, exclude_categories=["Mn", "Mc", "Me"])))
def test_words_parted_by_spaces_are_as_they_were_and_so_is_their_number(text: str) -> None:
    """Of Latin, Greek, Cyrillic and others: earlier runs go on as they began."""
    if not is_unspaced(text):
        assert words(text) == re.findall(r"\w+", text.casefold())
        assert count_words(text) == len(text.split())


def test_keywords_in_any_script_and_none_at_all() -> None:
    asks = "请画一张图片，再写一个image的说明"
    assert reason(asks, keywords=["图片"], max_words=50) == ("keyword", "图片")
    assert reason(asks, max_words=50) == ("keyword", "image")
    assert reason(asks, keywords=[], max_words=50) == (None, "")


def test_a_prompt_that_was_cut_off_is_dropped() -> None:
    assert reason("Describe how bread is", "length")[0] == "truncated"


def slow_rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """The textbook table."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            longer = max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else longer
    lcs = table[-1][-1]
    if lcs == 0:
        return 0.0
    precision, recall = lcs / len(b), lcs / len(a)
    return 2 * precision * recall / (precision + recall)


WORDS = st.lists(st.sampled_from("abcde"), max_size=14)


@given(WORDS, WORDS)
def test_rouge_l_equals_a_slow_reference(a: list[str], b: list[str]) -> None:
    assert rouge_l(a, b) == pytest.approx(slow_rouge_l(a, b), abs=1e-12)


@given(WORDS, WORDS, st.sampled_from([0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]))
def test_a_cutoff_never_changes_which_side_of_it_a_pair_is_on(
    a: list[str], b: list[str], cutoff: float
) -> None:
    assert (rouge_l(a, b, cutoff) >= cutoff) == (rouge_l(a, b) >= cutoff)


@pytest.mark.parametrize("tenths", range(1, 11))
def test_a_value_that_equals_the_cutoff_counts_as_similar(tenths: int) -> None:
    a = [str(i) for i in range(10)]
    b = a[:tenths] + [f"other {i}" for i in range(10 - tenths)]
    assert rouge_l(a, b, tenths / 10) >= tenths / 10
    shorter = a[: tenths - 1] + [f"other {i}" for i in range(11 - tenths)]
    assert rouge_l(a, shorter, tenths / 10) < tenths / 10


@given(
    st.lists(WORDS, max_size=8), st.lists(WORDS, max_size=8), st.lists(st.sampled_from("abcdxy")),
    st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
)  # fmt: skip
def test_the_pool_gives_the_first_text_that_rouge_l_calls_similar(
    seeds: list[list[str]], more: list[list[str]], these: list[str], cutoff: float
) -> None:
    pool = Pool([*map(" ".join, seeds)], [*map(" ".join, more)])
    near = (known for known in [*seeds, *more] if rouge_l(these, known) >= cutoff)
    found = next(near, None)
    assert pool.nearest(" ".join(these), cutoff) == (None if found is None else " ".join(found))


# Whole stage


def write(
    settings: PromptsConfig,
    *,
    delay_s: float = 0.0,
    committed: Sequence[Prompt] = (),
    earlier: Sequence[str] = (),
    run_seed: int = 0,
    reply: Callable[[str, int], tuple[str, FinishReason]] | None = None,
    engine: ScriptedEngine | None = None,
    seeds: Sequence[str] = SEEDS,
) -> list[Prompt]:
    """What the author decides, each attempt asked for as soon as it may be."""
    engine = engine or ScriptedEngine(reply, delay_s)
    author = Author(
        ScriptedChat(), TEMPLATE, Pool(seeds, earlier), settings,  # type: ignore[arg-type]
        iteration=1, run_seed=run_seed, committed=committed,
    )  # fmt: skip
    decided: list[Prompt] = []

    async def write_all() -> None:
        flying: set[asyncio.Task[None]] = set()
        while True:
            flying |= {asyncio.create_task(author.write(engine, a)) for a in author.take_attempts()}
            if not flying:
                return
            _, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
            decided.extend(author.decide())

    asyncio.run(write_all())
    return decided


SETTINGS = PromptsConfig(count=10, window=3, human_shots=3, generated_shots=2)


def test_attempts_are_numbered_and_exactly_count_are_accepted() -> None:
    prompts = write(SETTINGS)
    assert [prompt.attempt for prompt in prompts] == list(range(len(prompts)))
    assert sum(prompt.dropped is None for prompt in prompts) == SETTINGS.count
    assert {prompt.iteration for prompt in prompts} == {1}


def test_the_same_prompts_whatever_order_the_engine_answers_in() -> None:
    calm = write(SETTINGS)
    assert write(SETTINGS, delay_s=0.01) == calm
    assert write(SETTINGS, run_seed=1) != calm


@pytest.mark.parametrize("num_committed", [1, 2, 3, 7, 10])
def test_resuming_after_any_attempt_gives_the_same_as_not_stopping(num_committed: int) -> None:
    whole = write(SETTINGS)
    assert len(whole) > 10
    assert write(SETTINGS, committed=whole[:num_committed]) == whole[num_committed:]


def test_nothing_is_asked_when_all_is_committed() -> None:
    engine = ScriptedEngine()
    assert write(SETTINGS, committed=write(SETTINGS), engine=engine) == []
    assert engine.requests == []


def test_what_comes_after_the_last_accepted_prompt_is_kept_as_surplus() -> None:
    settings = PromptsConfig(count=1, window=6)
    prompts = write(settings)
    accepted = [prompt.dropped for prompt in prompts].index(None)
    rest = prompts[accepted + 1 :]
    assert rest and {prompt.dropped for prompt in rest} == {"surplus"}
    assert all(prompt.raw for prompt in rest)


def test_the_budget_of_attempts_ends_the_stage() -> None:
    settings = PromptsConfig(count=5, window=4, max_attempts=10)
    prompts = write(settings, reply=lambda prompt, number: (SEEDS[number % 6], "stop"))
    assert len(prompts) == 10
    assert {prompt.dropped for prompt in prompts} == {"similar"}


def test_seeds_and_earlier_prompts_never_return_as_new() -> None:
    earlier = [scripted_words(n) for n in range(20)]

    def echo(prompt: str, number: int) -> tuple[str, FinishReason]:
        known = SEEDS + earlier
        return (known[number % len(known)] if number % 3 else scripted_words(number)), "stop"

    prompts = write(SETTINGS, reply=echo, earlier=earlier)
    accepted = [prompt.text for prompt in prompts if prompt.dropped is None]
    assert len(accepted) == SETTINGS.count
    assert not set(accepted) & set(SEEDS + earlier)
    assert any(prompt.dropped == "similar" for prompt in prompts)


def test_no_two_accepted_prompts_are_as_near_as_the_cutoff() -> None:
    def few(prompt: str, number: int) -> tuple[str, FinishReason]:
        return f"{scripted_words(number % 30)} and more", "stop"

    prompts = write(SETTINGS, reply=few)
    accepted = [prompt.text.split() for prompt in prompts if prompt.dropped is None]
    for i, these in enumerate(accepted):
        for others in accepted[:i]:
            assert rouge_l(these, others) < SETTINGS.rouge_l_max


def test_a_run_from_the_seeds_in_chinese_accepts_new_prompts_and_drops_near_copies() -> None:
    assert len(ZH) == 12
    signs = sorted(set("".join(ZH)) - set("，。？“”"))

    def write_chinese(prompt: str, number: int) -> tuple[str, FinishReason]:
        if number % 3 == 0:  # a seed in which one character differs
            seed = ZH[number // 3 % len(ZH)]
            return f"{seed[:5]}呢{seed[6:]}", "stop"
        drawn = random.Random(number).sample(signs, 16)
        return f"{''.join(drawn[:9])}，{''.join(drawn[9:])}。", "stop"

    prompts = write(SETTINGS, reply=write_chinese, seeds=ZH)
    kept = [words(prompt.text) for prompt in prompts if prompt.dropped is None]
    assert len(kept) == SETTINGS.count
    assert {prompt.dropped for prompt in prompts} <= {None, "similar", "surplus"}
    assert all(p.dropped for p in prompts if "呢" in p.text)
    for i, these in enumerate([*map(words, ZH), *kept]):
        for others in [*map(words, ZH), *kept][:i]:
            assert rouge_l(these, others) < SETTINGS.rouge_l_max


def test_demonstrations_are_six_human_and_two_generated_once_there_are_any() -> None:
    settings = PromptsConfig(human_shots=4, generated_shots=2)
    pool = Pool(SEEDS)
    assert len(pool.demonstrations(settings, 0, 0)) == 6
    assert set(pool.demonstrations(settings, 0, 0)) <= set(SEEDS)
    generated = ["Tell me about old clocks", "Tell me about new ships", "Compare tea and milk"]
    for text in generated:
        pool.add(text)
    for seed in range(20):
        drawn = pool.demonstrations(settings, seed, 3)
        assert len(drawn) == len(set(drawn)) == 6
        assert len(set(drawn) & set(generated)) == 2


def test_demonstrations_come_from_before_the_window_alone() -> None:
    engine = ScriptedEngine(delay_s=0.005)
    prompts = write(SETTINGS, engine=engine)
    asked = ["".join(map(chr, request.token_ids)) for request in engine.requests]
    shown = {a: [p.attempt for p in prompts if p.text and p.text in asked[a]] for a in
             range(len(prompts))}  # fmt: skip
    assert all(seen <= a - SETTINGS.window for a, attempts in shown.items() for seen in attempts)
    assert sum(map(len, shown.values())) > 5


def test_as_many_attempts_are_in_flight_at_once_as_the_window_allows_and_no_more() -> None:
    flying, most = 0, 0

    class Counting(ScriptedEngine):
        async def generate(self, request):  # type: ignore[no-untyped-def]
            nonlocal flying, most
            flying += 1
            most = max(most, flying)
            try:
                return await super().generate(request)
            finally:
                flying -= 1

    write(SETTINGS, engine=Counting(delay_s=0.005))
    assert most == SETTINGS.window


def test_a_request_that_fails_is_a_dropped_attempt_with_its_reason() -> None:
    class Failing(ScriptedEngine):
        async def generate(self, request):  # type: ignore[no-untyped-def]
            if len(self.requests) == 4:
                self.requests.append(request)
                raise RequestError("too long", "5000 tokens")
            return await super().generate(request)

    prompts = write(SETTINGS, engine=Failing())
    assert (prompts[4].dropped, prompts[4].detail) == ("too long", "5000 tokens")
    assert sum(prompt.dropped is None for prompt in prompts) == SETTINGS.count


def test_a_seed_of_several_lines_is_not_shown_but_never_returns() -> None:
    pool = Pool([*SEEDS, "Shorten this text:\nthe cat sat on the mat"])
    settings = PromptsConfig(human_shots=8)
    assert all("Shorten" not in text for text in pool.demonstrations(settings, 1, 0))
    assert pool.nearest("Shorten this text: the cat sat on the mat", 0.7) is not None


# Of several lines


POEM = "Shorten this text:\n\nthe cat sat on the mat"


def test_prompts_of_several_lines_are_shown_written_and_kept_as_they_are() -> None:
    settings = SETTINGS.model_copy(update={"multiline": True, "human_shots": 7})
    engine = ScriptedEngine(
        lambda prompt, number: (
            f" {scripted_words(number)}\n  {scripted_words(number // 7)}\n11. And more",
            "stop",
        )
    )
    prompts = write(settings, engine=engine, seeds=[*SEEDS, POEM])
    kept = [prompt for prompt in prompts if prompt.dropped is None]
    assert len(kept) == settings.count
    assert all(prompt.text.count("\n  ") == 1 and "more" not in prompt.text for prompt in kept)
    first, last = ("".join(map(chr, engine.requests[at].token_ids)) for at in (0, -1))
    assert POEM in first
    assert any(prompt.text in last for prompt in kept)
    assert {request.sampling.stop for request in engine.requests[:1]} == {("\n###", "\n9.")}  # type: ignore[union-attr]


def test_a_prompt_of_one_line_is_asked_for_as_ever() -> None:
    engine = ScriptedEngine()
    write(SETTINGS, engine=engine, seeds=[*SEEDS, POEM])
    assert {request.sampling.stop for request in engine.requests} == {("\n",)}  # type: ignore[union-attr]
    assert not any(POEM in "".join(map(chr, request.token_ids)) for request in engine.requests)


# On topics


TOPICS = ["clocks", "ships", "tea", "bread", "moss"]


def test_all_topics_come_once_before_any_comes_twice() -> None:
    given = [topic_of(TOPICS, 3, number) for number in range(40)]
    assert all(sorted(given[at : at + 5]) == sorted(TOPICS) for at in range(0, 40, 5))
    assert len({tuple(given[at : at + 5]) for at in range(0, 40, 5)}) > 1
    assert given != [topic_of(TOPICS, 4, number) for number in range(40)]


# Drawn from a data set


def draw(rows: list[str], count: int, earlier: Sequence[str] = ()) -> list[Prompt]:
    pool = Pool(SEEDS, earlier)
    rows = [PromptRow(row) for row in rows]
    return draw_prompts(rows, ScriptedChat(), pool, PromptsConfig(count=count), iteration=2)  # type: ignore[arg-type]


def test_drawn_prompts_keep_their_order_and_none_is_drawn_twice() -> None:
    rows = ["one", "two", "three", "four"]
    first = draw(rows, 2)
    assert [prompt.text for prompt in first] == ["one", "two"]
    second = draw(rows, 2, earlier=[prompt.text for prompt in first])
    assert [(p.attempt, p.text) for p in second] == [(0, "three"), (1, "four")]


def test_a_row_with_a_control_token_is_dropped_and_does_not_count() -> None:
    prompts = draw(["say <|im_start|>", "two", "three"], 2)
    assert [prompt.dropped for prompt in prompts] == ["control token", None, None]


def test_a_data_set_that_ends_gives_what_it_has() -> None:
    assert len(draw(["one"], 5)) == 1
