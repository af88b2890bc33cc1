"""No training: the next model is the one before, written as a training would write it.

So a round can be measured without one: how far figures move while the weights do not.
"""

from collections.abc import Sequence

from selfreward.training.base import OnLog, OnStep, SftRow, Training
from selfreward.training.job import Job, digests_of
from selfreward.training.loop import is_published, load_policy, publish


def train_none(
    training: Training, rows: Sequence[SftRow], *, on_log: OnLog, on_step: OnStep
) -> None:
    """Publish the start model again, its weights in float32.

    Called after it published, it does nothing.

    Args:
        rows: None.
        on_log: Never told anything.
        on_step: Told that the one step there is, which changes nothing, is done.

    Raises:
        IntegrityError: The output is whole but another job made it.
        StoppedError: A weight is not finite; nothing is published.
    """
    digests = digests_of([training.method], training)
    job = Job(training, digests, arguments={}, lora=None, epochs=0.0)
    if not is_published(job):
        policy, _ = load_policy(training)
        on_step(1, 1)
        publish(policy, policy.state_dict(), job)
