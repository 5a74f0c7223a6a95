"""Uploading a finished folder to the Hugging Face Hub."""

from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants, get_token, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # HTTPError: also of no connection

RepoType = Literal["model", "dataset", "space"]


class PushError(RuntimeError):
    """The folder was not uploaded; the message says why and what to do. The folder itself is complete."""


def push(folder: Path, repo_id: str, repo_type: RepoType = "model", private: bool = False) -> str:
    """Upload all files of a folder and return the address of the commit; a missing repository is created.

    Files of the repository that the folder does not have stay. The same call again uploads what has changed.

    Args:
        repo_id: `owner/name`.
        private: of a repository that is created; an existing one stays as it is.

    Raises:
        PushError: offline, not logged in, no right to write there, no such name, or the Hub refuses the card.
    """
    by_hand = f"hf upload {repo_id} {folder} ." + ("" if repo_type == "model" else f" --repo-type {repo_type}")
    later = f"{folder} is complete; later: {by_hand}"
    if is_offline_mode():
        raise PushError(f"HF_HUB_OFFLINE is set, so nothing was uploaded: unset it. {later}")
    if get_token() is None:
        raise PushError(f"not logged in to {constants.ENDPOINT}: run `hf auth login`, or set HF_TOKEN. {later}")
    api = HfApi()
    try:
        sdk = "gradio" if repo_type == "space" else None
        created = api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True, space_sdk=sdk)
        full_id = created.repo_id
        message = f"Upload {folder.name} with partimento"
        commit = api.upload_folder(folder_path=folder, repo_id=full_id, repo_type=repo_type, commit_message=message)
    except HFValidationError as error:
        raise PushError(f"{repo_id!r} is no name of a repository: give owner/name ({error})") from None
    except HfHubHTTPError as error:
        raise PushError(f"{explain(error, repo_id)} {later}") from error
    except (ValueError, HTTPError) as error:  # a card that the Hub refuses, or no connection
        raise PushError(f"{constants.ENDPOINT}: {' '.join(str(error).split())}. {later}") from error
    return commit.commit_url


def explain(error: HfHubHTTPError, repo_id: str) -> str:
    """One sentence on an answer of the Hub."""
    status = error.response.status_code
    if status == 401:
        return "the Hub does not accept the token: run `hf auth login` again, or correct HF_TOKEN."
    if status == 403:
        return f"the token may not write to {repo_id}: make one with the role `write`, or choose another owner."
    return f"the Hub answered {status}: {error.server_message or error}."
