"""Starts that rows of a micro-batch share, read once.

    rows -> trees of tokens, in which rows with one start have its nodes in common
         -> the decoder reads the trees: a node stands at its depth and attends to its ancestors
         -> hidden states, laid out by row again

A judge prompt is half rubric, and chosen and rejected answer one prompt. What comes out is what the
decoder makes of each row by itself, but for rounding, and gradients add up over rows on their own.
It is held against that before it is used: models whose attention is no plain one (recurrent layers,
positions that count the padding) are read row by row as ever, and so are rows whose tree is longer
than a sliding window: some models, as GPT-Neo, count it over whatever is beside each other.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from selfreward.errors import PreflightError
from selfreward.training.base import ShareStarts
from selfreward.training.loop import is_sharded

_LOG = logging.getLogger(__name__)
_TOLERANCE = 1e-4
"""Part of the largest hidden state by which rounding may move one, in float32."""
_LEAST_GAIN = 0.1
"""Part of the work that trees have to save: laying them out takes time, too."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Rows whose common starts are one."""

    tokens: list[int]
    depths: list[int]
    """Of each node, 0 for a root: its position in each row that it is in."""
    branches: list[tuple[int, int, list[int]]]
    """Nodes from, to (exclusive), that follow each other, and the ancestors of the first."""
    places: list[list[int]]
    """Of each row, in the order given, the node of each of its tokens."""

    def __len__(self) -> int:
        return len(self.tokens)


def tree_of(rows: Sequence[Sequence[int]]) -> Tree:
    """Put rows of token ids together; a start is common if all its ids are."""
    tokens: list[int] = []
    depths: list[int] = []
    branches: list[tuple[int, int, list[int]]] = []
    places: list[list[int]] = [[] for _ in rows]
    last: Sequence[int] = ()
    path: list[int] = []
    for at in sorted(range(len(rows)), key=lambda at: [*rows[at]]):  # neighbors share the most
        row = rows[at]
        common = _common(last, row)
        first = len(tokens)
        tokens += row[common:]
        depths += range(common, len(row))
        path = [*path[:common], *range(first, len(tokens))]
        if len(tokens) > first:
            branches.append((first, len(tokens), path[:common]))
        places[at], last = path, row
    return Tree(tokens, depths, branches, places)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two rows begin with alike."""
    pairs = zip(a, b, strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def cheapest(
    rows: Sequence[Sequence[int]], per_pair: float, longest: int | None = None
) -> list[list[int]] | None:
    """Which rows to put together: all of them, or the first half's each with one of the second's.

    Chosen and rejected responses are laid out as such halves. A tree of many rows shares the most,
    but each of its nodes is held against all the others.

    Args:
        per_pair: Work for a pair of tokens in attention, in that of a token in all else.
        longest: Tokens that a tree may have; None: any number.

    Returns:
        The rows of each tree by number; None where it saves next to nothing, or trees are too long.
    """
    n = len(rows)
    ways = [[[*range(n)]]]
    if n % 2 == 0 and n > 2:
        ways.append([[at, at + n // 2] for at in range(n // 2)])

    def cost(sizes: Sequence[int]) -> float:
        longest = max(sizes)  # the others are filled up to it
        return len(sizes) * longest * (1 + per_pair * longest)

    least, best = (1 - _LEAST_GAIN) * cost([*map(len, rows)]), None
    for way in ways:
        sizes = [len(tree_of([rows[at] for at in tree])) for tree in way]
        if (longest is None or max(sizes) <= longest) and cost(sizes) <= least:
            least, best = cost(sizes), way
    return best


class SharedStarts:
    """The forward pass of a decoder of transformers, over trees where that saves work.

    Args:
        decoder: Without a language-model head; its ``forward`` becomes this object.
    """

    def __init__(self, decoder: Any) -> None:
        self.decoder, self.alone = decoder, decoder.forward
        config = decoder.config.get_text_config()
        layers = sum(p.numel() for p in decoder.parameters()) - _embeddings(decoder)
        # An id is multiplied with each weight; a pair of ids is scored and mixed, in each layer.
        width = config.num_attention_heads * (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        self.per_pair = 2 * width * config.num_hidden_layers / max(1, layers)
        self.is_eager = config._attn_implementation == "eager"
        self.longest = min(_windows(config.to_dict()), default=None)
        """Tokens of a tree: beyond them a layer may not see all that came before."""

    def __call__(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **named: Any,
    ) -> Any:
        """As the decoder's own."""
        if input_ids is None or attention_mask is None or not _is_plain(attention_mask, named):
            return self.alone(input_ids=input_ids, attention_mask=attention_mask, **named)
        seen = attention_mask.bool()
        rows = [ids[real].tolist() for ids, real in zip(input_ids, seen, strict=True)]
        way = cheapest(rows, self.per_pair, self.longest) if len(rows) > 1 else None
        if way is None:
            return self.alone(input_ids=input_ids, attention_mask=attention_mask, **named)
        named.pop("position_ids", None)
        trees = [tree_of([rows[at] for at in tree]) for tree in way]
        size = max(map(len, trees))
        device = input_ids.device
        outputs = self.alone(
            input_ids=_filled([tree.tokens for tree in trees], size, device),
            position_ids=_filled([tree.depths for tree in trees], size, device),
            attention_mask=self._mask(trees, size, device),
            **named,
        )
        index = torch.zeros(input_ids.shape, dtype=torch.long, device=device)
        for number, (tree, numbers) in enumerate(zip(trees, way, strict=True)):
            for row, at in zip(tree.places, numbers, strict=True):
                index[at, seen[at]] = torch.tensor(row, device=device) + number * size
        states = outputs.last_hidden_state
        outputs.last_hidden_state = states.flatten(0, 1)[index]
        return outputs

    def _mask(self, trees: Sequence[Tree], size: int, device: torch.device) -> torch.Tensor:
        """Which node sees which, as (trees, 1, size, size)."""
        mask = torch.eye(size, dtype=torch.bool).repeat(len(trees), 1, 1)
        for sees, tree in zip(mask, trees, strict=True):
            for first, end, ancestors in tree.branches:
                sees[first:end, ancestors] = True
                sees[first:end, first:end] = torch.ones(end - first, end - first).tril().bool()
        mask = mask[:, None].to(device)
        if not self.is_eager:
            return mask
        dtype = self.decoder.dtype
        return torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill(
            ~mask, torch.finfo(dtype).min
        )


