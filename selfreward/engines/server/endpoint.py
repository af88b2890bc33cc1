"""One OpenAI-compatible server: what it serves, and whether it may be asked.

Weights are given to a running ``vllm serve`` by its development routes (vLLM 0.32,
``vllm/entrypoints/serve/dev`` and ``rl/online``), which it has under ``VLLM_SERVER_DEV_MODE=1``
alone. They are no part of the OpenAI API and ask for no key: they belong on a trusted network.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selfreward.engines.base import RequestError
from selfreward.engines.server.answers import A, Cleared, ModelList, ServerInfo, WeightInfo
from selfreward.engines.server.parameters import Parameters
from selfreward.engines.server.wire import Failed, OddAnswer, Wire
from selfreward.engines.vllm_build import ties_embeddings
from selfreward.errors import PreflightError

FIRST_WAIT_S = 1.0
"""Wait after a failure; it doubles with each one that follows without a success."""
_LONGEST_WAIT_S = 60.0
TRUST_S = 10.0
"""After so long what an endpoint serves is looked at again. A vLLM server takes longer than this to
start: one that was restarted has failed a request, or is looked at before it gets another."""


class Endpoint:
    """A server and what is known of it.

    Args:
        url: Up to and including ``/v1``.
        wire: How to reach it.
        name: Served model; None for the only one it lists.
        model: Directory whose weights it must serve; None if any will do.
        vouched: Whether the user's word, ``name``, is enough that it serves them.
        parameters: What is known of what it takes.
        tell: Told in one line which parameter it refused and goes without from then on; None: it
            has to take them all.
    """

    def __init__(
        self,
        url: str,
        wire: Wire,
        name: str | None,
        model: Path | None,
        vouched: bool,
        parameters: Parameters,
        tell: Callable[[str], None] | None,
    ) -> None:
        self.url, self._wire, self._wanted, self._vouched = url, wire, name, vouched
        self.in_flight = 0
        """Requests that it has not answered yet."""
        self.failures = 0
        """Times that it was set aside since its last answer."""
        self.trouble = ""
        """Its last failure, if it has answered nothing since."""
        self.away_until = 0.0
        """Not to be asked before, on the monotonic clock."""
        self._name, self._listed = name or "", "nothing yet"
        self._looking = asyncio.Lock()
        self._parameters, self._tell = parameters, tell
        self._plain: tuple[object, float] = (None, 0.0)
        """The plain request that was answered last, and when."""
        self._asking_plainly = asyncio.Lock()
        self.expect(model)

    def expect(self, model: Path | None) -> None:
        """Change the weights that it must serve; it gets no work before it does."""
        self._model = model.resolve() if model else None
        self._looked_at: float | None = None
        self._version: str | None = None

    @property
    def is_away(self) -> bool:
        """Whether it is set aside."""
        return time.monotonic() < self.away_until

    @property
    def is_looked_at(self) -> bool:
        """Whether a request waits to learn what it serves, or for it to take weights."""
        return self._looking.locked()

    def note(self, failure: Failed) -> None:
        """Take note of a failure: set the endpoint aside for a while if it cannot take work now.

        One that may have been restarted is looked at again before it gets work.
        """
        self.trouble = str(failure)
        if failure.lost:
            self._looked_at = None
        busy = failure.status == 429
        if self.is_away or not (failure.lost or busy):  # what failed at the same time counts once
            return
        self.failures += 1
        wait = failure.retry_after_s
        self.away_until = time.monotonic() + (wait_s(self.failures) if wait is None else wait)

    async def ask(
        self, path: str, body: Mapping[str, Any], plain: Mapping[str, Any], kind: type[A]
    ) -> A:
        """Post a request for the served model and return the answer.

        A request that it refuses may be its own fault (a text that a filter does not let pass) or
        that of something which a person can mend, such as a setting, a limit or an account. What
        it says is no sure sign, so it is asked ``plain``: if it refuses that as well, no request
        can be answered.

        Raises:
            Failed: Now, but not for good.
            RequestError: This request cannot be answered; one about another text can.
            PreflightError: No request can be answered: wrong key, model name, address or setting.
        """
        try:
            answer = await self._post(path, body, kind)
        except Failed as failure:
            if failure.transient:
                raise
            refused = failure
        else:
            self.failures, self.trouble = 0, ""
            return answer
        if not _is_of_a_text(refused):
            raise self._permanent(refused, path)
        try:
            await self._ask_plainly(path, plain, kind)
        except Failed as failure:
            if failure.transient:
                raise
            raise self._permanent(failure, path) from None
        long = refused.status == 413 or "context length" in refused.detail.lower()
        raise RequestError("too long" if long else "refused", f"{self.url}: {refused}")

    async def _post(self, path: str, body: Mapping[str, Any], kind: type[A]) -> A:
        """Post a request, again without a parameter that is refused by name.

        What was refused counts as known once there is an answer without it.
        """
        tried, refusal = self._parameters, ""
        while True:
            try:
                asked = {"model": self._name, **tried.fit(body)}
                answer = await self._wire.post(self.url + path, asked, kind)
            except Failed as failure:
                less = None
                if self._tell is not None and _is_of_a_text(failure):
                    less = tried.without(failure.detail, body)
                if less is None:
                    raise
                tried, refusal = less, str(failure)
            else:
                before, self._parameters = self._parameters, self._parameters.joined(tried)
                if self._tell is not None and self._parameters != before:
                    done = self._parameters.said(before)
                    self._tell(f"{self.url}: {done} from now on, as it answers {refusal}")
                return answer

    async def _ask_plainly(self, path: str, plain: Mapping[str, Any], kind: type[A]) -> None:
        """See whether a plain request is answered, unless one like it was just now."""
        asked = (path, {**plain, "seed": None})
        async with self._asking_plainly:
            known, at = self._plain
            if known != asked or time.monotonic() - at > TRUST_S:
                await self._post(path, plain, kind)
                self._plain = asked, time.monotonic()

    async def prepare(self) -> bool:
        """See to it that it serves what it must; False if it was set aside meanwhile.

        Raises:
            Failed: It cannot be reached now.
            PreflightError: It serves something else, and cannot be made to change that.
        """
        if self._is_trusted:
            return True
        async with self._looking:
            if self.is_away:
                return False
            if not self._is_trusted:
                await self._look()
                self._looked_at = time.monotonic()
        return True

    @property
    def _is_trusted(self) -> bool:
        if self._looked_at is None:
            return False
        return self._model is None or time.monotonic() - self._looked_at < TRUST_S

    async def _look(self) -> None:
        root = await self._find_model()
        if self._model is None or self._vouched:
            return
        version = await self._weight_version()
        if version is None:
            if not serves(root, self._model):
                raise self._wrong_weights(root, self._model)
        elif self._version is None or version == "default":  # which is what a new server says
            await self._push(self._model)
        elif version != self._version:
            raise PreflightError(
                f"{self.url}: something else made it take {version} in place of {self._version}",
                "Give each model endpoints of its own.",
            )

    async def _find_model(self) -> str | None:
        """Settle the name of the served model; return where its weights come from."""
        try:
            answer = await self._wire.get(f"{self.url}/models", ModelList)
            cards = [card for card in answer.data if not card.parent]  # no adapters
        except Failed as error:
            if error.transient and not isinstance(error, OddAnswer):
                raise Failed(None, str(error), error.retry_after_s) from None
            if self._wanted and self._model is None:  # not all hosted endpoints list their models
                return None
            raise PreflightError(
                f"{self.url}/models lists no models ({error})",
                "Addresses of OpenAI-compatible servers usually end in /v1.",
            ) from None
        self._listed = ", ".join(card.id for card in cards) or "nothing"
        found = [card for card in cards if self._wanted in (None, card.id)]
        if len(found) != 1:
            what = f"there is no model {self._wanted}" if self._wanted else "which model?"
            raise PreflightError(f"{self.url}: {what}", f"It lists {self._listed}: set model.")
        self._name = found[0].id
        return found[0].root

    async def _weight_version(self) -> str | None:
        """What the weights are called; None if the server has no development routes."""
        try:
            return (await self._wire.get(f"{self._base}/weight_info", WeightInfo)).weight_version
        except Failed as error:
            if error.transient and not isinstance(error, OddAnswer):
                raise Failed(None, str(error), error.retry_after_s) from None
            return None

    async def _push(self, model: Path) -> None:
        """Make the server take the weights of a directory, and forget what others computed."""
        if ties_embeddings(model) and await self._is_cpu_build():
            raise PreflightError(
                f"{self.url} is vLLM's CPU build, which cannot take {model} in place: it would "
                "keep the old output layer, as that is tied to the embedding",
                "Use engine.kind=vllm; or start it anew for each model, without "
                "VLLM_SERVER_DEV_MODE.",
            )
        reload = {"method": "reload_weights", "kwargs": {"weights_path": str(model)}}
        try:
            await self._wire.tell(f"{self._base}/pause?mode=abort")
            await self._wire.tell(f"{self._base}/collective_rpc", reload)
            cleared = await self._wire.post(f"{self._base}/reset_prefix_cache", None, Cleared)
            if not cleared.success:
                raise Failed(500, "the prefix cache could not be cleared")
            version = {"new_version": str(model)}
            await self._wire.tell(f"{self._base}/update_weight_version", version)
            await self._wire.tell(f"{self._base}/resume")
        except Failed as failure:
            if failure.lost:
                raise
            # Left paused: nobody should get answers from weights that are half of each.
            raise PreflightError(
                f"{self.url} could not take the weights of {model}: {failure}",
                "The same directory must be there on the server's machine; its log says more.",
            ) from None
        self._version = str(model)

    async def _is_cpu_build(self) -> bool:
        try:
            address = f"{self._base}/server_info?config_format=json"
            info = await self._wire.get(address, ServerInfo)
            return info.vllm_config.device_config.device_type == "cpu"
        except Failed as error:
            if error.lost:
                raise
            return False

    def _permanent(self, failure: Failed, path: str) -> PreflightError:
        """The error where no request can be answered."""
        if failure.status == 403:
            return self._wire.no_access(self.url, failure)
        if not _is_of_a_text(failure):
            return PreflightError(
                f"{self.url}{path} does not answer for model {self._name}: {failure}",
                f"It lists {self._listed}.",
            )
        return PreflightError(
            f"{self.url}{path} refuses whatever is asked of model {self._name} in this way: "
            f"{failure}",
            "Mend what it names, then go on. A parameter that it does not take may be left out, "
            "such as engine.omit: [seed].",
        )

    def _wrong_weights(self, root: str | None, model: Path) -> PreflightError:
        port = urlsplit(self.url).port
        return PreflightError(
            f"{self.url} serves {root or self._name}, and {model} is needed",
            f"Restart it as `VLLM_SERVER_DEV_MODE=1 vllm serve {model} --served-model-name "
            f"{self._name}{f' --port {port}' if port else ''}`, then go on. With that variable it "
            "takes the models that follow by itself.",
        )

    @property
    def _base(self) -> str:
        return self.url.removesuffix("/v1")


def _is_of_a_text(failure: Failed) -> bool:
    """Whether a refusal may be that of a single request: not that of an address or a model."""
    return (failure.status or 0) >= 400 and failure.status not in (404, 405)


def serves(root: str | None, model: Path) -> bool:
    """Whether what a server lists as the root of its model is a model directory.

    Args:
        root: A path, or the hub id of which ``model`` is a snapshot.
        model: Resolved.
    """
    if root is None:
        return False
    snapshot = f"models--{root.replace('/', '--')}"  # directory names of huggingface_hub
    if snapshot in model.parts:
        return True
    try:
        return Path(root).expanduser().resolve() == model
    except (OSError, RuntimeError, ValueError):  # what a server says need be no path of ours
        return False


def wait_s(failures: int) -> float:
    """Seconds to wait after so many failures in a row: exponential, with jitter."""
    longest = min(FIRST_WAIT_S * 2.0 ** (failures - 1), _LONGEST_WAIT_S)
    return longest * random.uniform(0.5, 1.0)
