"""A reply line by line as a reader sees it, and the line that its verdict stands on.

The verdict stands on the last line. Behind it may follow what can mean no other verdict: a code
fence or a rule, a closing tag, a courtesy, the token that ends the turn. Such a verdict counts only
after words of the judge's own, and not if these announce it with a colon, as one announces a quote:
else a response that is repeated in a fence would have judged itself.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

V = TypeVar("V")

_MARKS = r"(?:\\?[*_`\"'“”‘’«»<>()\[\]{}])+"  # noqa: RUF001
_DRESS = re.compile(rf"(?<=[0-9])({_MARKS})(?=[0-9])|{_MARKS}")
"""What may dress a line. Between two digits it is kept (group 1), or 4*5 would be 45."""
_NO_WIDTH = r"[\u200b-\u200d\u2060\ufeff]"
_UNSEEN = re.compile(
    rf"^[\u200b\u2060]++|(?!^)(?:{_NO_WIDTH}++(?!\w)|(?<![\w\u200b-\u200d\u2060\ufeff]){_NO_WIDTH}+)"
)
"""Characters without width; they stay within a word or number, which would be another without."""
_WIDE = {
    code: unicodedata.normalize("NFKC", chr(code))
    for code in range(0xFF01, 0xFF5F)
    if not chr(code).isalpha() and chr(code) != "，"  # noqa: RUF001
} | {ord("。"): ".", ord("（"): " (", ord("）"): ") "}  # noqa: RUF001
"""Full-width digits and signs. Not letters, which pass for others; nor the comma, which lists."""
_BOUND = re.compile(r"(?:[:=][\s*_`\"']*[<>]|^\s*<)\s*(?=[0-9][^<>]*$)")
"""Before a number that is only bounded, as in "Score: <4"; "<4>" is one in brackets."""
_LINE_END = re.compile(r"\r\n?|\n")
"""Not the other separators of Unicode: they can stand in a quote, whose rest is no line."""
_LONGEST = 1_000
"""Characters; a longer line is prose."""

_ITEM = re.compile(r"\s*[0-9]+[.)]\s+\S")
_FENCE = re.compile(r"\s*(?:`{3,}|~{3,})\s*\w*\s*")
_RULE = re.compile(r"\s*(?:[-=*_—]\s?){3,}\s*|\s*</(?:score|better)>\s*", re.IGNORECASE)
_COURTESY = re.compile(
    r"""(?:i\s)?hope\s(?:this|that|it)\s(?:helps|was\shelpful)|(?:please\s)?let\sme\sknow\b|
    (?:please\s)?feel\sfree\b|thanks\b|thank\syou\b|if\syou\s(?:have|need|want)\b|best\sregards|
    kind\sregards|have\sa\s(?:good|great|nice)\b|i\s?a?m\shappy\sto\b|happy\sto\b|good\sluck""",
    re.IGNORECASE | re.VERBOSE | re.ASCII,
)
_MEANT = re.compile(
    r"""\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|half|scor|point|rat(?:e|ing)|
    grade|mark|star|verdict|better|best\sresponse|tie|instead|but|however|though|actually|wait|
    chang|revis|correct|wrong|mistake|higher|lower|more\sthan|less)""",
    re.IGNORECASE | re.VERBOSE,
)
"""In a courtesy: it may be about another verdict."""
_QUOTED = re.compile(r"^\s*>|\b[AB]\b")
"""No courtesy of the judge's own, or one that names a response."""
_ENDS = (
    "</s>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>",
    "<|return|>", "<end_of_turn>", "<eos>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>",  # noqa: RUF001
)  # fmt: skip
_TURN = re.compile(r"<\|\w+\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<｜")  # noqa: RUF001
_OPENING = re.compile(r"<(?P<tag>score|better)>(?P<within>[^<>]*)</(?P=tag)>", re.IGNORECASE)


class Said(NamedTuple, Generic[V]):
    """A verdict and where it stands."""

    first: int
    """Number of its first line, blank ones not counted."""
    last: int
    """The same, unless the verdict stands under its label."""
    value: V
    tagged: bool
    """``<score>4</score>``"""


@dataclass(frozen=True)
class Grammar(Generic[V]):
    """What a verdict looks like."""

    words: tuple[str, ...]
    """In lower case; every line with a verdict or label has one of them."""
    label: re.Pattern[str]
    """A plain line with nothing but what announces the verdict on the next one."""
    read: Callable[[str], V | None]
    """The verdict on a plain line that is nothing else; None: it is another line."""


