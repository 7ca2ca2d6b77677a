"""The whole bench once: capture, sweep, evaluation, lens, peers, report.

On two cores within five minutes and 3 GB. One thread does it all: matrices of 128 columns are too
small to share (on a busy machine two threads took five times the processor time). A second call
with the same folder and settings goes on where the first was stopped.
"""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from lensbench.app.report import Section, Table, Text
from lensbench.app.workflows.capturing import tokens_done
from lensbench.app.workflows.evaluation import evaluate_all
from lensbench.app.workflows.models import open_model
from lensbench.app.workflows.peers import ROWS, cross_checks, versions_row, witness
from lensbench.app.workflows.reports import report_runs
from lensbench.app.workflows.runs import TWIN
from lensbench.app.workflows.twins import trained_twin
from lensbench.errors import BudgetError, ConfigError

if TYPE_CHECKING:
    from lensbench.models import Model
    from lensbench.saes import SAERun, SweepConfig
    from lensbench.store import ActivationStore

MODEL, SITE = "atlas-dense", "blocks.3.resid_post"
MAX_TOKENS = 500_000
"""The demo's budget of tokens per dictionary."""
WORDS_PER_DOC, FED_PER_STORED = 11, 1.17
"""A safe lower bound of the words of a mean document, and tokens run per token stored ([BOS] and
[EOS] are run but not stored: their huge states would be most of the variance)."""
SWEEP: list[dict[str, Any]] = [
    {"architecture": "topk", "d_sae": [512, 1024], "k": [8, 16, 32]},
    {"architecture": "batchtopk", "d_sae": 512, "k": 16},
    {"architecture": "relu", "d_sae": 512, "l1_coefficient": 2.0},
]
TWIN_LIKE = 1  # topk, 512, k 16: the settings that the twin's dictionary repeats


