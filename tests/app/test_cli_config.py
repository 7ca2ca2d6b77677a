"""Configurations: what wins, what is refused and how, one key in words, schemas; strict YAML."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.app.commands import answer, refused

SWEEP = "train: {tokens: 8192, batch: 1024}\nsweep: [{architecture: topk, d_sae: 64, k: 4}]\n"


def written(folder: Path, text: str, name: str = "s.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_later_ones_win(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defaults < first file < second file < environment < --set."""
    first = written(tmp_path, SWEEP)
    second = written(tmp_path, "train: {tokens: 16384}\n", "t.yaml")
    monkeypatch.delenv("LENSBENCH_SET", raising=False)
    one = answer(capsys, "config", "show", "-c", first)
    assert (one["train"]["tokens"], one["train"]["keep"], one["sweep"][0]["k"]) == (8192, 2, 4)
    two = answer(capsys, "config", "show", "-c", first, "-c", second)
    assert (two["train"]["tokens"], two["train"]["batch_size"]) == (16384, 1024)
    monkeypatch.setenv("LENSBENCH_SET", "train.tokens=32768 sweep.k=8 sweep.d_sae=128")
    three = answer(capsys, "config", "show", "-c", first, "-c", second)
    assert (three["train"]["tokens"], three["sweep"][0]["k"]) == (32768, 8)
    four = answer(capsys, "config", "show", "-c", first, "--set", "train.tokens=65536",
                  "--set", "sweep.k=16,32")  # fmt: skip
    assert four["train"]["tokens"] == 65536
    assert [(d["k"], d["d_sae"]) for d in four["sweep"]] == [(16, 128), (32, 128)]
    monkeypatch.setenv("LENSBENCH_SET", "train.tokens")
    assert "LENSBENCH_SET" in refused(capsys, "config", "show", "-c", first)


def test_what_is_shown_can_be_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.app.commands import run

    assert run("config", "show", "-c", written(tmp_path, SWEEP)) == 0
    again = written(tmp_path, capsys.readouterr().out, "again.yaml")
    one = answer(capsys, "config", "show", "-c", tmp_path / "s.yaml")
    two = answer(capsys, "config", "show", "-c", again)
    assert one == two


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "train: {tokens: 8192}\ntrain: {tokens: 1}\n",
            "line 2: the key 'train' stands there twice",
        ),
        ("train:\n\ttokens: 5\n", "a tab"),
        ("", "is empty"),
        ("- a\n- b\n", "holds a list"),
        ("just words\n", "holds 'just words'"),
        ("train: {tokns: 8192}\n" + SWEEP.partition("\n")[2], "Did you mean 'tokens'?"),
        (SWEEP + "sources: {}\n", "Did you mean 'source'?"),
        ("train: {tokens: 8192}\nsweep: [{architecture: topk, d_sae: 64, kk: 4}]\n", "sweep[0]"),
        ("train: {tokens: 8192}\nsweep: [{architecture: tpk}]\n", "Did you mean 'topk'?"),
        ("train: {tokens: 8192}\nsweep: {architecture: topk}\n", "must be a list"),
        ("train: {tokens: no}\nsweep: [{architecture: topk, d_sae: 64}]\n", "tokens"),
        ("a: [1\n", "line 2"),
        ("a: !!python/object:os.system x\n", "not valid YAML"),
    ],
)
def test_a_fault_in_a_file_is_named(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, text)
    message = refused(capsys, "config", "show", "-c", path)
    assert said in message
    assert "(got {" not in message  # not the whole file again


