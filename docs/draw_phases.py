"""Draw `phases.svg`, the picture of the five stages; its nets are real texts, read by `spnas_core`.

    .venv/bin/python -m docs.draw_phases

A bar is a residual block: the taller, the finer the resolution; the broader, the wider. Cards are opaque and what lies outside of
them is grey, so that the picture is legible on light and on dark pages.
"""

from pathlib import Path

from spnas_core.arch import Arch, Block, blocks, parse
from spnas_core.weights.lineage import lineage

WIDTH, HEIGHT = 1000, 424
CARD_W, CARD_H, GAP, TOP, LEFT = 180, 300, 20, 36, 10
INK, SOFT, LINE, OUTSIDE, NEW = "#1f2328", "#59636e", "#8c959f", "#7d8590", "#e8590c"
SHADES = ("#9ec5fe", "#6ea8fe", "#3d8bfd", "#0b5ed7", "#084298")
COPY, LINK = "#d0bfff", "#6d3fc0"
START, GROWN, FINAL = "b_11-21-21-21", "b_11-211-21-211", "b_11-211-21-211_0-0-2-1"
CARDS = (
    ("1  fine_tune", "#0b5ed7", ("trains the start net", "on the data"), "trial 0, with weights"),
    ("2  serial", "#0f766e", ("rounds of children, trained", "briefly, weights inherited"), "ledger, Pareto front"),
    ("3  reignite", "#b45309", ("trains the best backbone", "as a classifier"), "backbone weights"),
    ("4  parallel", LINK, ("copies beside the stages,", "children trained briefly"), "ledger, Pareto front"),
    ("5  full_train", "#2f6b2f", ("trains the best parallel net", "and the start net in full"), "model, table, report"),
)


def text(x: float, y: float, words: str, size: float = 12, fill: str = INK, more: str = "") -> str:
    """One line of text; `more` are further attributes."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{fill}" {more}>{words}</text>'


def mono(x: float, y: float, words: str, size: float = 11.5) -> str:
    """One line of fixed-width text, in the middle of x."""
    return text(x, y, words, size, SOFT, 'text-anchor="middle" class="mono"')


def rect(x: float, y: float, width: float, height: float, fill: str, more: str = 'rx="1"') -> str:
    """One rectangle; `more` are further attributes."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}" {more}/>'


