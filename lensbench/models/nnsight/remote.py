"""Plans on NDIF: the same block of a trace, run beside a model that never leaves the server.

Only the tree of modules is made here, on the meta device. A run is the trace of the nnsight back
end: the plan, the sites and lensbench's own code that applies them are shipped with it (by value:
the server need not have lensbench), and logits and captured activations come back. ``remote`` is
True for NDIF, or the address of another server that speaks its protocol.
"""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from lensbench.errors import (
    BackendUnavailableError,
    ConfigError,
    StoppedError,
)
from lensbench.models.base import Acts, Forward, ModelCard
from lensbench.models.edits import apply_edits
from lensbench.models.families import architecture_of, shape_of
from lensbench.models.layout import Layout
from lensbench.models.nnsight import tool
from lensbench.models.nnsight.atlas import Atlas
from lensbench.models.nnsight.drive import Drive, run_whole
from lensbench.models.nnsight.served import ServedModel
from lensbench.models.nnsight.twin import NoTaps
from lensbench.models.session import ATTENTION_KEYS, CROSS_KEYS, Session
from lensbench.models.trunk import Request, Trunk, _last_real
from lensbench.plan import Plan
from lensbench.sites import Site
from lensbench.tokens import Tokens
from lensbench.types import LogitsMode

_POLL = 1.0  # seconds between two questions whether the job is done
_LOGITS = ("logits", None, "")
_INSIDE = (ATTENTION_KEYS | CROSS_KEYS) - {"attn.z"}


class RemoteModel(ServedModel):
    """A model on a server of nnsight's. Made by ``load_model(..., remote=True)``.

    It runs plans and captures; what needs weights here (``run_layers``, ``unembed``, gradients, a
    past) is refused. Of attention's inside it reaches ``attn.z``: the rest has no module.

    Raises:
        BackendUnavailableError: no nnsight, no API key, no such server, or the job failed there.
    """

    def __init__(
        self,
        source: str,
        revision: str | None,
        *,
        remote: bool | str,
        timeout: float,
        **options: Any,
    ) -> None:
        nnsight = tool.load()
        self.remote, self.timeout = remote, timeout
        if remote is True:
            _require_key()
        nnsight.register("lensbench")
        named = {} if revision is None else {"revision": revision}
        tokenizer = options.pop("tokenizer", None) or _tokenizer(source, named)
        if tokenizer is None:
            raise BackendUnavailableError(
                f"nnsight needs a tokenizer, and {source!r} has none; pass "
                'engine={"tokenizer": ...}'
            )
        options["tokenizer"] = tokenizer
        try:
            self.root: Any = nnsight.TransformersModel(
                source, task="text-generation", **named, **options
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise BackendUnavailableError(
                f"nnsight cannot make the modules of {source!r}: {str(error).splitlines()[0]}"
            ) from error
        module = self.root._module
        self.tokenizer = self.root.tokenizer
        architecture = architecture_of(module.config)
        if architecture.two_stacks or architecture.auto != "CausalLM":
            raise ConfigError(f"only causal decoders run remotely, not {module.config.model_type}")
        self.layout = Layout(module, self.tokenizer)
        self.card = ModelCard(
            name=source,
            family=str(module.config.model_type),
            revision=revision,
            dtype=str(next(module.parameters()).dtype).removeprefix("torch."),
            fingerprint=f"remote:{source}@{revision or 'main'}",
            backend="nnsight-remote",
            source=source,
            **vars(shape_of(module.config)),
        )
        self.atlas = Atlas(module, architecture, self.card.n_heads)
        taps: Any = NoTaps(architecture)
        self._trunk = Trunk(module, taps, self.card.n_layers, self.card.n_ctx)

    def _why_not(self, site: Site) -> str:
        if site.name not in _INSIDE:
            return ""
        return "No module gives it out, so a remote trace cannot reach it; attn.z it can."

    def _serve(
        self, batch: Tokens, plan: Plan, sites: Sequence[Site], logits: LogitsMode
    ) -> Forward:
        asked = [s for s in sites if s.name != "logits"]
        mode = "all" if Site("logits") in sites else logits
        request = Request(batch=batch, plan=plan, capture=asked, logits=mode)
        session = self._trunk._session(request, self._trunk._feed(request))
        found = self._send(session, batch)
        acts = {Site.parse(name): x for name, x in found["acts"].items()}
        session.waiting -= set(found["fired"]) | {_LOGITS}
        session.check_all_fired()
        whole = found["logits"]
        if whole is not None:
            columns = session.grids[""].new
            edits = session.edits.get(_LOGITS, [])
            whole = apply_edits(whole, edits, columns, attention=False, grad=False)
            if Site("logits") in sites:
                acts[Site("logits")] = whole
        if whole is not None and logits != "all":
            whole = _last_real(whole, batch.real) if logits == "last" else None
        return Forward(whole, Acts(acts), None, found["layers_run"])

    def _send(self, session: Session, batch: Tokens) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": batch.ids, "use_cache": False}
        inputs["position_ids"] = batch.positions()
        if not bool(batch.real.all()):
            inputs["attention_mask"] = batch.real.long()
        session.owner = None
        root, drive = self.root, Drive(self.atlas, session, "")
        ship: Any = run_whole  # nnsight gives every object its save
        with _explained(str(self.remote)):
            with root.trace(**inputs, remote=self.remote, blocking=False) as tracer:
                # The name is the key of the answer.
                found = ship(drive, root).save()  # noqa: F841  # pyright: ignore[reportUnusedVariable]
                tracer.stop()
            return self._wait(tracer.backend)["found"]

    def _wait(self, job: Any) -> dict[str, Any]:
        """The saved values of a job that was sent, once the server has them."""
        ends = time.monotonic() + self.timeout
        while (result := job()) is None:
            if time.monotonic() > ends:
                raise StoppedError(
                    f"job {job.job_id} was not done after {self.timeout:g} s (last status: "
                    f"{job.status}); give load_model a longer timeout"
                )
            time.sleep(_POLL)
        return result


def _tokenizer(source: str, named: dict[str, str]) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, **named)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _require_key() -> None:
    from nnsight.schema.config import CONFIG

    if not CONFIG.API.APIKEY:
        raise BackendUnavailableError(
            "NDIF needs an API key: set NDIF_API_KEY (login.ndif.us gives one)"
        )


@contextmanager
def _explained(where: str) -> Generator[None]:
    """What a server, or the way to it, says against a job, as an error of ours."""
    import httpx
    from nnsight.intervention.backends.remote import RemoteError

    try:
        yield
    except (RemoteError, httpx.HTTPError, OSError) as error:
        host = "NDIF" if where == "True" else where
        raise BackendUnavailableError(f"the job was not done by {host}: {error}") from error
