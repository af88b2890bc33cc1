"""A random Llama of two layers, and rows to train it on."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selfreward.training.base import DpoRow, RankedRow, SftRow

EOS = 2
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"


@contextmanager
def tiny_model(directory: Path) -> Iterator[Path]:
    """A directory as `models.resolve` gives it; torch computes in one thread meanwhile."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what is this small only waits for other threads
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096,
        tie_word_embeddings=True, eos_token_id=EOS, pad_token_id=EOS,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    words = {word: i for i, word in enumerate(["<unk>", "<s>", "<end>", *map(str, range(61))])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    yield directory
    torch.set_num_threads(threads)


def some_ids(rng, low, high):
    return tuple(rng.randrange(3, 64) for _ in range(rng.randint(low, high)))


def sft_rows(count, seed=0):
    rng = random.Random(seed)
    return [SftRow(some_ids(rng, 3, 12), (*some_ids(rng, 1, 5), EOS)) for _ in range(count)]


def dpo_rows(count, seed=0):
    rng = random.Random(seed)
    return [
        DpoRow(some_ids(rng, 3, 9), (*some_ids(rng, 1, 6), EOS), (*some_ids(rng, 1, 6), EOS))
        for _ in range(count)
    ]


def ranked_rows(count, num_answers=4, seed=0):
    """Rankings without ties, the best answer first or not."""
    rng = random.Random(seed)
    return [
        RankedRow(
            tuple((*some_ids(rng, 4, 15), EOS) for _ in range(num_answers)),
            tuple(map(float, rng.sample(range(num_answers), num_answers))),
        )
        for _ in range(count)
    ]


def weights(directory):
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")
