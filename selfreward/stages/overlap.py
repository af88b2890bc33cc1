"""Whether a prompt gives away one that is held out: words that both have in a row.

GPT-3 (arXiv 2005.14165, appendix C) takes runs of 8 to 13 words, as many as its shorter examples
have. Prompts are short, half of them under 15 words, so 8 is the default here. A text of fewer
words is one run, all of it: it overlaps with its like alone, whatever case and punctuation are.
"""

from collections.abc import Iterable, Iterator

from selfreward.stages.words import words


class HeldOut:
    """Prompts that nothing may be trained on.

    Args:
        texts: Such prompts.
        run: Words in a row from which on a text overlaps, 1 or more; None: it never does.
    """

    def __init__(self, texts: Iterable[str] = (), run: int | None = 8) -> None:
        self._run = run
        self._texts: dict[tuple[str, ...], str] = {}
        for text in texts if run else ():
            for these in self._runs(text):
                self._texts.setdefault(these, text)

    def overlapping(self, text: str) -> str | None:
        """A held-out prompt that shares a run of words with the text; None if none does."""
        if not self._texts:
            return None
        return next((self._texts[r] for r in self._runs(text) if r in self._texts), None)

    def _runs(self, text: str) -> Iterator[tuple[str, ...]]:
        assert self._run is not None
        found = tuple(words(text))
        if found:
            last = max(0, len(found) - self._run)
            yield from (found[at : at + self._run] for at in range(last + 1))
