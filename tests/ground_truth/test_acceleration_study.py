"""The study: every method predicted from one store, and every prediction held to a live run."""

import dataclasses
import re

import numpy as np
import pytest
import torch

import lensbench
from lensbench.errors import ConfigError, MismatchError, MissingDataError, UnknownNameError
from lensbench.interventions.acceleration import (
    METHODS,
    capture_own,
    default_methods,
    exit_calibration,
    method,
    sim_calm,
    threshold_sweep,
    time_layers,
    without,
)
from lensbench.interventions.acceleration.skipping.forced import Forced
from lensbench.interventions.acceleration.speculative.kangaroo_adapter import KangarooAdapter
from lensbench.interventions.acceleration.study import holding
from lensbench.interventions.acceleration.study.holding import first_draft_agreement
from lensbench.interventions.acceleration.study.study import acceleration_study
from tests.helpers import tiny

N, LAYERS, ALIVE = 16, 6, 4
"""Of the constructed model's six layers the last two add nothing."""


def zero_tail():
    module = tiny("llama", seed=3, num_hidden_layers=LAYERS)
    with torch.no_grad():
        for block in module.model.layers[ALIVE:]:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    return lensbench.load_model(module, certify=False)


@pytest.fixture(scope="module")
def model():
    return zero_tail()


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, model.card.d_vocab, n).tolist() for n in (5, 9)]
    return capture_own(model, prompts, tmp_path_factory.mktemp("study") / "store", N)


@pytest.fixture(scope="module")
def found(model, store):
    times = time_layers(model, 32, most_tokens=12, prompt_tokens=9, repeats=1)
    return acceleration_study(model, store, times=times)


@pytest.fixture(scope="module")
def verified(found, model):
    return found.verify(model, score=lambda _, new: float(len(new) == N))


def test_every_method_is_predicted_and_no_block_runs(found) -> None:
    assert found.block_forwards == 0
    assert found.left_out == ()
    assert {row["method"] for row in found.rows} == set(METHODS) - {"kangaroo"}
    assert all(row["held"] is None for row in found.rows)
    frame = found.to_frame()
    known = frame.loc[~frame["method"].isin(["draft_and_verify", "swift"])]
    for column in ("pred_speedup_flops", "pred_speedup_serial", "pred_speedup_calibrated"):
        assert np.isfinite(known[column]).all()
    drafted = frame.loc[frame["method"].isin(["fixed_exit", "del", "fsm_exit"])]
    assert (drafted["pred_speedup_flops"] <= 1).all()  # speculation never saves FLOPs


def test_a_study_says_what_was_not_measured(found, verified) -> None:
    assert "not measured live yet: best_meas_speedup, held, lossless_confirmed" in repr(found)
    assert "not measured live yet" not in repr(verified)
    assert "held 1" in repr(verified)
    for study in (found, verified):
        page = study._repr_html_()
        assert not re.search(r"\bnan\b", page + repr(study), re.IGNORECASE)
        assert "predicted speedup" in page
        assert re.search(r"n = \d+ documents", study.plot().layout.title.subtitle.text)


def test_every_prediction_keeps_what_its_class_demands(verified) -> None:
    for row in verified.rows:
        if row["prediction_class"] == "proxy":
            assert row["held"] is None
        else:
            assert row["held"] is True, (row["label"], row["held_note"])
        assert row["tested"] is (True if row["lossless"] else None)
        assert row["n_verified"] == 2
        assert row["task_accuracy"] == 1.0
    assert verified.summary()["held"] == 1.0
    assert verified.summary()["lossless_confirmed"] == 1.0


def test_what_was_counted_is_what_ran(verified) -> None:
    for row in verified.rows:
        alike = row["prediction_class"] == "identical" and row["method"] != "early_exit"
        if alike and row["method"] != "free":
            assert row["layer_tokens"] == row["meas_layer_tokens"], row["label"]
            assert row["kv_bytes"] == row["meas_kv_bytes"], row["label"]
        if row["method"] == "fixed_exit":
            assert row["acceptance"] == row["meas_acceptance"]
            assert row["tokens_per_round"] == row["meas_tokens_per_round"]
            assert row["acceptance_first"] == row["meas_acceptance_first"]
        if row["prediction_class"] == "one-pass" and not row["lossless"]:
            assert row["layer_tokens"] == row["meas_layer_tokens"], row["label"]
            assert row["kv_bytes"] == row["meas_kv_bytes"], row["label"]


