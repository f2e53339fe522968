"""Generated traffic signs: what `traffic_sign` trains on. None is a photograph.

A sign is drawn in its own coordinates, (−1 … 1)², and placed by position, radius and rotation. Two
pairs differ in one feature alone: stop and no entry in the shape, the two speed limits in one
digit. Pixels are means over 2×2 samples.
"""

import numpy as np

SIGNS = ("stop", "no entry", "limit 30", "limit 50", "give way", "danger", "priority", "parking")
NAMES = (*SIGNS, "no sign")
NOTHING = len(SIGNS)  # the class of windows without a sign in the middle
SIDE = 32  # of an image, pixels
RADII = (8.0, 13.5)  # of a sign, pixels
OFF_CENTRE = 4.0  # pixels at most between a sign's middle and its image's, along each axis

RED, BLUE, YELLOW = (0.75, 0.08, 0.1), (0.05, 0.25, 0.7), (0.95, 0.75, 0.05)
WHITE, BLACK = (0.95, 0.95, 0.95), (0.05, 0.05, 0.05)
GLYPHS = {
    "3": ("####.", "....#", "....#", ".###.", "....#", "....#", "####."),
    "5": ("#####", "#....", "####.", "....#", "....#", "#...#", ".###."),
    "0": (".###.", "#...#", "#...#", "#...#", "#...#", "#...#", ".###."),
    "P": ("####.", "#...#", "#...#", "####.", "#....", "#....", "#...."),
    "!": ("..#..", "..#..", "..#..", "..#..", "..#..", ".....", "..#.."),
}


def _polygon(u, v, corners, turn):
    """Radial measure of a regular polygon: below 1 inside, its corners at distance 1."""
    angles = 2 * np.pi * (np.arange(corners) + 0.5) / corners + turn
    inner = np.cos(np.pi / corners)
    return np.max([u * np.sin(a) + v * np.cos(a) for a in angles], axis=0) / inner


def _glyph(u, v, text, height, top):
    """Where a text of 5×7 letters covers the plane; v goes down."""
    letters = np.concatenate(
        [np.pad(np.array([[c == "#" for c in line] for line in GLYPHS[t]]), ((0, 0), (0, 1)))
         for t in text], axis=1)[:, :-1]  # fmt: skip
    unit = height / 7
    row = np.floor((v - top) / unit).astype(int)
    column = np.floor(u / unit + letters.shape[1] / 2).astype(int)
    inside = (row >= 0) & (row < 7) & (column >= 0) & (column < letters.shape[1])
    return inside & letters[np.clip(row, 0, 6), np.clip(column, 0, letters.shape[1] - 1)]


def _layers(sign, u, v):
    """(where, colour) of each layer of paint, the lowest first."""
    name = SIGNS[sign]
    circle = np.hypot(u, v)
    bar = (abs(v) < 0.17) & (abs(u) < 0.62)
    if name == "stop":
        shape = _polygon(u, v, 8, np.pi / 8)
        return [(shape < 1, WHITE), (shape < 0.9, RED), (bar, WHITE)]
    if name == "no entry":
        return [(circle < 1, WHITE), (circle < 0.92, RED), (bar, WHITE)]
    if name.startswith("limit"):
        digits = _glyph(u, v, name[-2:], 0.8, -0.4)
        return [(circle < 1, RED), (circle < 0.76, WHITE), (digits, BLACK)]
    if name == "give way":
        shape = _polygon(u, v, 3, np.pi / 3 + np.pi)
        return [(shape < 1, RED), (shape < 0.62, WHITE)]
    if name == "danger":
        shape = _polygon(u, v, 3, np.pi / 3)
        mark = _glyph(u, v, "!", 0.75, -0.35)
        return [(shape < 1, RED), (shape < 0.7, WHITE), (mark, BLACK)]
    if name == "priority":
        shape = abs(u) + abs(v)
        return [(shape < 1, WHITE), (shape < 0.8, YELLOW)]
    square = np.maximum(abs(u), abs(v))
    return [(square < 0.85, WHITE), (square < 0.78, BLUE), (_glyph(u, v, "P", 1.1, -0.55), WHITE)]


