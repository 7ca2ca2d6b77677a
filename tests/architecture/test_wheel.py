"""The wheel, installed away from the checkout, among decoys that bear the names of our folders."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.browser import chrome
from tests.browser.test_dashboard_browser import free_port, serving

ROOT = Path(__file__).resolve().parents[2]
OURS = {"app", "data", "interventions", "probes", "saes", "tests", "benchmarks", "docs"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    # From a copy: setuptools leaves a build/ folder, whose stale files would enter the next wheel.
    source, out = tmp_path_factory.mktemp("source") / "lensbench", tmp_path_factory.mktemp("wheel")
    unwanted = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "demo-run")
    shutil.copytree(ROOT, source, ignore=unwanted)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", out, source]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(out.glob("lensbench-*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory) -> Path:
    """A new environment that holds the wheel, and sees this one's third-party packages."""
    home = tmp_path_factory.mktemp("clean")
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    inside = home / "bin" / "python"
    subprocess.run([inside, "-m", "pip", "install", "--no-deps", "--quiet", str(wheel)], check=True)
    site = subprocess.run(
        [inside, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    # A plain path: .pth files of that folder (such as an editable lensbench) are not read.
    (Path(site) / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return inside


@pytest.fixture(scope="module")
def decoys(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("decoys")
    for name in ("app", "probes", "interventions"):
        (folder / f"{name}.py").write_text(f"raise RuntimeError('decoy {name} was imported')\n")
    (folder / "saes").mkdir()
    (folder / "saes" / "__init__.py").write_text("raise RuntimeError('decoy saes was imported')\n")
    return folder


def test_the_wheel_owns_one_name_and_holds_every_module(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {n.split("/")[0] for n in names if ".dist-info" not in n}
    assert top == {"lensbench"}
    modules = {n for n in names if n.endswith(".py")}
    sources = {"lensbench": ROOT / "lensbench"}
    sources |= {
        f"lensbench/{d}": ROOT / d for d in ("app", "data", "interventions", "probes", "saes")
    }
    expected = {f"{m}/{p.relative_to(s)}" for m, s in sources.items() for p in s.rglob("*.py")}
    assert modules == expected
    weights = ROOT / "data" / "models" / "atlas-dense" / "model.safetensors"
    assert weights.is_file()
    assert f"lensbench/{weights.relative_to(ROOT)}" in names


def test_nothing_of_ours_lies_at_the_top_of_site_packages(python: Path) -> None:
    code = "import sysconfig, os; print(*os.listdir(sysconfig.get_paths()['purelib']))"
    out = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    assert OURS & set(out.split()) == set()


def test_the_demo_and_its_dashboard_run_among_decoys(
    python: Path, decoys: Path, tmp_path: Path
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [python, "-m", "lensbench", "demo", "--out", str(decoys / "out"), "--json"]
    done = subprocess.run(
        command, cwd=decoys, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)
    assert list((decoys / "out").rglob("report.html"))
    if chrome.find() is None:
        pytest.skip("the demo ran; no chromium to look at the dashboard with")
    with (
        serving(decoys / "out", free_port(), str(python), cwd=decoys, env=environment) as url,
        chrome.Chrome(tmp_path / "profile") as tab,
    ):
        for page, shows in (
            ("", "Activation stores"),
            ("stores?store=acts", "documents"),
            ("sweep?run=run", "topk-512-k16"),
        ):
            tab.open(f"{url}/{page}")
            tab.says(shows)
        tab.open(f"{url}/token?store=acts&row=17")
        tab.says("dictionaries read this token")
        assert "Traceback" not in tab.text()