def test_a_wrong_table_is_found_out(found, model) -> None:
    table = found.table
    turned = dataclasses.replace(table, best=np.roll(table.best, 1, axis=1))
    broken = dataclasses.replace(found, table=turned)
    rows = [broken.row(method("fixed_exit", exit_layer=2, draft=3))]
    rows.append(broken.row(method("early_exit", threshold=0.05)))
    checked = dataclasses.replace(broken, rows=tuple(rows)).verify(model)
    assert [row["held"] for row in checked.rows] == [False, False]
    assert all("document" in row["held_note"] for row in checked.rows)
    assert checked.rows[0]["tested"] is True  # the text is still the full model's


def test_what_a_near_tie_turns_is_told_and_does_not_count(found, model) -> None:
    table = found.table
    tied = dataclasses.replace(table, best=np.roll(table.best, 1, axis=1), top2=table.top1)
    broken = dataclasses.replace(found, table=tied)
    rows = (broken.row(method("fixed_exit", exit_layer=2, draft=3)),)
    row = dataclasses.replace(broken, rows=rows).verify(model).rows[0]
    assert row["held"] is True
    assert "near ties" in row["held_note"]
    assert tied.ties() == table.new.sum()


def test_a_pass_along_another_route_is_found_out(model, store, monkeypatch) -> None:
    chosen = [method("evenly_off", skip=2), method("draft_and_verify", skips=[("mlp", 1)])]
    told = acceleration_study(model, store, chosen)
    assert [row["held"] for row in told.verify(model).rows] == [True, True]
    right = holding.first_draft_agreement
    monkeypatch.setattr(holding, "first_draft_agreement", lambda *given: ~right(*given))

    def wrong(_, changed, prompt, new, __):
        whole = Forced(changed, torch.tensor([*prompt, *new]))
        part = slice(len(prompt) - 1, -1)
        return whole.along(without(LAYERS, [0]))[part], whole.full[part]

    monkeypatch.setattr(type(chosen[0]), "forced", wrong)
    checked = told.verify(model).rows
    assert [row["held"] for row in checked] == [False, False]
    assert "one pass" in checked[0]["held_note"]
    assert "first draft" in checked[1]["held_note"]


def test_layers_that_add_nothing_are_the_ones_to_leave_out(verified) -> None:
    rows = {row["label"]: row for row in verified.rows}
    evidence = verified.evidence
    gone = set(range(LAYERS)) - set(method("shortgpt", delete=2).route(evidence).order)
    assert gone == {ALIVE, ALIVE + 1}
    assert set(method("angular", delete=2).route(evidence).order) == set(range(ALIVE))
    halves = {(half, layer) for half in ("attn", "mlp") for layer in (ALIVE, ALIVE + 1)}
    assert method("adaskip", skip=4).route(evidence).omit == halves
    for label in ("shortgpt(delete=2)", "angular(delete=2)", "adaskip(skip=4, scaled=True)"):
        assert rows[label]["agreement"] == 1.0
        assert rows[label]["kl"] < 1e-9
        assert rows[label]["meas_match"] == 1.0
    assert rows["evenly_off(skip=2)"]["agreement"] < 1.0  # these add something


def test_a_draft_without_what_adds_nothing_is_kept(model, store, found) -> None:
    tail = [("attn", ALIVE), ("mlp", ALIVE), ("mlp", ALIVE + 1)]
    head = [(half, layer) for half in ("attn", "mlp") for layer in (0, 1)]
    chosen = [method("draft_and_verify", skips=s, threshold=0.0) for s in (tail, head)]
    rows = acceleration_study(model, store, chosen).verify(model).rows
    assert [row["held"] for row in rows] == [True, True]
    assert [row["tested"] for row in rows] == [True, True]
    assert rows[0]["acceptance_first"] == rows[0]["meas_acceptance"] == 1.0
    assert rows[1]["acceptance_first"] < 0.5
    document = found.table.document(0)
    none = first_draft_agreement(model, found.table.prompts[0], document.text, [])
    assert none.all()


