"""Local folders of every kind open as what they are; what cannot be opened says why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lensbench import load_model
from lensbench.errors import BackendUnavailableError, ModelError, UnknownNameError
from tests.helpers import random_ids, tiny
from tests.zoo import ENCODERS, EXPERTS, RECURRENT, SEQ2SEQ, WITHOUT_INTERFACE

IDS = random_ids(2, 7, seed=1)


@pytest.mark.parametrize("kind", [*EXPERTS, *ENCODERS, *SEQ2SEQ, *RECURRENT, *WITHOUT_INTERFACE])
def test_a_saved_folder_opens_as_its_own_class(kind: str, tmp_path: Path) -> None:
    module = tiny(kind, seed=2)
    module.save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    in_memory = load_model(module, certify=False)
    assert type(model.module) is type(module)  # type: ignore[attr-defined]
    assert model.card.fingerprint == in_memory.card.fingerprint
    torch.testing.assert_close(model.run(IDS).logits, in_memory.run(IDS).logits, rtol=0, atol=1e-6)
    assert model.certify().passed


@pytest.mark.parametrize("kind", ["mixtral", "t5", "bert", "mamba", "gemma2"])
def test_bfloat16_is_held_to_its_own_rounding(kind: str, tmp_path: Path) -> None:
    module = tiny(kind, seed=2)
    with torch.no_grad():  # at full size random T5s attend so sharply that rounding decides
        for parameter in module.parameters() if kind == "t5" else ():
            parameter.mul_(0.5)
    module.save_pretrained(tmp_path)
    model = load_model(tmp_path, dtype="bfloat16")
    assert model.card.dtype == "bfloat16"
    logits = model.run(IDS).logits
    assert logits is not None
    assert logits.dtype == torch.bfloat16


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, "auto"])
def test_a_device_map_spreads_the_same_model(device_map: Any, tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    plain = load_model(tmp_path)
    model = load_model(tmp_path, device_map=device_map)
    assert model.card.fingerprint == plain.card.fingerprint
    assert torch.equal(model.run(IDS).logits, plain.run(IDS).logits)  # type: ignore[arg-type]


def test_layers_kept_on_disk_are_run_captured_and_fingerprinted(tmp_path: Path) -> None:
    """What ``device_map="auto"`` does where a model is larger than the memory."""
    from lensbench.plan import Zero, edit

    tiny("llama").save_pretrained(tmp_path)
    plain = load_model(tmp_path)
    away = {"model.layers.1": "disk", "model.layers.2": "disk"}
    here = ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head")
    model = load_model(tmp_path, device_map={**dict.fromkeys(here, "cpu"), **away})
    assert any(p.is_meta for p in model.module.parameters())  # type: ignore[attr-defined]
    assert model.card.fingerprint == plain.card.fingerprint
    plan = edit("blocks.1.attn.z", Zero(), heads=[1])
    ours, theirs = (m.run(IDS, plan, ["blocks.2.resid_post"]) for m in (model, plain))
    assert torch.equal(ours.logits, theirs.logits)  # type: ignore[arg-type]
    assert torch.equal(ours.acts["blocks.2.resid_post"], theirs.acts["blocks.2.resid_post"])


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights_open_and_are_certified(bits: int, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    import transformers

    tiny("llama", hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "whole")
    settings = transformers.BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    module = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "whole", quantization_config=settings, dtype=torch.float32
    )
    module.save_pretrained(tmp_path / "small")
    model = load_model(tmp_path / "small")
    with torch.no_grad():
        assert torch.equal(model.run(IDS).logits, module(IDS).logits)  # type: ignore[arg-type]
    certificate = model.certify()
    assert certificate.passed
    causality = next(c for c in certificate.checks if c["name"] == "causality")
    # LLM.int8() rounds by the outliers of the whole batch: later tokens move earlier logits.
    assert (causality["value"] > 1e-3) == (bits == 8)


def test_weights_of_a_quantiser_that_is_missing_say_which(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hqq", "quant_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackendUnavailableError, match=r"needs a package that is not installed"):
        load_model(tmp_path)


def test_a_folder_with_code_of_its_own_is_refused_with_the_reason(tmp_path: Path) -> None:
    config = {"model_type": "my_own", "auto_map": {"AutoConfig": "config.MyConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    trap = tmp_path / "ran"
    (tmp_path / "config.py").write_text(f"open({str(trap)!r}, 'w').close()\n")
    with pytest.raises(ModelError, match="never runs a model's code"):
        load_model(tmp_path)
    assert not trap.exists()


def test_an_architecture_nobody_knows_is_named_before_its_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "rwkv"}))
    with pytest.raises(UnknownNameError, match="no model family named 'rwkv'"):
        load_model(tmp_path)
