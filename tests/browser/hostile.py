"""A folder of texts, labels and names that a browser, Markdown, LaTeX or plotly would act upon.

Every word has a core that stands nowhere else, and what stands before and after it. Read as itself,
a core comes right after what stands before it; whoever renders a word swallows that.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

OFF = "http://127.0.0.2:9"
"""A place off the dashboard; whatever asks it is seen."""
WORDS = {
    "hostscript": ("<script>window.hit=", "</script>"),
    "hostimage": ("<img/src=x/onerror=window.hit=", ">"),
    "hostloaded": (f"<img/src={OFF}/", ".png>"),
    "hostsvg": ('"><svg/onload=window.hit=', ">"),
    "hostframe": (f"<iframe/src={OFF}/", "></iframe>"),
    "hostbold": ("<b>", "</b>"),
    "hostanchor": (f"<a/href={OFF}/>", "</a>"),
    "hostentity": ("&lt;", "&gt;"),
    "hostpicture": ("![", f"]({OFF}/p.png)"),
    "hostlink": ("[", "](javascript:window.hit=1)"),
    "hostauto": (f"<{OFF}/", ">"),
    "hoststrong": ("**", "**"),
    "hostcode": ("`", "`"),
    "hosttitle": ("#", ""),
    "hostformula": ("$x^{", "}$"),
    "hostdouble": ("$$", "^2$$"),
    "hostred": (":red[", "]"),
    "hostbadge": (":blue-badge[", "]"),
    "hosticon": (":material/delete:", ":smile:"),
    "hostpipe": ("|", "|"),
    "hostbrace": ("%{", "}"),
}
"""Core: before and after."""
TOKENS = [before + core + after for core, (before, after) in WORDS.items()]
NAME = "<img src=x onerror=window.hit=9>namedimage:red[namedred]$namedformula$**namedstrong**"
"""What folders and files are called, after a word of ours."""
PARTS = {"namedimage": "onerror=window.hit=9>", "namedred": ":red[", "namedformula": "$",
         "namedstrong": "**"}  # fmt: skip
"""Its cores, and what stands before each."""
LONG = "very-long-name-" + "x" * 180
TURNED = "turned\u202egnp.exe"
"""A name that a right-to-left override would show as another."""


@dataclass(frozen=True)
class Hostile:
    """Where it lies, and the addresses of pages that show it."""

    folder: Path
    addresses: list[str]


def make_hostile(folder: Path) -> Hostile:
    """Models whose every token is hostile, stores, an evaluated run with labels, prompts."""
    import lensbench
    from lensbench import saes
    from lensbench.app.workflows.evaluation import evaluate_all
    from lensbench.saes.evaluation.evaluate import EvaluationConfig

    dense, moe = (
        _model(folder / "models" / f"{kind} {NAME}", kind) for kind in ("llama", "mixtral")
    )
    model = lensbench.load_model(dense)
    texts = [" ".join(TOKENS[i:] + TOKENS[:i]) for i in range(0, len(TOKENS), 3)]
    options: dict[str, Any] = {"layout": "pad", "context": 48, "dtype": "float32"}
    store = lensbench.capture(model, texts, profile="full", out=folder / f"acts {NAME}", **options)
    site = "blocks.1.resid_post"
    for other, name in ((model, LONG), (model, TURNED), (lensbench.load_model(moe), f"moe {NAME}")):
        lensbench.capture(other, texts[:1], [site], out=folder / name, **options)
    sweep = {
        "train": {"tokens": 2048, "batch_size": 32, "log_every": 20},
        "sweep": [{"architecture": "topk", "d_sae": 16, "k": [2, 4], "lr": 1e-2, "site": site}],
    }
    run = folder / "runs" / NAME
    runs = saes.train(store, sweep, out=run, model_card=store.model, progress=False)
    evaluate_all(run, runs, store, model, EvaluationConfig(max_tokens=200, ce_sequences=4))
    for i, word in enumerate(TOKENS[:12]):
        saes.notes(runs[0]).set(i, label=word, note=" ".join(TOKENS), starred=True)
    lines = [{"text": t, "label": TOKENS[i % 2], "group": TOKENS[i]} for i, t in enumerate(texts)]
    (folder / f"{NAME}.jsonl").write_text("\n".join(json.dumps(line) for line in lines * 3))
    return Hostile(folder, _addresses(texts, str(dense), str(moe), runs[0].name))


def _addresses(texts: list[str], dense: str, moe: str, dictionary: str) -> list[str]:
    store, run, prompts = f"acts {NAME}", f"runs/{NAME}", f"{NAME}.jsonl"
    pairs = json.dumps([[" ".join(TOKENS[:4]), " ".join(TOKENS[1:5]), TOKENS[5], TOKENS[6]]])
    one = {"run": run, "dictionary": dictionary}
    own = {"model": dense, "text": texts[0]}
    queries: list[tuple[str, dict[str, Any]]] = [
        ("", {}), ("stores", {}), ("runs", {}),
        ("capture", {"model": dense, "from": "A file in this folder", "file": prompts}),
        ("stores", {"store": store, "part": "Rows"}),
        ("stores", {"store": LONG, "part": "Manifest"}), ("stores", {"store": TURNED}),
        ("token", {"store": store, "row": 5}),
        ("train", {"store": store}), ("runs", {"run": run}), ("sweep", {"run": run}),
        ("latent", one), ("latent", {**one, "latent": 3}),
        ("compare", {"one": run, "other": run, "other-dictionary": dictionary}),
        ("directions", {**one, "latent": 3, "show": "Nearest latents"}),
        ("lens", {"store": store, "row": 5, "pos": 4, "layer": 1}),
        ("lens", {"view": "Two texts", **own, "text2": texts[1]}),
        ("attention", {"from": "My own text", **own}),
        ("probe", {"store": store}), ("hyper", {"model": dense}), ("geometry", {"stores": store}),
        ("patching", {"model": dense, "of": "My own pairs", "pairs": pairs}),
        ("steering", {"model": dense}), ("acceleration", {"store": store}),
        ("experts", {"model": moe, "prompts": prompts}),
        ("ask", {**own, "target": " ".join(TOKENS[2:7])}),
        ("language", {"model": dense, "words": "My own words", "lexicon": "\n".join(
            ", ".join(TOKENS[i : i + 3]) for i in range(0, 18, 3))}),
    ]  # fmt: skip
    return [f"/{path}?{urlencode(query)}" for path, query in queries]


def _model(folder: Path, kind: str) -> Path:
    from tests.helpers import tiny
    from tests.tokenizers_for_chat import word_level

    tokenizer = word_level(TOKENS)
    tiny(kind, vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
