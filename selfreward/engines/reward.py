"""Reward models: transformers' sequence classifiers with one label, as ``trl`` trains them.

A conversation in the model's own chat template -> the label's logit, which is the reward: trained
on pairs (Bradley-Terry, as in InstructGPT, arXiv 2203.02155, 3.5), so that only the differences
between answers to one prompt mean anything. A model whose config has a ``reward_bias`` (see
``training/reward.py``) has that added to each of its rewards.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfreward.engines.base import Generation, Request, RequestError
from selfreward.engines.batcher import Batcher
from selfreward.engines.chat import Chat
from selfreward.errors import ConfigError

_BATCH_SIZE = 16


def check_reward_model(model: Path, key: str, trust_remote_code: bool = False) -> None:
    """Check that a model directory holds a reward model; its weights stay unread.

    Args:
        key: Of the config, for the errors.

    Raises:
        ConfigError: It is no sequence classifier, has several labels, or a config that transformers
            cannot read.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            model, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        raise ConfigError(f"{key}: {model}: transformers cannot read its config: {first}") from None
    kinds = config.architectures or ["unknown"]
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise ConfigError(
            f"{key}: {model} is a {kinds[0]} and no reward model, which is a sequence classifier",
            "Name a model that was trained as one, such as by trl's RewardTrainer.",
        )
    if config.num_labels != 1:
        raise ConfigError(
            f"{key}: {model} has {config.num_labels} labels, and a reward model has one",
            "A classifier of kinds gives no reward; name another model.",
        )


def open_on_device(kind: Any, model: Path, trust_remote_code: bool) -> Any:
    """A model of transformers to be asked: on the GPU as it was saved, else in float32.

    Args:
        kind: The auto class that it is loaded as.
    """
    import torch

    cuda = torch.cuda.is_available()
    return kind.from_pretrained(
        model,
        local_files_only=True,
        trust_remote_code=trust_remote_code,
        dtype="auto" if cuda else "float32",
        device_map="cuda" if cuda else "cpu",
    ).eval()


class RewardModel:
    """See ``base.Engine``; a request is a whole conversation, and its generation the reward.

    Args:
        model: Model directory.
        chat: Of the same model.
    """

    def __init__(self, model: Path, chat: Chat) -> None:
        self._chat = chat
        self._pad_id: int | None = None
        self._model: Any = self._open(model)
        self._batcher = Batcher(self._run, _BATCH_SIZE)

    async def generate(self, request: Request) -> list[Generation]:
        """See ``base.Engine.generate``."""
        length, most = len(request.token_ids), self._chat.max_length
        if most is not None and length > most:
            raise RequestError("too long", f"{length} tokens, and the model holds {most}")
        return await self._batcher.submit(request)

    async def load(self, model: Path) -> None:
        """See ``base.Engine.load``."""
        self._model = None  # never two of them in memory
        self._model = self._open(model)

    async def close(self) -> None:
        """Free the model."""
        await self._batcher.close()
        self._model = None

    def _open(self, model: Path) -> Any:
        from transformers import AutoModelForSequenceClassification

        trust = self._chat.trust_remote_code
        opened = open_on_device(AutoModelForSequenceClassification, model, trust)
        self._pad_id = opened.config.get_text_config().pad_token_id
        return opened

    def _run(self, requests: Sequence[Request]) -> list[list[Generation]]:
        """Rewards of a batch, padded to the right.

        transformers reads a reward at the last token that is not the one for padding: as the model
        was trained, which may be before the end of the turn. Without such a token it is the last,
        so then one fills up that is in no row.
        """
        import torch

        rows = [request.token_ids for request in requests]
        longest, used = max(map(len, rows)), {token for row in rows for token in row}
        pad = self._pad_id
        if pad is None:
            pad = next(token for token in range(len(used) + 1) if token not in used)
        self._model.config.get_text_config().pad_token_id = pad
        ids = [[*row, *[pad] * (longest - len(row))] for row in rows]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        with torch.inference_mode():
            logits = self._model(
                input_ids=torch.tensor(ids, device=self._model.device),
                attention_mask=torch.tensor(mask, device=self._model.device),
            ).logits
        bias = getattr(self._model.config, "reward_bias", 0.0)
        rewards = (logits.double()[:, 0] + bias).tolist()
        return [[Generation("", (), "stop", reward=reward)] for reward in rewards]
