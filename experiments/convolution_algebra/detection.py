"""Part of `convolution_algebra`: cross-correlation as a detector, and when its maximum misleads."""

import jax.numpy as jnp
import numpy as np

import jaxdl
from experiments.convolution_algebra import pictures

TEMPLATES = 200  # places from which the detector's templates are cut


def detector(settings, out, random, x):
    """Templates cut from the image and sought in it, by three kinds of correlation."""
    size, last = settings.template, len(x) - settings.template
    places = random.integers(0, last + 1, (TEMPLATES, 2))
    templates = cut_out(x, places, size)
    noise = random.normal(size=x.shape)
    found = {}
    clean = responses(x, templates)
    kinds = tuple(clean)
    for level in sorted({0.0, *settings.noise}):
        maps = clean if level == 0 else responses(x + level * noise, templates)
        for kind, response in maps.items():
            found[kind, level] = peaks_of(response)
    hits = {key: near(peaks, places) for key, peaks in found.items()}
    share = {key: float(hit.mean()) for key, hit in hits.items()}
    control = {
        kind: float(near(peaks_of(response), places).mean())
        for kind, response in responses(noise, cut_out(noise, places, size)).items()
    }
    out.heading("Cross-correlation as a detector")
    out.text(
        f"{TEMPLATES} templates of {size} × {size}, cut from random places of the photograph, are "
        "the kernels of one convolution layer; the place of the largest output is the answer, "
        "right if within one pixel. 'Centred' subtracts the mean of the template. 'Normalised' "
        "also divides by the deviation of what lies under the window: a correlation coefficient. "
        "In the last line the templates come from an image of white noise."
    )
    levels = sorted({level for _, level in share})
    rows = [[f"photograph, noise {n:g}", *(f"{share[kind, n]:.1%}" for kind in kinds)]
            for n in levels]  # fmt: skip
    rows.append(["white noise", *(f"{control[kind]:.1%}" for kind in kinds)])
    out.table("Templates found again", ["sought in", *kinds], rows)
    out.result("found_again", {f"{kind}, noise {n:g}": v for (kind, n), v in share.items()})
    out.result("found_again_in_white_noise", control)
    for kind in kinds:
        claim = f"The maximum of the {kind} cross-correlation marks the place in a photograph"
        value = share[kind, 0.0]
        out.claim("D10", claim, "100%", f"{value:.1%}", value == 1)
    claim = "The maximum of the plain cross-correlation marks the place in white noise"
    out.claim("D10", claim, "100%", f"{control['plain']:.1%}", control["plain"] == 1)
    explain_failures(out, x, templates, found["plain", 0.0], hits["plain", 0.0])
    explain_noise(out, templates, hits, levels)
    show_failure(out, x, templates, places, clean, found, hits)


def cut_out(x, places, size):
    """(size, size, places): the squares whose upper left corners are `places`."""
    return np.stack([x[r : r + size, c : c + size] for r, c in places], axis=-1)


def peaks_of(response):
    """(templates, 2): row and column of each template's largest response."""
    rows, columns, n = response.shape
    flat = response.reshape(rows * columns, n).argmax(axis=0)
    return np.stack(np.unravel_index(flat, (rows, columns)), axis=-1)


def near(peaks, places):
    return np.abs(peaks - places).max(axis=-1) <= 1


def responses(x, templates):
    """Name of the detector -> (rows, columns, templates): each template at each place."""
    size = templates.shape[:2]
    layer = jaxdl.conv(templates.shape[-1], size, use_bias=False)
    x, t = jnp.asarray(x), jnp.asarray(templates)

    def answer(image, kernels):
        return layer.apply({"w": kernels[:, :, None]}, image[None, ..., None])[0]

    centred = t - t.mean(axis=(0, 1))
    box, n = jnp.ones((*size, 1)), t[..., 0].size
    variance = jaxdl.conv(1, size, use_bias=False).apply  # window sums, by kernels of ones
    sums, squares = (variance({"w": box[:, :, None]}, v[None, ..., None])[0] for v in (x, x * x))
    deviation = jnp.sqrt(jnp.maximum(squares - sums**2 / n, 1e-9))
    plain, zero_mean = answer(x, t), answer(x, centred)
    length = jnp.linalg.norm(centred, axis=(0, 1))
    normalised = zero_mean / (deviation * length)
    maps = {"plain": plain, "centred": zero_mean, "normalised": normalised}
    return {name: np.asarray(response) for name, response in maps.items()}


def explain_failures(out, x, templates, peaks, hit):
    """Where another place answers louder than the right one its norm is larger: Cauchy-Schwarz."""
    if hit.all():
        return
    winners = cut_out(x, peaks, len(templates))
    louder = np.linalg.norm(winners, axis=(0, 1)) > np.linalg.norm(templates, axis=(0, 1))
    misses, explained = int((~hit).sum()), int((~hit & louder).sum())
    out.text(
        f"The plain maximum misses {misses} of {len(hit)} places although nothing hides them. "
        "⟨patch, template⟩ ≤ ‖patch‖·‖template‖, so that only a patch of larger norm can answer "
        f"louder than the template itself: so it is in {explained} of the {misses} cases. A filter "
        "finds its pattern among windows of about equal norm, as in white noise. Dividing by the "
        "norm makes the largest possible answer 1, and only the pattern itself, at any contrast, "
        "gives it."
    )
    out.result("plain_misses", {"all": misses, "on_a_patch_of_larger_norm": explained})
    claim = "A plain maximum at a wrong place lies on a patch of larger norm: of all misses"
    out.claim("D10", claim, misses, explained, explained == misses)


def explain_noise(out, templates, hits, levels):
    """Normalising blows up what has no contrast: the misses under noise are the flat templates."""
    level = next((n for n in levels if n > 0 and not hits["normalised", n].all()), None)
    if level is None or not hits["normalised", level].any():
        return
    contrast, hit = templates.std(axis=(0, 1)), hits["normalised", level]
    missed, kept = float(np.median(contrast[~hit])), float(np.median(contrast[hit]))
    out.text(
        f"With noise {level:g} the normalised maximum misses {np.mean(~hit):.0%}. These templates "
        f"are flat: the median of their deviation is {missed:.2f}, against {kept:.2f} of those "
        "that are found."
    )
    out.result("contrast", {"noise": level, "missed": missed, "found": kept})


def show_failure(out, x, templates, places, clean, found, hits):
    """The template with contrast that the plain detector misses most."""
    missed = ~hits["plain", 0.0] & hits["normalised", 0.0]
    contrast = templates.std(axis=(0, 1))
    far = np.abs(found["plain", 0.0] - places).max(axis=-1)
    chosen = int(np.argmax(np.where(missed & (contrast >= np.median(contrast)), far, -1)))
    maps = {kind: response[..., chosen] for kind, response in clean.items()}
    peaks = {kind: found[kind, 0.0][chosen] for kind in maps}
    pictures.draw_detector(out, x, places[chosen], len(templates), maps, peaks)