def test_drafts_of_an_adapter_are_predicted_by_its_reading_of_the_store(model, store, tmp_path):
    adapter = KangarooAdapter.new(model, 2, seed=1)
    with torch.no_grad():
        adapter.out.weight.copy_(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))
    folder = str(adapter.save(tmp_path / "adapter"))
    bare = str(KangarooAdapter.new(model, 2).save(tmp_path / "bare"))
    chosen = [
        method("kangaroo", adapter=f, threshold=t) for f in (folder, bare) for t in (0.1, 0.9)
    ]
    told = acceleration_study(
        model, store, [*chosen, method("confidence_exit", exit_layer=2, threshold=0.9)]
    )
    assert told.block_forwards == 0
    checked = told.verify(model)
    for row in checked.rows:
        assert row["held"] is True, (row["label"], row["held_note"])
        assert row["tested"] is True
    rows = checked.rows
    assert rows[3]["alpha"] == rows[4]["alpha"]  # an untrained adapter is the lens of its exit
    assert rows[1]["drafted_least"] != rows[3]["drafted_least"]  # a shaken one is not
    assert lensbench.results.load(checked.save(tmp_path / "r")) == checked
    with pytest.raises(MissingDataError, match="has not read this store"):
        acceleration_study(model, store, [chosen[0]]).row(method("kangaroo", adapter="elsewhere"))


def test_exits_at_the_limits_of_the_threshold(model, store) -> None:
    chosen = [method("early_exit", threshold=t) for t in (0.0, 2.0)]
    first, never = acceleration_study(model, store, chosen).verify(model).rows
    assert (first["mean_exit"], first["meas_mean_exit"]) == (1.0, 1.0)
    assert (never["mean_exit"], never["meas_mean_exit"]) == (LAYERS, LAYERS)
    assert never["agreement"] == never["meas_match"] == 1.0
    assert never["first_divergence"] == N
    assert first["held"] is never["held"] is True


@pytest.mark.parametrize("measure", ["softmax_max", "softmax_diff", "entropy", "state", "oracle"])
def test_exits_with_recomputed_keys_are_a_look_up(model, store, measure) -> None:
    chosen = [method("early_exit", threshold=t, measure=measure) for t in (0.05, 0.3, 0.9)]
    chosen.append(method("early_exit", threshold=0.3, measure=measure, exits=[2, 4], decay=4.0))
    for row in acceleration_study(model, store, chosen).verify(model).rows:
        assert row["held"] is True, (row["label"], row["held_note"])


def test_states_copied_upwards_are_no_look_up(tmp_path) -> None:
    other = lensbench.load_model(tiny("llama", seed=4, num_hidden_layers=4), certify=False)
    rng = np.random.default_rng(2)
    prompts = [rng.integers(5, other.card.d_vocab, 6).tolist() for _ in range(4)]
    own = capture_own(other, prompts, tmp_path / "s", 24)
    chosen = [method("early_exit", threshold=0.3), method("early_exit_copy", threshold=0.3)]
    recomputed, copied = acceleration_study(other, own, chosen).verify(other).rows
    assert recomputed["held"] is True
    assert copied["held"] is None
    assert recomputed["mean_exit"] == copied["mean_exit"]  # one table, one look-up
    assert recomputed["meas_mean_exit"] != copied["meas_mean_exit"]


def test_other_text_makes_proxies_only_when_asked(model, tmp_path) -> None:
    texts = [np.random.default_rng(s).integers(5, model.card.d_vocab, 14).tolist() for s in (1, 2)]
    sites = ["blocks.0.resid_pre", "blocks.*.resid_post"]
    other = lensbench.capture(model, texts, sites, out=tmp_path / "s", layout="pad",
                              dtype="float32")  # fmt: skip
    with pytest.raises(MismatchError, match="capture_own"):
        acceleration_study(model, other)
    proxies = acceleration_study(model, other, exact=False)
    assert {row["prediction_class"] for row in proxies.rows} == {"proxy"}
    assert any("resid_mid" in reason for reason in proxies.left_out)
    assert not any(row["method"] == "adaskip" for row in proxies.rows)
    with pytest.raises(MissingDataError, match="resid_mid"):
        acceleration_study(model, other, [method("adaskip", skip=2)], exact=False)
    few = [method("fixed_exit", exit_layer=2, draft=g) for g in (2, 3)]
    live = acceleration_study(model, other, few, exact=False).verify(model).rows
    assert all(row["held"] is None for row in live)
    assert any(row["acceptance"] != row["meas_acceptance"] for row in live)


def test_a_study_from_disk_predicts_any_setting_without_its_model(verified, tmp_path) -> None:
    again = lensbench.results.load(verified.save(tmp_path / "r"))
    assert again == verified
    for row, chosen in zip(again.rows[:12], again.methods, strict=False):
        told = again.row(chosen)
        for column in ("acceptance", "pred_speedup_calibrated", "layers_per_token", "kl"):
            assert told[column] == row[column] or np.isnan(told[column])
    more = again.with_methods([method("fixed_exit", exit_layer=5, draft=7)])
    assert len(more.rows) == len(again.rows) + 1
    assert len(more.with_methods(more.methods).rows) == len(more.rows)


