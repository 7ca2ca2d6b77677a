"""Texts, labels and names that would act are read as themselves, on every page, in a browser."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from lensbench.app.page_list import PAGES
from tests.browser.chrome import Chrome, find
from tests.browser.hostile import NAME, OFF, PARTS, TOKENS, WORDS, Hostile, make_hostile
from tests.browser.test_dashboard_browser import free_port, outside, serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find() is None, reason="no chromium on this machine (apt-get install chromium)"
    ),
]
READ = """((off) => {
  const faults = [], commands = [], inline = new Set(
    ['SPAN', 'TSPAN', 'A', 'B', 'I', 'EM', 'STRONG', 'CODE']);
  let said = '';
  const told = (one) => faults.push(one.outerHTML.slice(0, 300));
  const look = (parent) => {
    for (const one of parent.childNodes) {
      if (one.nodeType === 3) said += one.data;
      if (one.nodeType !== 1) continue;
      for (const {name, value} of one.attributes) {
        if (name.startsWith('on') && value.includes('window.hit')) told(one);
        if (['src', 'href', 'srcset', 'data', 'action'].includes(name)
            && (value.includes(off) || /^ *javascript:/i.test(value))) told(one);
      }
      const tag = one.tagName.toUpperCase();
      if (tag === 'STYLE' || tag === 'SCRIPT') {
        if (/host|named/.test(one.textContent)) told(one);
        continue;
      }
      if (one.matches('.katex, [data-testid=stImage], svg[onload]')) told(one);
      if (one.shadowRoot) look(one.shadowRoot);
      look(one);
      if (typeof one.value === 'string') said += ` ${one.value} `;
      if (!inline.has(tag)) said += ' ';
    }
  };
  const app = document.querySelector('[data-testid=stApp]');
  look(app);
  for (const one of app.querySelectorAll('[data-testid=stCode] code'))
    if (one.textContent.startsWith('lensbench ')) commands.push(one.textContent);
  if (window.hit !== undefined) faults.push(`a script ran: ${window.hit}`);
  said = said.replaceAll('\\u2060', '');  // ours, see ``plain``
  return {said, faults, commands};
})"""
BEFORE = {core: before for core, (before, _) in WORDS.items()} | PARTS


def rendered(said: str) -> list[str]:
    """Places where a core stands without what should stand before it."""
    found: list[str] = []
    for core, before in BEFORE.items():
        at = said.find(core)
        while at >= 0:
            if not said.endswith(before, 0, at):
                found.append(said[max(0, at - 60) : at + 30])
            at = said.find(core, at + 1)
    return found


def broken(command: str) -> bool:
    """Whether a shell would read a name in a command as anything else."""
    try:
        words = shlex.split(command)
    except ValueError:
        return True
    return any("namedimage" in word and NAME not in word for word in words)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    return make_hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def served(hostile: Hostile) -> Iterator[str]:
    with serving(hostile.folder, free_port()) as url:
        yield url


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Chrome]:
    with Chrome(tmp_path / "profile") as opened:
        yield opened


def test_what_would_act_is_read_as_itself_on_every_page(
    hostile: Hostile, served: str, tab: Chrome
) -> None:
    pages = {urlsplit(address).path[1:] or "home" for address in hostile.addresses}
    assert pages == {page.path for page in PAGES}, "a new page needs an address"
    bad: list[Any] = []
    seen = dict.fromkeys(BEFORE, 0)
    for address in hostile.addresses:
        tab.open(served + address, timeout=120)
        page = tab.js(f"{READ}({json.dumps(OFF)})")
        crash = tab.js("!!document.querySelector('[data-testid=stException]')")
        wide = tab.js("document.documentElement.scrollWidth > innerWidth + 1")
        wrong = [c for c in page["commands"] if broken(c)]
        found = [*page["faults"], *rendered(page["said"]), *wrong]
        found += ["it broke"] * crash + ["it is wider than the window"] * wide
        found += ["a name is turned round"] * ("\u202e" in tab.js(
            "[...document.querySelectorAll('[data-testid=stMarkdown], [data-testid=stAlert]')]"
            ".map(e => e.textContent).join('')"))  # fmt: skip
        bad += [(address[:60], fault) for fault in found]
        for core in seen:
            seen[core] += page["said"].count(core)
    assert bad == [], json.dumps(bad, indent=1)
    assert [core for core, n in seen.items() if not n] == [], "never shown, so never tried"
    assert outside(tab.asked) == []
    assert not [url for url in tab.asked if urlsplit(url).path.endswith("/x")]


def test_the_look_sees_what_acts(served: str, tab: Chrome) -> None:
    tab.open(served)
    look = f"{READ}({json.dumps(OFF)})"
    inside = "document.querySelector('h1')"
    for word, core in zip(TOKENS, WORDS, strict=True):
        tab.js(f"{inside}.textContent = {json.dumps(word)}, 0")
        assert rendered(tab.js(look)["said"]) == [], word
        tab.js(f"{inside}.textContent = {json.dumps(core)}, 0")
        assert rendered(tab.js(look)["said"]) != [], core
    for word in (f"<a href='{OFF}/'>x</a>", "<a href='javascript:1'>x</a>", f"<img src='{OFF}/x'>",
                 "<img src=x onerror='window.hit=1'>", "<span class=katex>x</span>"):  # fmt: skip
        tab.js(f"{inside}.innerHTML = {json.dumps(word)}, 0")
        assert tab.js(look)["faults"] != [], word
    tab.js("1")
    assert outside(tab.asked) != []
    assert broken("lensbench store info '/a/x <img src=x onerror=window.hit=9>namedimage'")
    assert broken(f"lensbench store info /a/{NAME}")
    assert not broken(shlex.join(["lensbench", "store", "info", f"/a/{NAME}"]))
