"""Nothing outside the folder shown is opened, whatever an address or a field asks for."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.app.driver import open_page, words

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SECRET = "mauve-heron-4711"
NAMES = {  # every part of an address that names a folder or a file
    "stores": ("store",), "token": ("store",), "train": ("store",), "runs": ("run",),
    "sweep": ("run",), "compare": ("one", "other"), "latent": ("run",), "directions": ("run",),
    "lens": ("store", "model", "lens"), "attention": ("store", "model"), "acceleration": ("store",),
    "probe": ("store", "twin"), "geometry": ("stores", "controls"), "hyper": ("model",),
    "patching": ("model", "file"), "steering": ("model", "file"), "experts": ("model", "prompts"),
    "capture": ("model", "file", "job"),
}  # fmt: skip
TYPED = {"from": "My own text", "text": "a cat"}
WITH = {
    "other": {"one": "runs/small"}, "lens": {"store": "acts"}, "twin": {"store": "acts"},
    "prompts": {"model": "atlas-moe"},
    "file": {"model": "atlas-dense", "from": "A file in this folder", "of": "A CSV file",
             "direction": "A probe or vector in a file"},
    "controls": {"stores": "acts"},
}  # fmt: skip
FILED = {"patching": "pairs.csv", "steering": "acts/shard-00000.safetensors"}
OWN = {("lens", "model"), ("attention", "model")}
_opened: list[str] = []
_watched: list[str] = []


def _note(event: str, args: tuple[Any, ...]) -> None:
    if _watched and event in ("open", "os.scandir", "os.listdir") and args and args[0]:
        try:
            path = str(Path(str(args[0])).resolve())
        except (OSError, ValueError):
            return
        if path.startswith(_watched[0]):
            _opened.append(path)


@pytest.fixture(scope="module")
def place(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``root`` in it, and ``outside`` it a store, a run and prompts."""
    top = tmp_path_factory.mktemp("place")
    shutil.copytree(small_root, top / "root")
    shutil.copytree(small_root, top / "outside")
    line = f'{{"text": "{SECRET}", "label": "a"}}\n'
    (top / "outside" / "prompts.jsonl").write_text(line * 4)
    (top / "outside" / "pairs.csv").write_text(
        f"clean,corrupted,answer,wrong\n{SECRET},{SECRET},a,b\n"
    )
    (top / "root" / "link.csv").symlink_to(top / "outside" / "pairs.csv")
    (top / "root" / "gone.csv").symlink_to(top / "root" / "no.csv")
    (top / "root" / "link").symlink_to(top / "outside")
    (top / "root" / "link.jsonl").symlink_to(top / "outside" / "prompts.jsonl")
    return top


@pytest.fixture(scope="module")
def watch(place: Path) -> Any:
    sys.addaudithook(_note)
    _watched.append(str((place / "outside").resolve()))
    yield _opened
    _watched.clear()


def there(path: str, key: str) -> str:
    """What lies outside and would do for ``key``."""
    files = {"prompts": "prompts.jsonl", "file": FILED.get(path, "prompts.jsonl")}
    return files.get(key, "runs/small" if key in ("run", "one", "other") else "acts")


@pytest.mark.parametrize("how", ["..", "absolute", "link"])
@pytest.mark.parametrize(("path", "key"), [(p, k) for p, keys in NAMES.items() for k in keys])
def test_a_name_in_the_address_that_leads_out_is_refused(
    monkeypatch, place: Path, watch: list[str], path: str, key: str, how: str
) -> None:
    begin = {"..": "../outside", "absolute": str(place / "outside"), "link": "link"}[how]
    watch.clear()
    more = TYPED if (path, key) in OWN else WITH.get(key, {})
    page = open_page(
        monkeypatch, place / "root", path, **{**more, key: f"{begin}/{there(path, key)}"}
    )
    assert not page.exception
    assert watch == []
    assert SECRET not in words(page)
    if key not in ("stores", "controls", "job"):  # several at once: what is not there is left out
        assert len(page.warning) + len(page.error) > 0, words(page)


def test_the_watch_sees_what_is_opened(monkeypatch, place: Path, watch: list[str]) -> None:
    watch.clear()
    page = open_page(monkeypatch, place / "outside", "stores", store="acts")
    assert not page.exception
    assert watch


@pytest.mark.parametrize("name", ["../outside/new", "/tmp/new", "link/new", ".hidden", "a/../../b"])
def test_a_new_store_is_made_below_the_folder_alone(place: Path, name: str) -> None:
    from lensbench.app.workflows.capture_plan import place as named
    from lensbench.errors import ConfigError

    with pytest.raises(ConfigError, match=r"cannot name|leads out"):
        named(place / "root", name)


def test_a_new_run_and_a_kept_text_have_plain_names(place: Path) -> None:
    from lensbench.app.workflows.capture_offers import save_text
    from lensbench.app.workflows.launching import new_run
    from lensbench.errors import ConfigError

    for name in ("../x", "/tmp/x", "a/b", ""):
        with pytest.raises(ConfigError):
            new_run(place / "root", name, {})
        with pytest.raises(ConfigError):
            save_text(place / "root", name, "words")


def test_a_sweep_file_names_stores_of_the_folder(place: Path) -> None:
    from lensbench.app.workflows.launching import read_yaml
    from lensbench.errors import ConfigError

    sweep = "train: {tokens: 4096}\nsweep: [{architecture: topk, d_sae: 16, k: 4, site: all}]\n"
    for url in ("../outside/acts", str(place / "outside/acts"), "link/acts"):
        with pytest.raises(ConfigError, match="outside the folder"):
            read_yaml(place / "root", f"source: {{store: {url}}}\n{sweep}")


def test_a_linked_file_of_pairs_is_not_offered(monkeypatch, place: Path, watch: list[str]) -> None:
    """The file is named in the address by its own name, which lies below the folder."""
    watch.clear()
    page = open_page(monkeypatch, place / "root", "patching", model="atlas-dense", of="A CSV file",
                     file="link.csv")  # fmt: skip
    assert not page.exception
    assert watch == []
    assert SECRET not in words(page)