@pytest.mark.parametrize("what", ["pareto", "speedup", "exits", "acceptance", "lens"])
def test_pictures_before_and_after_the_live_runs(found, verified, what) -> None:
    assert verified.plot(what).data
    found.plot(what)


def test_sweeps_of_thresholds_trade_layers_for_agreement(found) -> None:
    layers, agreement = [], []
    for threshold in (0.0, 0.1, 0.3, 0.6, 2.0):
        traces = sim_calm(found.table, threshold)
        row = found.row(method("early_exit", threshold=threshold))
        layers.append(np.mean([e for t in traces for e in t.exits]))
        assert row["mean_exit"] == layers[-1]
        agreement.append(row["agreement"])
    assert layers == sorted(layers)
    assert agreement[-1] == 1.0


def test_curves_of_confidence_are_those_of_single_settings(found, tmp_path) -> None:
    sweep = threshold_sweep(found.table, thresholds=(0.0, 0.05, 0.3, 0.9, 2.0))
    frame = sweep.to_frame().set_index(["measure", "threshold"])
    for name, threshold in (("softmax_diff", 0.3), ("entropy", 0.05), ("state", 0.9)):
        row = found.row(method("early_exit", threshold=threshold, measure=name))
        told = frame.loc[(name, threshold)]
        assert told["layers"] == pytest.approx(row["mean_exit"])
        assert told["agreement"] == pytest.approx(row["agreement"])
        assert told["kl"] == pytest.approx(row["kl"])
    assert (frame.xs(2.0, level="threshold")["agreement"] == 1.0).all()
    assert (frame.xs(0.0, level="threshold")["layers"] == 1.0).all()
    oracle = threshold_sweep(found.table, ["oracle"], [0.5])
    assert oracle.mean[0, 0, 1] == 1.0
    assert oracle.mean[0, 0, 0] == pytest.approx(found.table.first_correct().mean())
    assert lensbench.results.load(sweep.save(tmp_path / "s")) == sweep
    assert sweep.plot().data
    with pytest.raises(ConfigError, match="at least 0"):
        threshold_sweep(found.table, thresholds=[-0.1])


def test_calibration_counts_every_token_once_and_the_last_layer_is_always_right(found) -> None:
    told = exit_calibration(found.table, bins=5)
    new = found.table.new
    assert (told.tokens.sum(1) == new.sum()).all()
    assert (np.nan_to_num(told.right) * told.tokens).sum(1).tolist() == (
        found.table.agrees[:, new].sum(1).tolist()
    )
    assert np.nanmin(told.right[-1]) == 1.0
    assert ((told.error >= 0) & (told.error <= 1)).all()
    assert told.error[-1] == pytest.approx(1 - found.table.top1[-1, new].mean(), abs=1e-6)
    assert told.plot().data


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: method("fixed_exot", exit_layer=2), UnknownNameError, "fixed_exit"),
        (lambda: method("fixed_exit", exit_layers=2), UnknownNameError, "exit_layer"),
        (lambda: method("fixed_exit"), ConfigError, "exit_layer"),
        (lambda: default_methods(6, ["sharpgpt"]), UnknownNameError, "shortgpt"),
    ],
)
def test_slips_in_methods_are_named(call, error, words) -> None:
    with pytest.raises(error, match=words):
        call()


def test_what_cannot_be_studied_is_refused(model, store, found) -> None:
    other = lensbench.load_model(tiny("llama", seed=9, num_hidden_layers=LAYERS), certify=False)
    with pytest.raises(MismatchError):
        acceleration_study(other, store)
    with pytest.raises(MismatchError, match="load that model"):
        found.verify(other)
    with pytest.raises(ConfigError, match="documents of this study"):
        found.verify(model, [7])
    with pytest.raises(ConfigError, match="1 to 6"):
        acceleration_study(model, store, [method("fixed_exit", exit_layer=9)])
    small = lensbench.load_model(tiny("llama", seed=3), certify=False)
    with pytest.raises(ConfigError, match="layers"):
        acceleration_study(model, store, times=time_layers(small, 12, most_tokens=3, repeats=1))
    with pytest.raises(UnknownNameError, match="pareto"):
        found.plot("pareo")
