"""OpenAI-compatible endpoints."""

from selfreward.engines.server.engine import open_engine

__all__ = ["open_engine"]
