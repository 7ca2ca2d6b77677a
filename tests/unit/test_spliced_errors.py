"""What does not fit a model is not spliced in, and the message says what would."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.helpers import random_ids, tiny
from tests.splice_helpers import random_sae

HOST = "blocks.1.resid_post"
IDS = random_ids(1, 5)


@pytest.fixture(scope="module")
def model() -> Any:
    import lensbench

    return lensbench.load_model(tiny("llama", seed=5), certify=False)


def test_a_dictionary_of_another_model_is_refused_with_both_names(model: Any) -> None:
    from lensbench import saes
    from lensbench.errors import MismatchError

    other = {"model": {"name": "pythia-70m", "fingerprint": "beef"}, "site": HOST}
    sae = random_sae(HOST, metadata=other)
    with pytest.raises(MismatchError, match=rf"pythia-70m beef\).*{model.card.fingerprint}"):
        model.with_saes([sae])
    named = random_sae(HOST, metadata={"model_name": "EleutherAI/pythia-70m", "site": HOST})
    with pytest.raises(MismatchError, match=r"pythia-70m.*LlamaForCausalLM"):
        model.with_saes([named])
    same = random_sae(HOST, metadata={"model_name": "x/llamaforcausallm", "site": HOST})
    own = random_sae(HOST, metadata={"model": vars(model.card), "site": HOST})
    for fits in (same, own, saes.Dictionary("transfer", HOST, sae)):
        assert len(model.with_saes([fits]).splices) == 1


def test_another_site_width_or_no_site_is_refused(model: Any) -> None:
    from lensbench.errors import ConfigError, MismatchError, UnknownSiteError

    with pytest.raises(MismatchError, match=r"at blocks\.1\.resid_post, not at blocks\.2\.mlp"):
        model.with_saes({"blocks.2.mlp_out": random_sae(HOST)})
    with pytest.raises(MismatchError, match=r"reads vectors of 24, but .* has 32"):
        model.with_saes([random_sae(HOST, 24)])
    with pytest.raises(ConfigError, match="does not say which site"):
        model.with_saes([random_sae(HOST, metadata={})])
    with pytest.raises(UnknownSiteError, match=r"layers 0\.\.2"):
        model.with_saes([random_sae("blocks.9.resid_post")])
    with pytest.raises(ConfigError, match="two dictionaries at"):
        model.with_saes([random_sae(HOST), random_sae("blocks.1.hook_resid_post", seed=2)])
    with pytest.raises(ConfigError, match="two dictionaries at"):
        model.with_saes([random_sae(HOST)]).with_saes([random_sae(HOST, seed=2)])
    with pytest.raises(ConfigError, match="holds no vectors"):
        model.with_saes({"blocks.1.attn.pattern": random_sae(HOST, metadata={})})
    with pytest.raises(ConfigError, match="is part of a dictionary"):
        model.with_saes({f"{HOST}.sae.acts": random_sae(HOST, metadata={})})
    with pytest.raises(ConfigError, match="no dictionary"):
        model.with_saes([])
    with pytest.raises(ConfigError, match="a str where a dictionary belongs"):
        model.with_saes(["gpt2-small-res-jb"])
    with pytest.raises(ConfigError, match="'keep' or 'drop'"):
        model.with_saes([random_sae(HOST)], error="zero")
    assert str(model.with_saes({HOST: random_sae(HOST, metadata={})}).splices[0].site) == HOST


def test_latents_that_are_not_there_are_named(model: Any) -> None:
    from lensbench.errors import ConfigError, UnknownSiteError
    from lensbench.plan import Zero, edit, skip_layers

    spliced = model.with_saes([random_sae(HOST)])
    with pytest.raises(UnknownSiteError, match=r"No dictionary is spliced in at blocks\.2"):
        spliced.run(IDS, capture="blocks.2.resid_post.sae.acts")
    with pytest.raises(UnknownSiteError, match="No dictionary is spliced in at embed"):
        spliced.run(IDS, edit("embed.sae.acts", Zero()))
    with pytest.raises(UnknownSiteError, match=r"sae\.acts"):
        model.run(IDS, capture=f"{HOST}.sae.acts")
    with pytest.raises(ConfigError, match=r"sae\.acts has 64 dims; got dim 64"):
        spliced.run(IDS, edit(f"{HOST}.sae.acts", Zero(), dims=[64]))
    with pytest.raises(ConfigError, match="position 9 does not exist in row 0"):
        spliced.run(IDS, edit(f"{HOST}.sae.acts", Zero(), positions=[9]))
    with pytest.raises(ConfigError, match="names row 3, but the batch has 1 rows"):
        spliced.run(IDS, edit(f"{HOST}.sae.acts", Zero(), rows=[3]))
    with pytest.raises(ConfigError, match="no heads"):
        edit("blocks.1.attn.z.sae.acts", Zero(), heads=[1])
    skipped = model.with_saes([random_sae("blocks.1.mlp_out")])
    with pytest.raises(UnknownSiteError, match="Layer 1 is skipped"):
        skipped.run(IDS, skip_layers([1]), "blocks.1.mlp_out.sae.acts")


def test_a_model_without_dictionaries_says_how_to_attach_one(model: Any) -> None:
    from lensbench.errors import UnknownSiteError
    from lensbench.plan import Zero, edit

    site = f"{HOST}.sae.acts"
    why = rf"No dictionary is spliced in at {re.escape(HOST)}: .*model\.with_saes\(\[\.\.\.\]\)"
    for call in (
        lambda: model.run(IDS, capture=site),
        lambda: model.run(IDS, edit(site, Zero())),
        lambda: model.run_many(IDS, [edit(site, Zero())]),
        lambda: model.width(site),
    ):
        with pytest.raises(UnknownSiteError, match=why):
            call()
    with pytest.raises(UnknownSiteError, match=r"layers 0\.\.2"):  # no dictionary would help
        model.run(IDS, capture="blocks.9.resid_post.sae.acts")


def test_saelens_spellings_name_the_same_sites(model: Any) -> None:
    from lensbench.plan import Edit, Zero
    from lensbench.sites import Site

    spliced = model.with_saes([random_sae(HOST)])
    theirs = "blocks.1.hook_resid_post.hook_sae_acts_post"
    out = spliced.run(IDS, capture=theirs)
    assert torch.equal(out.acts[theirs], out.acts[f"{HOST}.sae.acts"])
    assert Site.parse(theirs).transformer_lens == theirs
    there = Edit(Site.parse(theirs), Zero(), dims=[3])
    assert Edit.from_json(there.to_json()) == there
    assert spliced.width(theirs) == 64


def test_a_model_that_drops_the_error_is_not_taken_for_the_bare_one(model: Any) -> None:
    from lensbench.errors import ConfigError

    sae = random_sae(HOST)
    assert model.with_saes([sae]).card == model.card
    dropped = model.with_saes([sae], error="drop")
    assert dropped.card.fingerprint != model.card.fingerprint
    renamed = replace(sae, metadata={"site": HOST, "name": "another name"})
    assert model.with_saes([renamed], error="drop").card == dropped.card
    h = torch.zeros(1, 3, 32)
    with pytest.raises(ConfigError, match="cannot drop the error"):
        dropped.run_layers(h, 1, 2)
    assert torch.equal(dropped.run_layers(h, 2, 3)[0], model.run_layers(h, 2, 3)[0])
