"""The keyboard of a tab: keys, where the focus is, and a walk through all that can be used."""

from typing import Any

from tests.browser.chrome import Chrome

KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "ArrowRight": 39,
        "ArrowDown": 40}  # fmt: skip
TEXT = {"Enter": "\r", " ": " "}
FOCUS = (
    "(() => { let e = document.activeElement; while (e && e.shadowRoot && e.shadowRoot"
    ".activeElement) e = e.shadowRoot.activeElement; return e; })()"
)
NAMED = f"(({FOCUS}).closest('[class*=st-key-]') || {{className: ''}}).className"
WATCH = """(() => {
  const still = new CSSStyleSheet();
  still.replaceSync('*, *::before, *::after {transition: none !important; animation: none'
                    + ' !important}');
  const wanted = [], within = (root) => {
    for (const one of root.querySelectorAll('*')) {
      if (one.shadowRoot) {
        one.shadowRoot.adoptedStyleSheets.push(still);
        one.shadowRoot.addEventListener('focusin', (event) => note(event), true);
        within(one.shadowRoot);
      }
      if (one.matches('a[href], button, input, textarea, select, summary, [contenteditable=true],'
                      + ' [role=slider], [role=tab], [role=combobox], [tabindex="0"]')
          && !one.disabled && one.type !== 'hidden' && one.type !== 'file'
          && !one.closest('[aria-hidden=true], [inert]')
          && one.checkVisibility({visibilityProperty: true})
          && one.getClientRects().length) wanted.push(one);
    }
  };
  document.adoptedStyleSheets.push(still);
  within(document);
  // Where arrow keys choose one of a group, Tab stops at one; and what a mouse clicks in a field
  // (open the list, one more, take away) the keyboard does in the field itself.
  const FIELDS = '[data-testid=stNumberInput], [data-testid=stSelectbox],'
    + ' [data-testid=stMultiSelect]';
  const group = (one) => one.type === 'radio' ? `radio ${one.name}`
    : one.closest('[role=tablist], [role=listbox], [role=radiogroup], [role=toolbar]')
      || one.tabIndex < 0 && one.closest(FIELDS)?.querySelector('input') || one;
  const look = (one) => {
    const all = [one, ...(one.parentElement ? one.parentElement.children : [])];
    for (let up = one.parentElement, n = 0; up && n < 5; up = up.parentElement, n += 1)
      all.push(up);
    return all.map(e => { const s = getComputedStyle(e); return [s.outlineStyle, s.outlineWidth,
      s.outlineColor, s.boxShadow, s.borderColor, s.backgroundColor, s.color,
      s.textDecorationLine].join(); }).join('|');
  };
  const before = new Map(wanted.map(one => [one, look(one)]));
  const reached = new Set(), unseen = [];
  const key = (one) => one.closest('[class*=st-key-]')?.className.match(/st-key-(\\S+)/)?.[1];
  const say = (one) => `${key(one) || ''} ${one.outerHTML.slice(0, 160)}`;
  const note = (event) => {
    const one = event.composedPath()[0];
    reached.add(group(one));
    if (before.has(one) && look(one) === before.get(one)) unseen.push(say(one));
  };
  document.addEventListener('focusin', note, true);
  window.walked = () => ({unseen, n: wanted.length,
    left: wanted.filter(one => one.isConnected && !reached.has(group(one))).map(say)});
  return wanted.length;
})()"""
"""Notes what Tab reaches of all that a mouse could use, and whether it then looks otherwise."""


def press(tab: Chrome, key: str) -> None:
    """One key, down and up."""
    text = {"text": TEXT[key]} if key in TEXT else {}
    for kind in ("keyDown", "keyUp"):
        tab.send("Input.dispatchKeyEvent", type=kind, key=key, code="Space" if key == " " else key,
                 **text, windowsVirtualKeyCode=KEYS[key])  # fmt: skip


def walk_to(tab: Chrome, condition: str, steps: int = 120) -> list[str]:
    """Tab until ``condition`` holds of what has focus; gives the keys of controls on the way."""
    passed: list[str] = []
    for _ in range(steps):
        press(tab, "Tab")
        passed.append(tab.js(NAMED))
        if tab.js(condition):
            return passed
    raise AssertionError(f"not reached by {steps} steps: {condition}; passed {passed}")


def walk_all(tab: Chrome) -> dict[str, Any]:
    """Tab through the whole page: ``left`` was never reached, ``unseen`` looks as without focus."""
    many = tab.js(WATCH)
    for _ in range(0, many + 80, 20):
        for _ in range(20):
            press(tab, "Tab")
        told: dict[str, Any] = tab.js("window.walked()")
        if not told["left"]:
            break
    return told
