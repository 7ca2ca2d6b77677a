"""Dictionaries to and from the Hugging Face hub, through its own client.

A name is ``hf://owner/name[/path][@revision]``. What comes down goes through ``saes.load`` as any
folder does: JSON, safetensors and ``.npz``; a ``.pt`` file only where it is named, and never as a
pickle. What goes up is written to a temporary folder first and sent as one commit with a card.
"""

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar, get_args

from lensbench.errors import (
    BackendUnavailableError,
    ConfigError,
    DataError,
    MismatchError,
    MissingDataError,
    UnknownNameError,
)
from lensbench.models.hub import refusal
from lensbench.saes import formats
from lensbench.saes.formats.parts import without_place
from lensbench.saes.hub_card import card
from lensbench.saes.runs import SAERun, open_runs
from lensbench.saes.sae import SAE

SCHEME = "hf://"
HubFormat = Literal[
    "lensbench",
    "sae_lens",
    "dictionary_learning",
    "sparsify",
    "llamascopium",
    "gemma_scope",
    "openai",
]
_SAFE = ("*.safetensors", "*.json", "*.npz", "*.yaml")
_REPO, _PART = re.compile(r"[\w.-]+/[\w.-]+"), re.compile(r"[^\\*?\[\]\x00-\x1f]+")
_SUFFIXES = (".pt", ".npz", ".json", ".safetensors")
T = TypeVar("T")


@dataclass(frozen=True)
class HubName:
    """The parts of ``hf://owner/name[/path][@revision]``."""

    repo: str
    path: str = ""
    revision: str | None = None

    @classmethod
    def parse(cls, name: str) -> "HubName":
        """Read a name.

        Raises:
            ConfigError: not of that form.
        """
        told, at, revision = name.removeprefix(SCHEME).partition("@")
        parts = told.strip("/").split("/")
        repo, path = "/".join(parts[:2]), parts[2:]
        known = _REPO.fullmatch(repo) and all(map(_PART.fullmatch, path))
        if not known or (at and not revision) or {".", ".."} & set(parts):
            raise ConfigError(f"write hf://owner/name[/path][@revision], got {name!r}")
        return cls(repo, "/".join(path), revision or None)

    def __str__(self) -> str:
        """The name."""
        tail = f"/{self.path}" * bool(self.path) + f"@{self.revision}" * bool(self.revision)
        return f"{SCHEME}{self.repo}{tail}"


def pull_from_hub(name: str, *, format: str | None = None, token: str | None = None) -> Path:
    """Bring one dictionary into the local cache of the hub's client; return where it lies there.

    Offline, or again, the cache answers. ``.pt`` files come only where ``path`` or ``format`` names
    them; ``saes.load`` reads their tensors and runs nothing.

    Raises:
        ConfigError: not ``hf://owner/name[/path][@revision]``.
        MissingDataError: no such repository or revision, no access, no hub in reach, or no
            dictionary there; says which dictionaries the repository has.

    Example:
        >>> folder = saes.pull_from_hub("hf://owner/name")
        >>> sae = saes.load(folder)
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    wanted = HubName.parse(name)
    path = PurePosixPath(wanted.path)
    top = (path.parent if path.suffix in _SUFFIXES else path).as_posix()
    inside = "" if top == "." else f"{top}/"
    allowed = [f"{inside}{pattern}" for pattern in _SAFE] + [wanted.path] * bool(wanted.path)
    if format in ("dictionary_learning", "openai"):
        allowed.append(f"{inside}*.pt")
    try:
        folder = snapshot_download(
            wanted.repo,
            revision=wanted.revision,
            allow_patterns=allowed,
            ignore_patterns=[f"{inside}*/*"],
            token=token,
        )
    except HFValidationError as error:
        raise ConfigError(f"{name} is no valid hub id: {error}") from error
    except Exception as error:  # the client's own errors have no public base class
        if not _of_the_client(error):
            raise
        reason = refusal(wanted.repo, wanted.revision) or f"was not given ({error})"
        raise MissingDataError(f"{wanted}: the repository {reason}") from error
    place = Path(folder) / wanted.path
    if not place.is_file() and not formats.recognise(place):
        raise MissingDataError(_not_there(wanted, Path(folder), token))
    return place


def push_to_hub(
    runs: SAERun | SAE | Sequence[SAERun] | Path | str,
    repo: str,
    *,
    format: HubFormat = "lensbench",
    private: bool | None = None,
    overwrite: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Upload dictionaries to the model repository ``repo`` as one commit; return its address.

    One dictionary lies at the top, several lie in a folder each. A card (``README.md``) says site,
    model, architecture, L0 and FVU, and how to load them; one that is there stays unless
    ``overwrite``.

    Args:
        runs: a dictionary, what ``train`` gave, or a run folder.
        repo: ``owner/name``; made where it is not there.
        format: ``lensbench`` (SAELens' files, and the result of the run beside them), or that of
            a peer; see ``saes.save``.
        private: of a repository that is made; of one that is there, it is compared.
        overwrite: replace files that are there.
        revision: a branch, made where it is not there; default: the main one.
        token: default: that of ``hf auth login``, or ``HF_TOKEN``.

    Raises:
        ConfigError: no dictionary, names used twice, a name that is no hub id, files that are there
            without ``overwrite``, or a public repository where a private one was asked for.
        MismatchError: the format has no such architecture; a transcoder or crosscoder.
        BackendUnavailableError: not logged in, no right to write there, or no hub in reach.
        DataError: the hub refused the upload for another reason.

    Example:
        >>> address = saes.push_to_hub(runs, "owner/name", format="sae_lens", private=True)
    """
    if format not in get_args(HubFormat):
        raise UnknownNameError("format for the hub", str(format), known=get_args(HubFormat))
    name = HubName.parse(repo)
    if name.path or name.revision:
        raise ConfigError(f"upload into owner/name (revision=... for a branch), got {repo!r}")
    named = _named(runs)
    with tempfile.TemporaryDirectory(prefix="lensbench-hub-") as folder:
        for sub, one in named.items():
            _write(one, Path(folder) / sub, format)
        text = card(named, name.repo, format)
        (Path(folder) / "README.md").write_text(text, encoding="utf-8")
        return _asked(
            name.repo, lambda: _send(Path(folder), name.repo, private, overwrite, revision, token)
        )


