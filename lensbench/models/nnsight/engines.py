"""Which engine runs a model whose weights are elsewhere: NDIF, another server, or vLLM."""

from collections.abc import Mapping
from typing import Any

from lensbench.errors import ConfigError
from lensbench.models.base import Model

_TIMEOUT = 600.0  # seconds a job may take, the queue included


def open_engine(
    x: Any,
    revision: str | None,
    backend: str,
    *,
    remote: bool | str,
    vllm: bool,
    options: Mapping[str, Any],
) -> Model:
    """The model ``x`` (a hub id or a folder) on the engine asked for; see ``load_model``.

    ``options`` go to nnsight's model (``tokenizer=``, ``dtype=``; vLLM's own for ``vllm``), but for
    ``timeout``, the seconds a remote job may take.
    """
    if backend != "nnsight":
        raise ConfigError('remote and vllm go through nnsight; pass backend="nnsight" with them')
    if remote and vllm:
        raise ConfigError("remote and vllm are two engines; pass one of them")
    if not isinstance(x, (str,)) and not hasattr(x, "__fspath__"):
        raise ConfigError(
            f"an engine loads the weights itself, so it needs a hub id or a folder, not a "
            f"{type(x).__name__}"
        )
    given = dict(options)
    if vllm:
        from lensbench.models.nnsight.vllm import VllmModel

        return VllmModel(str(x), revision, **given)
    if isinstance(remote, str) and not remote.startswith(("http://", "https://")):
        # nnsight's own "local" reads what it wrote in this same process, which overwrites methods
        # of the classes it wrote: ours.
        raise ConfigError(f"remote is True or an address (http://...), got {remote!r}")
    from lensbench.models.nnsight.remote import RemoteModel

    timeout = float(given.pop("timeout", _TIMEOUT))
    return RemoteModel(str(x), revision, remote=remote, timeout=timeout, **given)
