"""Weights that are no numbers are found before anything starts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from selfreward.errors import ConfigError
from selfreward.inputs import models, weights
from tests.support.models import make_model


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))


def save(path: Path, **tensors: Any) -> Path:
    from safetensors import torch

    make_model(path)
    torch.save_file(
        {name.replace("__", "."): t for name, t in tensors.items()}, path / "a.safetensors"
    )
    return path


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_nan_and_infinity_are_found_in_every_type(value: str, dtype: str, tmp_path: Path) -> None:
    import torch

    kind = getattr(torch, dtype)
    most = torch.full((3, 5), torch.finfo(kind).max, dtype=kind)
    weights.check_finite(save(tmp_path / "fine", a=most, b=-most))
    bad = most.clone()
    bad[2, 4] = float(value)
    model = save(tmp_path / "bad", a=most, layer__b=bad)
    with pytest.raises(ConfigError, match=r"a\.safetensors: layer\.b holds NaN or infinite"):
        weights.check_finite(model)
    with pytest.raises(ConfigError, match=r"layer\.b"):
        models.resolve(str(model))


def test_only_weights_that_are_read_count(tmp_path: Path) -> None:
    import torch

    mask = torch.tensor([-float("inf")], dtype=torch.float16)
    model = save(
        tmp_path / "m", gpt_neox__layers__0__attention__masked_bias=mask,
        ids=torch.tensor([0x7FC00000], dtype=torch.int32), none=torch.zeros(0),
    )  # fmt: skip
    weights.check_finite(model)
    assert weights.num_parameters(model) == 2


def test_files_are_looked_at_once_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    model = save(tmp_path / "m", a=torch.ones(3))
    weights.check_finite(model)
    looked: list[Path] = []
    monkeypatch.setattr(weights, "_first_bad", looked.append)
    weights.check_finite(model)
    assert looked == []
    save(model, a=torch.ones(4))
    weights.check_finite(model)
    assert looked == [model / "a.safetensors"]


def test_an_adapter_beside_weights_is_refused(tmp_path: Path) -> None:
    import torch

    model = save(tmp_path / "m", a=torch.ones(3))
    models.resolve(str(model))
    (model / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds weights and an adapter") as error:
        models.resolve(str(model))
    assert "\n" not in error.value.message
    assert "remove adapter_config.json" in error.value.hint


def test_mapped_weights_are_those_of_the_files_and_to_change_one_changes_no_file(
    tmp_path: Path,
) -> None:
    draw = np.random.default_rng(0)
    parts = [
        {"a.weight": draw.normal(size=(3, 5)).astype("f4"), "b": np.zeros((), "f4")},
        {"c": draw.normal(size=7).astype("f4")},
    ]
    for number, part in enumerate(parts):
        save_file(part, tmp_path / f"model-{number}.safetensors")
    found = weights.mapped(tmp_path)
    assert found is not None and found.keys() == {"a.weight", "b", "c"}
    for name, expected in (parts[0] | parts[1]).items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], expected)
    found["c"][:] = 0
    again = weights.mapped(tmp_path)
    assert again is not None and again["c"].any()


@pytest.mark.parametrize("kind", ["f2", "f8", "i4"])
def test_what_is_not_all_float32_is_not_mapped(kind: str, tmp_path: Path) -> None:
    save_file({"a": np.ones(3, "f4"), "b": np.ones(3, kind)}, tmp_path / "model.safetensors")
    assert weights.mapped(tmp_path) is None
    assert weights.mapped(tmp_path / "nowhere") == {}


def test_what_lies_at_odd_places_is_not_mapped(tmp_path: Path) -> None:
    save_file({"a": np.ones(3, "f4")}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = whole[8 : 8 + length] + b" "  # as files were written before their headers were padded
    odd = len(header).to_bytes(8, "little") + header + whole[8 + length :]
    (tmp_path / "model.safetensors").write_bytes(odd)
    assert weights.mapped(tmp_path) is None
