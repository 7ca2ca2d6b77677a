"""``patch --freeze-patterns``: what is left of an effect where later heads look as before."""

from pathlib import Path

import pytest

from tests.app.commands import answer, refused

LINE = ("patch", "recall", "--n", 4, "--sites", "attn.z", "--positions", "together", "--top", 3)


def test_the_strongest_places_are_patched_with_patterns_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same number as of one prompt after another by ``preserve_patterns``."""
    from lensbench import interventions, load_model, prompts
    from lensbench.plan import Plan, Zero, edit
    from lensbench.results import load
    from lensbench.tokens import as_tokens

    facts = answer(capsys, *LINE, "--how", "zero", "--freeze-patterns", "--out", tmp_path / "r",
                   "--csv", tmp_path / "r.csv")  # fmt: skip
    model = load_model("atlas-dense")
    pairs = prompts.recall(model, n=4)

    def difference(ids: tuple[int, ...], row: int, plan: Plan) -> float:
        logits = model.run(as_tokens([ids]), plan).logits[0, -1]
        return float(logits[pairs.answer[row]] - logits[pairs.foil[row]])

    row = facts["top"][0]
    zero = interventions.ablation_sweep(model, pairs, "attn.z", how="zero", positions="together")
    assert row["effect"] == pytest.approx(zero.effect[zero.strongest], abs=1e-5)
    plan = edit(row["site"], Zero(), heads=[row["head"]])
    clean, kept, corrupted = [], [], []
    for i in range(len(pairs)):
        tokens = as_tokens([pairs.clean_ids[i]])
        frozen = interventions.preserve_patterns(model, tokens, plan)
        clean.append(difference(pairs.clean_ids[i], i, Plan()))
        kept.append(difference(pairs.clean_ids[i], i, frozen))
        corrupted.append(difference(pairs.corrupted_ids[i], i, Plan()))
    low, high = sum(corrupted), sum(clean)
    assert row["kept"] == pytest.approx((sum(kept) - low) / (high - low), abs=1e-4)
    assert any(abs(one["kept"] - one["effect"]) > 0.01 for one in facts["top"])  # control
    saved = load(tmp_path / "r" / "frozen")
    assert saved.config["patterns"] == "kept"
    assert (tmp_path / "r-2.csv").is_file()


def test_behind_the_last_attention_nothing_is_kept_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts = answer(capsys, "patch", "recall", "--n", 4, "--sites", "mlp_out", "--layers", 5,
                   "--positions", "end", "--top", 1, "--freeze-patterns")  # fmt: skip
    (row,) = facts["top"]
    assert row["kept"] == pytest.approx(row["effect"], abs=1e-5)


def test_what_makes_patterns_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "patch", "recall", "--n", 4, "--sites", "attn.q", "--freeze-patterns",
                   "--layers", 1, "--positions", "end")  # fmt: skip
    assert "attn.v, attn.z" in said
    assert "kept" not in answer(capsys, *LINE)["top"][0]  # control: only where it is asked for
