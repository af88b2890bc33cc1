"""Models that are open: one in this machine's memory at a time, and any number of endpoints."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from selfreward.config import EngineConfig
from selfreward.engines.base import ChatFormat, Engine, Sleeps


@dataclass(frozen=True, slots=True)
class Session:
    """A model ready to be asked."""

    engine: Engine
    chat: ChatFormat


OpenSession = Callable[[EngineConfig, Path | str], Session | Awaitable[Session]]
"""Opens a model directory, or resolves and opens a model source, and may take its time."""


@dataclass(frozen=True, slots=True)
class _Held:
    settings: EngineConfig
    model: Path | str
    session: Session


class Sessions:
    """Opens sessions and keeps them as long as they serve.

    Checkpoints of the run, which come as paths, follow each other in place.
    """

    def __init__(self, open_: OpenSession) -> None:
        self._open = open_
        self._held: list[_Held] = []

    async def get(self, settings: EngineConfig, model: Path | str) -> Session:
        """A session of this model; whatever stands in its way is closed."""
        held = next((held for held in self._held if held.settings == settings), None)
        if held is not None and held.model != model:
            self._held.remove(held)
            if isinstance(held.model, Path) and isinstance(model, Path):
                try:
                    await held.session.engine.load(model)
                except BaseException:
                    await held.session.engine.close()
                    raise
                held = replace(held, model=model)
                self._held.append(held)
            else:
                await held.session.engine.close()
                held = None
        if held is None:
            if is_local(settings):
                await self._close([other for other in self._held if is_local(other.settings)])
            opened = self._open(settings, model)
            session = await opened if inspect.isawaitable(opened) else opened
            held = _Held(settings, model, session)
            self._held.append(held)
        return held.session

    async def sleep(self) -> None:
        """Have all on this machine give a GPU's memory back: who cannot sleep is closed."""
        for held in [held for held in self._held if is_local(held.settings)]:
            engine = held.session.engine
            if not (isinstance(engine, Sleeps) and await engine.sleep()):
                await self._close([held])

    async def drop(self, settings: EngineConfig) -> None:
        """Close what is open under these settings, so that the next to ask opens it anew."""
        await self._close([held for held in self._held if held.settings == settings])

    async def _close(self, those: list[_Held]) -> None:
        for held in those:
            self._held.remove(held)
            await held.session.engine.close()

    async def close(self) -> None:
        """Close all."""
        await self._close(list(self._held))


def is_local(settings: EngineConfig) -> bool:
    """Whether the engine holds its model on this machine."""
    return settings.kind != "server"
