"""Python that reads a stored token as its page does, with nothing but the library's own calls."""

from collections.abc import Sequence
from pathlib import Path

from lensbench.app.workflows.copying import Call, python_of
from lensbench.app.workflows.latent_code import load_code, opened_code
from lensbench.app.workflows.live import hold_store
from lensbench.app.workflows.sequences import model_name
from lensbench.app.workflows.token_page import Latents, latent_cells, summary_of
from lensbench.saes.runs import STATUS_FILE

NONE = 'float("nan")'
STATES = "found = probes.states_of_store(store, {row}, max_tokens=1)  # after every block"


def _opened(url: str, row: int, first: Sequence[str], used: str, *more: str) -> list[str]:
    """Lines that open store and model, and read the states of a token."""
    return [
        "import lensbench", *first, f"from lensbench import {used}", *more, "",
        f"store = lensbench.open_store({url!r})",
        load_code(*model_name(hold_store(url))),
        STATES.format(row=row),
    ]  # fmt: skip


def trajectory_code(url: str, row: int) -> str:
    """Python that draws the logit lens of a token over the layers."""
    return "\n".join([
        *_opened(url, row, ["import pandas as pd"], "plots, probes",
                 "from lensbench.tokens import token_texts"),
        "logp = model.unembed(found.states[:, 0]).float().cpu().log_softmax(-1)",
        'followed = {"best here": logp[-1].argmax(), "next": found.targets[0], '
        '"final": logp[-1].argmax()}',
        "roles = {}",
        "for role, token in followed.items():",
        "    if token >= 0:  # nothing follows the last token of a text",
        "        roles.setdefault(int(token), []).append(role)",
        "frame = pd.concat([pd.DataFrame({",
        '    "layer": found.layers, "probability": logp[:, token].exp(),',
        '    "token": f"{plots.visible(token_texts(model.tokenizer, [token])[0])} '
        "({', '.join(named)})\",",
        "}) for token, named in roles.items()])",
        'plots.lines(frame, x="layer", y="probability", color="token", '
        'labels={"layer": "after block"})\n',
    ])  # fmt: skip


def exit_code(url: str, row: int) -> str:
    """Python that gives the most probable token of every layer, and if it is the final one."""
    return "\n".join([
        *_opened(url, row, ["import pandas as pd"], "probes",
                 "from lensbench.tokens import token_texts"),
        "best = model.unembed(found.states[:, 0]).float().cpu().softmax(-1).max(-1)",
        "ids = best.indices",
        'pd.DataFrame({"layer": found.layers, "token": token_texts(model.tokenizer, ids.tolist()),',
        '              "id": ids, "probability": best.values, "is_final": ids == ids[-1]})\n',
    ])  # fmt: skip


def check_lens_code(url: str, row: int) -> str:
    """Python that runs the model on the sequence, and holds its lens against the store's."""
    return "\n".join([
        *_opened(url, row, ["import pandas as pd", "import torch"], "probes"),
        'sites = [f"blocks.{layer}.resid_post" for layer in found.layers]',
        f"out = model.run(store.sequence_of({row}).tokens.ids, capture=sites)",
        "at = int(found.positions[0])",
        "live = model.unembed(torch.stack([out.acts[site][0, at] for site in sites]))",
        "kept = model.unembed(found.states[:, 0].to(live.device))",
        "p = torch.cat([live, out.logits[:, at]]).float().log_softmax(-1)  # the output comes last",
        "q = torch.cat([kept, kept[-1:]]).float().log_softmax(-1)",
        "kl = (p.exp() * (p - q)).sum(-1).clamp_min(0).cpu()  # KL(live ‖ stored) [nats]",
        'pd.DataFrame({"layer": [*map(str, found.layers), "output"], "kl_live_to_stored": kl})\n',
    ])  # fmt: skip


def experts_code(url: str, row: int, layers: Sequence[int], *, weighed: bool) -> str:
    """Python that reads which experts a token was sent to; ``weighed``: with their weights."""
    weight = f'store.rows(f"blocks.{{layer}}.router.weights", [{row}])[0]'
    return "\n".join([
        "import lensbench", "import pandas as pd\n",
        f"store = lensbench.open_store({url!r})",
        "parts = []",
        f"for layer in {list(layers)!r}:",
        f'    chosen = store.rows(f"blocks.{{layer}}.router.indices", [{row}])[0]',
        '    part = pd.DataFrame({"layer": layer, "slot": range(len(chosen)),',
        '                         "expert": chosen.round().astype(int)})',
        f'    part["weight"] = {weight if weighed else NONE}',
        "    parts.append(part)",
        "pd.concat(parts, ignore_index=True)\n",
    ])  # fmt: skip


def latents_code(url: str, row: int, one: Latents) -> str:
    """Python that encodes a stored row, and gives the latents that fire, strongest first."""
    return "\n".join([
        *opened_code(Path(one.run), one.name, first=["import pandas as pd", "import torch"]),
        f"store = lensbench.open_store({url!r})",
        f"acts = run.sae.encode(torch.from_numpy(store.rows({one.site!r}, [{row}])))[0]",
        "active = acts.nonzero()[:, 0]",
        "active = active[acts[active].argsort(descending=True)]",
        "norm = acts[active] * run.sae.W_dec[active].norm(dim=-1)  # of what each adds",
        'pd.DataFrame({"latent": active, "activation": acts[active], "norm": norm})\n',
    ])  # fmt: skip


def dictionaries_code(root: Path, url: str, row: int, found: Sequence[Latents]) -> str:
    """Python that encodes a stored row with every dictionary that was found."""
    runs: dict[str, list[str]] = {}
    for one in found:
        runs.setdefault(one.run, []).append(one.name)
    if not all((Path(run) / STATUS_FILE).is_file() for run in runs):  # an array of runs
        return python_of(summary_of, Call(latent_cells, root, url, row, then="[0]"))
    return "\n".join([
        "from pathlib import Path\n",
        "import lensbench", "import pandas as pd", "import torch",
        "from lensbench import saes\n",
        f"store = lensbench.open_store({url!r})",
        f"runs = {runs!r}",
        "rows = []",
        "for run in [one for folder in runs for one in saes.open_runs(folder)",
        "            if one.name in runs[folder]]:",
        f"    sae, x = run.sae, torch.from_numpy(store.rows(run.site, [{row}]))",
        "    acts = sae.encode(x)",
        "    left = (x - sae.decode(acts)).square().sum() / (x - sae.b_dec).square().sum()",
        "    rows.append({",
        '        "dictionary": f"{Path(run.folder).parent.name} / {run.name} at {run.site}",',
        '        "active": int(acts.count_nonzero()), "latents": sae.d_sae,',
        '        "unexplained": float(left),',
        '        "strongest": int(acts.argmax()) if acts.any() else None,',
        "    })",
        "pd.DataFrame(rows)\n",
    ])  # fmt: skip
