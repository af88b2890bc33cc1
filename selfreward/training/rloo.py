"""RLOO: prompts and rewards in, the next model out, with TRL's ``RLOOTrainer``."""

from collections.abc import Sequence

from selfreward.training.base import OnlineRow, OnLog, OnStep, Rewards, Training
from selfreward.training.online import RlooSampled, train_online


def train_rloo(
    training: Training,
    rows: Sequence[OnlineRow],
    *,
    rewards: Rewards,
    on_log: OnLog,
    on_step: OnStep,
) -> None:
    """Train a model on the rewards of what it answers, held near itself as the reference.

    The advantage of a completion is its reward less the mean reward of the other completions of its
    prompt, and a reward is points less ``beta`` times log pi(completion) - log pi_ref(completion),
    in nats over the whole completion. Resume and errors are those of ``sft.train_sft``, with
    TRL's ``RLOOConfig``. ``on_log`` gets, besides ``loss`` and ``grad_norm``, TRL's ``reward``
    (mean, points), ``reward_std``, ``kl`` (nats a token), ``entropy``, ``completions/mean_length``
    (tokens) and others, and ours of ``online``: ``sampled``, ``no_verdict``.

    Args:
        rows: Sampled from in a seeded random order; the last generation is filled up with the next
            in order.
        rewards: Says what completions are worth.

    Source: Ahmadian et al. 2024, arXiv 2402.14740.
    """
    train_online(RlooSampled, training, rows, rewards=rewards, on_log=on_log, on_step=on_step)
