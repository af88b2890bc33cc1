"""The errors a user may meet, one small tree.

    SelfRewardError (1)
      ConfigError (2)      also a ValueError: config, template or seed data is wrong
      NotFoundError (3)    run, iteration or key does not exist
      LockedError (4)      another process owns the run
      IntegrityError (5)   what is on disk is not what was committed; resume refused
      StoppedError (6)     the method itself cannot go on: nothing to train on, NaN loss, ...
      PreflightError (7)   the machine lacks something: disk, package, memory

The number is the exit code of the command line. An answer that the judge could not score is not
an error: it is a Judgment whose score is None.
"""


class SelfRewardError(Exception):
    """Base of all errors meant for the user.

    Args:
        message: One line: what was found, what was expected, and where.
        hint: What to do about it, or empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type["SelfRewardError"], tuple[str, str]]:
        return type(self), (self.message, self.hint)


class ConfigError(SelfRewardError, ValueError):
    """The config, a template or seed data is wrong."""

    exit_code = 2


class NotFoundError(SelfRewardError, LookupError):
    """A run, an iteration or a key does not exist."""

    exit_code = 3


class LockedError(SelfRewardError, RuntimeError):
    """Another process owns the run, or took it over."""

    exit_code = 4


class IntegrityError(SelfRewardError, RuntimeError):
    """What is on disk is not what was committed."""

    exit_code = 5


class StoppedError(SelfRewardError, RuntimeError):
    """The method cannot go on; the state is saved and no model was promoted."""

    exit_code = 6


class WaitingError(StoppedError):
    """The run waits for what others have to give."""


class PreflightError(SelfRewardError, RuntimeError):
    """The machine lacks something the run needs."""

    exit_code = 7


KINDS: dict[str, type[SelfRewardError]] = {
    kind.__name__: kind
    for kind in (
        SelfRewardError,
        ConfigError,
        NotFoundError,
        LockedError,
        IntegrityError,
        StoppedError,
        WaitingError,
        PreflightError,
    )
}
