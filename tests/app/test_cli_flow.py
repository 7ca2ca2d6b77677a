"""Capture, train, evaluate, report by the command line, on the bundled model; and what goes wrong.

Sizes are tiny: the point is that every command works on what the one before it left, that nothing
is lost, and that a mistake is answered in one line with its exit code.
"""

import json
import os
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.app.commands import answer, run

SITE = "blocks.3.resid_post"


@pytest.fixture(scope="module")
def acts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("flow") / "acts"
    assert run("capture", "--model", "atlas-dense", "--text", "atlas:240:all", "--profile", "resid",
               "--out", out, "--layout", "pad", "--context", 64) == 0  # fmt: skip
    return out


@pytest.fixture(scope="module")
def trained(acts: Path) -> Path:
    out = acts.parent / "run"
    assert run("train", "sae", "--store", acts, "--sites", SITE, "--architecture", "topk,relu",
               "--d-sae", 64, "--k", "4,8", "--tokens", 4096, "--set", "train.batch=256",
               "--set", "train.log_every=4", "--out", out) == 0  # fmt: skip
    return out


@pytest.fixture(scope="module")
def evaluated(acts: Path, trained: Path) -> Path:
    code = run(
        "eval", "sae", trained, "--store", acts, "--model", "atlas-dense", "--ce-sequences", 24
    )
    assert code == 0
    return trained


