"""Graphs of OpenVINO traced from the models of transformers; see ``openvino_graph``.

What OpenVINO GenAI (2026.4) asks of a graph, and does to it:

- Inputs ``input_ids``, ``attention_mask``, ``position_ids``, ``beam_idx``; the cache is a state.
- Attention becomes paged where it is ScaledDotProductAttention over that state. The mask goes, and
  with it a sliding window, but for masks of a known form: those of GPT-OSS, where a boolean mask is
  turned into numbers and cut (``gpt_oss_sliding_window_pattern`` in state_management_pattern.cpp).
- It takes the logits of the positions that it needs. A sequence is then laid out as a batch of
  single tokens, so a graph that keeps the last position alone fits both uses.
"""

import inspect
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation
from safetensors import safe_open
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from selfreward.errors import PreflightError
from selfreward.storage import durable

_INPUTS = ("input_ids", "attention_mask", "position_ids")
_HARMLESS = ("masking_utils.py", "cache_utils.py", "sdpa_attention.py", "functional.py")
"""Files of transformers and torch whose branches all turn one way once there is a cache and a mask.
A branch anywhere else, as LongRoPE has at its original length, would be frozen by the trace."""
_TO_THE_END = 2**62


def traced(model: Path, opened: Any) -> Any:
    """Trace a model of transformers and make its cache a state.

    Raises:
        PreflightError: It cannot be traced, or not so that the trace holds for all texts.
    """
    try:
        trace = _Trace.of(opened)
        graph = trace.converted()
        trace.name(graph)
        _number_masks(graph)
        trace.make_stateful(graph)
    except Exception as error:  # whatever a model's code, the tracer and OpenVINO raise
        if isinstance(error, OSError) and error.errno in durable.DISK_FAILS:
            raise
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        if not isinstance(error, _Untraceable):
            reason = f"{type(error).__name__}: {reason}"
        raise PreflightError(
            f"{model}: OpenVINO has no graph of this model ({reason})",
            "Set engine.kind=transformers.",
        ) from None
    return graph


def stored_weights(model: Path, opened: Any) -> dict[str, list[int]]:
    """Shapes of the weights by name, if transformers loads just what the files hold by these names.

    Else nothing.

    Args:
        model: Model directory.
        opened: The same model, as transformers has loaded it.
    """
    weights = dict(opened.named_parameters())
    with ExitStack() as stack:
        held: dict[str, Any] = {}
        for file in model.glob("*.safetensors"):
            tensors = stack.enter_context(safe_open(file, "pt"))
            held |= dict.fromkeys(tensors.keys(), tensors)
        is_same = held.keys() == weights.keys() and all(
            torch.equal(held[name].get_tensor(name).to(weight.dtype), weight)
            for name, weight in weights.items()
        )
    return {name: list(weight.shape) for name, weight in weights.items()} if is_same else {}


class _Untraceable(Exception):
    """A forward pass of which a trace does not hold for all texts."""


