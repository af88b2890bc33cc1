"""Model directories: of a few kilobytes, without weights; and others made of the real one."""

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

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
    bos: str | None = None,
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
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, bos_token=bos)
    fast.chat_template = template
    fast.save_pretrained(path)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", **(config or {})}))
    return path


def write_headers(path: Path, shapes: dict[str, tuple[int, ...]], file: str = "model") -> Path:
    """Write a model directory that holds the header of its safetensors, and no weights."""
    header = {
        name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]}
        for name, shape in shapes.items()
    }
    content = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{file}.safetensors").write_bytes(len(content).to_bytes(8, "little") + content)
    return path


def make_sentencepiece_model(
    path: Path, template: str, words: tuple[str, ...], eos: str, bos: str
) -> Path:
    """As ``make_model``, with a tokenizer of the kind of Llama 2: a space is U+2581, put before the
    first word too, and gone from the start of what is decoded."""
    from transformers import PreTrainedTokenizerFast

    characters = ["\u2581", *(chr(i) for i in range(33, 127)), "\n"]
    merges = [("\u2581", letter) for letter in "AHabcNSJ4"]
    pieces = [*characters, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(word, normalized=False) for word in (eos, bos, *words)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, bos_token=bos)
    fast.chat_template = template
    fast.save_pretrained(path)
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return path


def vary_model(model: Path, path: Path, *, noise: float, untied: bool = False) -> Path:
    """Write another checkpoint of a model: each weight times (1 + noise * a normal draw).

    Args:
        untied: Whether the output layer is to have weights of its own.
    """
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, path, ignore=shutil.ignore_patterns("*.safetensors", "MANIFEST.*"))
    [file] = model.glob("*.safetensors")
    weights = load_file(file)
    if untied:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        config = json.loads((model / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    random = torch.Generator().manual_seed(0)
    changed = {
        name: weight * (1 + noise * torch.randn(weight.shape, generator=random))
        for name, weight in weights.items()
    }
    save_file(changed, path / file.name, metadata={"format": "pt"})
    return path
