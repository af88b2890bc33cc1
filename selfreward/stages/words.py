"""The words of a text in any script.

Where words are parted by spaces, a word is a run of letters, digits and marks. Chinese, Japanese,
Thai, Lao, Khmer and Burmese do not part them, and a Korean word is a phrase of other languages:
there each character with its marks is a word, as the scores of machine translation take them.
"""

import regex

_SCRIPTS = "Han Hiragana Katakana Bopomofo Hangul Thai Lao Khmer Myanmar"
_SIGN = "[[" + "".join(rf"\p{{{name}}}" for name in _SCRIPTS.split()) + r"ー]&&[\p{L}\p{N}]]"
_WORD = regex.compile(
    rf"(?V1){_SIGN}\p{{M}}*|(?!{_SIGN})[\p{{L}}\p{{N}}_](?:(?!{_SIGN})[\p{{L}}\p{{N}}\p{{M}}_])*"
)
_HAS_SIGN = regex.compile(rf"(?V1){_SIGN}")


def words(text: str) -> list[str]:
    """Words in their order, without case and punctuation; what ROUGE-L compares."""
    return [match[0] for match in _WORD.finditer(text.casefold())]


def count_words(text: str) -> int:
    """Words as people count them: what stands between spaces, or the characters of a script."""
    return sum(len(words(part)) if is_unspaced(part) else 1 for part in text.split())


def is_unspaced(text: str) -> bool:
    """Whether the text has characters that are words by themselves."""
    return _HAS_SIGN.search(text) is not None


def asked_for(text: str, keywords: tuple[str, ...]) -> str | None:
    """The first keyword, by the alphabet, that is a word of the text; None if none is.

    Keywords of a script whose characters are words are found anywhere.
    """
    folded = text.casefold()
    found = {part.strip(".,;:!?()\"'") for part in folded.split()}
    if is_unspaced(folded):
        found |= {word for part in folded.split() if is_unspaced(part) for word in words(part)}
    asked = {keyword.casefold() for keyword in keywords}
    here = {keyword for keyword in asked if is_unspaced(keyword) and keyword in folded}
    return min(asked & found | here, default=None)
