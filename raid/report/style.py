"""The look of the report: light and dark, from a phone's width up.

The colours of the series are told apart by people who do not see all colours (after Okabe and Ito), and
have a contrast of more than 3 with the page in both modes.
"""

_LIGHT = {
    "page": "#f6f7f9",
    "card": "#ffffff",
    "text": "#1b1f24",
    "muted": "#57606a",
    "line": "#d5dae1",
    "right": "#007d5c",
    "wrong": "#c2410c",
    "link": "#0b5cad",
}
_DARK = {
    "page": "#0f1215",
    "card": "#181c20",
    "text": "#e8ebee",
    "muted": "#a3adb8",
    "line": "#343a41",
    "right": "#2fc296",
    "wrong": "#ff8c5a",
    "link": "#7ab8ff",
}
# Blue, vermillion, green, purple, olive, indigo, grey, maroon, teal, moss.
_LIGHT_SERIES = (
    "#0072b2",
    "#c9530a",
    "#007d5c",
    "#a8548a",
    "#8a6d00",
    "#3b4cc0",
    "#5f6670",
    "#7a1f3d",
    "#0e7490",
    "#4d7c0f",
)
_DARK_SERIES = (
    "#56b4e9",
    "#ff8c42",
    "#2fc296",
    "#d98cc0",
    "#e6c229",
    "#8f9dff",
    "#9aa4b2",
    "#ffb3c1",
    "#67e8f9",
    "#b8d65c",
)
NUM_LOOKS = len(_LIGHT_SERIES)

HEAT_STEPS = 11
_LIGHT_HEAT = ((226, 236, 246), (8, 61, 119))
_DARK_HEAT = ((38, 52, 66), (140, 202, 255))