def arrow(path: str, colour: str = LINE, more: str = "") -> str:
    """One line that ends in an arrow head."""
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6" marker-end="url(#head{colour[1:]})" {more}/>'


def stage_boxes(arch: Arch, x: float, stage_gap: float, scale: float) -> tuple[dict[int, tuple[float, float, float]], float]:
    """Left side, breadth and height of the bar of each block, and where the last one ends."""
    found: dict[int, tuple[float, float, float]] = {}
    stage = 0
    for block in blocks(arch):
        x += stage_gap if block.stage != stage else 0
        stage = block.stage
        breadth = 3.6 * scale * (block.out_channels / 64) ** 0.4
        found[block.index] = (x, breadth, 46 * scale * 0.72**block.stage)
        x += breadth + 2
    return found, x - 2


def span(members: list[Block], bars: dict[int, tuple[float, float, float]]) -> tuple[float, float]:
    """Left and right side of one stage."""
    return bars[members[0].index][0], sum(bars[members[-1].index][:2])


def net(centre: float, y: float, words: str, parent: str | None = None, scale: float = 1.0, stage_gap: float = 6, row: float = 34) -> str:
    """Draw a net with its middle at (centre, y): blocks that `parent` has not in orange, parallel copies below."""
    arch = parse(words)
    line = lineage(parse(parent), arch) if parent else (0,) * len(arch.digits)
    bars, end = stage_boxes(arch, 0, stage_gap, scale)
    bars = {index: (x + centre - end / 2, *rest) for index, (x, *rest) in bars.items()}
    parts, before = [], []
    for stage, copies in enumerate(arch.parallel):
        members = [block for block in blocks(arch) if block.stage == stage]
        left, right = span(members, bars)
        for block in members:
            x, breadth, height = bars[block.index]
            parts.append(rect(x, y - height / 2, breadth, height, NEW if line[block.index] is None else SHADES[stage]))
            parts += [rect(x, y + row * (k + 1) - height / 2, breadth, height, COPY) for k in range(copies)]
        for k in range(copies):
            low, high = y + row * (k + 1), y + row * k + (4 if k else 0)
            bend = f"M{right + 1:.1f} {low - 4:.1f} h4 v{4.5 - row / 2:.1f} H{left - 8:.1f} V{high:.1f} h5"
            parts.append(arrow(bend, LINK, 'stroke-linejoin="round"'))
            if k < len(before):
                parts.append(arrow(f"M{before[k]:.1f} {low + 4:.1f} H{left - 3:.1f}", LINK))
        before = [right + 1] * min(copies, (*arch.parallel, 0)[stage + 1])
    return "".join(parts)


def photograph(x: float, y: float) -> str:
    """Draw an image with two boxes around its objects."""
    hill = f"M{x} {y + 44} l22 -18 16 10 20 -16 22 24 z"
    frame = rect(x, y, 80, 44, "#e7f1ff", 'rx="4" stroke="#8c959f"')
    marked = (f'fill="none" stroke="{NEW}" stroke-width="2"', ((8, 10, 22, 20), (44, 6, 28, 28)))
    found = "".join(f'<rect x="{x + a}" y="{y + b}" width="{w}" height="{h}" {marked[0]}/>' for a, b, w, h in marked[1])
    return f'{frame}<path d="{hill}" fill="#b6d4b6"/>{found}'


def fine_tune(x: float, y: float) -> str:
    """Picture of the first stage: data and start net."""
    middle = x + CARD_W / 2
    parts = (photograph(middle - 40, y + 8), arrow(f"M{middle} {y + 58} v18"), net(middle, y + 110, START, scale=1.15))
    return "".join(parts) + mono(middle, y + 152, "11-21-21-21")


def serial(x: float, y: float) -> str:
    """Picture of the second stage: one child of each operation."""
    parts = []
    for row, (name, child) in enumerate((("swap", "112-1-212-1"), ("expand", "11-211-21-211"), ("add stage", "11-21-21-21-1"))):
        top = y + 4 + 54 * row
        parts.append(text(x + 10, top + 22, name, 12, INK, 'font-weight="600"'))
        parts.append(net(x + 127, top + 18, f"b_{child}", START, 0.72, 5) + mono(x + 127, top + 46, child, 11))
    return "".join(parts)


def reignite(x: float, y: float) -> str:
    """Picture of the third stage: crops, backbone, classes."""
    middle = x + CARD_W / 2
    parts = [rect(middle - 52 + 36 * k, y + 14, 30, 30, "#fff4e6", 'rx="3" stroke="#8c959f"') for k in range(3)]
    shapes = ('<circle cx="{0}" cy="{1}" r="8"', '<rect x="{2}" y="{3}" width="15" height="15"', '<path d="M{2} {4} h16 l-8 -15 z"')
    for k, shape in enumerate(shapes):
        centre = middle - 37 + 36 * k
        parts.append(shape.format(centre, y + 29, centre - 8, y + 21, y + 36) + f' fill="{NEW}"/>')
    parts += [arrow(f"M{middle} {y + 50} v18"), net(middle - 14, y + 104, GROWN, scale=1.0), arrow(f"M{middle + 44} {y + 104} h14")]
    dots = ((88, SHADES[3]), (104, "#cfe2ff"), (120, "#cfe2ff"))
    parts += [f'<circle cx="{middle + 70}" cy="{y + at}" r="5.5" fill="{fill}" stroke="#8c959f"/>' for at, fill in dots]
    return "".join(parts) + mono(middle, y + 152, "crops → classes")


def parallel(x: float, y: float) -> str:
    """Picture of the fourth stage: copies beside stages, each connected to the input of the next."""
    middle = x + CARD_W / 2
    return net(middle, y + 38, FINAL, stage_gap=19, row=40) + mono(middle, y + 152, "…_0-0-2-1")


def full_train(x: float, y: float) -> str:
    """Picture of the last stage: the final net, and the start net beside it."""
    middle = x + CARD_W / 2
    final = net(middle, y + 24, FINAL, scale=0.8, stage_gap=15, row=28)
    return final + net(middle, y + 122, START, scale=0.8) + mono(middle, y + 155, "one recipe for both")


def card(number: int) -> str:
    """One stage: title, picture, what it does, what it gives."""
    title, accent, does, gives = CARDS[number]
    x = LEFT + number * (CARD_W + GAP)
    frame = rect(x, TOP, CARD_W, CARD_H, "#ffffff", f'rx="10" stroke="{LINE}"')
    head = f'<path d="M{x} {TOP + 30} v-20 a10 10 0 0 1 10 -10 h{CARD_W - 20} a10 10 0 0 1 10 10 v20 z" fill="{accent}"/>'
    words = [text(x + 12, TOP + 20, title, 14, "#ffffff", 'class="mono" font-weight="700" xml:space="preserve"')]
    words += [text(x + 12, TOP + 228 + 16 * row, line) for row, line in enumerate(does)]
    words += [text(x + 12, TOP + 268, "gives", 11, SOFT), text(x + 12, TOP + 285, gives, 12, accent, 'font-weight="600"')]
    picture = (fine_tune, serial, reignite, parallel, full_train)[number](x, TOP + 38)
    onward = arrow(f"M{x + CARD_W + 2} {TOP + 110} h{GAP - 7}", OUTSIDE) if number + 1 < len(CARDS) else ""
    return frame + head + "".join(words) + picture + onward


def band(first: int, last: int, y: float, name: str, words: str) -> str:
    """Bar below the cards `first` to `last`."""
    x, end = LEFT + first * (CARD_W + GAP), LEFT + last * (CARD_W + GAP) + CARD_W
    frame = rect(x, y, end - x, 28, "#f6f8fa", f'rx="8" stroke="{LINE}"')
    return frame + text(x + 12, y + 18.5, name, 12.5, INK, 'font-weight="700"') + text(x + 66, y + 18.5, words, 12.5, SOFT)


def picture() -> str:
    """Return the whole SVG."""
    middles = [LEFT + number * (CARD_W + GAP) + CARD_W / 2 for number in range(len(CARDS))]
    back = arrow(f"M{middles[2]} {TOP} v-14 H{middles[1]} v9", OUTSIDE, 'stroke-linejoin="round"')
    label = text((middles[1] + middles[2]) / 2, 15, "no gain for n_stuck rounds: reignite, go on", 12, OUTSIDE, 'text-anchor="middle"')
    trials = "every trial: architecture, parent, cost, and AP or why it failed; the next round is a function of it"
    artifacts = "one artifact per job and per stage, under KIND/DIGEST, checked on every read; what is there is not computed again"
    bands = band(0, 3, 350, "ledger", trials) + band(0, 4, 386, "store", artifacts)
    style = 'text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",Arial,sans-serif}'
    style += '.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}'
    box = 'viewBox="0 0 8 8" refX="6" refY="4" markerWidth="5" markerHeight="5" orient="auto"'
    heads = [f'<marker id="head{c[1:]}" {box}><path d="M0 0 L8 4 L0 8 z" fill="{c}"/></marker>' for c in (LINE, OUTSIDE, LINK)]
    about = "The five stages of SP-NAS: fine_tune, serial, reignite, parallel, full_train"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{about}">'
        f"<title>{about}</title><defs>{''.join(heads)}</defs><style>{style}</style>"
        f"{back}{label}{''.join(map(card, range(len(CARDS))))}{bands}</svg>\n"
    )


if __name__ == "__main__":
    (Path(__file__).parent / "phases.svg").write_text(picture(), encoding="utf-8")
