"""Opens engines that are proved: each agreed with transformers on the model that it is to run."""

import asyncio
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from selfreward.config import Sampling
from selfreward.engines import proof as proofs
from selfreward.engines.base import Engine, Generation, Request, RequestError, Sleeps
from selfreward.engines.chat import Chat
from selfreward.engines.installed import has_cuda
from selfreward.engines.kinds import candidates, check_options, open_engine, own_options
from selfreward.engines.proof import Found, Precision, Proof
from selfreward.engines.reference import Expected, Ids, reduce, reference
from selfreward.errors import ConfigError, PreflightError, SelfRewardError
from selfreward.inputs import shipped, weights
from selfreward.storage import durable

LARGEST = 2_000_000_000
"""Parameters of a model that is loaded with transformers for the proof, in float32: 8 GB. Of a
larger one a few layers with made-up weights are compared."""

UNPROVED = "not proved"
"""How the note begins where there was nothing to compare: endpoints that tell too little."""

Tell = Callable[[str], None]
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Setting:
    """How an engine is opened."""

    kind: str
    chat: Chat
    options: Mapping[str, Any]
    fixed: bool

    def open(self, model: Path) -> Engine:
        """Open it, without any proof.

        Raises:
            ConfigError: An option is refused.
            PreflightError: Whatever else keeps it from running the model.
        """
        try:
            return open_engine(self.kind, model, self.chat, self.options, fixed=self.fixed)
        except SelfRewardError:
            raise
        except Exception as error:  # each library has its own
            if isinstance(error, OSError) and error.errno in durable.DISK_FAILS:
                raise
            raise self.refusal(model, said(error)) from error

    def refusal(self, model: Path, why: str) -> PreflightError:
        """The error to raise where this engine must not be used."""
        message = f"engine.kind={self.kind} does not run {model} as transformers does: {why}"
        if self.kind == "transformers":
            return PreflightError(message, "Set no engine options but dtype=float32.")
        return PreflightError(message, "Set engine.kind=transformers.")


async def open_proved(
    kind: str,
    model: Path,
    chat: Chat,
    options: Mapping[str, Any],
    *,
    fixed: bool = False,
    tell: Tell = _LOG.warning,
) -> "ProvedEngine":
    """Open an engine that agrees with transformers on this model.

    What was proved once, of an engine's version and options on a config, is not proved again.

    Args:
        kind: As in ``open_engine``. ``auto`` takes the first engine that can be proved.
        model: Model directory.
        chat: Of the same model.
        options: The engine's own; under ``auto`` each engine takes those that it has.
        fixed: Whether no other weights will follow.
        tell: Told in one line why an engine was passed over, or could not be proved, and which
            options the one that was taken does not have.

    Raises:
        ConfigError: An option is wrong, or weights are NaN or infinite.
        PreflightError: The engine cannot run the model, or computes another one.
    """
    check_options(kind, options)
    weights.check_finite(model)
    with closing(_Yardstick(model, chat)) as yardstick:
        for name, following in pairwise(candidates(kind, options)):
            setting = _Setting(name, chat, own_options(name, options), fixed)
            try:
                engine = await _open(setting, model, yardstick, tell)
                _tell_left_out(setting, options, tell)
                return engine
            except (PreflightError, ConfigError) as error:
                if isinstance(error, ConfigError) and name != "vllm":
                    raise  # vLLM says of a model unknown to it what it says of a wrong option
                tell(f"{error.message}; engine.kind=auto tries {following}")
        last = candidates(kind, options)[-1]
        own = own_options(last, options) if kind == "auto" else options
        setting = _Setting(last, chat, own, fixed)
        engine = await _open(setting, model, yardstick, tell)
        _tell_left_out(setting, options, tell)
        return engine


def _tell_left_out(setting: _Setting, options: Mapping[str, Any], tell: Tell) -> None:
    if left := sorted(options.keys() - setting.options.keys()):
        tell(f"engine.kind=auto takes {setting.kind}, which has no {', '.join(left)}: left out")


