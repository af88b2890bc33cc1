"""What is in safetensors files, read without torch: shapes, and whether all are numbers."""

import hashlib
import json
import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfreward.errors import ConfigError
from selfreward.inputs import shipped
from selfreward.storage import durable

if TYPE_CHECKING:
    import numpy as np

_EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
"""By type: how to read an element as a whole number, and the bits of its exponent. Where all of
these are set, the element is infinite or NaN (IEEE 754)."""
_MASKS = ("masked_bias",)
"""Buffers of old GPT-NeoX checkpoints that no model reads: -1e9, too much for float16."""
_CHUNK = 1 << 22
"""Elements looked at together."""


def num_parameters(model: Path) -> int:
    """Elements of all weights in a model directory."""
    files = model.glob("*.safetensors")
    return sum(math.prod(entry["shape"]) for file in files for entry in _header(file)[0].values())


def mapped(model: Path) -> "dict[str, np.ndarray] | None":
    """All weights in a model directory by name, if each of them is float32, at whole words.

    They are mapped, so their pages are read as they are needed, and are no memory of this process.
    """
    import numpy as np

    found = {}
    for file in sorted(model.glob("*.safetensors")):
        header, start = _header(file)
        if start % 4 or any(entry["dtype"] != "F32" for entry in header.values()):
            return None
        data = np.memmap(file, np.uint8, "c", start)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            found[name] = data[begin:end].view("<f4").reshape(entry["shape"])
    return found


def check_finite(model: Path) -> None:
    """Check once that no weight in a model directory is NaN or infinite; 1 GB takes a second.

    Files that passed are remembered in the cache by name, size and time of writing.

    Raises:
        ConfigError: One is; the message names file and tensor.
    """
    marks = shipped.cache_directory() / "finite"
    for file in sorted(model.glob("*.safetensors")):
        status = file.resolve().stat()
        facts = f"{file.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
        mark = marks / hashlib.sha256(facts.encode()).hexdigest()
        if mark.exists():
            continue
        if found := _first_bad(file):
            raise ConfigError(
                f"model: {file}: {found} holds NaN or infinite weights",
                "Take an earlier checkpoint, or save the model again in a type that holds it.",
            )
        durable.keep_if_writable(mark, "")


def _header(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Tensors of a file by name, and where its data begin: 8 bytes of length, JSON, data."""
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def _first_bad(file: Path) -> str | None:
    """Name of the first tensor with an element that is no finite number."""
    header, start = _header(file)
    with open(file, "rb") as stream:
        if not header or not file.stat().st_size - start:
            return None
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for name, entry in header.items():
                known = _EXPONENTS.get(entry["dtype"])
                if known is None or name.endswith(_MASKS):
                    continue
                begin, end = entry["data_offsets"]
                if any(_elements(data, start + begin, start + end, *known)):
                    return name
    return None


def _elements(
    data: mmap.mmap, begin: int, end: int, kind: str, exponent: int
) -> "Iterator[np.bool_]":
    """Whether a chunk holds an element with all bits of the exponent set, chunk by chunk."""
    import numpy as np

    width = np.dtype(kind).itemsize
    for at in range(begin, end, _CHUNK * width):
        size = min(_CHUNK * width, end - at)
        chunk = np.frombuffer(data[at : at + size], dtype=kind)
        yield ((chunk & chunk.dtype.type(exponent)) == exponent).any()
