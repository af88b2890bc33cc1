r"""The chat layer: the only place that knows a model's tokenizer and chat template.

Engines and trainers get token ids that are made here, so sampling, judging and training see the
same ones. A conversation is one user turn, or several turns of which the last is a user's, and then
the model's own, which may be started for it.

    what the template writes for a finished conversation:
        ...<|im_start|>assistant\n     <think>\n\n</think>\n\n    the answer    <|im_end|>  \n
        ^ generation prompt: sampled   ^ lead                      ^ text        ^ tail, as far
          from here on                   (empty in most formats)                   as its end

A turn that is started for the model begins after the lead, and SFT trains lead, text and tail: the
very ids of the template. DPO trains the ids that were sampled.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from selfreward.config import Sampling
from selfreward.engines.base import Request
from selfreward.engines.tokenizers import open_tokenizer
from selfreward.errors import ConfigError
from selfreward.inputs.conversations import Message, Turns
from selfreward.inputs.templates import TEMPLATE_ERRORS

SCORES = range(6)
_STARTED = "Score: "
"""What stands before the score, in the model's turn, as in the verdict line of ``written``."""

_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
"""What configs call the positions of a model: most of them; GPT-2 and GPT-J; MPT; others."""

Ids = tuple[int, ...]

_PROBE: tuple[Message, ...] = (
    {"role": "system", "content": "SYSTEM"},
    {"role": "user", "content": "FIRST"},
    {"role": "assistant", "content": "ANSWER"},
    {"role": "user", "content": "LAST"},
)