async def _open(
    setting: _Setting, model: Path, yardstick: "_Yardstick", tell: Tell
) -> "ProvedEngine":
    """Open an engine, and prove it first if it was not."""
    on_gpu = has_cuda()
    device = "cuda" if on_gpu else "cpu"
    precision = proofs.precision_of(setting.kind, setting.options, model, on_gpu)
    proved, proved_in = setting, precision
    if precision == "int8":
        proved = replace(setting, options={**setting.options, "compute_type": "float32"})
        proved_in = "float32"
    long = proofs.long_length(model, setting.chat.max_length, setting.options)
    key = proofs.key(setting.kind, yardstick.digest, long, proved.options, device)
    proof, engine = proofs.recorded(key), None
    if proof is None:
        engine, proof = await _prove(proved, yardstick, long, proved_in)
        if not proof.note.startswith(UNPROVED):
            proofs.record(key, proof)
        if proof.note:
            tell(f"engine.kind={setting.kind}: {proof.note}")
    if proof.problem:
        raise setting.refusal(model, proof.problem)
    if engine is not None and proved != setting:
        await engine.close()
        engine = None
    engine = engine or setting.open(model)
    return ProvedEngine(engine, setting, precision, yardstick.is_small, tell)


async def _prove(
    setting: _Setting, yardstick: "_Yardstick", long: int, precision: Precision
) -> tuple[Engine | None, Proof]:
    """Ask transformers, free it, ask the engine; return it as well if it may be used as it is."""
    proof = Proof(
        setting.kind, proofs.engine_version(setting.kind), yardstick.digest, (), precision, ""
    )
    if setting.kind == "server" and not yardstick.is_small:
        return None, replace(proof, note=f"{UNPROVED}: {yardstick.too_large}")
    expected = yardstick.expected(long, rough=precision != "float32")
    engine = setting.open(yardstick.path)
    try:
        found, note = await _ask_all(setting, engine, expected)
    except BaseException as error:
        await engine.close()
        if isinstance(error, SelfRewardError) or not isinstance(error, Exception):
            raise
        raise setting.refusal(yardstick.path, said(error)) from error
    proof = replace(
        proof,
        tokens=tuple(len(e.prompt) for e, _ in zip(expected, found, strict=False)),
        problem=proofs.differences(expected, found, setting.kind, precision),
        note=note if yardstick.is_small else f"{note or 'proved'} {yardstick.stand_in}",
    )
    if yardstick.is_small and not proof.problem:
        return engine, proof
    await engine.close()
    return None, proof


async def _ask_all(
    setting: _Setting, engine: Engine, expected: Sequence[Expected]
) -> tuple[list[Found], str]:
    """What an engine makes of the prompts, and what it could not be asked.

    The short prompts go together, padded where an engine pads, and the long one goes alone.
    """
    *short, long = expected
    if setting.kind == "server":
        greedy, scored = proofs.requests(short[0])
        await engine.generate(greedy)  # what keeps it from any answer is no matter of proof
        try:
            await engine.generate(scored)
        except (RequestError, PreflightError) as error:
            return [], f"{UNPROVED}: {said(error)}"
    found = list(await asyncio.gather(*(_ask(engine, one) for one in short)))
    try:
        return [*found, await _ask(engine, long)], ""
    except RequestError as error:
        return found, f"proved on short prompts only: {said(error)}"


async def _ask(engine: Engine, expected: Expected) -> Found:
    [[greedy], [scored]] = await asyncio.gather(
        *(engine.generate(request) for request in proofs.requests(expected))
    )
    return Found(greedy, scored)


