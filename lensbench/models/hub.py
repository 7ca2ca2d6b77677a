"""One quick look whether a hub id can be opened, before a loader retries for half a minute."""

from pathlib import Path

from lensbench.errors import UnknownNameError

SECONDS = 10.0


def check_hub(source: str, revision: str | None, bundled: list[str]) -> None:
    """Say at once when ``source`` is not in the local cache and the hub does not give it.

    Raises:
        UnknownNameError: no such id or revision, no access to it, or no hub in reach.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if isinstance(try_to_load_from_cache(source, "config.json", revision=revision), str):
            return
        reason = refusal(source, revision)
    except HFValidationError:
        reason = "is no valid hub id (write owner/name)"
    if reason:
        hint = f"It is neither a bundled name, nor a local folder, and as a hub id it {reason}."
        raise UnknownNameError("model", source, known=bundled, hint=hint)


def refusal(source: str, revision: str | None = None) -> str:
    """Why the hub does not give the repository; empty where it does."""
    from huggingface_hub import HfApi
    from huggingface_hub import errors as hub

    try:
        HfApi().model_info(source, revision=revision, timeout=SECONDS)
    except hub.GatedRepoError:
        return "is gated: accept its terms on the hub and log in with `hf auth login`"
    except hub.RevisionNotFoundError:
        return f"has no revision {revision!r}"
    except hub.RepositoryNotFoundError:
        return "does not exist (or is private: log in with `hf auth login`)"
    except hub.HfHubHTTPError as error:
        return f"was refused by the hub ({error.response.status_code})"
    except Exception as error:  # the client's own errors have no public base class
        if not _of_the_network(error):
            raise
        return f"is not in the local cache, and the hub cannot be reached ({type(error).__name__})"
    return ""


def in_cache(source: str) -> bool:
    """Whether anything of the repository lies in the local cache of the hub's client."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id=source, repo_type="model")
    return (Path(constants.HF_HUB_CACHE) / folder).is_dir()


def _of_the_network(error: Exception) -> bool:
    client = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or client in ("httpx", "httpx2", "httpcore", "requests")