_RULES = """
*{box-sizing:border-box}
[hidden]{display:none!important}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--text);
 font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header,footer,nav{max-width:70rem;margin:0 auto;padding:0 .75rem}
h1{font-size:1.5rem;line-height:1.25;margin:1.25rem 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.25rem 0 .5rem}
h3{font-size:1rem;margin:1.25rem 0 .4rem}
p{margin:.4rem 0;max-width:46rem;overflow-wrap:anywhere}
a{color:var(--link)}
.muted,footer{color:var(--muted);font-size:.875rem}
footer{padding-top:2rem;padding-bottom:2rem}
nav{display:flex;flex-wrap:wrap;gap:.1rem 1rem;font-size:.875rem;padding-top:.6rem}
nav a{padding:.2rem 0}
.facts{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:.5rem 0;padding:0;list-style:none;
 font-size:.875rem;color:var(--muted)}
.facts li{overflow-wrap:anywhere}
.facts b{color:var(--text);font-weight:600}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.5rem;margin:.75rem 0;
 padding:0;list-style:none;max-width:46rem}
.cards li,figure,.box,.alarm{background:var(--card);border:1px solid var(--line);border-radius:.5rem}
.cards li{padding:.5rem .75rem}
.cards b{display:block;font-size:1.5rem;line-height:1.2;font-variant-numeric:tabular-nums}
.cards span{font-size:.8rem;color:var(--muted)}
.alarm{border-color:var(--wrong);border-left-width:.4rem;padding:.4rem .75rem;margin:.5rem 0;
 overflow-wrap:anywhere}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:.75rem;
 margin:.75rem 0}
figure{margin:0;padding:.6rem .6rem .5rem;min-width:0}
figure p{font-size:.8rem}
figcaption{font-weight:600;font-size:.9rem;margin-bottom:.25rem}
svg.chart{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:11px;fill:var(--muted);font-variant-numeric:tabular-nums}
.middle{text-anchor:middle}.end{text-anchor:end}
.rule{stroke:var(--line);stroke-width:1;fill:none}
.axis{stroke:var(--muted);stroke-width:1;fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.thin{stroke-width:1;opacity:.75}
.dashed{stroke-dasharray:5 4}
.edge{stroke:var(--card);stroke-width:4}
.cut{stroke:var(--text);stroke-width:1.5}
.mark{stroke-width:1}
.mark.hollow{fill:var(--card);stroke-width:1.5}
.dots{opacity:.7}
.dots.round{fill:none;stroke-width:3.4;stroke-linecap:round}
.place{font-weight:700;font-size:13px;fill:var(--text);stroke:var(--card);stroke-width:4;paint-order:stroke;
 stroke-linejoin:round}
.bar rect{stroke:var(--card);stroke-width:.6}
.hit{fill:transparent}
.hit:hover{fill:var(--muted);fill-opacity:.25}
.legend{display:flex;flex-wrap:wrap;gap:.1rem .9rem;margin:.25rem 0 0;padding:0;list-style:none;
 font-size:.8rem}
.legend li{display:flex;align-items:center;gap:.35rem;min-width:0}
.legend b{font-weight:600;font-variant-numeric:tabular-nums;white-space:nowrap}
.swatch{width:28px;height:12px;flex:none}
.scroll{overflow-x:auto;max-width:100%}
.scroll:focus-visible{outline:2px solid var(--link)}
.box{padding:.6rem;margin:.75rem 0}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;font-size:.9rem;padding-bottom:.4rem}
th,td{padding:.25rem .5rem;text-align:right;white-space:nowrap}
th{font-weight:600}
th[scope=row],thead th:first-child{text-align:left}
tbody tr{border-top:1px solid var(--line)}
.figures th[scope=row]{position:sticky;left:0;background:var(--card);font-weight:400;white-space:normal;
 overflow-wrap:anywhere;min-width:8.5rem;max-width:11rem;
 line-height:1.3}
.heat td{text-align:center;padding:0;width:3rem;min-width:2.9rem;height:2.2rem;border:1px solid var(--card)}
.heat th[scope=row]{max-width:9rem;white-space:normal;overflow-wrap:anywhere;line-height:1.2}
.heat.long th[scope=row]{min-width:8rem}
.heat thead th+th{text-align:center;padding:.25rem .1rem}
.heat tbody tr{border:0}
.heat .same{color:var(--muted)}
.key{display:flex;align-items:center;gap:.5rem;font-size:.8rem;margin-top:.5rem;flex-wrap:wrap}
.key span.steps{display:flex;border:1px solid var(--line)}
.key i{width:1rem;height:.8rem}
.strip{display:flex;gap:.4rem;margin:0;padding:.1rem;list-style:none;width:max-content}
.strip li{width:4.4rem;flex:none;text-align:center;font-size:.8rem;line-height:1.3;
 font-variant-numeric:tabular-nums}
.strip img,.strip .gone{display:block;width:4.4rem;border:3px solid var(--line);border-radius:.25rem;
 object-fit:cover}
.strip .gone{padding:1.6rem .5rem;color:var(--muted);font-size:.75rem}
.strip .right img,.strip .right .gone{border-color:var(--right)}
.strip .wrong img,.strip .wrong .gone{border-color:var(--wrong);border-style:dashed}
.strip .right b{color:var(--right)}
.strip .wrong b{color:var(--wrong)}
.strip .likelihood{display:block;height:.5rem;margin:.3rem 0 .1rem;background:var(--c0);
 border-radius:.1rem;min-width:1px}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.8rem,1fr));gap:.75rem;
 margin:.5rem 0;padding:0;list-style:none}
.pairs li{max-width:11rem;text-align:center;font-size:.8rem;line-height:1.3;font-variant-numeric:tabular-nums}
.pairs div{display:flex;border:3px solid var(--line);border-radius:.25rem;background:var(--card)}
.pairs img,.pairs .gone{display:block;width:50%;object-fit:cover}
.pairs .gone{padding:1.6rem .5rem;color:var(--muted);font-size:.75rem}
.pairs .right div{border-color:var(--right)}
.pairs .wrong div{border-color:var(--wrong);border-style:dashed}
.pairs b,.pairs small{display:block}
.pairs b{margin-top:.25rem}
.pairs .right b{color:var(--right)}
.pairs .wrong b{color:var(--wrong)}
.pairs small{color:var(--muted);font-size:.75rem}
figure img{display:block;width:100%;border-radius:.25rem;margin:.25rem 0 .1rem}
figure .said{margin:.5rem 0 0}
figure details{padding:.3rem .5rem;margin:.6rem 0 0}
figure details summary{font-size:.85rem}
.earlier{display:grid;grid-template-columns:repeat(2,1fr);gap:.5rem;margin-top:.4rem}
.earlier p{margin:0}
.strip .query{margin-right:.7rem}
.strip .query img,.strip .query .gone{border-color:var(--text)}
.strip .camera{display:block;color:var(--muted);font-size:.72rem;overflow-wrap:anywhere}
.strip small{color:var(--muted);font-size:.75rem}
details{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.5rem .75rem;
 margin:.75rem 0}
summary{cursor:pointer;font-weight:600}
pre{overflow-x:auto;font-size:.8rem;line-height:1.45;margin:.5rem 0 0}
button,input,select{font:inherit;color:inherit}
.tools{display:flex;gap:.5rem;margin-left:auto}
.tools button,dialog button,.controls input[type=search],.controls select{background:var(--card);
 border:1px solid var(--line);border-radius:.35rem;padding:.2rem .6rem;cursor:pointer}
.controls input[type=search]{cursor:text;width:100%}
.controls select{width:100%}
:is(button,input,select,a,summary,.strip li,.pairs li):focus-visible{outline:2px solid var(--link);
 outline-offset:1px}
th button{all:unset;cursor:pointer;white-space:inherit;position:relative}
th button:hover{text-decoration:underline}
th button::after{content:"↕";position:absolute;left:100%;bottom:0;font-size:.7rem;font-weight:400;
 color:var(--muted);opacity:.6}
th[aria-sort] button::after{opacity:1;color:var(--link);font-weight:700}
th[aria-sort=ascending] button::after{content:"↑"}
th[aria-sort=descending] button::after{content:"↓"}
.controls{display:none}
.script .controls{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.4rem .75rem;
 align-items:end;padding:.6rem .75rem;background:var(--card);border:1px solid var(--line);
 border-radius:.5rem;margin:.75rem 0;font-size:.85rem}
.controls label{display:block;min-width:0}
.controls label span{color:var(--muted);display:block}
.controls label.check{display:flex;gap:.4rem;align-items:center;padding:.25rem 0}
.controls output{color:var(--muted);padding:.25rem 0}
.script :is(.strip,.pairs) li img{cursor:zoom-in}
.list{scroll-margin:.5rem}
.list:focus-within .box{border-color:var(--link)}
dialog{background:var(--card);color:var(--text);border:1px solid var(--line);border-radius:.5rem;
 max-width:min(94vw,34rem)}
dialog::backdrop{background:rgb(0 0 0/.6)}
dialog.large{width:min(94vw,34rem)}
dialog.large div{display:flex;justify-content:center;align-items:flex-start;gap:.5rem}
dialog.large img{flex:1 1 0;min-width:0;height:auto}
.help h2{margin:0 0 .5rem}
.help dl{display:grid;grid-template-columns:auto 1fr;gap:.25rem 1rem;margin:.5rem 0 1rem}
.help dt{font-weight:600}
.help dd{margin:0}
@media print{.tools,.controls,nav,dialog{display:none!important}.scroll{overflow:visible}
 .strip{flex-wrap:wrap;width:auto}.list,figure,.box{break-inside:avoid}body{font-size:12px}}
"""


