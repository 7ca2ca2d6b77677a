"""A folder as ``lensbench demo`` leaves it, only smaller: the names are those of the examples."""

import shutil
from pathlib import Path

import pytest

from tests.app.commands import run

SITE = "blocks.3.resid_post"
NAMES = ("topk-512-k16-lr0.0011-s0", "topk-512-k32-lr0.0011-s0")


def make_workspace(folder: Path) -> Path:
    """``demo-run/acts`` and ``demo-run/run`` (two dictionaries, evaluated), and small files."""
    acts, out = folder / "demo-run" / "acts", folder / "demo-run" / "run"
    assert run("capture", "--model", "atlas-dense", "--text", "atlas:120:all", "--profile", "resid",
               "--out", acts, "--layout", "pad", "--context", 64) == 0  # fmt: skip
    assert run("train", "sae", "--store", acts, "--sites", SITE, "--d-sae", 512, "--k", "16,32",
               "--tokens", 4096, "--set", "train.batch=256", "--out", out) == 0  # fmt: skip
    assert run("eval", "sae", out, "--store", acts, "--model", "atlas-dense",
               "--ce-sequences", 8) == 0  # fmt: skip
    assert {path.name for path in out.glob("topk-*")} == set(NAMES)
    (folder / "sweep.yaml").write_text(
        f"source: {{store: demo-run/acts, site: {SITE}}}\n"
        "train: {tokens: 8192}\n"
        "sweep: [{architecture: topk, d_sae: 64, k: [4, 8]}]\n"
    )
    (folder / "prompts.txt").write_text("The capital of Peru is\nAlice the baker lives in\n")
    (folder / "repeats.txt").write_text(
        "List plate broken , book wooden ; recall book\n"
        "List key wooden , lamp silver ; recall key\n"
        "List cup pink , car heavy ; recall cup\n"
    )
    words = '{"words": ["The", "capital", "of", "Peru", "is"], '
    (folder / "trees.jsonl").write_text((words + '"heads": [1, 4, 1, 2, -1]}\n') * 12)
    spans = '"spans": [[0, 2], [3, 4]], "labels": ["a", "b"]}\n'
    (folder / "spans.jsonl").write_text((words + spans) * 12)
    (folder / "sentences.csv").write_text("prefix,a,b\n" + "".join(
        f'While the {who} {verb} the girl," seems| is"," ,"\n'
        for who in ("king", "boy", "doctor", "farmer") for verb in ("sees", "knows", "likes")
    ))  # fmt: skip
    (folder / "hypothesis.yaml").write_text(
        "claims:\n  - {site: blocks.5.resid_post, position: end, feature: answer}\n"
    )
    (folder / "rewards.json").write_text("[" + ", ".join(["[0, 1]", "[1, 1]"] * 4) + "]")
    (folder / "readings.jsonl").write_text(
        '{"ambiguous": "the capital of Peru is", "variant": "the big capital of Chile is"}\n'
        '{"ambiguous": "the king knows", "variant": "the king knows", "kind": "same"}\n'
    )
    (folder / "questions.jsonl").write_text("".join(
        f'{{"prompt": "The capital of {land} is", "answers": [" Lima", " Rome"], '
        f'"correct": [{right}, {wrong}]}}\n'
        for land, right, wrong in (("Peru", "true", "false"), ("Italy", "false", "true"))
    ))  # fmt: skip
    (folder / "analogies.txt").write_text("\n".join(analogies(120)) + "\n")
    return folder


def analogies(n: int) -> list[str]:
    """Whole analogies in words of the atlas."""
    from lensbench.probes.hd.atlas import atlas_prompts

    dealt = atlas_prompts("analogy", "pair", n_train=n, n_test=n // 4, seed=0)
    rows = [pairs for side in (dealt.train, dealt.validation, dealt.test) for pairs in side.pairs]
    return [" = ".join(f"{a} : {b}" for a, b in pairs) for pairs in rows]


_MADE: list[Path] = []
"""The folder that every file of tests gets a copy of, once it is made: it takes seconds."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, a fresh copy for a file of tests; runs in it name the store of the first one."""
    if not _MADE:
        _MADE.append(make_workspace(tmp_path_factory.mktemp("made once")))
    folder = tmp_path_factory.mktemp("work space")
    shutil.copytree(_MADE[0], folder, dirs_exist_ok=True)
    return folder
