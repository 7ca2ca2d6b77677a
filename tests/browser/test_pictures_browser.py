"""A reader's hand work in a real browser: label and star a latent, find it on the map, open it."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.conftest import small_root  # noqa: F401 - a fixture
from tests.browser.chrome import Chrome, find
from tests.browser.test_dashboard_browser import free_port, outside, serving
from tests.browser.test_token_browser import click_at

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find() is None, reason="no chromium on this machine (apt-get install chromium)"
    ),
]


@pytest.fixture(scope="module")
def root(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    return Path(shutil.copytree(small_root, tmp_path_factory.mktemp("pictures") / "root"))


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[str]:
    with serving(root, free_port()) as url:
        yield url


def test_a_latent_is_labelled_starred_found_on_the_map_and_opened(
    root: Path, served: str, tmp_path: Path
) -> None:
    from lensbench import saes

    run = next(r for r in saes.open_runs(root / "runs" / "small") if "k8" in r.name)
    notes = saes.notes(run)
    where = f"run=runs/small&dictionary={run.name}"
    with Chrome(tmp_path / "profile") as tab:
        tab.open(f"{served}/latent?{where}&latent=5")
        unfold = (
            "[...document.querySelectorAll('summary')]"
            ".find(e => e.innerText.includes('My label and note')).click()"
        )
        tab.js(unfold)
        tab.type(f"note-{notes.fingerprint}-5-label", "days of the week")
        tab.settled("document.body.innerText.includes('Saved in')")
        assert notes[5].label == "days of the week"
        tab.js(
            f"document.querySelector('.st-key-note-{notes.fingerprint}-5-starred input').click()"
        )
        for _ in range(600):
            if notes[5].starred:
                break
            time.sleep(0.05)
        assert notes[5].starred
        tab.idle()
        tab.open(tab.js("location.href"))  # a reload shows what is on disk
        tab.settled(
            "[...document.querySelectorAll('input')].some(i => i.value === 'days of the week')"
        )

        tab.open(f"{served}/directions?{where}&colour=Stars")
        tab.says("Decoder map")
        x, y = saes.decoder_map(run.sae).places[5]
        click_at(tab, 0, float(x), float(y))
        tab.settled("location.search.includes('open=5')")
        tab.says("Latent 5 fires on")
        tab.settled(
            "[...document.querySelectorAll('input')].some(i => i.value === 'days of the week')"
        )
        # The same selection does not open it again when another is asked for.
        tab.type("open", "6")
        tab.says("Latent 6 fires on")
        tab.idle()
        assert tab.js("location.search.includes('open=6')")
        assert outside(tab.asked) == []
