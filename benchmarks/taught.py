"""What the pairs of runs teach about constraints: how often the chosen response keeps more of them.

    python benchmarks/taught.py RUN [RUN ...] [--iteration 1]

For runs whose prompts state a constraint and carry it as a column, such as those of
`verifiable.py`, all runs taken together. By constraint: the share that whole sampled responses keep
(``selfreward.rewards.constraints:strict``), the pairs whose chosen response keeps more, as much or
less than the rejected one, and the mean words of both.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from statistics import fmean

from selfreward.records import PreferencePair, Prompt, Response
from selfreward.rewards.constraints import strict
from selfreward.storage.directory import open_run
from selfreward.verbs.layout import table


def main() -> None:
    """Read the runs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", help="names under runs/, or paths")
    parser.add_argument("--iteration", type=int, default=1)
    arguments = parser.parse_args()
    kept: defaultdict[str, list[float]] = defaultdict(list)
    pairs: defaultdict[str, list[tuple[float, float, int, int]]] = defaultdict(list)
    for name in arguments.runs:
        with open_run(name).store() as store:
            prompts = {p.attempt: p for p in store.records(Prompt, arguments.iteration)}
            responses = store.records(Response, arguments.iteration)
            chosen = store.records(PreferencePair, arguments.iteration)
        whole = {(r.attempt, r.sample): r for r in responses if r.finish_reason == "stop"}
        for response in whole.values():
            kind, keeps = asked(prompts[response.attempt])
            kept[kind].append(keeps(response))
        for pair in chosen:
            kind, keeps = asked(prompts[pair.attempt])
            better, worse = (whole[pair.attempt, i] for i in (pair.chosen, pair.rejected))
            words = (len(better.text.split()), len(worse.text.split()))
            pairs[kind].append((keeps(better), keeps(worse), *words))
    rows = [[kind, f"{fmean(kept[kind]):.1%}", *counted(pairs[kind])] for kind in kept]
    rows.append(["all", "", *counted([pair for each in pairs.values() for pair in each])])
    head = ["constraint", "kept", "chosen keeps more", "as much", "less", "words", "of rejected"]
    print(table([head, *rows]))


def asked(prompt: Prompt) -> tuple[str, Callable[[Response], float]]:
    """The constraint of a prompt in words, and the share of it that a response keeps."""
    constraints = json.loads(prompt.columns)["constraints"]
    return prompt.text.partition(". ")[2], lambda response: strict(
        [response.text], constraints=[constraints]
    )[0]


def counted(pairs: list[tuple[float, float, int, int]]) -> list[str]:
    """Cells of some pairs."""
    more = sum(better > worse for better, worse, *_ in pairs)
    less = sum(better < worse for better, worse, *_ in pairs)
    if not pairs:
        return ["0", "0", "0", "-", "-"]
    words = (f"{fmean(pair[i] for pair in pairs):.0f}" for i in (2, 3))
    return [str(more), str(len(pairs) - more - less), str(less), *words]


if __name__ == "__main__":
    main()