def run_demo(
    out: Path, *, tokens: int = 250_000, seed: int = 0, progress: Callable[..., None] | None = None
) -> dict[str, Any]:
    """Run it; say what was found.

    Raises:
        BudgetError: more tokens than the demo may use.
        ConfigError: too few tokens for one training batch.
        StoppedError: interrupted; the same call goes on.
    """
    if tokens > MAX_TOKENS:
        raise BudgetError(f"the demo uses at most {MAX_TOKENS:,} tokens; got --tokens {tokens:,}")
    if tokens < 4096:
        raise ConfigError(f"the demo needs at least 4096 tokens to train on, got {tokens:,}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(out, tokens, seed, progress)
    finally:
        torch.set_num_threads(threads)


def _run(out: Path, tokens: int, seed: int, progress: Callable[..., None] | None) -> dict[str, Any]:
    say, watch = progress or _silent, time.monotonic()
    seconds: dict[str, float] = {}
    model = open_model(MODEL)
    store = _timed(
        seconds,
        "capture",
        lambda: _capture(model, out / "acts", tokens, seed, progress, profile="resid"),
    )
    sweep = demo_sweep(min(tokens, store.n_tokens), seed)
    runs = _timed(seconds, "train", lambda: _train(store, out / "run", sweep))
    say("the control: a twin of the model with random weights")
    train = sweep.train.model_dump(mode="json")
    twin = _timed(
        seconds,
        "twin",
        lambda: trained_twin(
            runs[TWIN_LIKE], train, store, model, out / TWIN, seed=seed, progress=progress
        ),
    )
    facts = _timed(
        seconds, "evaluate", lambda: _evaluate(out, runs, store, model, seed, twin, progress)
    )
    say("the other libraries")
    packages = _timed(seconds, "peers", lambda: _packages(model, store, runs))
    say("report")
    page = report_runs(
        [out / "run"], out / "report.html", title="lensbench demo",
        extra=(_packages_section(packages, seconds, tokens, seed),),
        cards=((f"{store.n_tokens:,}", f"stored tokens of {store.n_docs:,} documents"),),
    )  # fmt: skip
    packages.append(versions_row("plotly", f"drew the {page['figures']} figures of the report"))
    packages.append(versions_row("streamlit", "installed; the demo opens no page of it"))
    return {
        **facts,
        "lens": _lens_line(facts),
        "packages": packages,
        "report": page["report"],
        "report_bytes": page["bytes"],
        "store": store.url,
        "stored_tokens": store.n_tokens,
        "seconds": time.monotonic() - watch,
        "seconds_by_step": seconds,
        "peak_memory_gib": peak_memory(),
    }


def demo_sweep(tokens: int, seed: int) -> "SweepConfig":
    """The eight dictionaries of the demo."""
    from lensbench.saes.configs import SweepConfig

    sweep = [{**entry, "seed": seed, "site": SITE} for entry in SWEEP]
    settings = {"tokens": tokens, "batch": 512, "log_every": 10, "checkpoint_every": 200}
    return SweepConfig.parse({"train": settings, "sweep": sweep})


def peak_memory() -> float:
    """Largest resident memory of this process so far, GiB (macOS counts bytes, Linux KiB)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _capture(
    model: "Model",
    out: Path,
    tokens: int,
    seed: int,
    progress: Callable[..., None] | None,
    **where: Any,
) -> "ActivationStore":
    from lensbench import capture
    from lensbench.worlds.atlas import Atlas

    corpus = Atlas(0).sample(tokens // WORDS_PER_DOC, "all", seed)
    fed = int(tokens * FED_PER_STORED)
    options: dict[str, Any] = {
        "layout": "pad", "context": model.card.n_ctx, "batch_size": 16, "max_tokens": fed,
        "exclude_special": True, "progress": tokens_done(progress, fed),
    }  # fmt: skip
    return capture(model, corpus, out=out, **where, **options)


def _train(store: "ActivationStore", out: Path, sweep: "SweepConfig") -> "list[SAERun]":
    from lensbench import saes

    return saes.train(store, sweep, out=out, resume=out.is_dir(), model_card=store.model)


def _evaluate(
    out: Path,
    runs: "list[SAERun]",
    store: "ActivationStore",
    model: "Model",
    seed: int,
    twin: "tuple[SAERun, ActivationStore]",
    progress: Callable[..., None] | None,
) -> dict[str, Any]:
    from lensbench.saes.evaluation.evaluate import EvaluationConfig

    config = EvaluationConfig(max_tokens=60_000, ce_sequences=256, seed=seed)
    return evaluate_all(out / "run", runs, store, model, config, twin=twin, progress=progress)


def _packages(
    model: "Model", store: "ActivationStore", runs: "list[SAERun]"
) -> list[dict[str, str]]:
    batch = next(store.sequences(ROWS)).tokens
    shortest = int(batch.real.sum(1).min())  # unpadded, so that no mask can differ
    seen = witness(model, MODEL, SITE, batch.ids[:, :shortest], runs[0])
    parameters = sum(run.sae.W_enc.numel() + run.sae.W_dec.numel() for run in runs)
    return [
        versions_row("torch", f"trained {len(runs)} dictionaries, {parameters:,} weights"),
        versions_row(
            "transformers",
            f"the model ({type(getattr(model, 'module', None)).__name__}), run on "
            f"{store.n_tokens:,} tokens",
        ),
        *cross_checks(seen),
    ]


def _packages_section(
    packages: list[dict[str, str]], seconds: dict[str, float], tokens: int, seed: int
) -> Section:
    steps = pd.DataFrame([{"step": k, "seconds": round(v, 1)} for k, v in seconds.items()])
    command = f"lensbench demo --tokens {tokens} --seed {seed}"
    return Section(
        "How this was made",
        (
            Text(command, code=True),
            Table(steps, f"Wall clock on {torch.get_num_threads()} threads"),
            Table(pd.DataFrame(packages), "Packages that took part"),
        ),
    )


def _lens_line(facts: dict[str, Any]) -> str:
    lens = facts["lens"]
    if lens is None:
        return "not read"
    return (
        f"layer {lens['middle_layer']:.0f} agrees with the last on "
        f"{100 * lens['agreement_middle']:.0f} % of tokens "
        f"(shuffled states: {100 * lens['agreement_middle_shuffled']:.0f} %)"
    )


def _timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    start = time.monotonic()
    out = work()
    seconds[name] = time.monotonic() - start
    return out


def _silent(*_: Any, **__: Any) -> None:
    return
