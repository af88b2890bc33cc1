"""GRPO: prompts and rewards in, the next model out, with TRL's ``GRPOTrainer``."""

from collections.abc import Sequence

from selfreward.training.base import OnlineRow, OnLog, OnStep, Rewards, Training
from selfreward.training.online import GrpoSampled, train_online


def train_grpo(
    training: Training,
    rows: Sequence[OnlineRow],
    *,
    rewards: Rewards,
    on_log: OnLog,
    on_step: OnStep,
) -> None:
    """Train a model on the rewards of what it answers, held near itself as the reference.

    The advantage of a completion is its points less their mean over its prompt's completions, in
    standard deviations (``scale_rewards``); ``beta`` times the KL, by token, is a part of the loss.
    With ``num_iterations`` above 1 a sample is used for several updates, and the objective is
    PPO's, clipped at 1 +- ``epsilon`` (Schulman et al. 2017, arXiv 1707.06347, equation 7).
    All else as in ``rloo.train_rloo``, with TRL's ``GRPOConfig``.

    Source: DeepSeekMath (Shao et al. 2024), arXiv 2402.03300, section 4.1.
    """
    train_online(GrpoSampled, training, rows, rewards=rewards, on_log=on_log, on_step=on_step)
