"""The look and the small script of a report page; text only, no logic."""

from lensbench.plots.theme import FONT, GRID, INK, MUTED, PALETTE, PAPER
from lensbench.plots.tokens import CSS as STRIP_CSS

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'none'; font-src 'none'; form-action 'none'; base-uri 'none'"
)
"""Content policy of the page: the browser itself refuses anything from the network."""


def _variables(mode: str) -> str:
    soft = {"light": "#f6f8fa", "dark": "#1b2128"}[mode]
    return (
        f"--ink:{INK[mode]};--muted:{MUTED[mode]};--rule:{GRID[mode]};"  # type: ignore[index]
        f"--paper:{PAPER[mode]};--soft:{soft};--accent:{PALETTE[0]}"  # type: ignore[index]
    )


STYLE = (
    f":root{{color-scheme:light dark;{_variables('light')}}}"
    f"@media(prefers-color-scheme:dark){{:root{{{_variables('dark')};--accent:{PALETTE[5]}}}}}"
    f"""
*{{box-sizing:border-box}}
body{{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 {FONT}}}
main{{max-width:1120px;margin:0 auto;padding:8px 28px 64px}}
header{{max-width:1120px;margin:0 auto;padding:36px 28px 8px}}
h1{{font-size:28px;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em}}
h2{{font-size:19px;margin:44px 0 4px;padding-top:16px;border-top:1px solid var(--rule)}}
h3{{font-size:15px;margin:0}}
p{{margin:6px 0 12px;max-width:78ch}} .muted,figcaption,caption{{color:var(--muted)}}
nav{{position:sticky;top:0;z-index:5;background:var(--paper);border-bottom:1px solid var(--rule)}}
nav div{{max-width:1120px;margin:0 auto;padding:9px 28px;display:flex;gap:20px;flex-wrap:wrap}}
nav a{{color:var(--muted);text-decoration:none;font-size:13.5px}}
nav a:hover,nav a:focus{{color:var(--accent)}}
h2{{scroll-margin-top:44px}}
figure{{margin:14px 0 22px}} figcaption{{font-size:13px;max-width:88ch}}
.plot{{width:100%}}
.pair{{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:0 28px}}
.cards{{display:grid;grid-template-columns:repeat(auto-fit,minmax(158px,1fr));gap:12px;
margin:18px 0}}
.card{{background:var(--soft);border:1px solid var(--rule);border-radius:8px;padding:11px 14px}}
.card b{{display:block;font-size:21px;font-variant-numeric:tabular-nums;line-height:1.3}}
.card span{{font-size:12.5px;color:var(--muted);line-height:1.35;display:block}}
.wide{{overflow-x:auto;margin:12px 0 20px}}
table{{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}}
caption{{text-align:left;font-size:13px;padding-bottom:6px}}
th{{text-align:left;font-weight:600;color:var(--muted);border-bottom:1px solid var(--rule);
padding:5px 16px 5px 0;vertical-align:bottom}}
td{{border-bottom:1px solid var(--rule);padding:5px 16px 5px 0;vertical-align:top}}
td.num,th.num{{text-align:right;white-space:nowrap}}
td:first-child{{white-space:nowrap}}
pre{{background:var(--soft);border:1px solid var(--rule);border-radius:8px;padding:11px 14px;
overflow-x:auto;font-size:13px;line-height:1.5}}
.latent{{background:var(--soft);border:1px solid var(--rule);border-radius:8px;
padding:13px 16px;margin:12px 0}}
.latent .facts{{font-size:13px;color:var(--muted);margin:2px 0 8px}}
.latent ol{{list-style:none;margin:0;padding:0}}
.latent li{{border-top:1px solid var(--rule);padding:4px 0;display:flex;gap:14px}}
.latent li .v{{flex:none;width:58px;text-align:right;font-size:12.5px;color:var(--muted);
font-variant-numeric:tabular-nums;padding-top:2px}}
@media print{{nav{{display:none}}}}
""" + STRIP_CSS
)

SCRIPT = """
(function () {
  const read = id => JSON.parse(document.getElementById(id).textContent);
  const templates = read("templates"), config = read("config");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const figures = Array.from(document.querySelectorAll(".plot"));
  const draw = () => figures.forEach(div => {
    const figure = read(div.id + "-data");
    figure.layout.template = templates[dark.matches ? "dark" : "light"];
    Plotly.react(div, figure.data, figure.layout, config).then(() => {
      div.dataset.drawn = dark.matches ? "dark" : "light";
    });
  });
  draw();
  dark.addEventListener("change", draw);
})();
"""
