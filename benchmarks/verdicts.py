"""Whether the expected score orders answers more as people do than the likeliest score.

    python -m benchmarks.verdicts RANKINGS MODEL ... [--limit 60] [--kind openvino]

Each MODEL, a directory or any other source, is asked once for the probabilities of the scores 0 to
5 (``judge/expected.jinja``), which are read in both ways. RANKINGS as for ``selfreward judge``.
Intervals are by the bootstrap over prompts, of all models together: what each makes of a prompt
stays with it.
"""

import argparse
import asyncio

import numpy as np

from selfreward.config import SeedSource
from selfreward.engines.base import Request
from selfreward.engines.chat import Chat
from selfreward.engines.kinds import open_engine
from selfreward.inputs import models
from selfreward.inputs.rankings import Text, read_ranked, texts_of
from selfreward.inputs.templates import find_template, load_template
from selfreward.measures.agreement import LENGTH_RATIO, RESAMPLES
from selfreward.measures.bootstrap import Bootstrap, Share
from selfreward.measures.reports import Estimate
from selfreward.measures.sample import Sample, judged_responses, to_array
from selfreward.stages.verdict import expected_score
from selfreward.verbs.layout import estimated

FIGURES = ("accuracy", "accuracy_strict", "ties")


def main() -> None:
    """Ask all models and print the shares of pairs by either reading, and the difference."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rankings")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--limit", type=int, default=60, help="rankings to judge")
    parser.add_argument("--kind", default="openvino", help="engine")
    arguments = parser.parse_args()
    rankings = read_ranked(SeedSource(path=arguments.rankings), limit=arguments.limit).rankings
    texts = texts_of(rankings)
    found: dict[str, list[dict[str, Share]]] = {"expected": [], "likeliest": []}
    for model in arguments.models:
        given = probabilities_of(model, texts, arguments.kind)
        readings = {
            "expected": [expected_score(each)[0] for each in given],
            "likeliest": [float(np.argmax(each)) for each in given],
        }
        for how, scores in readings.items():
            votes = {text: [score] for text, score in zip(texts, scores, strict=True)}
            judged = judged_responses(rankings, votes)
            sample = Sample(judged, LENGTH_RATIO)
            found[how].append(sample.pair_shares(to_array([each.score for each in judged])))
    bootstrap = Bootstrap(sample.num_prompts, RESAMPLES, seed=0)
    pooled = {how: pool(shares) for how, shares in found.items()}
    print(f"{len(arguments.models)} models, {len(sample.better)} pairs each")
    for how, shares in pooled.items():
        said = [f"{name} {percent(bootstrap.share(shares[name]))}" for name in FIGURES]
        print(f"{how:10} {', '.join(said)}")
    pairs = {name: [shares[name] for shares in pooled.values()] for name in FIGURES}
    less = [f"{name} {percent(bootstrap.difference(*pair))}" for name, pair in pairs.items()]
    print(f"{'difference':10} {', '.join(less)}")


def probabilities_of(model: str, texts: list[Text], kind: str) -> list[tuple[float, ...]]:
    """Of the scores 0 to 5 for each text, not normalized."""
    path = models.resolve(model).path
    chat = Chat(path)
    template = load_template(find_template("judge/expected.jinja"), {"prompt", "response"})
    requests = []
    for prompt, response in texts:
        user, _ = template.render(prompt=prompt, response=response)
        ids, score_tokens = chat.score_prompt(user)
        requests.append(Request(ids, score_tokens=score_tokens))

    async def ask() -> list[tuple[float, ...]]:
        engine = open_engine(kind, path, chat, {})
        try:
            answers = await asyncio.gather(*map(engine.generate, requests))
        finally:
            await engine.close()
        return [generation.probabilities or () for [generation] in answers]

    return asyncio.run(ask())


def pool(shares: list[dict[str, Share]]) -> dict[str, Share]:
    """Numerators and denominators by prompt, summed over the models."""
    return {
        name: (sum(each[name][0] for each in shares), sum(each[name][1] for each in shares))
        for name in FIGURES
    }


def percent(estimate: Estimate) -> str:
    """With its interval."""
    return estimated(estimate, ".1f", 100, "%")


if __name__ == "__main__":
    main()
