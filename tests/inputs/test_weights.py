"""Weights that are no numbers are found before anything starts."""

from pathlib import Path
from typing import Any

import pytest

from selfreward.errors import ConfigError
from selfreward.inputs import models, weights
from tests.support.models import make_model


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))


def save(path: Path, **tensors: Any) -> Path:
    from safetensors.torch import save_file

    make_model(path)
    save_file({name.replace("__", "."): t for name, t in tensors.items()}, path / "a.safetensors")
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