def _is_plain(attention_mask: torch.Tensor, named: dict[str, Any]) -> bool:
    """Whether a pass is one of training: whole rows, nothing kept of them, nothing else asked."""
    asks = ("past_key_values", "position_ids", "inputs_embeds", "use_cache", "output_attentions",
            "output_hidden_states", "output_router_logits")  # fmt: skip
    return attention_mask.dim() == 2 and not any(
        named.get(name) is not None and named[name] is not False for name in asks
    )


def _windows(config: Mapping[str, Any]) -> list[int]:
    """Whatever a config has of sliding windows and chunks of attention, in tokens."""
    return [
        value
        for name, value in config.items()
        if ("window" in name or "chunk" in name) and not re.search("layer|pattern", name)
        if isinstance(value, int) and value > 0 and value is not True
    ]


def _embeddings(decoder: Any) -> int:
    return sum(p.numel() for p in decoder.get_input_embeddings().parameters())


def _filled(rows: Sequence[Sequence[int]], size: int, device: torch.device) -> torch.Tensor:
    return torch.tensor([[*row, *[0] * (size - len(row))] for row in rows], device=device)


def share_starts(policy: Any, how: ShareStarts) -> None:
    """Have a model read common starts once, where it is one that can.

    Args:
        policy: In float32, as ``load_policy`` loads it.
        how: ``auto``: or leave it as it is; True: or fail; False: leave it as it is.

    Raises:
        PreflightError: It cannot, and has to.
    """
    if how is False:
        return
    decoder = policy.base_model
    why = "it is in shards" if is_sharded() else _hindrance(decoder)
    if why is None:
        decoder.forward = SharedStarts(decoder)
        return
    if how is True:
        raise PreflightError(
            f"launch.share_starts=true: {type(policy).__name__} cannot: {why}",
            "Leave it at auto.",
        )
    _LOG.info("starts are not shared: %s", why)


def _hindrance(decoder: Any) -> str | None:
    """Why trees cannot be read by a decoder; None: it reads them as it reads rows."""
    kind = decoder.config.get_text_config()._attn_implementation
    if kind not in ("sdpa", "eager"):
        return f"attention by {kind} takes no mask of its own"
    training = decoder.training
    rows = [[*range(5, 13)], [*range(5, 10), 20, 21], [5, 6, 30]]
    ids, mask = (_filled(each, 8, decoder.device) for each in (rows, [[1] * len(r) for r in rows]))
    decoder.eval()
    try:
        shared = SharedStarts(decoder)
        shared.per_pair = 0.0
        ids = ids % decoder.get_input_embeddings().num_embeddings
        with torch.inference_mode():
            alone, together = (
                read(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()].float()
                for read in (shared.alone, shared)
            )
    except Exception as error:  # whatever a model's own code raises
        return f"{type(error).__name__}: {error}"
    finally:
        decoder.train(training)
    apart, largest = float((alone - together).abs().max()), float(alone.abs().max())
    if not apart <= _TOLERANCE * largest:
        return f"hidden states are {apart:.2g} apart, of {largest:.2g} at most"
    return None
