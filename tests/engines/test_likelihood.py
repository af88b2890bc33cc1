"""Log-likelihoods are those of each text alone, whatever it is batched with."""

from pathlib import Path

import pytest

from selfreward.engines import likelihood
from selfreward.engines.likelihood import log_likelihoods
from selfreward.errors import ConfigError

TEXTS = [
    ("Question: what is it?\nAnswer:", " a cat"),
    ("Question: what is it?\nAnswer:", " it is a dog and a cat and a dog"),
    ("a", " b"),
    ("The cat sat on the mat and then it", " slept"),
]


def alone(model: Path, context: str, continuation: str) -> float:
    """From a plain forward pass over one text."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    opened = AutoModelForCausalLM.from_pretrained(model, dtype="float32").eval()
    start, ids = len(tokenizer.encode(context)), tokenizer.encode(context + continuation)
    with torch.inference_mode():
        logprobs = opened(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(sum(logprobs[at - 1, ids[at]] for at in range(start, len(ids))))


@pytest.mark.slow
def test_a_batch_gives_what_each_text_gives_alone(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[int] = []
    found = log_likelihoods(model_dir, TEXTS, said.append)
    assert found == pytest.approx([alone(model_dir, *text) for text in TEXTS], abs=1e-4)
    assert said[0] == 0 and said[-1] == len(TEXTS)
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", 1)
    assert log_likelihoods(model_dir, TEXTS, said.append) == pytest.approx(found, abs=1e-4)
    assert log_likelihoods(model_dir, TEXTS[::-1], said.append)[::-1] == pytest.approx(
        found, abs=1e-4
    )


def test_a_question_past_the_positions_of_the_model_is_refused(model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="tokens with a choice, the model has"):
        log_likelihoods(model_dir, [("word " * 20_000, " a")], lambda done: None)


def test_a_question_without_a_token_is_refused(model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="comes to no token"):
        log_likelihoods(model_dir, [("", "a")], lambda done: None)
