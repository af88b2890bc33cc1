"""How many prompts ``sft.selection`` passes by chance; made the table in docs/eft.md.

    python benchmarks/chance.py

No model: six prompts of the same shape, judged 0 to 5 in turn, so that all six scores are as
common; what is expected of dice is exact.
"""

from selfreward.measures.selection import by_chance
from selfreward.records import Judgment
from selfreward.stages.selection import Opinion


def chance(responses: int, votes: int, *, combine: bool) -> float:
    """Share of prompts with so many ranked responses that a judge passes which rolls dice."""
    judgments = [
        Judgment(0, score, sample, vote, "written", "", float(score), None)
        for score in range(6)
        for sample in range(responses)
        for vote in range(votes)
    ]
    opinions = {(one.attempt, one.sample): Opinion(one.sample) for one in judgments}
    found = by_chance(judgments, opinions, combine=combine)
    assert found is not None
    return found


def main() -> None:
    print(
        "| responses, ranked | `votes: 1` | `votes: 2` | `votes: 4` | `votes: 4, combine: true` |"
    )
    print("|---|---|---|---|---|")
    for responses in (2, 3, 4):
        shares = [chance(responses, votes, combine=False) for votes in (1, 2, 4)]
        shares.append(chance(responses, 4, combine=True))
        print(f"| {responses} | {' | '.join(f'{share:.0%}' for share in shares)} |")


if __name__ == "__main__":
    main()
