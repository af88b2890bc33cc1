"""Common starts are read once, and all else is as if each row were read by itself."""

import random
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from selfreward.errors import PreflightError
from selfreward.training import starts
from selfreward.training.base import DpoRow, SftRow, Training
from selfreward.training.starts import SharedStarts, cheapest, share_starts, tree_of
from tests.support.families import FAMILIES, make_family, make_tiny
from tests.support.training import EOS, some_ids, tiny_model, weights


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    with tiny_model(tmp_path_factory.mktemp("model") / "M0") as directory:
        yield directory


def branching(seed, count=6):
    """Rows of which some begin alike."""
    rng = random.Random(seed)
    stems = [some_ids(rng, 0, 20), some_ids(rng, 5, 20)]
    return [[*rng.choice(stems)[: rng.randint(0, 20)], *some_ids(rng, 1, 9)] for _ in range(count)]


@pytest.mark.parametrize("seed", range(30))
def test_each_row_is_found_in_its_tree_and_nothing_else_is_in_it(seed):
    rows = branching(seed)
    tree = tree_of(rows)
    for row, places in zip(rows, tree.places, strict=True):
        assert [tree.tokens[at] for at in places] == row
        assert [tree.depths[at] for at in places] == [*range(len(row))]
    starts = {tuple(row[: n + 1]) for row in rows for n in range(len(row))}
    assert len(tree) == len(starts)
    seen = {}
    for first, end, ancestors in tree.branches:
        for at in range(first, end):
            seen[at] = {*ancestors, *range(first, at + 1)}
    for places in tree.places:
        assert all(seen[at] == {*places[: n + 1]} for n, at in enumerate(places))


def test_the_cheapest_way_is_taken_and_none_where_nothing_is_shared():
    prompts = [[*range(40)], [*range(50, 90)]]
    pairs = [[*prompts[0], 1], [*prompts[1], 2], [*prompts[0], 3], [*prompts[1], 4]]
    assert cheapest(pairs, per_pair=0.01) == [[0, 2], [1, 3]]
    rubric = [[*range(40), n] for n in range(100, 104)]
    assert cheapest(rubric, per_pair=0.001) == [[0, 1, 2, 3]]
    assert cheapest([[n, *range(40)] for n in range(100, 104)], per_pair=0.001) is None


def states(decoder, rows):
    size = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (size - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (size - len(row)) for row in rows])
    return decoder(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("seed", range(4))
def test_hidden_states_and_gradients_are_those_of_each_row_alone(start, seed, attention):
    rows, found, counted = branching(seed, 4), [], []
    torch.manual_seed(seed)
    mix = torch.randn(sum(map(len, rows)), 1000)
    for shares in (False, True):
        model = AutoModelForCausalLM.from_pretrained(start, attn_implementation=attention)
        decoder = model.base_model.train()
        if shares:
            share_starts(model, True)
            decoder.forward.per_pair = 0.0
            decoder.layers[0].register_forward_hook(lambda *a: counted.append(a[2].shape[:2]))
        out = states(decoder, rows)
        (out * mix[:, : out.shape[1]]).sum().backward()
        found.append((out.detach(), {n: p.grad for n, p in decoder.named_parameters()}))
    (alone, by_row), (together, by_tree) = found
    assert torch.allclose(alone, together, atol=1e-5)
    for name, gradient in by_row.items():
        largest = float(gradient.abs().max())
        assert float((gradient - by_tree[name]).abs().max()) <= 1e-5 * largest, name
    assert counted[0].numel() < sum(map(len, rows))


def rows_of(method):
    rng = random.Random(1)
    stem = some_ids(rng, 20, 25)
    if method == "sft":
        return [
            SftRow((*stem, *some_ids(rng, 2, 6)), (*some_ids(rng, 1, 5), EOS)) for _ in range(8)
        ]
    return [
        DpoRow((*stem, *some_ids(rng, 2, 6)), (*some_ids(rng, 1, 6), EOS),
               (*some_ids(rng, 1, 6), EOS))
        for _ in range(8)
    ]  # fmt: skip


@pytest.mark.parametrize("lora", [None, {"r": 4, "target_modules": ["q_proj", "v_proj"]}])
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_training_is_that_of_each_row_alone(method, lora, start, tmp_path):
    from selfreward.training.methods import fit_of

    rows, logs, read = rows_of(method), [], []
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
               "learning_rate": 1e-3}  # fmt: skip
    lay_out = starts.tree_of

    def watched(rows):
        tree = lay_out(rows)
        read.append((len(tree), sum(map(len, rows))))
        return tree

    for shares in (False, True):
        log: dict[int, dict[str, float]] = {}
        training = Training(method, start, tmp_path / str(shares), tmp_path / "checkpoints",
                            options, lora, 0, share_starts=shares)  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(starts, "tree_of", watched)
            fit_of(method)(training, rows, on_log=log.__setitem__, on_step=lambda *_: None)
        logs.append(log)
    assert logs[0].keys() == logs[1].keys()
    for step, figures in logs[0].items():
        for name in ("loss", "grad_norm"):
            assert logs[1][step][name] == pytest.approx(figures[name], rel=1e-5, abs=1e-6)
    alone, together = (weights(tmp_path / str(shares)) for shares in (False, True))
    for name, tensor in alone.items():
        assert torch.allclose(tensor, together[name], atol=2e-5), name
    assert any(nodes < tokens / 2 for nodes, tokens in read)