def background(rng, height, width):
    """Clutter: a gradient of colour, and rectangles, discs and lines of any colour."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    low, high = rng.uniform(0.1, 0.9, (2, 3))
    slope = (y / height * rng.uniform() + x / width * rng.uniform())[..., None] / 2
    image = low + (high - low) * slope
    for _ in range(rng.integers(3, 9) * max(1, height * width // 2000)):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        a, b = rng.uniform(1.5, 14, 2)
        angle = rng.uniform(0, np.pi)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        kind = rng.integers(3)
        if kind == 0:
            where = (abs(u) < a) & (abs(v) < b)
        elif kind == 1:
            where = np.hypot(u / a, v / b) < 1
        else:
            where = (abs(v) < a / 8) & (abs(u) < 25)
        image[where] = rng.uniform(0, 1, 3)
    return image


def paint(rng, image, sign, y, x, radius):
    """The image with a sign on it, slightly turned, in light of its own."""
    turn, squeeze = rng.normal(0, 0.1), rng.uniform(0.85, 1.0)
    light = rng.uniform(0.45, 1.1) * rng.uniform(0.92, 1.08, 3)
    reach = int(np.ceil(radius)) + 1
    top, left = (max(int(c) - reach, 0) for c in (y, x))
    part = image[top : int(y) + reach + 1, left : int(x) + reach + 1]
    offsets = (np.arange(2) + 0.5) / 2
    rows = (top + np.arange(part.shape[0])[:, None] + offsets).ravel()
    columns = (left + np.arange(part.shape[1])[:, None] + offsets).ravel()
    dy, dx = (rows[:, None] - y) / radius, (columns[None] - x) / radius
    u = (dx * np.cos(turn) + dy * np.sin(turn)) / squeeze
    v = dy * np.cos(turn) - dx * np.sin(turn)
    fine = part.repeat(2, axis=0).repeat(2, axis=1)
    for where, colour in _layers(sign, u, v):
        fine[where] = np.array(colour) * light
    part[:] = fine.reshape(part.shape[0], 2, part.shape[1], 2, 3).mean(axis=(1, 3))


def photograph(rng, image):
    """Blur, noise and the light of the scene; float32 in [0, 1]."""
    blur = rng.uniform(0, 0.3)  # weight of the neighbours, along each axis
    for axis in (0, 1):
        ends = [(1, 1) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(image, ends, mode="edge")
        low, high = (np.roll(padded, s, axis)[1:-1] if axis == 0 else
                     np.roll(padded, s, axis)[:, 1:-1] for s in (1, -1))  # fmt: skip
        image = (1 - blur) * image + blur / 2 * (low + high)
    image = image * rng.uniform(0.6, 1.1) + rng.normal(0, rng.uniform(0.01, 0.06), image.shape)
    return np.clip(image, 0, 1).astype(np.float32)


def draw_window(rng, sign):
    """One image of SIDE×SIDE×3: a sign near its middle, or none there."""
    image = background(rng, SIDE, SIDE)
    radius = rng.uniform(*RADII)
    if sign != NOTHING:
        y, x = SIDE / 2 + rng.uniform(-OFF_CENTRE, OFF_CENTRE, 2)
        paint(rng, image, sign, y, x, radius)
    elif rng.uniform() < 0.6:  # a sign, but too far off to be this window's
        angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(6, 20)
        y, x = SIDE / 2 + away * np.sin(angle), SIDE / 2 + away * np.cos(angle)
        y, x = np.clip([y, x], 0, SIDE - 1)
        if max(abs(y - SIDE / 2), abs(x - SIDE / 2)) > 1.5 * OFF_CENTRE:
            paint(rng, image, rng.integers(len(SIGNS)), y, x, radius)
    return photograph(rng, image)


def draw_windows(seed, number):
    """(images (N, SIDE, SIDE, 3), labels): classes in turn, a third of the images without sign."""
    rng = np.random.default_rng(seed)
    labels = np.where(np.arange(number) % 3 == 2, NOTHING, rng.integers(0, len(SIGNS), number))
    return np.stack([draw_window(rng, label) for label in labels]), labels.astype(np.int32)


def draw_scene(rng, height, width, signs):
    """(image, boxes (M, 4), labels): up to `signs` signs that do not overlap."""
    image = background(rng, height, width)
    boxes, labels = [], []
    for _ in range(20 * signs):
        if len(labels) == signs:
            break
        radius = rng.uniform(*RADII)
        y, x = (rng.uniform(SIDE / 2, n - SIDE / 2) for n in (height, width))
        if any(np.hypot(y - (b[0] + b[2]) / 2, x - (b[1] + b[3]) / 2) < SIDE for b in boxes):
            continue
        label = int(rng.integers(len(SIGNS)))
        paint(rng, image, label, y, x, radius)
        boxes.append([y - radius, x - radius, y + radius, x + radius])
        labels.append(label)
    return photograph(rng, image), np.array(boxes, np.float32), np.array(labels)