class Reply(Generic[V]):
    """A reply without the token that ends its turn.

    Args:
        text: The judge's completion alone, thinking already split off.
        grammar: Of the verdict.
    """

    def __init__(self, text: str, grammar: Grammar[V]) -> None:
        self._text, body = text, _without_end(text)
        lower = body.lower()
        none_here = not any(word in lower for word in grammar.words)
        foreign = len(body) < len(text.rstrip()) and _TURN.search(body)
        self._lines: list[tuple[int, str]] = []
        """(where it ends, line) without blank ones; none where there can be no verdict."""
        self._said: dict[int, Said[V]] = {}
        if not (none_here or foreign):
            self._lines = _lines(body)
            self._said = {said.last: said for said in self._verdicts(grammar)}

    def verdict(self) -> tuple[V | None, bool]:
        """(the verdict, whether another line has another one); (None, False) if there is none."""
        at = self._skip_closing(len(self._lines))
        said = self._said.get(at)
        if said is None or not self._counts(said):
            return None, False
        return said.value, any(other.value != said.value for other in self._said.values())

    def before(self) -> str:
        """The text without the verdicts at its end and what closes them; may be empty."""
        count = len(self._lines)
        while (at := self._skip_closing(count)) in self._said:
            fenced = self._has_fence(at + 1, count)
            count = self._said[at].first
            count -= fenced and self._has_fence(count - 1, count)
        if count == len(self._lines):
            return self._text.rstrip()
        return self._text[: self._lines[count - 1][0]].rstrip() if count else ""

    def _verdicts(self, grammar: Grammar[V]) -> list[Said[V]]:
        """All verdicts, in the order of the lines."""

        def named(line: str) -> bool:
            return len(line) <= _LONGEST and any(word in line.lower() for word in grammar.words)

        found = []
        for at, (_, line) in enumerate(self._lines):
            if not named(line):
                continue
            line, tagged = _OPENING.subn(r"\g<tag>: \g<within>", line)
            seen = plain(line)
            if (value := grammar.read(seen)) is not None:
                found.append(Said(at, at, value, tagged > 0))
            elif grammar.label.fullmatch(seen) and at + 1 < len(self._lines):
                under = self._lines[at + 1][1]
                alone = not named(under) and len(under) <= _LONGEST and not _ITEM.match(under)
                value = grammar.read(f"{grammar.words[0]}: {plain(under)}") if alone else None
                if value is not None:
                    found.append(Said(at, at + 1, value, False))
        return found

    def _skip_closing(self, count: int) -> int:
        """Number of the last of so many lines that does more than close the reply."""
        at = count - 1
        while at >= 0 and at not in self._said and _closes(self._lines[at][1]):
            at -= 1
        return at

    def _counts(self, said: Said[V]) -> bool:
        """Whether the verdict is the judge's own, and not perhaps a quote with its closing mark."""
        if said.last == len(self._lines) - 1 and not said.tagged:
            return True
        own = said.first
        if self._has_fence(said.last, len(self._lines)):
            fences = [at for at in range(said.first) if self._has_fence(at, at + 1)]
            if len(fences) % 2:  # the last one opens; else a closing one is alone
                if fences != [0] and fences[-1] != said.first - 1:
                    return False  # it holds more, as a quote does
                own = fences[-1] or own
        words = [line for _, line in self._lines[:own] if not _RULE.fullmatch(line)]
        words = [line for line in words if not _FENCE.fullmatch(line)]
        heard = {at for other in self._said.values() for at in range(other.first, other.last + 1)}
        return len(heard & set(range(own))) < len(words) and not plain(words[-1]).endswith(":")

    def _has_fence(self, begin: int, end: int) -> bool:
        return any(_FENCE.fullmatch(line) for _, line in self._lines[max(begin, 0) : end])


def plain(line: str) -> str:
    """The line without bold marks, quotes and brackets, with one width and single spaces."""
    seen = _BOUND.sub(": bounded by ", _UNSEEN.sub("", line.translate(_WIDE)))
    return " ".join(_DRESS.sub(r"\1", seen).split())


def _closes(line: str) -> bool:
    if len(line) > _LONGEST:
        return False
    if _FENCE.fullmatch(line) or _RULE.fullmatch(line):
        return True
    seen = plain(line)
    if not seen:
        return not _DRESS.search(line)  # characters without width alone
    if any(char.isnumeric() for char in seen) or _MEANT.search(seen) or _QUOTED.search(line):
        return False
    return bool(_COURTESY.match(seen))


def _lines(text: str) -> list[tuple[int, str]]:
    ends = [match.span() for match in _LINE_END.finditer(text)]
    spans = pairwise([(0, 0), *ends, (len(text), len(text))])
    lines = [(end, text[start:end]) for (_, start), (end, _) in spans]
    return [(end, line) for end, line in lines if line.strip()]


def _without_end(text: str) -> str:
    """The text without the tokens that end a turn, of which some engines show one or two."""
    text = text.rstrip()
    for _ in range(2):
        text = next((text[: -len(end)].rstrip() for end in _ENDS if text.endswith(end)), text)
    return text
