"""Writing or drawing an iteration's prompts."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

from selfreward.config import SeedSource
from selfreward.engines.sessions import Session
from selfreward.errors import StoppedError
from selfreward.inputs import seeds
from selfreward.inputs.judge_templates import run_template
from selfreward.makers.base import Ask, rate
from selfreward.records import Prompt, Record
from selfreward.stages.pool import Pool
from selfreward.stages.prompts import Author, draw_prompts
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.storage.tracker import Tracker


class PromptMaker:
    """Writes new prompts, or draws them from a data set."""

    stage = "prompts"

    def __init__(self, run: Run, store: Store, iteration: int, session: Session) -> None:
        self._iteration, self._engine = iteration, session.engine
        self._settings = settings = run.config.prompts
        self.records = store.records(Prompt, iteration)
        self.tracker = Tracker(store, iteration, self.stage, total=settings.count)
        self._tokens = 0
        self._accepted = sum(prompt.dropped is None for prompt in self.records)
        earlier = [
            prompt.text
            for before in range(1, iteration)
            for prompt in store.records(Prompt, before)
            if prompt.dropped is None
        ]
        pool = Pool(_seed_prompts(run, "prompts"), earlier)
        self._author: Author | None = None
        self._drawn: list[Prompt] = []
        if settings.dataset is None:
            self._author = Author(
                session.chat, run_template(run, "prompts"), pool, settings,
                iteration=iteration, run_seed=run.config.seed, committed=self.records,
            )  # fmt: skip
        else:
            rows = _seed_prompts(run, "dataset")
            drawn = draw_prompts(rows, session.chat, pool, settings, iteration=iteration)
            self._drawn = drawn[len(self.records) :]

    def asks(self, new: Sequence[Record]) -> list[Ask]:
        """Further attempts that decided ones make room for."""
        if self._author is None:
            drawn, self._drawn = self._drawn, []
            return [partial(_at_once, drawn)] if drawn else []
        return [partial(self._write, self._author, a) for a in self._author.take_attempts()]

    async def _write(self, author: Author, attempt: int) -> list[Prompt]:
        await author.write(self._engine, attempt)
        return author.decide()  # at once, so that decisions are committed in attempt order

    def keep(self, new: Sequence[Record]) -> None:
        """See ``Maker``."""
        prompts = [record for record in new if isinstance(record, Prompt)]
        self.records += prompts
        self._accepted += sum(prompt.dropped is None for prompt in prompts)
        self._tokens += sum(prompt.num_tokens for prompt in prompts)
        note = ", ".join(
            filter(None, (f"{len(self.records)} attempts", rate(self._tokens, self.tracker)))
        )
        self.tracker.advance(self._accepted, note=note)

    def check(self) -> None:
        """See ``Maker``."""
        if self._accepted >= self._settings.count:
            return
        reasons = Counter(p.dropped for p in self.records if p.dropped is not None)
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        raise StoppedError(
            f"iteration {self._iteration}: {self._accepted} of {self._settings.count} prompts "
            f"after {len(self.records)} attempts; dropped: {why or 'none'}",
            "Resume with a larger prompts.max_attempts, or start a run with fewer prompts, a "
            "higher temperature, another prompts.author or a prompts.dataset.",
        )


async def _at_once(records: Sequence[Record]) -> Sequence[Record]:
    return records


def _seed_prompts(run: Run, kind: str) -> list[str]:
    return seeds.read_prompts(SeedSource(path=str(run.seed_file(kind).resolve())))
