"""Scenes of the tiny world and their renderer: exact ground truth, thousands of pictures a second.

A picture holds one to three flat shapes on a background. Two domains share the attributes and differ in looks: in
`print` the shapes are filled, in `neon` they are glowing outlines. A scene also holds much that no caption ever names
(exact position, rotation, tint, texture angle and scale): pictures must know more than their captions, as real ones do.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "crescent")
COLOURS = {
    "red": (0.88, 0.11, 0.14),
    "orange": (0.98, 0.50, 0.06),
    "yellow": (0.98, 0.88, 0.12),
    "green": (0.13, 0.66, 0.23),
    "cyan": (0.20, 0.84, 0.88),
    "blue": (0.13, 0.33, 0.93),
    "purple": (0.55, 0.16, 0.76),
    "pink": (0.99, 0.56, 0.78),
}
SIZES = {"small": 0.145, "medium": 0.205, "large": 0.28}  # radius, as a share of the picture's width
PLACES = {"left": (0.26, 0.5), "right": (0.74, 0.5), "top": (0.5, 0.26), "bottom": (0.5, 0.74), "centre": (0.5, 0.5)}
BACKGROUNDS = {
    "dark": (0.08, 0.08, 0.09),
    "white": (0.95, 0.95, 0.94),
    "grey": (0.52, 0.52, 0.53),
    "brown": (0.43, 0.28, 0.17),
    "navy": (0.10, 0.13, 0.36),
}
TEXTURES = ("plain", "gradient", "stripes", "dots", "checks")
DOMAINS = ("print", "neon")
RELATIONS = {("left", "right"): "left of", ("right", "left"): "right of", ("top", "bottom"): "above"}
RELATIONS |= {("bottom", "top"): "below"}
MAX_OBJECTS = 3

_COLOUR_NAMES, _SIZE_NAMES, _PLACE_NAMES = tuple(COLOURS), tuple(SIZES), tuple(PLACES)
_BACKGROUND_NAMES = tuple(BACKGROUNDS)
_PAIRS = np.array([(0, 1), (1, 0), (2, 3), (3, 2)])  # two objects stand left-right or top-bottom


@dataclass(frozen=True)
class Scenes:
    """n scenes as arrays; object arrays are (n, 3), padded with -1 (attributes) or 0 (geometry) past `n_objects`.

    Attributes are indices into SHAPES, COLOURS, SIZES, PLACES, BACKGROUNDS, TEXTURES and DOMAINS. Geometry is in
    shares of the picture's width, angles in radians, y points down.
    """

    n_objects: np.ndarray  # (n,) 1..3
    shape: np.ndarray  # (n, 3)
    colour: np.ndarray  # (n, 3)
    size: np.ndarray  # (n, 3)
    place: np.ndarray  # (n, 3)
    x: np.ndarray  # (n, 3)
    y: np.ndarray  # (n, 3)
    radius: np.ndarray  # (n, 3)
    rotation: np.ndarray  # (n, 3)
    tint: np.ndarray  # (n, 3, 3) added to the colour's RGB
    background: np.ndarray  # (n,)
    background_tint: np.ndarray  # (n, 3)
    texture: np.ndarray  # (n,)
    texture_angle: np.ndarray  # (n,)
    texture_scale: np.ndarray  # (n,) periods across the picture
    texture_contrast: np.ndarray  # (n,) signed
    domain: np.ndarray  # (n,)

    def __len__(self) -> int:
        return len(self.n_objects)

    def __getitem__(self, rows: slice | np.ndarray) -> Scenes:
        """The scenes of a slice, a mask or an index array, in that order."""
        return Scenes(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})


def concatenate(parts: list[Scenes]) -> Scenes:
    """All scenes of `parts`, in order."""
    names = [f.name for f in dataclasses.fields(Scenes)]
    return Scenes(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def sample(
    n: int,
    *,
    rng: np.random.Generator,
    n_objects: tuple[int, int] = (1, 3),
    textures: tuple[str, ...] = TEXTURES,
    sizes: tuple[str, ...] = tuple(SIZES),
    tilt: float = 0.45,
    domain: str = "print",
) -> Scenes:
    """Draw n scenes, every attribute uniform and independent.

    Args:
        n: how many.
        n_objects: smallest and largest number of objects, 1 to 3.
        textures: the backgrounds' textures to draw from.
        sizes: the objects' sizes to draw from; two objects are never large, three always small.
        tilt: objects are turned by at most this, in radians; 0 stands them all upright.
        domain: "print" or "neon".

    Raises:
        ValueError: an unknown texture, size or domain, or object numbers outside 1..3.
    """
    for name, chosen, known in (("textures", textures, TEXTURES), ("sizes", sizes, tuple(SIZES))):
        if not chosen or set(chosen) - set(known):
            raise ValueError(f"{name} must be among {known}, at least one, got {chosen}")
    if domain not in DOMAINS:
        raise ValueError(f"domain must be one of {DOMAINS}, got {domain!r}")
    low, high = n_objects
    if not 1 <= low <= high <= MAX_OBJECTS:
        raise ValueError(f"n_objects must be 1 <= low <= high <= {MAX_OBJECTS}, got {n_objects}")
    count = rng.integers(low, high + 1, n)
    present = np.arange(MAX_OBJECTS) < count[:, None]  # (n, 3)
    full = (n, MAX_OBJECTS)
    place = _sample_places(count, rng=rng)
    largest = np.array([0, len(SIZES), 2, 1])[count]  # crowded scenes use smaller objects, so that none hides another
    allowed = np.array([tuple(SIZES).index(name) for name in sizes])
    size = np.where(present, np.minimum(allowed[rng.integers(0, len(sizes), full)], largest[:, None] - 1), -1)
    radius = np.array([*SIZES.values()])[size] * rng.uniform(0.93, 1.07, full)
    centre = np.array([*PLACES.values()])[place] + rng.uniform(-0.035, 0.035, (*full, 2))
    centre = np.clip(centre, radius[..., None] + 0.015, 1 - radius[..., None] - 0.015)
    tone = rng.uniform(-0.05, 0.05, (*full, 1)) + rng.uniform(-0.03, 0.03, (*full, 3))
    scenes = Scenes(
        n_objects=count,
        shape=np.where(present, rng.integers(0, len(SHAPES), full), -1),
        colour=np.where(present, rng.integers(0, len(COLOURS), full), -1),
        size=size,
        place=place,
        x=centre[..., 0] * present,
        y=centre[..., 1] * present,
        radius=radius * present,
        rotation=rng.uniform(-tilt, tilt, full) * present,
        tint=tone * present[..., None],
        background=rng.integers(0, len(BACKGROUNDS), n),
        background_tint=rng.uniform(-0.03, 0.03, (n, 1)) + rng.uniform(-0.015, 0.015, (n, 3)),
        texture=np.array([TEXTURES.index(name) for name in textures])[rng.integers(0, len(textures), n)],
        texture_angle=rng.uniform(0, 2 * np.pi, n),
        texture_scale=rng.uniform(4.0, 7.0, n),
        texture_contrast=rng.uniform(0.11, 0.17, n) * rng.choice([-1.0, 1.0], n),
        domain=np.full(n, DOMAINS.index(domain)),
    )
    return scenes


def _sample_places(count: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """(n, 3) places: any for one object, opposite sides for two, three of the four sides for three."""
    n = len(count)
    place = np.full((n, MAX_OBJECTS), -1)
    place[:, 0] = rng.integers(0, len(PLACES), n)
    pairs = _PAIRS[rng.integers(0, len(_PAIRS), n)]
    sides = rng.permuted(np.tile(np.arange(4), (n, 1)), axis=1)
    place[count == 2, :2] = pairs[count == 2]
    place[count == 3] = sides[count == 3, :3]
    return place


def render(scenes: Scenes, *, rng: torch.Generator, size: int = 64, noise_std: float = 0.008) -> Tensor:
    """Draw scenes, anti-aliased, with slight sensor noise.

    Args:
        scenes: n scenes.
        rng: a CPU generator for the noise.
        size: height and width in pixels.
        noise_std: standard deviation of the noise, on the scale [0, 1].

    Returns:
        (n, 3, size, size) RGB in [0, 1].
    """
    ticks = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    canvas = _draw_backgrounds(scenes, x, y)
    for slot in range(MAX_OBJECTS):
        for kind in range(len(SHAPES)):
            rows = np.flatnonzero(scenes.shape[:, slot] == kind)
            if len(rows):
                _draw_objects(canvas, scenes, rows, slot, x, y)
    if noise_std:
        canvas += noise_std * torch.randn(canvas.shape, generator=rng)
    return canvas.clamp_(0, 1)


def _column(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32)[:, None, None]


def _draw_backgrounds(scenes: Scenes, x: Tensor, y: Tensor) -> Tensor:
    """(n, 3, size, size): base colour plus the texture's pattern in [-1, 1] times its contrast."""
    pattern = torch.zeros(len(scenes), *x.shape)
    for index, name in enumerate(TEXTURES):
        rows = np.flatnonzero(scenes.texture == index)
        if name == "plain" or not len(rows):
            continue
        angle, period = _column(scenes.texture_angle[rows]), _column(scenes.texture_scale[rows])
        u = (x - 0.5) * torch.cos(angle) + (y - 0.5) * torch.sin(angle)
        v = (y - 0.5) * torch.cos(angle) - (x - 0.5) * torch.sin(angle)
        waves = torch.cos(2 * torch.pi * period * u), torch.cos(2 * torch.pi * period * v)
        pattern[rows] = {
            "gradient": lambda u=u: 2.2 * u,
            "stripes": lambda w=waves: (3 * w[0]).clamp(-1, 1),
            "dots": lambda w=waves: (6 * (w[0] + w[1] - 1.0)).clamp(-1, 1),
            "checks": lambda w=waves: (5 * w[0] * w[1]).clamp(-1, 1),
        }[name]()
    base = np.array([*BACKGROUNDS.values()])[scenes.background] + scenes.background_tint
    shade = pattern * _column(scenes.texture_contrast)
    return torch.as_tensor(base, dtype=torch.float32)[:, :, None, None] + shade[:, None]


