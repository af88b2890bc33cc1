"""The pool of prompts: what a new one must differ from, and which ones are not to be used."""

import random
import re
import sys
from collections.abc import Sequence

from rapidfuzz.distance import Indel, LCSseq
from rapidfuzz.process import extract_iter

from selfreward.config.generation import PromptsConfig
from selfreward.engines.base import ChatFormat, Generation
from selfreward.inputs.seeds import shown
from selfreward.stages.overlap import HeldOut
from selfreward.stages.words import asked_for, count_words, words

_LABEL = (
    r"^\*{0,2}(?:task|request|prompt|instruction|question|user|q|任务|任務|请求|請求|问题|問題|指令|"
    r"指示|问|問|質問|依頼|요청|질문|คำถาม|คำสั่ง)\s*[:\uff1a]\*{0,2}\s*"
)
_ANSWER = (
    r"\s\*{0,2}(?:Answer|Response|Output|Assistant|(?<=[.?!]\s)A)\s*[:\uff1a]|"
    r"(?<=[\s\u3002\uff1f\uff01])\*{0,2}(?:回答|答案|答え|答|답변|답|คำตอบ)\s*[:\uff1a]"
)
_NUMBER = r"^(?:\d+[.)]|[-*•])\s+|^\d+[、\uff0e\uff09]\s*"
_NEXT_NUMBER = r"(?<=[.?!])\s\d+[.)]\s|(?<=[\u3002\uff1f\uff01])\s?\d+[.)、\uff0e\uff09]"
"""Full-width signs: colon ff1a, stops 3002, ff1f and ff01, ff0e, parenthesis ff09."""


_UNKNOWN = "\0"
"""The letter of all words that are in no text of the pool."""


class Pool:
    """Prompts that a new one must differ from, and that demonstrations are drawn from.

    Args:
        seeds: Human prompts.
        earlier: Prompts accepted in earlier iterations.
        held_out: Prompts that a new one must not give away.
    """

    def __init__(
        self, seeds: Sequence[str], earlier: Sequence[str] = (), held_out: HeldOut | None = None
    ) -> None:
        self.seeds = list(seeds)
        self.held_out = held_out or HeldOut()
        self.generated: list[str] = []
        self._letters: dict[str, str] = {}
        self._spelled = [self._spell(words(text)) for text in seeds]
        for text in earlier:
            self.add(text)

    def add(self, text: str) -> None:
        """Take in an accepted prompt."""
        self.generated.append(text)
        self._spelled.append(self._spell(words(text)))

    def nearest(self, text: str, cutoff: float) -> str | None:
        """A pooled prompt whose ROUGE-L F1 with ``text`` is at least ``cutoff``, or None."""
        these = words(text)
        spelled = "".join(self._letters.get(word, _UNKNOWN) for word in these)
        # Of texts in which each word is a letter, this is ROUGE-L but for its rounding.
        least, likeness = max(0.0, cutoff - 1e-6), Indel.normalized_similarity
        like = extract_iter(spelled, self._spelled, scorer=likeness, score_cutoff=least)
        for _, _, at in like:
            later = at - len(self.seeds)
            known = self.seeds[at] if later < 0 else self.generated[later]
            if rouge_l(these, words(known), cutoff) >= cutoff:
                return known
        return None

    def _spell(self, these: Sequence[str]) -> str:
        """A text with a letter in place of each word: C compares these several times as fast."""
        letters = self._letters
        return "".join(
            letters.setdefault(word, chr(1 + len(letters) % sys.maxunicode)) for word in these
        )

    def demonstrations(self, settings: PromptsConfig, seed: int, num_known: int) -> list[str]:
        """Draw few-shot demonstrations: human ones and of the first ``num_known`` generated, mixed.

        While too few were generated, human ones take their place (2212.10560, 2.2).
        """
        lines = shown(self.seeds, multiline=settings.multiline)
        num_known = min(num_known, len(self.generated))
        drawn = draw(settings.human_shots, settings.generated_shots, seed, len(lines), num_known)
        texts = (lines[at] if human else self.generated[at] for human, at in drawn)
        return [shown_text(text, multiline=settings.multiline) for text in texts]