class Chat:
    """Turns text into the ids that a model is to see, and back.

    Args:
        model: Model directory.
        system_prompt: Replaces the one that the template may bring along; None leaves that. The
            system turn of a conversation takes the place of both.
        template_kwargs: Passed to the chat template.
        trust_remote_code: Whether code that comes with the model may run.
        chat_template: Replaces the tokenizer's own, which a base model lacks.
        today: The date for templates that tell it (Llama 3, Granite); None: the day it is.

    Raises:
        ConfigError: The tokenizer has no chat template, or several of which none is the default, or
            no end of text, or tokens that the model lacks; or the template refuses a conversation
            of this kind, such as one with a system prompt.
    """

    def __init__(
        self,
        model: Path,
        system_prompt: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        trust_remote_code: bool = False,
        chat_template: str | None = None,
        today: date | None = None,
    ) -> None:
        self.model, self.trust_remote_code = model, trust_remote_code
        self._system_prompt, self._kwargs = system_prompt, dict(template_kwargs or {})
        if today is not None:  # what transformers gives to templates under this name is the clock
            self._kwargs.setdefault("strftime_now", today.strftime)
        self.tokenizer = open_tokenizer(model, trust_remote_code)
        if chat_template is not None:
            self.tokenizer.chat_template = chat_template
        template = self.tokenizer.chat_template
        if not template or (isinstance(template, dict) and "default" not in template):
            raise ConfigError(
                f"{model}: its tokenizer has no chat template",
                "Use an instruct model, or set chat_template to a file or to chat/chatml.jinja.",
            )
        if self.tokenizer.eos_token_id is None:
            raise ConfigError(
                f"{model}: its tokenizer has no end-of-text token, so no answer would end",
                "Set eos_token in its tokenizer_config.json.",
            )
        try:
            _ = self._frame
        except TEMPLATE_ERRORS as error:
            system = " with system_prompt" if system_prompt is not None else ""
            raise ConfigError(
                f"{model}: its chat template refuses a conversation{system} ({error})",
                "Set system_prompt=null and say it in the judge's and the prompts' templates."
                if system
                else "Set chat_template to a file, or to chat/chatml.jinja.",
            ) from None
        self._check_rows()

    def check_conversation(self) -> None:
        """Check that the chat template takes a conversation of several turns, and shows them all.

        Raises:
            ConfigError: It does not.
        """
        remedy = "Set chat_template to a file that takes them, or give prompts of one turn."
        try:
            is_whole = self.left_out(_PROBE) is None
        except TEMPLATE_ERRORS as error:
            raise ConfigError(
                f"{self.model}: its chat template refuses several turns ({error})", remedy
            ) from None
        if not is_whole:
            raise ConfigError(
                f"{self.model}: its chat template leaves out turns of a conversation", remedy
            )

    def left_out(self, user: Turns) -> str | None:
        """The first of several turns whose text the chat template does not show; None if all are.

        Some show the last turns alone, and many leave the thinking of earlier answers out. Space
        around a text may go.
        """
        if isinstance(user, str) or len(user) == 1:
            return None
        rendered, at = self._render(user), 0
        for turn in user:
            text, is_system = turn["content"].strip(), turn["role"] == "system"
            found = rendered.find(text, 0 if is_system else at)  # some put it before the last turn
            if found < 0:
                return text
            at = at if is_system else found + len(text)
        return None

    def prompt_ids(self, user: Turns, started: str = "") -> Ids:
        """Ids of the turns and the beginning of the model's turn, tokenized as one text."""
        return self._tokenize(self._begun(user, started))

    def conversation_ids(self, user: Turns, answer: str) -> Ids:
        """Ids of the turns and the finished answer, all that the template writes."""
        return self._tokenize(self._render(user, answer))

    def request(
        self, user: Turns, started: str, sampling: Sampling, n: int = 1, seed: int = 0
    ) -> Request:
        """What asks an engine for n continuations of ``prompt_ids(user, started)``."""
        return Request(self.prompt_ids(user, started), sampling, n, seed)

    def continuation(
        self, user: Turns, started: str, text: str, *, is_sampled: bool = False
    ) -> tuple[Ids, Ids]:
        """Training ids: (what sampling would see, the rest of the template's finished turn).

        Both are tokenized together; where a token would span the border the two are tokenized
        apart, as they are in sampling. The completion ends with the end-of-turn token.

        Args:
            is_sampled: The text is all that a model said after the prompt, thinking included, so
                the lead is not put before it: it would be a second thought.
        """
        begun = self._begun(user, started)
        lead, tail = self._frame
        rest = f"{text}{tail}" if started or is_sampled else f"{lead}{text}{tail}"
        prompt, whole = self._tokenize(begun), self._tokenize(begun + rest)
        together = whole[: len(prompt)] == prompt
        completion = whole[len(prompt) :] if together else self._apart(rest)
        if self.end_id in completion:
            return prompt, completion[: completion.index(self.end_id) + 1]
        return prompt, (*completion, self.end_id)

    def sampled(self, token_ids: Sequence[int]) -> Ids:
        """Training ids of a completion of ``prompt_ids(user)``: as sampled, and the end of turn."""
        return (*token_ids, self.end_id)

    def odd_ids(self, user: Turns, text: str, sampled: Ids) -> Ids | None:
        """The sampled ids if tokenizing the answer would give others, else None.

        They differ where a model thinks first, and now and then for no visible reason: a text can
        be written with several sequences of tokens.
        """
        _, again = self.continuation(user, "", text)
        return None if again == self.sampled(sampled) else sampled

    def score_prompt(self, user: str, before: str = "", started: str = "") -> tuple[Ids, Ids]:
        """Ids after which the next token is the score, and the ids of the scores 0 to 5.

        Whether the space before the score is a token of its own depends on the tokenizer: the six
        texts ``Score: 0`` ... ``Score: 5`` must differ in their last token alone, and all before
        it is the prompt.

        Args:
            user: What the judge is told.
            before: What the judge has written, if anything; the score stands on the next line.
            started: How its turn was started, before that.

        Raises:
            ConfigError: They do not.
        """
        if before:
            return self._labeled(f"{self._begun(user, started)}{before}\n{_STARTED}")
        ids = self.prompt_ids(user, f"{_STARTED}0")
        return ids[:-1], self._score_ids

    def label_prompt(self, user: str, started: str, labels: Sequence[str]) -> tuple[Ids, Ids]:
        """Ids after which the next token is one of the labels, and the ids of the labels.

        As the scores in ``score_prompt``, the labels must differ in their last token alone where
        they follow ``started``, which begins the model's turn.

        Raises:
            ConfigError: They do not.
        """
        return self._labeled(self._begun(user, started), labels)

    def score_target(self, user: str, score: int) -> tuple[Ids, Ids]:
        """Training ids for the ``expected`` form: the score token and the end of turn.

        Args:
            user: What the judge is told.
            score: 0 to 5.
        """
        prompt, score_ids = self.score_prompt(user)
        return prompt, (score_ids[score], self.end_id)

    def control_token(self, text: str) -> str | None:
        """The first control token of the chat format that ``text`` spells, or None.

        Such text would be tokenized as structure: as the end of its turn, say, and a new turn.
        """
        match = self._control.search(text)
        return match[0] if match else None

    def split_thinking(self, text: str, started: str = "") -> tuple[str, str]:
        """Split (thinking, answer) at the first ``</think>``, if thinking was begun at all.

        Either the text begins it or the chat template has done so. Elsewhere the tag is a quote: it
        hides nothing, and makes no verdict of what follows it. Thinking that never ends leaves no
        answer.

        Args:
            started: How the turn was started; what is started is the answer, not a thought.
        """
        if started or not (self._opens_thinking or text.lstrip().startswith("<think>")):
            return "", text
        before, _, after = text.partition("</think>")
        return before.replace("<think>", "", 1), after

    def decode(self, ids: Sequence[int]) -> str:
        """Text of sampled ids; control tokens in them stay visible."""
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    @cached_property
    def end_id(self) -> int:
        """The token that ends the model's turn: the template's, else the tokenizer's end of text.

        They differ in Gemma, for one, whose turns end with ``<end_of_turn>`` and not ``<eos>``.
        """
        after = self._tokenize(self._frame[1].lstrip())
        if after and after[0] in self.tokenizer.added_tokens_decoder:
            return after[0]
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """All tokens that end the model's turn; some models have more than one."""
        path = self.model / "generation_config.json"
        more = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        more = more if isinstance(more, list) else [more]
        ends = {self.end_id, self.tokenizer.eos_token_id, *more}
        return frozenset(int(end) for end in ends if end is not None)

    @cached_property
    def pad_id(self) -> int:
        """The token to fill up rows with."""
        pad = self.tokenizer.pad_token_id
        return self.end_id if pad is None else int(pad)

    @cached_property
    def max_length(self) -> int | None:
        """Positions that the model was made for; None if its config does not say."""
        return positions_of(self.model)

    @cached_property
    def num_rows(self) -> int | None:
        """Rows of the model's embedding: ids are below this; None if its config does not say."""
        rows = _config_of(self.model).get("vocab_size")
        return rows if isinstance(rows, int) else None

    def _check_rows(self) -> None:
        """Check that the model has an embedding for each token that can come up.

        Special tokens that the template does not write cannot: text that spells them is dropped,
        and Gemma 3 has one for images beyond the rows of its text models.
        """
        rows, tokens = self.num_rows, self.tokenizer.get_vocab()
        if rows is None or max(tokens.values(), default=0) < rows:
            return
        template = str(self.tokenizer.chat_template)
        used = {self.tokenizer.eos_token, self.tokenizer.bos_token, self.tokenizer.pad_token}
        idle = {
            index
            for index, token in self.tokenizer.added_tokens_decoder.items()
            if token.special and str(token) not in template and str(token) not in used
        }
        lacking = {i: t for t, i in tokens.items() if i >= rows and i not in idle}
        if lacking:
            last = max(lacking)
            raise ConfigError(
                f"{self.model}: its tokenizer has tokens up to number {last} ({lacking[last]!r}), "
                f"the model's embedding only {rows} rows",
                "Take the tokenizer that the model was made with, or resize the embedding and "
                "train it.",
            )

    @cached_property
    def _frame(self) -> tuple[str, str]:
        """(lead, tail): what the template writes before and after the text of a finished turn.

        Where a template opens a thought for the model but leaves it out of finished turns
        (DeepSeek-R1), the lead closes it: an answer inside a thought is none.
        """
        begun, answer = self._render("?"), "ANSWER"
        before, _, tail = self._render("?", answer).rpartition(answer)
        if before.startswith(begun):
            return before[len(begun) :], tail
        newline = "" if begun.endswith("\n") else "\n"
        return (f"{newline}\n</think>\n\n" if self._opens_thinking else ""), tail

    def _begun(self, user: Turns, started: str) -> str:
        """The conversation up to where the model goes on."""
        return self._render(user) + (self._frame[0] + started if started else "")

    def _apart(self, text: str) -> Ids:
        """Ids of a text that follows others; no space is put before it as before a first word."""
        for before in ("\n", "."):
            first, whole = self._tokenize(before), self._tokenize(before + text)
            if whole[: len(first)] == first and self.decode(whole) == before + text:
                return whole[len(first) :]
        return self._tokenize(text)

    @cached_property
    def _score_ids(self) -> Ids:
        # The user's text cannot matter: all templates put something between it and this turn.
        return self._labeled(self._begun("", _STARTED))[1]

    def _labeled(self, rendered: str, labels: Sequence[object] = SCORES) -> tuple[Ids, Ids]:
        """Ids of the text and of the labels that may follow it; see ``score_prompt``."""
        texts = [self._tokenize(f"{rendered}{label}") for label in labels]
        starts, ends = {ids[:-1] for ids in texts}, tuple(ids[-1] for ids in texts)
        if len(starts) != 1 or len(set(ends)) != len(texts):
            raise ConfigError(
                f"{self.model}: its tokenizer has no single token for each of "
                f"{', '.join(str(label).strip() for label in labels)}",
                "Set judge.form=written for this model.",
            )
        return texts[0][:-1], ends

    @cached_property
    def _control(self) -> re.Pattern[str]:
        # Other added tokens are plain text to be found quickly: line breaks and HTML in Gemma.
        template = str(self.tokenizer.chat_template)
        added = self.tokenizer.added_tokens_decoder.values()
        tokens = [str(token) for token in added if token.special or str(token) in template]
        tokens = [token for token in [*tokens, *self.tokenizer.all_special_tokens] if token.strip()]
        longest_first = sorted(map(re.escape, tokens), key=len, reverse=True)
        return re.compile("|".join(longest_first) or r"(?!)")

    @cached_property
    def _opens_thinking(self) -> bool:
        return self._render("").rstrip().endswith("<think>")

    @cached_property
    def _takes_system(self) -> bool:
        """Whether the template shows a system turn; Gemma's, for one, refuses it."""
        try:
            return _PROBE[0]["content"] in self._apply(_PROBE[:2], begins=True)
        except TEMPLATE_ERRORS:
            return False

    def _render(self, user: Turns, answer: str | None = None) -> str:
        """The conversation as the template writes it: finished, or up to the model's turn.

        Where the template takes no system turn, that of the conversation is put before its first
        user turn, with a blank line.
        """
        messages = [{"role": "user", "content": user}] if isinstance(user, str) else [*user]
        if messages[0]["role"] != "system":
            if self._system_prompt is not None:
                messages.insert(0, {"role": "system", "content": self._system_prompt})
        elif not self._takes_system:
            system, first, *others = messages
            text = f"{system['content']}\n\n{first['content']}"
            messages = [{"role": "user", "content": text}, *others]
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        return self._apply(messages, begins=answer is None)

    def _apply(self, messages: Sequence[Message], *, begins: bool) -> str:
        """What the template makes of messages; ``begins``: up to where the model's turn starts."""
        return str(
            self.tokenizer.apply_chat_template(
                [*messages], tokenize=False, add_generation_prompt=begins, **self._kwargs
            )
        )

    def _tokenize(self, text: str) -> Ids:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)


def positions_of(model: Path) -> int | None:
    """Positions that a model directory's model was made for; None if its config does not say."""
    lengths = (_config_of(model).get(name) for name in _LENGTHS)
    return next((int(length) for length in lengths if length is not None), None)


def _config_of(model: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    return dict(config.get("text_config", config))
