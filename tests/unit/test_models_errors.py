"""A user's mistake gets a sentence, not a traceback into transformers."""

import shutil

import pytest
import torch

from lensbench.errors import (
    ConfigError,
    DamagedDataError,
    MissingDataError,
    UnknownNameError,
    UnknownSiteError,
)
from tests.helpers import random_ids, tiny

IDS = random_ids()


@pytest.fixture(scope="module")
def model():
    import lensbench

    return lensbench.load_model(tiny("llama"), certify=False)


def test_sites_and_layers_that_do_not_exist(model) -> None:
    from lensbench import Plan
    from lensbench.plan import Zero, edit, skip_layers

    with pytest.raises(UnknownSiteError, match=r"layers 0\.\.2"):
        model.run(IDS, capture=["blocks.7.resid_post"])
    with pytest.raises(ConfigError, match="layer 3"):
        model.run(IDS, skip_layers([3]))
    with pytest.raises(UnknownSiteError, match="skipped by the plan"):
        model.run(IDS, skip_layers([1]), ["blocks.1.mlp_out"])
    with pytest.raises(
        ConfigError, match="position 12 does not exist in row 0, which has 9 tokens"
    ):
        model.run(IDS, edit("blocks.1.mlp_out", Zero(), positions=[12]))
    with pytest.raises(ConfigError, match="4 heads; got head 4"):
        model.run(IDS, edit("blocks.1.attn.z", Zero(), heads=[4]))
    with pytest.raises(ConfigError, match="2 heads; got head 2"):
        model.run(IDS, edit("blocks.1.attn.k", Zero(), heads=[2]))
    with pytest.raises(ConfigError, match="row 5"):
        model.run(IDS, edit("blocks.1.mlp_out", Zero(), rows=[5]))
    with pytest.raises(ConfigError, match="48 dims; got dim 48"):
        model.run(IDS, edit("blocks.1.mlp.post", Zero(), dims=[48]))
    assert Plan(stop=3)
    model.run(IDS, Plan(stop=3))  # stopping after the last block is allowed


def test_tokens_out_of_range(model) -> None:
    with pytest.raises(ConfigError, match="outside the vocabulary of 61"):
        model.run([[3, 61]])
    with pytest.raises(ConfigError, match="context of 64"):
        model.run(torch.full((1, 65), 4))
    with pytest.raises(ConfigError, match="no tokenizer"):
        model.tokens("hello")


def test_a_past_is_used_once_and_fits_its_plan(model) -> None:
    from lensbench import Past
    from lensbench.plan import skip_layers

    past = model.run(IDS, past=Past()).past
    model.run(IDS[:, :1], past=past)
    with pytest.raises(ConfigError, match="already used"):
        model.run(IDS[:, :1], past=past)
    skipped = model.run(IDS, skip_layers([1]), past=Past()).past
    with pytest.raises(ConfigError, match="skipped some"):
        model.run(IDS[:, :1], past=skipped)
    with pytest.raises(ConfigError, match="rows"):
        model.run(IDS[:1, :1], past=model.run(IDS, past=Past()).past)


@pytest.mark.illtyped
def test_loading_mistakes(tmp_path, model) -> None:
    import lensbench

    with pytest.raises(UnknownNameError, match="neither a bundled name, nor a local folder"):
        lensbench.load_model("no-such-model")
    with pytest.raises(UnknownNameError, match="Did you mean 'float16'"):
        lensbench.load_model("no-such-model", dtype="flot16")
    with pytest.raises(UnknownNameError, match="back end"):
        lensbench.load_model(tiny(), backend="magic")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingDataError, match=r"needs config\.json"):
        lensbench.load_model(tmp_path / "empty")
    saved = tmp_path / "saved"
    model.module.save_pretrained(saved)
    with pytest.raises(MissingDataError, match="no revision 'step5'; it has: none"):
        lensbench.load_model(saved, revision="step5")
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DamagedDataError, match="damaged"):
        lensbench.load_model(saved)


def test_a_saved_model_comes_back_the_same_and_revisions_are_found(tmp_path, model) -> None:
    import lensbench

    folder = tmp_path / "mine"
    model.module.save_pretrained(folder)
    shutil.copytree(folder, tmp_path / "copy")
    (folder / "revisions").mkdir()
    shutil.move(tmp_path / "copy", folder / "revisions" / "step5")
    for revision in (None, "step5"):
        again = lensbench.load_model(folder, revision=revision)
        assert torch.equal(again.run(IDS).logits, model.run(IDS).logits)
        assert again.card.fingerprint == model.card.fingerprint
    assert (
        lensbench.load_model(tiny(seed=1), certify=False).card.fingerprint != model.card.fingerprint
    )


def test_unsupported_families_are_named() -> None:
    from transformers import AutoConfig

    from lensbench.models.families import family_of

    with pytest.raises(UnknownNameError, match="model family"):
        family_of(AutoConfig.for_model("rwkv"))
    with pytest.raises(ConfigError, match="do_layer_norm_before"):
        family_of(AutoConfig.for_model("opt", do_layer_norm_before=False))


def test_the_module_stays_usable_and_copies_come_clean(model) -> None:
    import copy

    with torch.no_grad():
        plain = model.module(input_ids=IDS).logits
        clone = copy.deepcopy(model.module)
        model.run(IDS)
        assert torch.equal(clone(input_ids=IDS).logits, plain)
    assert torch.equal(model.run(IDS).logits, plain)


def test_run_many_arguments(model) -> None:
    from lensbench.plan import Plan, Zero, edit

    with pytest.raises(ConfigError, match="no plans"):
        model.run_many(IDS[:1], [])
    with pytest.raises(ConfigError, match="one row, or one per plan"):
        model.run_many(IDS, [Plan()] * 3)
    with pytest.raises(ConfigError, match="must not name rows"):
        model.run_many(IDS[:1], [edit("embed", Zero(), rows=[0])])


def test_the_fingerprint_sees_any_one_number_of_any_weight(model) -> None:
    import copy

    from lensbench.models.loading import fingerprint

    module = copy.deepcopy(model.module)
    assert fingerprint(module) == model.card.fingerprint
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            before = parameter.view(-1)[-1].item()
            parameter.view(-1)[-1] += 1e-3
            assert fingerprint(module) != model.card.fingerprint, name
            parameter.view(-1)[-1] = before
    assert fingerprint(module) == model.card.fingerprint


def test_a_device_that_does_not_exist_is_named() -> None:
    from lensbench.devices import as_device
    from lensbench.models import load_model

    with pytest.raises(UnknownNameError, match=r"device named 'cudaa'.*mean 'cuda'"):
        load_model(tiny("llama"), device="cudaa")
    with pytest.raises(ConfigError, match=r"'cuda:99'.*CUDA devices"):
        as_device("cuda:99")
    assert as_device("cpu") == as_device(torch.device("cpu"))


def test_half_a_surrogate_pair_is_no_text() -> None:
    from lensbench.models import load_model

    atlas = load_model("atlas-dense")
    with pytest.raises(ConfigError, match="text 1"):
        atlas.tokens(["fine", "broken \ud800"])
