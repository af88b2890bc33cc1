"""What the processes of vLLM log as errors: the only place that tells why one of them died."""

import json
import re
import tempfile
from pathlib import Path

from selfreward.errors import PreflightError
from selfreward.storage import durable

_EXCEPTION = re.compile(r"[\w.]*(Error|Exception)\b.*: ")
_MEMORY = re.compile(r"out of memory|OutOfMemory|MemoryError|[Aa]vailable memory|Free memory on")
_CACHE = re.compile(r"KV cache|cache blocks")
_SHARE = "engine.gpu_memory_utilization (or engine.kv_cache_memory_bytes)"
_BATCH = "engine.max_num_seqs or engine.max_model_len"


class ErrorLog:
    """A temporary file that gets the errors, beside what goes to standard error as ever.

    Args:
        logger: Name of the library's logger.
        level: Of what goes to standard error.
    """

    def __init__(self, logger: str, level: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="selfreward-")
        self._errors = Path(self._directory.name) / "errors.log"
        self.config = Path(self._directory.name) / "logging.json"
        """For ``logging.config.dictConfig``."""
        handlers = {
            "console": {
                "class": "logging.StreamHandler",
                "formatter": "plain",
                "level": level,
            },
            "errors": {
                "class": "logging.FileHandler",
                "formatter": "plain",
                "level": "ERROR",
                "filename": str(self._errors),
                "delay": True,
            },
        }
        config = {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"plain": {"format": "%(levelname)s %(name)s: %(message)s"}},
            "handlers": handlers,
            "loggers": {logger: {"handlers": [*handlers], "level": level, "propagate": False}},
        }
        durable.write_file(self.config, json.dumps(config))

    def failure(self, what: str, otherwise: str = "its log does not say why") -> PreflightError:
        """The error to raise, with the first error of the log, which led to all others.

        Args:
            what: What happened.
            otherwise: The reason where the log has none.
        """
        cause = self._cause()
        message = f"{what}: {cause or ' '.join(otherwise.split())}"
        if _CACHE.search(cause):
            return PreflightError(message, f"Turn up {_SHARE}, or turn down {_BATCH}.")
        if _MEMORY.search(cause) or not cause:  # the kernel ends processes without a word
            return PreflightError(message, f"If memory ran out, turn down {_SHARE} and {_BATCH}.")
        return PreflightError(message, "`selfreward doctor` checks the installation.")

    def delete(self) -> None:
        """Remove the files. Idempotent."""
        self._directory.cleanup()

    def _cause(self) -> str:
        if not self._errors.is_file():
            return ""
        lines = self._errors.read_text(errors="replace").splitlines()
        return next(filter(_EXCEPTION.match, lines), "")