def _draw_objects(canvas: Tensor, scenes: Scenes, rows: np.ndarray, slot: int, x: Tensor, y: Tensor) -> None:
    """Blend object `slot` of the scenes `rows` (all of one shape) into `canvas`, in place."""
    radius, angle = _column(scenes.radius[rows, slot]), _column(scenes.rotation[rows, slot])
    dx = (x - _column(scenes.x[rows, slot])) / radius
    dy = (y - _column(scenes.y[rows, slot])) / radius
    u = dx * torch.cos(angle) + dy * torch.sin(angle)
    v = dy * torch.cos(angle) - dx * torch.sin(angle)
    distance = signed_distance(SHAPES[scenes.shape[rows[0], slot]], u, v)
    neon = _column(scenes.domain[rows] == DOMAINS.index("neon"))
    distance = torch.where(neon > 0, (distance + 0.12).abs() - 0.15, distance)
    coverage = (0.5 - distance * radius * x.shape[-1]).clamp(0, 1)
    coverage = torch.maximum(coverage, 0.45 * neon * torch.exp(-distance.clamp(min=0) * 5))
    rgb = np.array([*COLOURS.values()])[scenes.colour[rows, slot]] + scenes.tint[rows, slot]
    ink = torch.as_tensor(rgb, dtype=torch.float32)[:, :, None, None]
    canvas[rows] += coverage[:, None] * (ink - canvas[rows])


