"""Texts that nearly repeat an earlier one, found by MinHash (Broder 1997), as Lee et al. 2022 do.

MinHash finds candidates; the Jaccard similarity of their word pairs decides (arXiv 2107.06499,
section 4.2, which takes runs of five words, as its texts are documents). At 0.5 two thirds of the
word pairs of two texts of one length are in both: one other word in seven, or parts in another
order, which the ROUGE-L of ``prompts.rouge_l_max`` does not see.
"""

from collections.abc import Sequence
from itertools import pairwise

from selfreward.stages.words import words

SIMILARITY = 0.5
"""Jaccard similarity of the word pairs from which on two texts are near-duplicates."""
_PERMUTATIONS = 128
"""Hashes of a text. With the weights below, 13% of the pairs just at ``SIMILARITY`` are missed, 1%
of those at 0.6 and hardly any above."""
_WEIGHTS = (0.1, 0.9)
"""What a false candidate counts against a missed one: false ones are checked, missed ones lost."""


def near_duplicates(texts: Sequence[str], earlier: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Each text that nearly repeats one before it, with the first of these.

    Args:
        texts: In their order; one without words repeats nothing.
        earlier: Texts that come before all of them.
    """
    from datasketch import MinHash, MinHashLSH  # takes a second to import

    every = [*earlier, *texts]
    parts = [_parts(text) for text in every]
    hashes = MinHash.bulk(
        [[part.encode(errors="surrogatepass") for part in these] for these in parts],
        num_perm=_PERMUTATIONS,
    )
    known = MinHashLSH(threshold=SIMILARITY, num_perm=_PERMUTATIONS, weights=_WEIGHTS)
    found = []
    for at, (these, hashed) in enumerate(zip(parts, hashes, strict=True)):
        if not these:
            continue
        if at >= len(earlier):
            near = (other for other in known.query(hashed) if _similar(these, parts[other]))
            if (first := min(near, default=None)) is not None:
                found.append((every[at], every[first]))
        known.insert(at, hashed, check_duplication=False)
    return found


def _parts(text: str) -> frozenset[str]:
    """Every two words in a row; the word itself of a text that has one alone."""
    found = words(text)
    return frozenset(map(" ".join, pairwise(found))) or frozenset(found)


def _similar(a: frozenset[str], b: frozenset[str]) -> bool:
    return len(a & b) >= SIMILARITY * len(a | b)
