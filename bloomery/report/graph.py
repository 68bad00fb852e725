"""The graph of stages: which stage read which, placed in layers.

Arrows that longer paths already imply are left out.  A long arrow holds a place in every layer it passes, so that it
runs beside the boxes and not beneath them; a layer is ordered by the mean place of what it reads, the longest path
first.
Sugiyama, Tagawa and Toda 1981, one sweep.
"""

from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import NamedTuple

from bloomery.core.errors import InputError

COLUMNS = 7                         # as many as fit a page 1120 pixels wide
RADIUS = 9                          # of the corners of arrows between rows


class Pass(NamedTuple):
    """The place an arrow holds in a layer between its ends."""

    source: str
    target: str
    level: int


Place = str | Pass


def in_order(parents: dict[str, list[str]]) -> list[str]:
    """Nodes so that each follows all it reads; otherwise as given."""
    order = TopologicalSorter(parents)
    try:
        order.prepare()
    except CycleError as error:
        raise InputError("the stages read each other in a circle", where=" -> ".join(error.args[1]),
                         hint="give the folders of one run") from None
    given, found = {node: i for i, node in enumerate(parents)}, []
    while order.is_active():
        ready = sorted(order.get_ready(), key=given.__getitem__)
        found += ready
        order.done(*ready)
    return found


def in_layers(parents: dict[str, list[str]]) -> tuple[list[list[Place]], list[list[Place]]]:
    """Layers of places, each below all it reads, and for every arrow the places it runs through, both ends included."""
    order = in_order(parents)
    above, depth, reach = {}, {}, {}
    for node in order:
        above[node] = set(parents[node]).union(*(above[p] for p in parents[node]))
        depth[node] = 1 + max((depth[p] for p in parents[node]), default=-1)
    for node in reversed(order):
        reach[node] = 1 + max((reach[child] for child in reach if node in parents[child]), default=0)

    layers: list[list[Place]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    reads: dict[Place, list[Place]] = {}
    arrows = []
    for node in order:
        layers[depth[node]].append(node)
        reads[node] = []
        for parent in dict.fromkeys(parents[node]):
            if any(parent in above[other] for other in parents[node]):
                continue
            passes = [Pass(parent, node, level) for level in range(depth[parent] + 1, depth[node])]
            for place in passes:
                layers[place.level].append(place)
            arrows.append([parent, *passes, node])
            reads.update({place: [before] for before, place in zip(arrows[-1], passes)})
            reads[node].append(arrows[-1][-2])

    slot: dict[Place, int] = {}
    for layer in layers:
        def rank(place: Place) -> tuple[float, int]:
            before = [slot[p] for p in reads[place]]
            return sum(before) / max(len(before), 1), -reach[place.target if isinstance(place, Pass) else place]
        layer.sort(key=rank)
        slot.update({place: i for i, place in enumerate(layer)})
    return layers, arrows


def graph(names: dict[str, dict], parents: dict[str, list[str]], *, across: bool) -> dict:
    """Boxes and arrows, in pixels, with layers from left to right (`across`) or from top to bottom.

    Rows of more than `COLUMNS` layers are broken like lines of text.  `names` holds what a box says; each node of
    `parents` is in it.
    """
    layers, arrows = in_layers(parents)
    wide, high, gap, channel = (136, 56, 16, 30) if across else (120, 52, 12, 26)
    rows = [layers[i:i + COLUMNS] for i in range(0, len(layers), COLUMNS)] if across else [layers]
    corner, floor, top = {}, {}, 2.0
    for row in rows:
        for i, layer in enumerate(row):
            for j, place in enumerate(layer):
                corner[place] = (2 + i * (wide + channel), top + j * (high + gap)) if across else \
                    (2 + j * (wide + gap), top + i * (high + channel))
        top = max((y for _, y in corner.values()), default=0) + high + 2 * RADIUS + gap
        floor.update({place: top - RADIUS - gap / 2 for layer in row for place in layer})

    def path(places: list[Place]) -> str:
        x, y = corner[places[0]]
        x, y = (x + wide, y + high / 2) if across else (x + wide / 2, y + high)
        line = [f"M{x:g} {y:g}"]
        for before, place in pairwise(places):
            to_x, to_y = corner[place]
            to_x, to_y = (to_x, to_y + high / 2) if across else (to_x + wide / 2, to_y)
            half, r = channel / 2, RADIUS
            if not across:
                line.append(f"C{x:g} {y + half:g} {to_x:g} {to_y - half:g} {to_x:g} {to_y:g}")
            elif floor[before] == floor[place]:
                line.append(f"C{x + half:g} {y:g} {to_x - half:g} {to_y:g} {to_x:g} {to_y:g}")
            else:                                               # down and back to the left, between the rows
                line.append(f"h{half - r:g} q{r} 0 {r} {r} V{floor[before] - r:g} q0 {r} -{r} {r} H{to_x - half + r:g} "
                            f"q-{r} 0 -{r} {r} V{to_y - r:g} q0 {r} {r} {r} H{to_x:g}")
            x, y = to_x, to_y
            if isinstance(place, Pass):                         # straight on through the layer
                x, y = (x + wide, y) if across else (x, y + high)
                line.append(f"L{x:g} {y:g}")
        return "".join(line)

    boxes = [{"x": x, "y": y, **names[place]} for place, (x, y) in corner.items() if not isinstance(place, Pass)]
    beyond = channel / 2 if len(rows) > 1 else 2
    return {"boxes": boxes, "arrows": [path(places) for places in arrows], "box_width": wide, "box_height": high,
            "width": max((x for x, _ in corner.values()), default=0) + wide + beyond,
            "height": max((y for _, y in corner.values()), default=0) + high + 2}