def draw(
    human_shots: int, generated_shots: int, seed: int, num_seeds: int, num_known: int
) -> list[tuple[bool, int]]:
    """Which demonstrations an attempt gets, in order; see ``Pool.demonstrations``.

    Args:
        num_seeds: Human prompts that can be shown.
        num_known: Generated ones that can.

    Returns:
        Whether it is a human one, and its place, from 0, among these or the generated ones.
    """
    rng = random.Random(seed)
    num_generated = min(generated_shots, num_known)
    num_human = human_shots + generated_shots - num_generated
    drawn = [(True, at) for at in rng.sample(range(num_seeds), min(num_human, num_seeds))]
    drawn += [(False, at) for at in rng.sample(range(num_known), num_generated)]
    rng.shuffle(drawn)
    return drawn


def shown_text(text: str, *, multiline: bool = False) -> str:
    """A prompt as it is shown to the author of another: on one line, unless these may be more."""
    return text if multiline else " ".join(text.split())


def cut(text: str) -> str:
    """The first request in what the author wrote, on one line.

    Models go on with the list or answer their own request (arXiv 2401.10020, A.5); the number
    before it, the items and the answer after it, and bold marks or quotes around it are taken off.
    """
    line = _begun(" ".join(text.strip().split("\n")[0].split()))
    line = re.split(_NEXT_NUMBER, line, maxsplit=1)[0]
    return _ended(line)


def stops(settings: PromptsConfig, number: int | None = None) -> tuple[str, ...]:
    """Where the author of a prompt is stopped.

    Args:
        number: Of the item that would follow in the list; None where there is no list.
    """
    if not settings.multiline:
        return ("\n",)
    return ("\n###", *([] if number is None else [f"\n{number}."]))


def cut_lines(text: str, number: int | None = None) -> str:
    """The first request in what the author wrote, with all of its lines.

    It ends before the next number of the list, a line that begins with ``###`` and an answer
    (``Answer:``); other lists, blank lines and indented ones are its own.

    Args:
        number: See ``stops``.
    """
    first, *others = [line.rstrip() for line in text.strip().split("\n")]
    ends = r"\n\s*#{3}"
    if number is not None:
        item = rf"\*{{0,2}}{number}[.)\u3001\uff0e\uff09](?!\d)"
        ends += rf"|\n\s*{item}|(?<=[.?!])\s{item}|(?<=[\u3002\uff1f\uff01])\s?{item}"
    whole = "\n".join([_begun(first.strip()), *others])
    return _ended(re.split(ends, whole, maxsplit=1)[0].strip())


def _begun(line: str) -> str:
    """Without number and label before it."""
    return re.sub(_LABEL, "", re.sub(_NUMBER, "", line), flags=re.IGNORECASE)


def _ended(text: str) -> str:
    """Without an answer behind it, and bold marks or quotes around it."""
    text = re.split(_ANSWER, text, maxsplit=1)[0].rstrip()
    for opening, closing in (
        ("**", "**"),
        ('"', '"'),
        ("'", "'"),
        ("“", "”"),
        ("「", "」"),
        ("『", "』"),
    ):
        inner = text.removeprefix(opening).removesuffix(closing)
        if len(text) - len(inner) == len(opening + closing) and opening not in inner:
            text = inner.strip()
    return text


def why_dropped(
    text: str, generation: Generation, chat: ChatFormat, pool: Pool, settings: PromptsConfig
) -> tuple[str | None, str]:
    """Return (reason, detail) if the prompt is not to be used, else (None, "")."""
    count = count_words(text)
    if generation.finish_reason == "length":
        end = "end" if settings.multiline else "end of line"
        return "truncated", f"{settings.max_new_tokens} tokens and no {end}"
    if not words(text):
        return "empty", ""
    if token := chat.control_token(text):
        return "control token", token
    if count < settings.min_words:
        return "too short", f"{count} words"
    if count > settings.max_words:
        return "too long", f"{count} words"
    if asked := asked_for(text, settings.keywords):
        return "keyword", asked
    if kept_back := pool.held_out.overlapping(text):
        return "held out", kept_back
    if known := pool.nearest(text, settings.rouge_l_max):
        return "similar", known
    return None, ""


def rouge_l(a: Sequence[str], b: Sequence[str], cutoff: float = 0.0) -> float:
    """ROUGE-L F1 (Lin 2004, beta = 1): 2 LCS / (len a + len b), from 0 to 1.

    Below ``cutoff`` the value may be returned as 0, which is faster.
    """
    total = len(a) + len(b)
    if total == 0:
        return 0.0
    # Rounding down keeps a value that equals the cutoff.
    least = max(0, int(cutoff * total / 2) - 1)
    return 2 * int(LCSseq.similarity(a, b, score_cutoff=least)) / total
