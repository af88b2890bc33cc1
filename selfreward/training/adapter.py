"""What is made of a trained adapter: a plain model that has it, and a copy in peft's form."""

import copy
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel


def merged(adapted: PeftModel, state: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """Return the plain model with the adapter added to its weights.

    It is put together anew from the whole state: ``adapted`` may be in shards, or in 4 bits.

    Args:
        state: In float32, see ``quantized.written_out``.
    """
    base, config = adapted.get_base_model(), copy.deepcopy(adapted.peft_config["default"])
    config.init_lora_weights = False  # the state has them; some ways to make them need values
    with torch.device("meta"), warnings.catch_warnings():
        # In 4 bits the layers of GPT-2 were not turned, and here they are: peft sees to it.
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
        whole = get_peft_model(type(base)(base.config), config)
    vars(whole.config).pop("quantization_config", None)
    whole.load_state_dict(state, assign=True)
    whole.get_base_model().tie_weights()
    return whole.merge_and_unload()


def save_adapter(adapted: PeftModel, state: Mapping[str, torch.Tensor], directory: Path) -> None:
    """Keep an adapter in peft's form, but for the base model: where M(t) lies may change."""
    found = get_peft_model_state_dict(adapted, state_dict=dict(state), save_embedding_layers=False)
    directory.mkdir()
    weights = {name: tensor.contiguous().cpu() for name, tensor in found.items()}
    save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = adapted.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": None, "inference_mode": True}
    plain = {key: sorted(v) if isinstance(v, set) else v for key, v in config.items()}
    text = json.dumps(plain, indent=2, sort_keys=True)
    (directory / "adapter_config.json").write_text(text, encoding="utf-8")
