"""Checkpoints as OpenVINO reads them: graphs made of the models of transformers, and weights.

The forward pass that is trained is traced with its cache, see ``openvino_trace``, so no
architecture is written by hand. The weights are inputs of the trace: nothing is folded into them,
and a graph holds none (2 MB for 135M parameters). It is kept in the cache by config and versions.
To run a checkpoint, its weights are put in as constants, and graph and weights are written for the
pipeline, which takes only files.

Where transformers, as the graph was made, loaded just what the files of that checkpoint hold under
the same names, another checkpoint of the config whose files hold the same names is read from them:
neither transformers nor torch is imported for it. Of any other the weights are transformers'.
"""

# ruff: noqa: E402
import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Else the library reports to its makers that it was imported, and writes into the home directory.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov
from filelock import FileLock, Timeout
from openvino import opset13 as ops

from selfreward.engines import proof
from selfreward.engines.installed import version
from selfreward.engines.openvino_build import SERIES
from selfreward.engines.reference import loaded
from selfreward.errors import IntegrityError, PreflightError
from selfreward.inputs import shipped
from selfreward.inputs.weights import mapped, num_parameters
from selfreward.storage import durable

_FORMAT = 2
"""Of the graphs; a new number makes all of them anew."""
_KEPT = 16
"""Graphs kept in the cache."""
_GRAPH, _STORED = "graph.xml", "stored.json"
"""A graph without its weights, and what ``openvino_trace.stored_weights`` says of them."""
_LOCK = "graphs.lock"


class Checkpoint:
    """A model as the files that OpenVINO reads, for as long as it is open.

    Args:
        model: Model directory.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        PreflightError: The architecture cannot be made into a graph, or transformers cannot run it,
            or the cache can only be read.
        OSError: No space is left for its weights.
    """

    def __init__(self, model: Path, trust_remote_code: bool = False) -> None:
        cache = shipped.cache_directory() / "openvino"
        _make_writable(cache / "open")
        self._opening = FileLock(cache / "open.lock")
        with self._opening:
            _sweep(cache / "open")
            self._directory = tempfile.TemporaryDirectory(dir=cache / "open")
            self._lock = FileLock(self.path / "lock")  # which ends with this process
            self._lock.acquire()
        try:
            _check_space(self.path, model)
            self.cache_width = self._write(model, cache / "graphs" / _key(model), trust_remote_code)
            """Numbers that the key-value cache holds of a token."""
        except BaseException:
            self.close()
            raise

    def _write(self, model: Path, target: Path, trust_remote_code: bool) -> int:
        """Write graph and weights, and return the width of the key-value cache."""
        if (known := _known(model, target)) is not None:
            graph, stored = known
            _fill(graph, stored)
            ov.save_model(graph, self.xml, compress_to_fp16=False)
            return _cache_width(graph)
        with loaded(model, "float32", trust_remote_code) as opened:
            graph = _graph(model, opened, target)
            _fill(graph, {name: w.detach().numpy() for name, w in opened.named_parameters()})
            ov.save_model(graph, self.xml, compress_to_fp16=False)
            return _cache_width(graph)

    @property
    def path(self) -> Path:
        """Directory of ``openvino_model.xml`` and its weights, ``openvino_model.bin``."""
        return Path(self._directory.name)

    @property
    def xml(self) -> Path:
        """The graph."""
        return self.path / "openvino_model.xml"

    def close(self) -> None:
        """Remove the files. What has been opened goes on. Idempotent."""
        with self._opening:  # or a sweep may come between
            self._lock.release()
            self._directory.cleanup()


def _make_writable(directory: Path) -> None:
    """Make a directory; in a cache that can only be read, ``auto`` may find a conversion instead.

    Raises:
        PreflightError: It cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if os.access(directory, os.W_OK):
            return
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
    raise PreflightError(
        f"OpenVINO writes the weights of a model into {directory}, which can only be read",
        "Set SELFREWARD_CACHE to a directory that can be written, or another engine.kind.",
    )


def _sweep(directory: Path) -> None:
    """Remove what processes that were killed have left."""
    for left in directory.iterdir():
        lock = FileLock(left / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        shutil.rmtree(left, ignore_errors=True)
        lock.release()


def _check_space(place: Path, model: Path) -> None:
    needed, free = 4 * num_parameters(model), shutil.disk_usage(place).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"OpenVINO needs {needed / 1e9:.2f} GB for the weights, {free / 1e9:.2f} GB are free",
            str(place),
        )


def _key(model: Path) -> str:
    """Of the graph of a model's config."""
    versions = (SERIES, version("transformers"), version("torch"))
    made_of = [_FORMAT, proof.config_digest(model), *versions]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def _known(model: Path, target: Path) -> tuple[Any, dict[str, Any]] | None:
    """A graph from the cache, and what the files hold as arrays, if that is its weights by name.

    Args:
        target: Directory of the graph of the model's config.
    """
    with FileLock(target.parent.with_name(_LOCK)):
        if not durable.is_whole(target):
            return None
        shapes = json.loads((target / _STORED).read_bytes())
        weights = mapped(model)
        if not weights or {name: list(w.shape) for name, w in weights.items()} != shapes:
            return None
        return ov.Core().read_model(target / _GRAPH), weights


def _graph(model: Path, opened: Any, target: Path) -> Any:
    """The graph of a model without its weights, from the cache or traced; a damaged one is too."""
    from selfreward.engines.openvino_trace import stored_weights, traced

    graphs = target.parent
    with FileLock(graphs.with_name(_LOCK)):  # the others wait, and find it
        try:
            durable.verify_directory(target)
        except IntegrityError as error:
            if target.exists():
                logging.getLogger(__name__).warning("%s: the graph is made anew", error.message)
            for leftover in graphs.glob(f"{durable.TEMPORARY}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            graph, stored = traced(model, opened), stored_weights(model, opened)
            with durable.publish_directory(target) as directory:
                ov.save_model(graph, directory / _GRAPH, compress_to_fp16=False)
                durable.write_file(directory / _STORED, json.dumps(stored))
            made = [path for path in graphs.iterdir() if path.is_dir()]
            for old in sorted(made, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
                shutil.rmtree(old, ignore_errors=True)
            return graph
        return ov.Core().read_model(target / _GRAPH)


def _cache_width(graph: Any) -> int:
    states = (node for node in graph.get_ops() if node.get_type_name() == "ReadValue")
    shapes = [node.get_output_partial_shape(0) for node in states]
    return sum(int(heads.get_length() * width.get_length()) for _, heads, _, width in shapes)


def _fill(graph: Any, weights: Mapping[str, Any]) -> None:
    """Put weights in as constants, which share their memory."""
    filled = set()
    for node in graph.get_parameters():
        name = node.get_friendly_name()
        if name in weights:
            constant = ops.constant(weights[name], shared_memory=True)
            constant.set_friendly_name(name)
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(constant.output(0))
            graph.remove_parameter(node)
            filled.add(name)
    assert filled == weights.keys(), f"the graph has no {weights.keys() - filled}"
    graph.validate_nodes_and_infer_types()