def test_a_file_that_is_not_there_or_no_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no config file" in refused(capsys, "config", "show", "-c", tmp_path / "no.yaml")
    assert "cannot read" in refused(capsys, "config", "show", "-c", tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00a")
    assert "UTF-8" in refused(capsys, "config", "show", "-c", tmp_path / "b.yaml")
    broken = written(tmp_path, '{"train": {"tokens": 1,}}', "b.json")
    assert "line 1" in refused(capsys, "config", "show", "-c", broken)
    twice = written(tmp_path, '{"train": {}, "train": {}}', "c.json")
    assert "twice" in refused(capsys, "config", "show", "-c", twice)


def test_json_with_tabs_is_a_config_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '{\n\t"train": {"tokens": 8192},\n\t"sweep": [{"architecture": "topk", "d_sae": 64}]\n}'
    path = written(tmp_path, text, "s.json")
    assert answer(capsys, "config", "show", "-c", path)["sweep"][0]["k"] == 32


def test_numbers_of_yaml_are_what_people_mean() -> None:
    from lensbench.app.workflows.settings import read_value
    from lensbench.yaml_text import parse_yaml

    found = parse_yaml(
        "{a: 1e-3, b: 010, c: 12:30, d: 2_000, e: no, f: 1.5, g: -3, h: 'no', i: 0x1F}"
    )
    assert found == {"a": 1e-3, "b": "010", "c": "12:30", "d": 2000, "e": False, "f": 1.5, "g": -3,
                     "h": "no", "i": 31}  # fmt: skip
    assert parse_yaml("{base: &b {x: 1, y: 2}, c: {<<: *b, y: 3}}")["c"] == {"x": 1, "y": 3}
    assert read_value("1e-3,3e-4") == [1e-3, 3e-4]
    assert read_value("atlas:200") == "atlas:200"


def test_a_run_folder_with_a_text_that_looks_like_a_number_opens_again(tmp_path: Path) -> None:
    """What we write with PyYAML reads back as it was."""
    import yaml

    from lensbench.config import load_yaml

    tree = {"name": "010", "when": "12:30", "no": "no", "x": 1e-05, "n": None, "t": True}
    path = written(tmp_path, yaml.safe_dump(tree))
    assert load_yaml(path) == tree


def settings(capsys: pytest.CaptureFixture[str], key: str) -> list[dict[str, Any]]:
    return answer(capsys, "config", "explain", key)["settings"]


def test_a_key_is_explained_with_the_architectures_that_take_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lensbench.saes.architectures import ARCHITECTURES

    (row,) = settings(capsys, "sae.k")
    assert (row["key"], row["type"], row["default"], row["range"]) == (
        "sweep.k", "integer", 32, ">= 1",
    )  # fmt: skip
    taking = [n for n, c in ARCHITECTURES.items() if "k" in c.model_fields]
    assert row["of"] == taking
    assert set(row["not_of"]) == set(ARCHITECTURES) - set(taking)
    assert "Latents" in row["meaning"]
    (row,) = settings(capsys, "train.engine")
    assert "screened" in row["type"]
    (row,) = settings(capsys, "train.tokens")
    assert row["default"] == "required"
    assert {r["key"] for r in settings(capsys, "seed")} >= {"sweep.seed", "evaluate.seed"}


@pytest.mark.parametrize(
    ("key", "near"),
    [("sae.kk", "'sweep.k'"), ("train.bach", "batch_size"), ("nosuch.k", "section")],
)
def test_a_key_that_is_none_is_answered_with_the_nearest(
    key: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert near in refused(capsys, "config", "explain", key)


def test_every_setting_of_every_section_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    from lensbench.app.workflows.config_tree import SAID

    for section in SAID:
        rows = settings(capsys, section)
        assert len(rows) > 3
        assert not [r["key"] for r in rows if section != "world" and not r["meaning"] and
                    r["key"] != "sweep.architecture"]  # fmt: skip


def test_every_section_has_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    from lensbench.app.workflows.config_tree import SAID

    for section in ("file", *SAID):
        found = answer(capsys, "config", "schema", section)
        assert found.get("properties") or found.get("oneOf")
        json.dumps(found)
    whole = answer(capsys, "config", "schema")
    titles = {one["title"] for one in whole["properties"]["sweep"]["items"]["oneOf"]}
    assert {"topk", "relu", "gated"} <= titles
    assert "Did you mean 'train'?" in refused(capsys, "config", "schema", "trian")
