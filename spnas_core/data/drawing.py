"""Boxes drawn on pictures: one palette and one pen for every command."""

from PIL import ImageDraw

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000", "#808000", "#000075")


def draw_box(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], text: str, category: int) -> None:
    """Draw a box (xyxy, px of the picture) with a text in its corner, in the colour of the category number `category`."""
    colour = COLOURS[category % len(COLOURS)]
    pen.rectangle(box, outline=colour, width=2)
    pen.text((box[0] + 3, box[1] + 1), text, fill=colour)
