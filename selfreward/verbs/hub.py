"""The hub: repositories made and filled, and what it answers in our words."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from selfreward.errors import ConfigError, PreflightError, SelfRewardError
from selfreward.verbs.console import is_terminal
from selfreward.verbs.push import Parcel

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_TOKEN = "Set HF_TOKEN to one that may write there, or log in once: hf auth login"


def send(parcels: Sequence[Parcel], *, public: bool) -> tuple[str, ...]:
    """Make the repositories, private ones but for ``public``, and commit to each.

    Returns:
        Addresses of the commits.

    Raises:
        PreflightError: No token, a token that is refused, or a hub that cannot be reached.
        ConfigError: A repository exists that is public, but ``public`` was not said.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars

    if not get_token():
        raise PreflightError("push: there is no token for the hub", _TOKEN)
    if not is_terminal(sys.stderr):
        disable_progress_bars()
    api = HfApi(library_name="selfreward")
    with _told(str(api.endpoint)):
        ready = [_repository(api, parcel, public) for parcel in parcels]
        return tuple(_commit(api, *each) for each in zip(ready, parcels, strict=True))


def _repository(api: "HfApi", parcel: Parcel, public: bool) -> str:
    """Full name of the repository, which is there now and as visible as it should be."""
    from huggingface_hub.errors import RepositoryNotFoundError

    name = parcel.repository
    if "/" not in name:
        name = f"{api.whoami()['name']}/{name}"
    try:
        found = api.repo_info(name, repo_type=parcel.kind)
    except RepositoryNotFoundError:
        api.create_repo(name, repo_type=parcel.kind, private=not public)
        return name
    if not found.private and not public:
        raise ConfigError(
            f"push: {name} exists and is public; nothing was sent",
            "Add --public to publish there, or name another repository.",
        )
    return name


def _commit(api: "HfApi", name: str, parcel: Parcel) -> str:
    from huggingface_hub import CommitOperationAdd

    added = [CommitOperationAdd(item.name, item.path) for item in parcel.items]
    done = api.create_commit(name, added, commit_message=parcel.title, repo_type=parcel.kind)
    return str(done.commit_url)


@contextmanager
def _told(endpoint: str) -> Iterator[None]:
    """Turn what the hub and the network raise into a line."""
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    try:
        yield
    except SelfRewardError:
        raise
    except OfflineModeIsEnabled:
        raise PreflightError(
            "push: HF_HUB_OFFLINE is set, so no request is made", "Unset it, then push again."
        ) from None
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        raise _problem(cause, endpoint) from error


def _problem(error: BaseException, endpoint: str) -> PreflightError:
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return PreflightError(f"push: {endpoint} refuses the token ({status})", _TOKEN)
        said = (error.server_message or str(error)).splitlines()[0]
        return PreflightError(
            f"push: {endpoint} answers {status}: {said:.200}", "Push again later."
        )
    said = next(iter(str(error).splitlines()), type(error).__name__)
    what = (
        "cannot be reached" if isinstance(error, HTTPError | ConnectionError) else "was not sent to"
    )
    return PreflightError(
        f"push: {endpoint} {what} ({said:.200})",
        "Check the network, or HF_ENDPOINT; what was sent before is there.",
    )