@dataclass(frozen=True)
class _Trace:
    """A forward pass to be traced, and its inputs and outputs by name."""

    model: Any
    slots: list[tuple[torch.nn.Module, str, int]]
    """Module, name in it, and number of each weight; tied ones have the same number."""
    weights: dict[str, torch.nn.Parameter]
    states: dict[str, tuple[int, int]]
    """Heads and their width of each part of the cache: the keys and the values of each layer."""

    @classmethod
    def of(cls, model: Any) -> "_Trace":
        if model.config._attn_implementation != "sdpa":
            raise _Untraceable("its attention is not torch's scaled_dot_product_attention")
        weights = dict(model.named_parameters())
        more = set(model.state_dict()) - set(dict(model.named_parameters(remove_duplicate=False)))
        if more:
            raise _Untraceable(f"{min(more)} is kept with its weights and is none")
        number = {id(weight): i for i, weight in enumerate(weights.values())}
        slots = []
        for name, weight in model.named_parameters(remove_duplicate=False):
            owner, _, leaf = name.rpartition(".")
            slots.append((model.get_submodule(owner), leaf, number[id(weight)]))
        cache = DynamicCache()
        model(input_ids=torch.zeros(1, 3, dtype=torch.long), past_key_values=cache, use_cache=True)
        states = {}
        for i, layer in enumerate(cache.layers):
            for part, states_of in (("key", layer.keys), ("value", layer.values)):
                if type(layer) is not DynamicLayer or states_of.shape[::2] != (1, 3):
                    raise _Untraceable(f"its cache is no plain one ({type(layer).__name__})")
                states[f"{i}.{part}"] = (states_of.shape[1], states_of.shape[3])
        return cls(model, slots, weights, states)

    def converted(self) -> Any:
        """The graph; its inputs are those of ``names``, without their names."""
        batch, past, new = 2, 3, 4
        example = (
            torch.zeros(batch, new, dtype=torch.long),
            torch.ones(batch, past + new, dtype=torch.long),
            torch.arange(past, past + new).expand(batch, new).contiguous(),
            *(torch.zeros(batch, heads, past, width) for heads, width in self.states.values()),
            *(weight.data for weight in self.weights.values()),
        )
        kept = list(self.weights.values())
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                traced = torch.jit.trace(_Forward(self), example, check_trace=False, strict=False)
        finally:
            for owner, leaf, number in self.slots:
                owner._parameters[leaf] = kept[number]
        for warning in said:
            file = Path(warning.filename).name
            if warning.category is torch.jit.TracerWarning and file not in _HARMLESS:
                raise _Untraceable(f"what it computes depends on values, {file}:{warning.lineno}")
        return ov.convert_model(traced, example_input=example)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits of shape (batch, 1 or new tokens, vocabulary), and the cache with the new ones."""
        ids, mask, positions, *rest = inputs
        past, weights = rest[: len(self.states)], rest[len(self.states) :]
        for owner, leaf, number in self.slots:
            owner._parameters[leaf] = weights[number]
        cache = DynamicCache()
        for keys, values in zip(past[::2], past[1::2], strict=True):
            layer = DynamicLayer()  # its own way to begin would leave a piece of no shape
            layer.keys, layer.values, layer.is_initialized = keys, values, True
            cache.layers.append(layer)
        takes_keep = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        logits = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
            use_cache=True, **({"logits_to_keep": 1} if takes_keep else {}),
        ).logits  # fmt: skip
        return (logits, *(part for layer in cache.layers for part in (layer.keys, layer.values)))

    def name(self, graph: Any) -> None:
        """Give inputs and outputs their names and shapes."""
        shapes: Iterable[tuple[str, list[int]]] = (
            *((name, [-1, -1]) for name in _INPUTS),
            *((f"past.{name}", [-1, heads, -1, width])
              for name, (heads, width) in self.states.items()),
            *((name, list(weight.shape)) for name, weight in self.weights.items()),
        )  # fmt: skip
        for port, (name, shape) in zip(graph.inputs, shapes, strict=True):
            port.get_tensor().set_names({name})
            port.get_node().set_friendly_name(name)
            port.get_node().set_partial_shape(ov.PartialShape(shape))
        names = ["logits", *(f"present.{name}" for name in self.states)]
        for port, name in zip(graph.outputs, names, strict=True):
            port.get_tensor().set_names({name})
        graph.validate_nodes_and_infer_types()

    def make_stateful(self, graph: Any) -> None:
        """Let the graph keep its cache, which begins empty for as many rows as come in."""
        beam = ops.parameter(name="beam_idx", dtype=ov.Type.i32, shape=ov.PartialShape([-1]))
        beam.output(0).get_tensor().add_names({"beam_idx"})
        graph.add_parameters([beam])
        for name in self.states:
            past = graph.input(f"past.{name}")
            readers = past.get_target_inputs()
            chosen = ops.gather(past, beam, ops.constant(0))
            for reader in readers:
                reader.replace_source_output(chosen.output(0))
        graph.validate_nodes_and_infer_types()
        apply_make_stateful_transformation(
            graph, {f"past.{name}": f"present.{name}" for name in self.states}
        )
        shape = ops.shape_of(graph.input("input_ids"), output_type="i64")
        rows = ops.gather(shape, ops.constant([0]), ops.constant(0))
        for node in graph.get_ops():
            if node.get_type_name() == "ReadValue":
                _, heads, _, width = node.get_output_partial_shape(0)
                sizes = [ops.constant([n]) for n in (heads.get_length(), 0, width.get_length())]
                empty = ops.broadcast(ops.constant(0.0, dtype=ov.Type.f32), ops.concat(
                    [rows, *sizes], 0))  # fmt: skip
                node.set_arguments([empty.output(0)])
        graph.validate_nodes_and_infer_types()


class _Forward(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """What torch traces; it must not have the model among its parts, or its weights are no inputs.

    Args:
        trace: Whose forward pass.
    """

    def __init__(self, trace: _Trace) -> None:
        super().__init__()
        self._forward = trace.forward

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._forward(*inputs)


def _number_masks(graph: Any) -> None:
    """Turn boolean masks into numbers that are added, in the form whose windows are recognized."""
    lowest = torch.finfo(torch.float32).min
    numbers: dict[str, Any] = {}
    for node in graph.get_ops():
        if node.get_type_name() != "ScaledDotProductAttention":
            continue
        mask = node.input(3).get_source_output()
        if mask.get_element_type() != ov.Type.boolean:
            continue
        name = mask.get_node().get_friendly_name()
        if name not in numbers:
            zero, low = (ops.constant(v, dtype=ov.Type.f32) for v in (0.0, lowest))
            begin, end, step, axis = (ops.constant([v]) for v in (0, _TO_THE_END, 1, 3))
            numbers[name] = ops.slice(ops.select(mask, zero, low), begin, end, step, axis)
        node.input(3).replace_source_output(numbers[name].output(0))