class ProvedEngine:
    """An engine that is proved on its model, and again each time that it takes other weights.

    Args:
        engine: Open, and proved.
        setting: How to open it anew.
        precision: How finely it computes.
        is_small: Whether transformers may load a checkpoint beside it.
        tell: Told in one line when it had to be restarted.
    """

    def __init__(
        self, engine: Engine, setting: _Setting, precision: Precision, is_small: bool, tell: Tell
    ) -> None:
        self.engine = engine
        """What answers."""
        self.kind = setting.kind
        """Which engine it is, also where ``auto`` was asked for."""
        self._setting, self._precision = setting, precision
        self._is_small, self._tell = is_small, tell

    async def generate(self, request: Request) -> list[Generation]:
        """See ``base.Engine.generate``."""
        return await self.engine.generate(request)

    async def load(self, model: Path) -> None:
        """See ``base.Engine.load``; a reload that did not take is seen, and the engine restarted.

        Raises:
            ConfigError: Weights are NaN or infinite.
            PreflightError: It answers otherwise than transformers does with these weights.
        """
        weights.check_finite(model)
        is_ours = self.kind != "server"  # what endpoints serve by now is for them to check
        before = await self._short_answers() if is_ours else None
        await self.engine.load(model)
        is_old = is_ours and await self._short_answers() == before
        problem = "it answers as before" if is_old else await self._problem(model)
        if not problem:
            return
        self._tell(f"engine.kind={self.kind} is started anew with {model}: {problem}")
        await self.engine.close()
        self.engine = self._setting.open(model)
        if problem := await self._problem(model):
            await self.engine.close()
            raise self._setting.refusal(model, problem)

    async def sleep(self) -> bool:
        """See ``base.Sleeps``."""
        return isinstance(self.engine, Sleeps) and await self.engine.sleep()

    async def close(self) -> None:
        """Free the model. Idempotent."""
        await self.engine.close()

    async def _problem(self, model: Path) -> str:
        """What it says of the short prompts otherwise than transformers; empty if nothing."""
        if not self._is_small or self._precision == "int8":
            return ""
        chat, rough = self._setting.chat, self._precision != "float32"
        expected = reference(
            model, chat, proofs.short_prompts(chat), proofs.NEW_TOKENS, rough=rough
        )
        # The last goes as the long one does, after the others.
        found, _ = await _ask_all(self._setting, self.engine, expected)
        return proofs.differences(expected, found, self.kind, self._precision)

    async def _short_answers(self) -> list[tuple[Ids, float | None]]:
        greedy = Sampling(max_new_tokens=proofs.NEW_TOKENS, temperature=0.0)
        asked = (Request(ids, greedy) for ids in proofs.short_prompts(self._setting.chat))
        answers = await asyncio.gather(*map(self.engine.generate, asked))
        return [(answer.token_ids, answer.logprob) for [answer] in answers]


class _Yardstick:
    """A model, or what stands in for one that is too large, and what transformers makes of it."""

    def __init__(self, model: Path, chat: Chat) -> None:
        self._model, self._chat = model, chat
        self._parameters = weights.num_parameters(model)
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._known: dict[tuple[int, bool], list[Expected]] = {}
        self.digest = proofs.config_digest(model)
        self.is_small = self._parameters <= LARGEST
        self.too_large = f"{self._parameters / 1e9:.1f} billion parameters are too many to compare"
        self.stand_in = f"with few layers and random weights: {self.too_large}"

    @property
    def path(self) -> Path:
        """The model, or a directory with a few of its layers and made-up weights."""
        if self.is_small:
            return self._model
        if self._directory is None:
            cache = shipped.cache_directory() / "proofs"
            cache.mkdir(parents=True, exist_ok=True)
            self._directory = tempfile.TemporaryDirectory(dir=cache, prefix=durable.TEMPORARY)
            reduce(self._model, self._chat, Path(self._directory.name))
        return Path(self._directory.name)

    def expected(self, long: int, *, rough: bool) -> list[Expected]:
        """What transformers makes of all prompts; asked once."""
        if (long, rough) not in self._known:
            asked = proofs.prompts(self._chat, long)
            self._known[long, rough] = reference(
                self.path, self._chat, asked, proofs.NEW_TOKENS, rough=rough
            )
        return self._known[long, rough]

    def close(self) -> None:
        """Remove what was made up."""
        if self._directory is not None:
            self._directory.cleanup()


def said(error: BaseException) -> str:
    """An error in one line, with its class where it is a library's."""
    text = (str(error).strip().splitlines() or [""])[0][:200]
    known = isinstance(error, SelfRewardError | RequestError)
    return text if known else f"{type(error).__name__}: {text}"
