"""Running an experiment, or parts of one, in a test, and reading what it left."""

import json

from experiments.framework.run import Run


def run(module, settings, folder):
    """results.json of a whole run."""
    return record(folder, lambda out: module.run(settings, out), settings, module)


def record(folder, part, settings=None, module=None):
    """results.json of what `part` says to the run that it is given."""
    name = module.__name__.removeprefix("experiments.") if module else "part"
    with Run(name, settings, folder, doc=module.__doc__ if module else "") as out:
        part(out)
    return results(folder)


def results(folder, name="results.json"):
    """What a run wrote, which must be JSON."""

    def refuse(constant):  # json accepts NaN and Infinity, which are not JSON
        raise AssertionError(f"{name} holds {constant}")

    return json.loads((folder / name).read_text(encoding="utf-8"), parse_constant=refuse)


def log(folder):
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def drawn(folder, *figures, least=5000):
    """Whether all these pictures are there and show something."""
    return all((folder / f"{figure}.png").stat().st_size > least for figure in figures)


def held(found, words):
    """Whether the claims that begin with these words hold."""
    return [c["holds"] for c in found["claims"] if c["claim"].startswith(words)]