def test_store_commands_tell_the_truth(acts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = answer(capsys, "store", "info", acts)
    assert facts["model"] == "atlas-dense"
    assert facts["documents"] == 240
    assert facts["complete"]
    assert {s["site"] for s in facts["sites"]} >= {SITE, "blocks.5.resid_post"}
    assert answer(capsys, "store", "verify", acts)["verdict"] == "sound"
    rows = answer(capsys, "store", "sample", acts, "-n", 5)["rows"]
    assert len(rows) == 5
    assert all(row["norm"] > 0 for row in rows)


def test_a_run_holds_one_folder_per_dictionary(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = answer(capsys, "runs", "show", trained)
    names = [row["name"] for row in facts["dictionaries"]]
    assert len(names) == 4, "two k for topk, two L0 that relu is steered to"
    assert all((trained / name / "config.json").is_file() for name in names)
    assert facts["state"] == "finished"
    assert facts["sweep"]["train"]["batch_size"] == 256
    assert len(answer(capsys, "runs", "ls", trained.parent)["runs"]) == 1


def test_a_twin_is_one_more_control(
    acts: Path, trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    again = shutil.copytree(trained, tmp_path / "run")
    line = ("eval", "sae", again, "--store", acts, "--model", "atlas-dense", "--ce-sequences", 8)
    assert "reinitialised twin" not in answer(capsys, *line)["controls"]
    line = (*line, "--overwrite")
    first = answer(capsys, *line, "--twin")["controls"]
    assert "label F1 of reinitialised twin" in first
    assert (again / "twin" / "acts" / "manifest.json").is_file()
    assert answer(capsys, *line, "--twin")["controls"] == first  # goes on with what is there
    listed = answer(capsys, "runs", "ls", tmp_path)["runs"]
    assert [row["run"] for row in listed] == [str(again)]  # a control is no run of its own
    twin = json.loads((again / "twin" / "acts" / "manifest.json").read_text())["model"]
    assert twin["name"] == "atlas-dense (re-initialised)"  # and never called what it is not


def test_a_twin_needs_text_that_can_be_read_again(
    trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from lensbench import capture, load_model

    model = load_model("atlas-dense")
    capture(model, ["Paul gave a ticket to Mary ."] * 40, [SITE], out=tmp_path / "memory")
    text = tmp_path / "text.txt"
    text.write_text("The capital of Peru is Lima .\n\n" * 40)
    capture(model, text, [SITE], out=tmp_path / "file")
    text.write_text("Something else .")
    from lensbench.app.workflows.runs import all_runs
    from lensbench.app.workflows.twins import trained_twin
    from lensbench.errors import MissingDataError
    from lensbench.store import open_store

    like = all_runs(trained)[0]
    for name, said in (("memory", "activations of texts"), ("file", "has changed")):
        store = open_store(tmp_path / name)
        with pytest.raises(MissingDataError, match=said):
            trained_twin(like, {"tokens": 512}, store, model, tmp_path / "twin")
    line = ("eval", "sae", trained, "--store", tmp_path / "file", "--model", "atlas-dense")
    assert run(*line, "--twin") == 3  # a twin is a control of every measure, labels or not
    said = capsys.readouterr().err
    assert "has changed" in said
    assert "capture it again" in said
    assert not (trained / "twin").exists()


def test_evaluation_and_report_are_in_the_run(
    evaluated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = answer(capsys, "runs", "show", evaluated)
    assert facts["evaluated"]
    assert "label F1 of always on" in facts["controls"], "the evaluation names its controls"
    page = answer(capsys, "report", evaluated)
    html = Path(page["report"]).read_text()
    assert page["figures"] >= 7
    for words in ("Sparsity against fidelity", "Logit lens", "Label F1 beside its controls"):
        assert words in html
    assert "was not evaluated" not in html


def test_report_of_a_run_that_was_not_evaluated_says_what_to_do(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "bare"
    shutil.copytree(trained, copy, ignore=shutil.ignore_patterns("evaluation"))
    page = answer(capsys, "report", copy)
    html = Path(page["report"]).read_text()
    # The box wraps its lines, and where depends on the length of the path.
    text = re.sub(r"(\\u003c|<)br(\\u003e|>)", " ", html)
    assert "was not evaluated" in text
    assert "lensbench eval sae" in html


def test_dry_run_counts_and_writes_nothing(
    acts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = answer(capsys, "train", "sae", "--store", acts, "--sites", SITE, "--d-sae", "64,128",
                   "--k", 4, "--tokens", 2048, "--set", "train.batch=256", "--out", tmp_path / "r",
                   "--dry-run")  # fmt: skip
    assert facts["dictionaries"] == 2
    assert facts["parameters"] == sum(2 * f * 128 + f + 128 for f in (64, 128))
    assert facts["steps"] == 8
    assert facts["seconds"] > 0
    assert not (tmp_path / "r").exists()


def test_a_sweep_file_with_flags_over_it(
    acts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        f"source: {{store: {acts}, site: {SITE}}}\n"
        "train: {tokens: 1024, batch: 256}\n"
        "sweep:\n"
        "  - {architecture: topk, d_sae: [32, 64], k: 4, lr: 1e-3}\n"
        "  - {architecture: relu, d_sae: 32, l1_coefficient: 2}\n"
    )
    facts = answer(capsys, "train", "sae", "-c", sweep, "--tokens", 512, "--dry-run")
    assert facts["dictionaries"] == 3
    assert facts["steps"] == 2


def test_parts_of_an_array_together_are_the_sweep(
    acts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, names = tmp_path / "run", []
    for part in ("1/2", "2/2"):
        facts = answer(capsys, "train", "sae", "--store", acts, "--sites", SITE, "--d-sae", 32,
                       "--k", "2,3,4", "--tokens", 512, "--set", "train.batch=256", "--out", out,
                       "--array", part)  # fmt: skip
        names.append({row["name"] for row in facts["dictionaries"]})
    assert [len(n) for n in names] == [2, 1]
    assert not names[0] & names[1]
    whole = answer(capsys, "runs", "show", out)
    assert {row["name"] for row in whole["dictionaries"]} == names[0] | names[1]
    done = answer(capsys, "train", "sae", "--resume", out)
    assert "is finished: 3 dictionaries, 4 steps in 2 parts" in done["message"]


def test_a_run_is_not_overwritten_and_a_finished_one_resumes_at_once(
    acts: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "sae", "--store", acts, "--sites", SITE, "--out", trained) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert len(answer(capsys, "train", "sae", "--resume", trained)["dictionaries"]) == 4


def test_an_interrupt_saves_and_resume_finishes(
    acts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    from lensbench.saes.training import reporting

    tick = reporting.Reporter.tick

    def interrupting(self: Any, step: int, states: dict[str, str]) -> None:
        tick(self, step, states)
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(reporting.Reporter, "tick", interrupting)
    out = tmp_path / "run"
    line = ("train", "sae", "--store", acts, "--sites", SITE, "--d-sae", 32, "--k", 4, "--tokens",
            2048, "--set", "train.batch=256", "--out", out)  # fmt: skip
    assert run(*line) == 130
    said = capsys.readouterr().err
    assert f"--resume {out}" in said
    assert "Traceback" not in said
    monkeypatch.setattr(reporting.Reporter, "tick", tick)
    facts = answer(capsys, "train", "sae", "--resume", out)
    assert facts["dictionaries"][0]["status"] == "finished"
    assert answer(capsys, "runs", "show", out)["step"] == 8


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (["capture", "--model", "atlas-dense", "--text", "no.txt", "--profile", "resid"], 3,
         "does not exist"),
        (["capture", "--model", "atlas-dense", "--text", "atlas:9"], 2, "--profile resid"),
        (["capture", "--model", "atlas-dense", "--text", "atlas:9", "--profile", "reisd"], 2,
         "Did you mean 'resid'"),
        (["capture", "--model", "atlas-dense", "--text", "atlas:9", "--sites",
          "blocks.3.resid_pots"], 2, "Did you mean 'resid_post'"),
        (["capture", "--model", "atlas-dense", "--text", "atlas:9", "--sites",
          "blocks.77.resid_post"], 2, "blocks.77.resid_post"),
        (["capture", "--model", "atlas-dense", "--text", "atlas:9", "--profile", "resid",
          "--layout", "pakc"], 2, "Did you mean 'pack'"),
        (["capture", "--model", "atlas-dense", "--text", "atlas:9", "--profile", "resid",
          "--dtype", "float8"], 2, "float8"),
        (["train", "sae"], 2, "--store DIR"),
        (["train", "sae", "--store", "/no/such/store"], 3, "/no/such/store"),
        (["train", "sae", "--store", "ACTS", "--architecture", "topkk"], 2, "Did you mean 'topk'"),
        (["train", "sae", "--store", "ACTS", "--set", "train.tokenz=5"], 2, "tokenz"),
        (["train", "sae", "--store", "ACTS", "--set", "sweep.lrr=1"], 2, "Did you mean 'lr'"),
        (["train", "sae", "--store", "ACTS", "--k", "4096"], 2, "k must be in"),
        (["train", "sae", "--store", "ACTS", "--sites", "blocks.3.mlp_out"], 2, "mlp_out"),
        (["train", "sae", "--store", "ACTS", "--array", "3/2"], 2, "1 <= i <= n"),
        (["train", "sae", "--resume", "/no/such/run"], 3, "no run in"),
        (["train", "sae", "-c", "/no/such.yaml"], 3, "no config file"),
        (["eval", "sae", "/no/run", "--store", "ACTS", "--model", "atlas-dense"], 3, "no run in"),
        (["report", "/no/run"], 3, "no run in"),
        (["runs", "show", "/no/run"], 3, "no run in"),
        (["runs", "ls", "/no/folder"], 3, "no folder"),
        (["store", "verify", "/no/store"], 3, "/no/store"),
        (["store", "rm", "ACTS"], 2, "--yes"),
        (["store", "rm", "/tmp", "--yes"], 3, "nothing was removed"),
        (["demo", "--tokens", "900000"], 4, "at most 500,000"),
        (["demo", "--tokens", "10"], 2, "at least 4096"),
    ],
)  # fmt: skip
def test_mistakes_get_one_clear_line_and_their_code(
    line: list[str],
    code: int,
    words: str,
    acts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = [str(acts) if part == "ACTS" else part for part in line]
    if line[0] in ("capture", "train") and "--resume" not in line:
        line += ["--out", str(tmp_path / "out")]
    capsys.readouterr()
    assert run(*line) == code
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.rstrip().splitlines()[-1].startswith("lensbench: ")


def test_a_damaged_shard_is_found_and_named(
    acts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "acts"
    shutil.copytree(acts, copy)
    shard = max(copy.rglob("*.safetensors"), key=lambda p: p.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    assert run("store", "verify", copy) == 3
    assert shard.name in capsys.readouterr().err


def test_a_store_of_another_model_is_refused(
    acts: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    small = LlamaConfig(vocab_size=896, hidden_size=128, intermediate_size=32,
                        num_hidden_layers=6, num_attention_heads=4,
                        max_position_embeddings=64)  # fmt: skip
    LlamaForCausalLM(small).save_pretrained(tmp_path / "other")
    assert run("eval", "sae", trained, "--store", acts, "--model", tmp_path / "other") == 3
    assert "not of other" in capsys.readouterr().err
    assert run("capture", "--model", tmp_path / "other", "--text", "atlas:240:all", "--profile",
               "resid", "--out", acts, "--layout", "pad", "--context", 64) == 3  # fmt: skip
    said = capsys.readouterr().err
    assert "Traceback" not in said


def test_text_for_a_model_without_a_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    small = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                        num_attention_heads=2, max_position_embeddings=64)  # fmt: skip
    LlamaForCausalLM(small).save_pretrained(tmp_path / "bare")
    (tmp_path / "a.txt").write_text("some words")
    assert run("capture", "--model", tmp_path / "bare", "--text", tmp_path / "a.txt", "--profile",
               "resid", "--out", tmp_path / "s") == 2  # fmt: skip
    assert "has no tokenizer" in capsys.readouterr().err


def test_an_empty_text_and_an_unwritable_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text(" \n\n")
    line = ("capture", "--model", "atlas-dense", "--profile", "resid")
    assert run(*line, "--text", tmp_path / "empty.txt", "--out", tmp_path / "s") == 2
    assert "empty" in capsys.readouterr().err
    (tmp_path / "file").write_text("x")
    assert run(*line, "--text", "atlas:5", "--out", tmp_path / "file" / "s") == 3
    assert "cannot write" in capsys.readouterr().err


def test_the_only_site_of_a_store_need_not_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    acts = tmp_path / "acts"
    assert run("capture", "--model", "atlas-dense", "--text", "atlas:9", "--sites",
               "blocks.2.mlp_out", "--out", acts) == 0  # fmt: skip
    line = ("--d-sae", 32, "--k", 4, "--tokens", 128, "--set", "train.batch=32")
    facts = answer(capsys, "train", "sae", "--store", acts, *line, "--out", tmp_path / "r")
    assert [row["site"] for row in facts["dictionaries"]] == ["blocks.2.mlp_out"]
    two = tmp_path / "two"
    assert run("capture", "--model", "atlas-dense", "--text", "atlas:9", "--sites",
               "blocks.2.mlp_out,blocks.3.mlp_out", "--out", two) == 0  # fmt: skip
    assert run("train", "sae", "--store", two, *line, "--out", tmp_path / "r2") == 2
    assert "name the sites to train on" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "says"), [("atlas:1:all", "one document is"), ("atlas:3:all",
                         "3 documents are")])  # fmt: skip
def test_a_small_store_is_evaluated_and_reported_without_labels(
    text: str, says: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    acts, copy = tmp_path / "acts", shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(copy / "evaluation", ignore_errors=True)
    assert run("capture", "--model", "atlas-dense", "--text", text, "--profile", "resid",
               "--out", acts, "--layout", "pad", "--context", 64) == 0  # fmt: skip
    line = ("eval", "sae", copy, "--store", acts, "--model", "atlas-dense")
    facts = answer(capsys, *line)
    assert all(row["fvu"] >= 0 for row in facts["dictionaries"])
    assert "label_f1" not in facts["dictionaries"][0]
    assert f"(no labels: {says} too few to split" in facts["controls"]
    assert "FVU of random dictionary" in facts["controls"]
    assert run(*line, "--overwrite") == 0
    assert "no labels: " in capsys.readouterr().out
    html = Path(answer(capsys, "report", copy)["report"]).read_text()
    assert f"Label matching was not run: no labels: {says} too few" in html
    alone = text == "atlas:1:all"
    assert ("no interval: one document says nothing about the spread" in html) == alone
    assert ("95 % bootstrap over 3 documents" in html) != alone
    assert "bootstrap over 1 documents" not in html
    assert "NaN" not in re.sub(r"<script.*?</script>", "", html, flags=re.S)


@pytest.mark.parametrize(
    ("age", "pid", "state"),
    [(5, 0, "running"), (90, 0, "lost"), (90, None, "running"), (900, None, "lost")],
)
def test_a_run_that_fell_silent_is_lost(
    trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, age: int, pid: Any,
    state: str,
) -> None:  # fmt: skip
    copy = shutil.copytree(trained, tmp_path / "runs" / "one")
    status = json.loads((copy / "status.json").read_text())
    last = datetime.now(UTC) - timedelta(seconds=age)
    status |= {"state": "running", "heartbeat": last.strftime("%Y-%m-%dT%H:%M:%SZ")}
    status["pid"] = os.getpid() if pid is None else pid
    if pid is not None:
        status["birth"] = None  # of a system that does not tell: only its silence can
    (copy / "status.json").write_text(json.dumps(status))
    (row,) = answer(capsys, "runs", "ls", tmp_path / "runs")["runs"]
    assert row["state"] == state


def test_a_store_is_removed_only_on_request(acts: Path, tmp_path: Path) -> None:
    copy = tmp_path / "acts"
    shutil.copytree(acts, copy)
    assert run("store", "rm", copy) == 2
    assert copy.is_dir()
    assert run("store", "rm", copy, "--yes") == 0
    assert not copy.exists()


def test_removing_a_store_leaves_what_is_not_its_own(
    acts: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = shutil.copytree(acts, tmp_path / "acts")
    mine = [copy / "notes.txt", copy / "tokens" / "list.csv", copy / "acts" / "figure.png"]
    for path in mine:
        path.write_text("precious")
    found = answer(capsys, "store", "rm", copy, "--yes")
    assert sorted(found["left"]) == sorted(map(str, mine))
    assert sorted(p for p in copy.rglob("*") if p.is_file()) == sorted(mine)
    assert run("store", "rm", copy, "--yes") == 3  # no store is left there


def test_resuming_takes_no_other_settings_and_a_dry_run_trains_nothing(
    trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = shutil.copytree(trained, tmp_path / "run")
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    line = ("train", "sae", "--resume", copy)
    for more in (("--set", "sweep.lr=0.1"), ("--tokens", 50_000), ("-c", copy / "sweep.yaml")):
        assert run(*line, *more) == 2
        assert "its own sweep" in capsys.readouterr().err
    assert "lines" in answer(capsys, *line, "--dry-run")
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_an_unfinished_run_is_not_evaluated_and_says_how_to_go_on(
    acts: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    for folder in copy.glob("*/result"):
        shutil.rmtree(folder)
    for line in (
        ["eval", "sae", copy, "--store", acts, "--model", "atlas-dense"],
        ["report", copy],
    ):
        assert run(*line) == 3
        said = capsys.readouterr().err
        assert "is finished" in said
        assert f"`lensbench train sae --resume {copy}`" in said
    line = ["train", "sae", "--store", acts, "--sites", SITE, "--out", copy]
    assert run(*line) == 2
    assert f"`lensbench train sae --resume {copy}`" in capsys.readouterr().err


def test_a_limit_in_the_middle_of_a_row_is_said_and_never_passes_100_percent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lensbench.app.cli import capture as command
    from lensbench.app.cli.console import Progress

    monkeypatch.setattr(command, "Progress", lambda label: Progress(label, every=0))
    text = tmp_path / "t.txt"
    text.write_text("The capital of Peru is Lima .\n\n" * 400)
    line = ("capture", "--model", "atlas-dense", "--text", text, "--sites", SITE,
            "blocks.1.resid_post", "--context", 64, "--max-tokens", 1000)  # fmt: skip
    assert run(*line, "--out", tmp_path / "a") == 0
    said = capsys.readouterr()
    told = dict(part.split(maxsplit=1) for part in said.out.splitlines())
    assert told["tokens"] == "1,024 (whole rows; limit 1,000)"
    assert told["sites"] == f"blocks.1.resid_post, {SITE}"
    shares = [int(share) for share in re.findall(r"\((\d+) %\)", said.err)]
    assert shares[-1] == max(shares) == 100
    facts = answer(capsys, *line, "--out", tmp_path / "a")
    assert (facts["tokens"], facts["max_tokens"]) == (1024, 1000)
    line = (*line[:-1], 1024)
    assert run(*line, "--out", tmp_path / "b") == 0
    told = dict(part.split(maxsplit=1) for part in capsys.readouterr().out.splitlines())
    assert told["tokens"] == "1,024"  # control: a limit that is met exactly needs no word


def test_training_says_its_real_length_and_how_often_a_small_store_repeats(
    acts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = answer(capsys, "store", "info", acts)["tokens"]
    line = ("train", "sae", "--store", acts, "--sites", SITE, "--d-sae", 16, "--k", 2, "--set",
            "train.batch=256")  # fmt: skip
    assert run(*line, "--tokens", 1000, "--out", tmp_path / "short") == 0
    said = capsys.readouterr().err
    assert said.splitlines()[0].endswith(": 768 tokens each, 3 steps of 256 (of 1,000 asked for)")
    assert "warning" not in said
    times = 3 * stored
    assert run(*line, "--tokens", times, "--out", tmp_path / "long") == 0
    warned = [part for part in capsys.readouterr().err.splitlines() if "warning" in part]
    epochs = times // 256 * 256 / stored
    assert len(warned) == 1
    assert f"{epochs:.1f} epochs" in warned[0]
    assert f"{stored:,} stored tokens" in warned[0]


@pytest.mark.parametrize("seed", ["-1", str(2**70)])
def test_a_seed_that_no_generator_takes_is_refused(
    seed: str, acts: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("eval", "sae", trained, "--store", acts, "--model", "atlas-dense", "--seed", seed)
    assert run(*line) == 2
    said = capsys.readouterr().err
    assert "seed: must be" in said
    assert f"(got {seed})" in said


def test_numbers_of_training_say_over_which_steps_they_are_means(
    acts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("train", "sae", "--store", acts, "--sites", SITE, "--d-sae", 16, "--k", 2, "--set",
            "train.batch=256", "--tokens", 256 * 11)  # fmt: skip
    for every, last in ((4, 3), (11, 11), (50, 11), (10, 1)):
        out = tmp_path / f"run{every}"
        assert run(*line, "--set", f"train.log_every={every}", "--out", out) == 0
        said = capsys.readouterr()
        steps = "step" if last == 1 else f"{last} steps"
        assert f"means of the last {steps}" in said.err
        note = f"loss, fvu and l0 are means over the last {last} training step"
        assert note in said.out
        assert "eval sae" in said.out
        assert run("runs", "show", out) == 0
        assert note in capsys.readouterr().out
        report = Path(answer(capsys, "report", out)["report"]).read_text()
        assert note in report


def test_k_gives_way_to_a_coefficient_that_is_set(
    acts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("train", "sae", "--store", acts, "--sites", SITE, "--architecture", "topk,relu",
            "--d-sae", 32, "--k", 4, "--tokens", 2048, "--set", "train.batch=256",
            "--dry-run")  # fmt: skip
    assert run(*line) == 0
    capsys.readouterr()
    assert run(*line, "--set", "sweep.l1_coefficient=1", "--architecture", "relu") == 0
    assert "not both" not in capsys.readouterr().err
