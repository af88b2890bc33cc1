"""Write a model of any size that answers exactly as a small Llama does.

    python benchmarks/widened.py 8b DIR [--model bundled:smollm2-135m]

So speed and memory of large models can be measured on real text, with answers that end where they
should, on a machine that cannot fetch one. Rows, heads and layers are added; those that write into
the residual stream are zero, all others are random, so nothing can be left out while computing.
The added dimensions of the stream are zero, so its mean square shrinks by the ratio of the widths:
the weights and the epsilon of each norm undo that. At four times the width that factor is a half,
and the log-probabilities are those of the small model in bfloat16 to the last bit; at other widths
bfloat16 rounds it.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from selfreward.inputs import models


class Shape(NamedTuple):
    """What is wider than in the model at the start; heads are of the same size, 64."""

    heads: int
    key_value_heads: int
    """As many query heads to each as in the small model."""
    intermediate: int
    layers: int


SHAPES = {
    "1.5b": Shape(36, 12, 5120, 30),
    "8b": Shape(63, 21, 14336, 37),
}


def main() -> None:
    """Write one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("size", choices=SHAPES)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--model", default="bundled:smollm2-135m")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    count = widen(
        models.resolve(arguments.model).path, SHAPES[arguments.size], arguments.directory, device
    )
    print(f"{arguments.directory}: {count / 1e9:.2f} billion parameters in bfloat16")


def widen(small: Path, shape: Shape, directory: Path, device: str = "cpu") -> int:
    """Write the wide model in bfloat16, a file for each layer, and return its parameters."""
    config = json.loads((small / "config.json").read_text())
    old = AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32).state_dict()
    head, width = config["hidden_size"] // config["num_attention_heads"], config["hidden_size"]
    wide = shape.heads * head
    sizes = {  # of a layer's matrices: rows and columns
        "self_attn.q_proj": (wide, wide),
        "self_attn.k_proj": (shape.key_value_heads * head, wide),
        "self_attn.v_proj": (shape.key_value_heads * head, wide),
        "self_attn.o_proj": (wide, wide),
        "mlp.gate_proj": (shape.intermediate, wide),
        "mlp.up_proj": (shape.intermediate, wide),
        "mlp.down_proj": (wide, shape.intermediate),
    }
    norms = ("input_layernorm", "post_attention_layernorm")
    directory.mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    torch.manual_seed(0)

    def norm(name: str) -> torch.Tensor:
        kept = torch.ones(wide)
        if name in old:
            kept[:width] = old[name] * (width / wide) ** 0.5
        return kept.bfloat16()

    def save(tensors: dict[str, torch.Tensor]) -> None:
        file = f"model-{len(set(written.values())):05}.safetensors"
        save_file(tensors, directory / file, {"format": "pt"})
        written.update(dict.fromkeys(tensors, file))

    count = 0
    for index in range(shape.layers):
        tensors = {}
        for name, (rows, columns) in sizes.items():
            key = f"model.layers.{index}.{name}.weight"
            tensors[key] = _matrix(old.get(key), key, rows, columns, device)
        for name in norms:
            key = f"model.layers.{index}.{name}.weight"
            tensors[key] = norm(key)
        count += sum(tensor.numel() for tensor in tensors.values())
        save(tensors)
    embedding = torch.zeros(config["vocab_size"], wide, dtype=torch.bfloat16)
    embedding[:, :width] = old["model.embed_tokens.weight"].bfloat16()
    save({"model.embed_tokens.weight": embedding, "model.norm.weight": norm("model.norm.weight")})
    for file in small.iterdir():
        if file.is_file() and ".safetensors" not in file.name and file.name != "MANIFEST.json":
            shutil.copy(file, directory / file.name)
    config |= {
        "hidden_size": wide, "head_dim": head, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads, "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers, "dtype": "bfloat16",
        "rms_norm_eps": config["rms_norm_eps"] * width / wide,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    index_json = {"metadata": {}, "weight_map": written}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index_json))
    return count + embedding.numel() + wide


def _matrix(
    old: torch.Tensor | None, key: str, rows: int, columns: int, device: str
) -> torch.Tensor:
    """A matrix with the old one in its corner; the rest is random, or zero where it writes."""
    weight = torch.randn(rows, columns, device=device, dtype=torch.bfloat16) * 0.02
    if key.endswith(("o_proj.weight", "down_proj.weight")):
        weight.zero_()
    if old is not None:
        weight[: old.shape[0]] = 0  # what was there reads nothing new
        weight[: old.shape[0], : old.shape[1]] = old.to(weight)
    return weight.cpu()


if __name__ == "__main__":
    main()