def style() -> str:
    """Return the style sheet: the system's look, or the one that was chosen; paper is light."""
    of_dark = f"{{color-scheme:dark;{_colors(_DARK, _DARK_SERIES, _DARK_HEAT)}}}"
    dark = (
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-look=light]){of_dark}}}"
        f"@media screen{{:root[data-look=dark]{of_dark}}}"
    )
    series = "".join(
        f".line.c{i}{{stroke:var(--c{i})}}.mark.c{i}{{fill:var(--c{i});stroke:var(--c{i})}}"
        f".mark.hollow.c{i}{{fill:var(--card)}}.bar.c{i} rect{{fill:var(--c{i})}}"
        f".dots.c{i}{{fill:var(--c{i})}}.dots.round.c{i}{{fill:none;stroke:var(--c{i})}}"
        for i in range(NUM_LOOKS)
    )
    heat = "".join(f".h{i}{{background:var(--h{i});color:var(--t{i})}}" for i in range(HEAT_STEPS))
    light = f":root{{color-scheme:light;{_colors(_LIGHT, _LIGHT_SERIES, _LIGHT_HEAT)}}}"
    return light + dark + _RULES + series + heat


def _colors(
    named: dict[str, str], series: tuple[str, ...], heat: tuple[tuple[int, int, int], tuple[int, int, int]]
) -> str:
    values = {**named, **{f"c{i}": color for i, color in enumerate(series)}}
    for i in range(HEAT_STEPS):
        mixed = [a + (b - a) * i / (HEAT_STEPS - 1) for a, b in zip(*heat, strict=True)]
        values[f"h{i}"] = f"rgb({','.join(f'{part:.0f}' for part in mixed)})"
        values[f"t{i}"] = "#000" if _luminance(mixed) > 0.18 else "#fff"
    return "".join(f"--{name}:{value};" for name, value in values.items())


def _luminance(color: list[float]) -> float:
    """Return the relative luminance of an sRGB colour (WCAG 2)."""
    shares = (part / 255 for part in color)
    parts = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
