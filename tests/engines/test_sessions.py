"""Which models are open when, and which let a GPU go."""

import asyncio
from pathlib import Path

from selfreward.config import EngineConfig
from selfreward.engines.sessions import Session, Sessions
from tests.support.scripted import ScriptedChat, ScriptedEngine


class Sleeper(ScriptedEngine):
    """An engine that can sleep, or only says that it cannot."""

    def __init__(self, can: bool) -> None:
        super().__init__()
        self.can, self.slept = can, 0

    async def sleep(self) -> bool:
        self.slept += self.can
        return self.can


def test_who_cannot_sleep_is_closed_and_endpoints_are_left_alone() -> None:
    made: dict[str, ScriptedEngine] = {}

    def open_session(settings: EngineConfig, model: Path | str) -> Session:
        kinds = {"sleeps": Sleeper(True), "unable": Sleeper(False), "far": ScriptedEngine()}
        made[str(model)] = kinds.get(str(model), ScriptedEngine())
        return Session(made[str(model)], ScriptedChat())  # type: ignore[arg-type]

    async def work(kind: str, model: str) -> Session:
        sessions = Sessions(open_session)
        settings = EngineConfig.model_validate({"kind": kind})
        first = await sessions.get(settings, model)
        await sessions.sleep()
        again = await sessions.get(settings, model)
        assert (again is first) == (not first.engine.closed)  # type: ignore[attr-defined]
        await sessions.close()
        return first

    sleeps = asyncio.run(work("vllm", "sleeps")).engine
    assert isinstance(sleeps, Sleeper) and sleeps.slept == 1
    for model in ("unable", "plain"):
        first = asyncio.run(work("transformers", model)).engine
        assert first.closed and first is not made[model]  # type: ignore[attr-defined]
    asyncio.run(work("server", "far"))
