"""The points that a search tries before its sampler proposes any."""

from __future__ import annotations

from typing import Any

from spaces import points
from spaces.config import Site
from spaces.schema import Space

UNQUANTIZED = "unquantized"


def first_points(space: Space) -> list[tuple[dict[str, Any], str | None]]:
    """The points to try before the sampler's, with their tags: the unquantized arm, then the space's own.

    A point of the space that is the unquantized arm, and says more about it, is that arm.
    """
    plain, points_ = unquantized_point(space), space.start
    if plain is None:
        return [(point, None) for point in points_]
    arm = next((point for point in points_ if plain.items() <= point.items()), plain)
    return [(arm, UNQUANTIZED), *((point, None) for point in points_ if point != arm)]


def unquantized_point(space: Space) -> dict[str, Any] | None:
    """The point of the space without a quantizer, post-training or not, and without an adapter, the arm that
    all others are
    compared with.

    None when a quantizer is fixed or the space cannot do without one. Dimensions left out are the sampler's.
    """
    plain: dict[str, Any] = {}
    for path, dimension in space.dimensions.items():
        names_one = path.startswith(("quantization.", "calibration.method"))
        for value in dimension.choice or () if names_one else ():
            if value == "none" or (isinstance(value, dict) and value.get("name") == "none"):
                plain[path] = value
    if not plain:
        return None
    nothing: tuple[tuple[str, Any], ...] = (("lora.rank", 0), ("calibration.activation_bits", 16),
                                            ("calibration.corrections", []))
    for path, without in nothing:
        if path in space.dimensions and space.dimensions[path].contains(without):
            plain[path] = without
    point = points.complete(space.dimensions, plain)
    config = space.config(point)
    at = config.quantization
    sites: tuple[Site, ...] = ("embedding", "projection", "attention", "ffn")
    if config.calibration.active or any(at.at(site).name != "none" for site in sites):
        return None
    return {path: value for path, value in plain.items() if path in point}
