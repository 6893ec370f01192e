"""A figure as SVG inside a page: unique ids, the page's colours and font, no outside address."""

import re

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from subnetwork.figures import style


def inline(figure: Figure, key: str, alt: str) -> Markup:
    """The figure as an `<svg>` element.

    Args:
        figure: from one of `subnetwork.figures`' functions.
        key: unique on the page; it leads every id, since matplotlib's ids repeat between figures.
        alt: what the figure shows, for those who cannot see it.
    """
    text = style.to_svg(figure)
    box = re.search(r'viewBox="([^"]*)"', text)
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{key}-', body)
    body = body.replace("url(#", f"url(#{key}-")
    for name, (paper, _) in style.COLORS.items():
        body = body.replace(paper, f"var(--{name})")
    assert box is not None  # matplotlib writes one into every SVG
    return Markup(f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(alt)}">{body.strip()}')