def signed_distance(shape: str, u: Tensor, v: Tensor) -> Tensor:
    """Distance from (u, v) to the outline of a shape of radius 1 (v points down); negative inside."""
    norm = torch.sqrt(u * u + v * v)
    if shape == "circle":
        return norm - 0.92
    if shape == "ring":
        return (norm - 0.70).abs() - 0.25
    if shape == "square":
        return torch.maximum(u.abs(), v.abs()) - 0.78
    if shape == "cross":
        wide = torch.maximum(u.abs() - 0.96, v.abs() - 0.30)
        return torch.minimum(wide, torch.maximum(u.abs() - 0.30, v.abs() - 0.96))
    if shape == "triangle":
        return torch.maximum(0.866 * u.abs() - 0.5 * (v + 1), v - 0.5)
    if shape == "crescent":
        return torch.maximum(norm - 0.95, 0.82 - torch.sqrt((u - 0.50) ** 2 + v * v))
    if shape == "heart":
        s, t = (u + v + 0.20) * 0.7071, (v + 0.20 - u) * 0.7071  # a tilted square and two discs on its upper sides
        tilted = torch.maximum((s - 0.12).abs(), (t - 0.12).abs()) - 0.56
        left = torch.sqrt((s + 0.44) ** 2 + (t - 0.12) ** 2) - 0.56
        right = torch.sqrt((s - 0.12) ** 2 + (t + 0.44) ** 2) - 0.56
        return torch.minimum(tilted, torch.minimum(left, right))
    if shape == "star":
        sector = 2 * torch.pi / 5
        turn = torch.remainder(torch.atan2(u, -v) + sector / 2, sector) - sector / 2
        along, across = norm * torch.cos(turn), norm * torch.sin(turn).abs()
        tip, inner = (1.02, 0.0), (0.42 * 0.8090, 0.42 * 0.5878)
        ex, ey = inner[0] - tip[0], inner[1] - tip[1]
        return (ey * (along - tip[0]) - ex * (across - tip[1])) / (ex * ex + ey * ey) ** 0.5
    raise ValueError(f"shape must be one of {SHAPES}, got {shape!r}")