def _send(
    folder: Path,
    repo: str,
    private: bool | None,
    overwrite: bool,
    revision: str | None,
    token: str | None,
) -> str:
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo, private=private, exist_ok=True)
    if private and not api.model_info(repo).private:
        raise ConfigError(
            f"{repo} is there and public, but private=True was asked for; nothing was uploaded. "
            "Make it private on the hub, or choose another name"
        )
    if revision is not None:
        api.create_branch(repo, branch=revision, exist_ok=True)
    there = set(api.list_repo_files(repo, revision=revision))
    ours = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    clash = sorted((ours & there) - {"README.md"})
    if clash and not overwrite:
        raise ConfigError(
            f"{repo} has {', '.join(clash[:4])}{' and more' if len(clash) > 4 else ''} already; "
            "nothing was uploaded. Pass overwrite=True (--overwrite) to replace them"
        )
    kept = ["README.md"] if "README.md" in there and not overwrite else None
    done = api.upload_folder(
        repo_id=repo,
        folder_path=folder,
        revision=revision,
        ignore_patterns=kept,
        commit_message="Dictionaries from lensbench",
    )
    return str(done.commit_url)


def _named(runs: Any) -> dict[str, SAERun | SAE]:
    """Dictionaries by the folder they go into: the top for a single one."""
    if isinstance(runs, (str, Path)):
        runs = open_runs(runs)
    found = list(runs) if isinstance(runs, Sequence) else [runs]
    roles = [str(getattr(run, "role", SAE.role)) for run in found]
    if others := sorted(set(roles) - {SAE.role}):
        raise MismatchError(
            f"a {' and a '.join(others)} cannot be put on the hub from here, which takes sparse "
            "autoencoders; write it with saes.save(run.coder, folder) and upload that folder"
        )
    if isinstance(runs, (SAERun, SAE)):
        return {"": runs}
    if not found or not all(isinstance(run, SAERun) for run in found):
        raise ConfigError("pass an SAERun, several of them, an SAE, or the folder of a run")
    if len(found) == 1:
        return {"": found[0]}
    names = [run.name for run in found]
    if len(set(names)) < len(names):
        raise ConfigError(f"several dictionaries have one name: {', '.join(sorted(names))}")
    return dict(zip(names, found, strict=True))


def _write(one: SAERun | SAE, folder: Path, format: HubFormat) -> None:
    if isinstance(one, SAERun) and format == "lensbench":
        made = replace(one.provenance, **without_place({"model": one.provenance.model}))
        kept = without_place(one.metadata)
        # Where it and its model lay here is nobody's business.
        replace(one, folder="", metadata=kept, provenance=made).save(folder)
        return
    sae = one.sae if isinstance(one, SAERun) else one
    formats.save(sae, folder, format="sae_lens" if format == "lensbench" else format)


def _asked(repo: str, call: Callable[[], T]) -> T:
    """What the hub answers; its refusals in our words."""
    from huggingface_hub import errors as hub

    login = "log in with `hf auth login`, or pass a token with the right to write"
    try:
        return call()
    except (hub.LocalTokenNotFoundError, hub.RepositoryNotFoundError, hub.GatedRepoError) as error:
        raise BackendUnavailableError(
            f"the hub does not let us write to {repo}; {login}"
        ) from error
    except hub.HFValidationError as error:
        raise ConfigError(f"{repo} is no valid hub id: {error}") from error
    except hub.HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            what = "nobody is logged in" if code == 401 else "this account may not write there"
            raise BackendUnavailableError(f"{repo}: {what} ({code}); {login}") from error
        told = error.server_message or str(error).splitlines()[0]
        raise DataError(f"the hub refused the upload to {repo} ({code}): {told}") from error
    except Exception as error:  # the client's own errors have no public base class
        if not _of_the_client(error):
            raise
        raise BackendUnavailableError(
            f"the hub cannot be reached ({type(error).__name__}); nothing was uploaded to {repo}"
        ) from error


def _not_there(wanted: HubName, folder: Path, token: str | None) -> str:
    from huggingface_hub import HfApi

    try:
        files = HfApi(token=token).list_repo_files(wanted.repo, revision=wanted.revision)
    except Exception as error:  # offline: what the cache has
        if not _of_the_client(error):
            raise
        files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    marks = {one.files[-1] for one in formats.FORMATS.values() if one.files}
    found = {PurePosixPath(f).parent.as_posix() for f in files if PurePosixPath(f).name in marks}
    pickled = [f for f in files if f.endswith(".pt")]
    told = f"; it has {', '.join(sorted(found - {'.'}))}" if found - {"."} else ""
    if pickled and not told:
        told = f"; name its .pt file to have its tensors read: {', '.join(pickled[:8])}"
    return f"no dictionary in {wanted}{told}. Write hf://owner/name/path@revision"


def _of_the_client(error: Exception) -> bool:
    """Whether an error is of the network or the hub's client, and no bug of ours."""
    client = type(error).__module__.partition(".")[0]
    network = ("httpx", "httpx2", "httpcore", "requests", "huggingface_hub")
    return isinstance(error, OSError) or client in network
