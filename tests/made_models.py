"""Model directories of a few kilobytes: a tokenizer, a chat template and a config."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
MERGES = [("a", "b"), (" ", "1"), ("1", "0")]


def make_model(
    path: Path,
    template: str | None = TEMPLATE,
    merges: list[tuple[str, str]] = MERGES,
    config: dict[str, Any] | None = None,
    eos: str = "<|end|>",
    words: tuple[str, ...] = (),
) -> Path:
    """Write a model directory without weights: one token a character, and a few merges."""
    from transformers import PreTrainedTokenizerFast

    characters = [chr(i) for i in range(32, 127)] + ["\n"]
    vocabulary = {token: i for i, token in enumerate(characters + ["".join(m) for m in merges])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<|start|>", "<|end|>", "<|text|>"])
    tokenizer.add_tokens([AddedToken(word) for word in words])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos)
    fast.chat_template = template
    fast.save_pretrained(path)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", **(config or {})}))
    return path
