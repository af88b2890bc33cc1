"""Keeping a text inside the tags that a template puts around it.

A judge template shows a response between tags of its own. A response that spells such a tag, or
something that passes for it, could end its part of the prompt and go on in the template's voice.
The ``<`` of what it spells becomes ``&lt;``, as in HTML: to be seen, the same each time, so that
equal requests stay equal, and without any effect on other texts.
"""

import re
import unicodedata

_BRACKETS = "<‹〈⟨❬❮❰⧼˂ᐸ≺⋖"  # noqa: RUF001
_SLASHES = "/\\⁄∕╱⟋⧸⧵〳"  # noqa: RUF001
_BLANKS = "\u115f\u1160\u2800"
"""Shown as nothing, though they count as letters or symbols."""
_HIDDEN, _LETTER = "\0", "\1"
"""What is not seen, and a letter that is not ASCII: it may pass for any that is."""


class Delimiters:
    """The tags of a template.

    Args:
        source: The template's own text. Its tags are those that it closes, as in ``</response>``.
    """

    def __init__(self, source: str) -> None:
        names = sorted(set(re.findall(r"</([A-Za-z][\w.-]*)>", source, re.ASCII)))
        gap = rf"[\s{_HIDDEN}]*"
        alike = "|".join(gap.join(map(_alike, name.lower())) for name in names) or "(?!)"
        exact = "|".join(map(re.escape, names)) or "(?!)"
        self._closing = re.compile(rf"<(?={gap}/[/\s{_HIDDEN}]*(?:{alike})(?![\w{_LETTER}.-]))")
        # An opening tag alone leads nowhere, and "Promise<Response>" is honest code.
        self._opening = re.compile(rf"<(?=(?:{exact})>)")

    def escape(self, text: str) -> str:
        """Return ``text`` with every closing look-alike and every opening tag broken.

        Takes linear time. Doing it twice changes nothing.
        """
        found = {match.start() for match in self._closing.finditer(text.translate(_FOLDED))}
        found.update(match.start() for match in self._opening.finditer(text))
        if not found:
            return text
        return "".join(_broken(char) if i in found else char for i, char in enumerate(text))


def _broken(bracket: str) -> str:
    return "&lt;" if bracket == "<" else f"&#{ord(bracket)};"


def _alike(char: str) -> str:
    """Pattern for a character of a tag's name within folded text."""
    return f"[{char}{_LETTER}]" if char.isalpha() else re.escape(char)


class _Folding(dict[int, str]):
    """Code point -> the one character that it may pass for; filled as characters are met."""

    def __missing__(self, point: int) -> str:
        self[point] = folded = _fold(chr(point))
        return folded


_FOLDED = _Folding()


def _fold(char: str) -> str:
    base = unicodedata.normalize("NFKD", char)[0].lower()[0]
    category = unicodedata.category(base)
    if base in _BRACKETS:
        return "<"
    if base in _SLASHES:
        return "/"
    if base.isspace():
        return " "
    if base in _BLANKS or category[0] in "CM":  # controls, formats, combining marks, surrogates
        return _HIDDEN
    return _LETTER if category[0] == "L" and not base.isascii() else base
