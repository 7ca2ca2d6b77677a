"""What a notebook shows of a store: its sites, escaped, without a script."""

import lensbench
from tests.helpers import tiny


def test_a_store_shows_its_sites_and_what_it_is_of(tmp_path) -> None:
    model = lensbench.load_model(tiny("llama"), certify=False)
    store = lensbench.capture(model, [[1, 5, 6, 7]], profile="resid", out=tmp_path / "<b>acts")
    html = store._repr_html_()
    assert "<b>acts" not in html
    assert "&lt;b&gt;acts" in html
    assert model.card.fingerprint in html
    assert "script" not in html
    for site in store.sites:
        assert f">{site}<" in html
