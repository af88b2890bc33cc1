"""QLoRA: M(t) in 4 bits while an adapter is trained on it, by bitsandbytes (arXiv 2305.14314).

    M(t) in float32 -> Q(M(t)) in 4 bits, frozen -> adapter on it -> M(t+1) = Q(M(t)) + adapter

What is published is what was trained, so its weights are those of the 4 bits, written out in
float32, with the adapter added. Added to M(t) itself they would be another model, that nobody
trained; the price is that M(t+1) has the rounding of 4 bits in it, and each iteration rounds anew.
The reference of DPO, RLOO and GRPO is Q(M(t)), which is what training starts from.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from selfreward.config import QuantizationConfig

if TYPE_CHECKING:
    from peft import PeftModel


def four_bits(quantization: QuantizationConfig) -> BitsAndBytesConfig:
    """How transformers is told to load a model so."""
    return BitsAndBytesConfig(load_in_4bit=True, **quantization.model_dump())


def settle(policy: PreTrainedModel) -> None:
    """Have a model in 4 bits say the same with and without gradients.

    On CPUs with AVX-512 for bfloat16, bitsandbytes 0.50 packs the weights anew for what takes no
    gradient, and computes that in bfloat16: the reference would be another model than the policy.
    """
    for module in _layers(policy).values():
        module.support_avx512bf16_for_cpu = False


def in_float32(adapted: torch.nn.Module) -> None:
    """Bring an adapter to float32, which TRL 1.16 puts into bfloat16 on a model in 4 bits.

    Updates of a small learning rate are lost in bfloat16.
    """
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def written_out(adapted: "PeftModel", state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of a model with an adapter, its weights of 4 bits written out in float32."""
    from bitsandbytes.functional import dequantize_4bit

    whole = {name: tensor.cpu() for name, tensor in state.items()}
    for name, layer in _layers(adapted).items():
        weight = f"{name}.weight"
        for key in [key for key in whole if key.startswith(f"{weight}.")]:
            del whole[key]  # what the rounding needs: greatest values, the code of the 4 bits
        found = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        if issubclass(layer.source_cls, Conv1D):  # of GPT-2, which keeps its weights turned
            found = found.T.contiguous()
        whole[weight] = found.float().cpu()
    return whole


def _layers(model: torch.nn.Module) -> dict[str, Any]:
    from bitsandbytes.nn.modules import Linear4bit

    return {name: m for name, m in model.named_modules() if isinstance(m, Linear4bit)}