@pytest.mark.parametrize("family", ["Mistral 0.1", "Gemma 2", "Gemma 3"])
def test_rows_that_are_longer_than_a_window_are_read_by_themselves(
    family: str, tmp_path: Path
) -> None:
    path = make_family(tmp_path, family, sliding_window=8)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    for rows in (
        [[*range(30, 40), 3], [*range(30, 40), 4]],
        [[*range(30, 37), 3], [*range(30, 37), 4]],
    ):
        model.base_model.__dict__.pop("forward", None)
        with torch.no_grad():
            alone = states(model.base_model, rows)
            share_starts(model, "auto")
            if isinstance(model.base_model.forward, SharedStarts):
                model.base_model.forward.per_pair = 0.0
            assert torch.allclose(alone, states(model.base_model, rows), atol=1e-4, rtol=1e-3)


def test_a_tree_that_is_longer_than_a_window_is_not_read_however_short_its_rows(
    tmp_path: Path,
) -> None:
    """GPT-Neo sees what lies less than a window before, in the order of the tree."""
    config = {
        "vocab_size": 128, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "window_size": 16,
        "attention_types": [[["global", "local"], 1]], "bos_token_id": 101, "eos_token_id": 100,
    }  # fmt: skip
    path = make_tiny(tmp_path, "GPTNeoConfig", config)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    decoder = model.base_model
    stem = [*range(30, 38)]
    for rows in (
        [[*stem, n, n + 1, n + 2, n + 3] for n in (50, 60, 70)],
        [[*stem, 50], [*stem, 60]],
    ):
        with torch.no_grad():
            alone = states(decoder, rows)
            share_starts(model, True)
            decoder.forward.per_pair = 0.0
            assert torch.allclose(alone, states(decoder, rows), atol=1e-4, rtol=1e-3)
        del decoder.forward


@pytest.mark.parametrize("kind", ["BartConfig", "MambaConfig"])
def test_a_model_of_which_a_plain_decoder_knows_nothing_is_read_row_by_row(kind: str) -> None:
    small = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 1, "d_model": 32,
             "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 32}  # fmt: skip
    model = AutoModelForCausalLM.from_config(getattr(transformers, kind)(**small))
    share_starts(model, "auto")
    assert not isinstance(model.base_model.forward, SharedStarts)
    with pytest.raises(PreflightError, match=r"launch\.share_starts=true: .* cannot"):
        share_starts(model, True)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_either_reads_trees_as_it_reads_rows_or_says_why_not(
    family: str, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_family(tmp_path, family), dtype=torch.float32)
    rows = branching(3, 4)
    model.eval()
    with torch.no_grad():
        alone = states(model.base_model, rows)
        share_starts(model, "auto")
        if isinstance(model.base_model.forward, SharedStarts):
            model.base_model.forward.per_pair = 0.0
            assert torch.allclose(alone, states(model.base_model, rows), atol=1e-4, rtol=1e-3)
        else:
            assert torch.equal(alone, states(model.base_model, rows))
            with pytest.raises(PreflightError, match=r"launch\.share_starts=true: .* cannot"):
                share_starts(model, True)


def test_only_what_is_a_length_is_a_window() -> None:
    gemma = {"sliding_window": 512, "_sliding_window_pattern": 6, "max_window_layers": 3}
    assert starts._windows(gemma) == [512]
