import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.errors import ConfigError, UnknownSiteError
from lensbench.sites import HEAD_AXES, RESIDUAL_AXES, SAE_PARTS, SITES, Site, canonical_name

LAYERED = [n for n, s in SITES.items() if s.layered]
FREE = [n for n, s in SITES.items() if not s.layered]
SITE = st.one_of(
    st.builds(Site, st.sampled_from(FREE)),
    st.builds(
        Site,
        st.sampled_from(["ln_final", "ln_final.scale"]),
        st.none(),
        st.sampled_from(["encoder", "decoder"]),
    ),
    st.builds(
        Site,
        st.sampled_from(LAYERED),
        st.integers(0, 200),
        st.sampled_from(["", "encoder", "decoder"]),
    ),
)


HOSTS = [n for n, s in SITES.items() if s.axes in (RESIDUAL_AXES, HEAD_AXES) and s.layered]
SPLIT = st.builds(
    lambda host, part, layer, stack: Site(f"{host}.{part}", layer, stack),
    st.sampled_from(HOSTS),
    st.sampled_from(list(SAE_PARTS)),
    st.integers(0, 200),
    st.sampled_from(["", "encoder", "decoder"]),
)


@given(SPLIT, SITE)
def test_parts_of_a_dictionary_follow_their_site_and_come_back(part: Site, other: Site) -> None:
    host = part.host
    assert host is not None
    assert Site.parse(str(part)) == part
    assert str(part) == f"{host}.{part.part}"
    assert host < part
    assert other.host is None
    if other != host:  # nothing lies between a site and its parts
        assert (other < host) == (other < part)
    if part.transformer_lens is not None:
        assert Site.parse(part.transformer_lens) == part


def test_saelens_spellings_of_parts_are_read_and_others_refused() -> None:
    hook = "blocks.3.hook_resid_post"
    read = {p: str(Site.parse(f"{hook}.hook_sae_{p}")) for p in ("acts_post", "recons", "error")}
    assert read == {
        "acts_post": "blocks.3.resid_post.sae.acts",
        "recons": "blocks.3.resid_post.sae.recons",
        "error": "blocks.3.resid_post.sae.error",
    }
    assert str(Site.parse("hook_embed.hook_sae_error")) == "embed.sae.error"
    for wrong in (
        "blocks.3.resid_post.sae.act",
        f"{hook}.hook_sae_acts_pre",
        "resid_post.sae.acts",
    ):
        with pytest.raises(ConfigError):
            Site.parse(wrong)
    with pytest.raises(ConfigError, match="holds no vectors"):
        Site("attn.pattern.sae.acts", 0)
    assert sorted(map(Site.parse, read.values())) == list(
        map(Site.parse, ("blocks.3.resid_post.sae.acts", read["recons"], read["error"]))
    )


@given(SITE)
def test_parse_undoes_str(site: Site) -> None:
    assert Site.parse(str(site)) == site


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("blocks.3.hook_resid_post", "blocks.3.resid_post"),
        ("blocks.3.hook_mlp_out", "blocks.3.mlp_out"),
        ("blocks.0.attn.hook_z", "blocks.0.attn.z"),
        ("blocks.0.attn.hook_pattern", "blocks.0.attn.pattern"),
        ("blocks.0.mlp.hook_post", "blocks.0.mlp.post"),
        ("blocks.0.ln1.hook_scale", "blocks.0.ln1.scale"),
        ("hook_embed", "embed"),
        ("ln_final.hook_normalized", "ln_final"),
    ],
)
def test_transformer_lens_spellings(theirs: str, ours: str) -> None:
    assert str(Site.parse(theirs)) == ours


def test_transformer_lens_names_are_printed_where_one_name_is_right() -> None:
    assert Site("resid_post", 3).transformer_lens == "blocks.3.hook_resid_post"
    assert Site("attn.z", 0).transformer_lens == "blocks.0.attn.hook_z"
    assert Site("mlp.gate", 0).transformer_lens == "blocks.0.mlp.hook_pre"
    assert Site("ln1.scale", 2).transformer_lens == "blocks.2.ln1.hook_scale"
    assert Site("embed").transformer_lens == "hook_embed"
    assert Site("mlp.up", 0).transformer_lens == "blocks.0.mlp.hook_pre_linear"
    assert Site("attn.q", 0).transformer_lens == "blocks.0.attn.hook_rot_q"
    assert Site("ln_final").transformer_lens is None  # theirs comes before the gain of the norm
    assert Site("resid_post", 3, "encoder").transformer_lens is None
    assert Site("logits").transformer_lens is None


@given(SITE)
def test_parse_undoes_the_transformer_lens_name(site: Site) -> None:
    if site.transformer_lens is not None:
        assert Site.parse(site.transformer_lens) == site


def test_spelling_is_canonical_where_the_name_is_known() -> None:
    assert canonical_name("blocks.3.hook_resid_post") == "blocks.3.resid_post"
    assert canonical_name("blocks.3.mlp.hook_on") == "blocks.3.mlp.hook_on"
    assert canonical_name("anything") == "anything"


def test_order_is_execution_order() -> None:
    order = [
        Site("embed"),
        Site("resid_pre", 0),
        Site("attn.z", 0),
        Site("resid_post", 0),
        Site("resid_pre", 1),
        Site("ln_final"),
        Site("logits"),
    ]
    shuffled = order[3:] + order[:3]
    assert sorted(shuffled) == order


def test_misspelt_names_get_the_nearest() -> None:
    with pytest.raises(UnknownSiteError, match="Did you mean 'resid_post'"):
        Site.parse("blocks.2.resid_posst")
    with pytest.raises(ConfigError, match="needs a layer"):
        Site.parse("resid_post")
    with pytest.raises(ConfigError, match="has no layer"):
        Site("logits", 3)


@pytest.mark.parametrize("name", ["blocks.1.attn.hook_q", "blocks.0.attn.hook_k"])
def test_a_name_that_means_another_tensor_there_is_not_taken(name: str) -> None:
    with pytest.raises(UnknownSiteError, match=r"before the rotary embedding.*hook_rot_"):
        Site.parse(name)
    assert str(Site.parse(name.replace("hook_", "hook_rot_"))) == name.replace("hook_", "")


def test_an_encoder_comes_before_its_decoder_and_the_logits_after_both() -> None:
    names = [
        "encoder.blocks.1.resid_post",
        "encoder.ln_final",
        "decoder.blocks.0.resid_mid",
        "decoder.blocks.0.xattn.z",
        "decoder.blocks.0.resid_xmid",
        "decoder.ln_final",
        "logits",
    ]
    assert sorted(map(Site.parse, reversed(names))) == list(map(Site.parse, names))
    with pytest.raises(ConfigError, match="belongs to no stack"):
        Site("logits", None, "decoder")
    assert Site("router.weights", 0).transformer_lens is None


def test_a_misspelt_site_offers_the_name_within_a_block() -> None:
    known = ["embed", "blocks.<L>.attn.z", "blocks.<L>.resid_post"]
    assert str(UnknownSiteError("atn.z", known=known)).endswith("Did you mean 'attn.z'?")
    said = str(UnknownSiteError("blocks.3.resid_pst", known=known))
    assert said.count("Did you mean") == 1
