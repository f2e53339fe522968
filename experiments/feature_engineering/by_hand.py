"""Features made by hand: images (N, side, side) in, numbers (N, m) out."""

import numpy as np

DIRECTIONS = 8  # of gradients


def pixels(images):
    """No features at all."""
    return images.reshape(len(images), -1)


def projections(images):
    """Ink in every row and column, and the moments of the ink up to the third order."""
    side = images.shape[1]
    rows, columns = images.mean(axis=2), images.mean(axis=1)
    ink = images.sum(axis=(1, 2))[:, None, None] + 1e-6
    grid = np.linspace(-1, 1, side)
    y0 = (images * grid[:, None]).sum(axis=(1, 2), keepdims=True) / ink
    x0 = (images * grid).sum(axis=(1, 2), keepdims=True) / ink
    y, x = grid[:, None] - y0, grid - x0
    orders = [(i, j) for i in range(4) for j in range(4) if 2 <= i + j <= 3]
    central = [(images * y**i * x**j).sum(axis=(1, 2)) / ink[:, 0, 0] for i, j in orders]
    moments = [ink[:, 0, 0] / side**2, y0[:, 0, 0], x0[:, 0, 0], *central]
    return np.concatenate([rows, columns, np.stack(moments, axis=1)], axis=1)


def zones(images):
    """Ink in zones of a quarter of the side, at every half of a zone: 7×7 of them."""
    zone = images.shape[1] // 4
    step = zone // 2
    starts = range(0, images.shape[1] - zone + 1, step)
    ink = [images[:, i : i + zone, j : j + zone].mean(axis=(1, 2)) for i in starts for j in starts]
    return np.stack(ink, axis=1)


def gradients(images):
    """Histograms of gradient directions in zones (Dalal & Triggs 2005), in blocks of 2×2 zones.

    The length of each gradient is shared between the two directions nearest to its own; each block
    is brought to length 1.
    """
    zone = images.shape[1] // 4
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    dy, dx = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1], padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    turn = (np.arctan2(dy, dx) / (2 * np.pi) * DIRECTIONS) % DIRECTIONS
    lower = np.floor(turn).astype(int) % DIRECTIONS
    share = turn - np.floor(turn)
    bins = np.arange(DIRECTIONS)
    votes = (lower[..., None] == bins) * (1 - share)[..., None]
    votes = votes + ((lower[..., None] + 1) % DIRECTIONS == bins) * share[..., None]
    votes = votes * np.hypot(dy, dx)[..., None]
    cells = votes.reshape(len(images), 4, zone, 4, zone, DIRECTIONS).sum(axis=(2, 4))
    blocks = [cells[:, i : i + 2, j : j + 2].reshape(len(images), -1)
              for i in range(3) for j in range(3)]  # fmt: skip
    return np.concatenate([b / np.sqrt((b**2).sum(axis=1, keepdims=True) + 0.1) for b in blocks], 1)
