import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.errors import ConfigError, UnknownSiteError
from lensbench.sites import SITES, Site

LAYERED = [n for n, s in SITES.items() if s.layered]
FREE = [n for n, s in SITES.items() if not s.layered]
SITE = st.one_of(
    st.builds(Site, st.sampled_from(FREE)),
    st.builds(
        Site,
        st.sampled_from(LAYERED),
        st.integers(0, 200),
        st.sampled_from(["", "encoder", "decoder"]),
    ),
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
