"""What is saved here, SAELens loads and encodes alike; what SAELens saves, is read here.

Same weights on both sides; tolerance 1e-5, float32, one matmul and a sum of at most d_sae terms.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

D, F, TOLERANCE = 24, 96, 1e-5

pytestmark = pytest.mark.filterwarnings("ignore")  # what sae_lens and its imports warn about


def _sae(activation: Any, **changes: Any) -> Any:
    from lensbench.saes.sae import SAE

    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    extra: dict[str, Any] = {"k": 5} if activation == "topk" else {}
    if activation == "threshold":
        extra["threshold"] = torch.rand(F, generator=rng) * 3
    weights = {"W_enc": draw(D, F), "b_enc": draw(F), "W_dec": draw(F, D), "b_dec": draw(D)}
    site = {"site": "blocks.2.resid_post"}
    return SAE(**(weights | extra | changes), activation=activation, metadata=site)


def _x() -> Tensor:
    return torch.randn(64, D, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("activation", ["topk", "relu", "threshold"])
def test_sae_lens_loads_what_we_save_and_gives_the_same_codes(
    activation: str, tmp_path: Path
) -> None:
    import sae_lens

    from lensbench import saes

    ours = _sae(activation)
    saes.save(ours, tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode(_x()), ours.encode(_x()), rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(theirs(_x()), ours(_x()), rtol=0, atol=TOLERANCE)
        wrong = _sae(activation, b_enc=ours.b_enc + 0.01)  # control: a hundredth off is seen
        assert float((theirs.encode(_x()) - wrong.encode(_x())).abs().max()) > 100 * TOLERANCE
    assert theirs.cfg.metadata.hook_name == "blocks.2.resid_post"
    again = saes.load(tmp_path)
    assert torch.equal(again.encode(_x()), ours.encode(_x()))
    assert again.site == "blocks.2.resid_post"


def test_what_sae_lens_saves_after_its_own_training_class_is_read(tmp_path: Path) -> None:
    """Their TopK rescales activations by decoder norms; here that is folded into the weights."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

    from lensbench import saes

    torch.manual_seed(3)
    theirs = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D, d_sae=F, k=5))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter))
        assert theirs.cfg.rescale_acts_by_decoder_norm
        theirs.save_inference_model(str(tmp_path))
        ours = saes.load(tmp_path)
        torch.testing.assert_close(ours(_x()), theirs(_x()), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(ours.encode(_x()), theirs.encode(_x()), rtol=1e-5, atol=1e-4)


def test_trained_batch_top_k_goes_through_their_jumprelu(tmp_path: Path) -> None:
    import sae_lens

    from lensbench import saes

    batches = [torch.randn(64, D, generator=torch.Generator().manual_seed(i)) for i in range(30)]
    sweep = {
        "train": {"tokens": 30 * 64, "batch_size": 64, "engine": "dense"},
        "sweep": [{"architecture": "batchtopk", "d_sae": F, "k": 5, "lr": 1e-3}],
    }
    (run,) = saes.train(batches, sweep, device="cpu", progress=False, out=tmp_path)
    theirs = sae_lens.SAE.load_from_disk(Path(run.folder) / "result")
    assert theirs.cfg.architecture() == "jumprelu"
    with torch.no_grad():
        torch.testing.assert_close(
            theirs.encode(_x()), run.sae.encode(_x()), rtol=0, atol=TOLERANCE
        )


def test_files_that_are_no_dictionary_are_refused(tmp_path: Path) -> None:
    import json

    from lensbench import saes
    from lensbench.errors import (
        DamagedDataError,
        MismatchError,
        MissingDataError,
        UnknownNameError,
    )

    with pytest.raises(MissingDataError, match="no dictionary in"):
        saes.load(tmp_path)
    saes.save(_sae("topk"), tmp_path)
    path = tmp_path / "cfg.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good | {"architecture": "gated"}))
    with pytest.raises(UnknownNameError, match="gated"):
        saes.load(tmp_path)
    path.write_text(json.dumps(good | {"normalize_activations": "layer_norm"}))
    with pytest.raises(MismatchError, match="layer_norm"):
        saes.load(tmp_path)
    path.write_text(json.dumps(good | {"architecture": "jumprelu"}))
    with pytest.raises(DamagedDataError, match="lacks threshold"):
        saes.load(tmp_path)
    path.write_text(json.dumps(good))
    weights = tmp_path / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(DamagedDataError, match="truncated"):
        saes.load(tmp_path)
