"""`python -m experiments`: list, explain and run the experiments."""

import sys
from importlib.util import find_spec


def _main() -> int:
    missing = [name for name in ("tyro", "rich", "matplotlib") if find_spec(name) is None]
    if missing:
        print(
            f"experiments: needs the packages tyro, rich and matplotlib, "
            f"{', '.join(missing)} not installed; "
            "install them from the repository: pip install -e '.[experiments]'",
            file=sys.stderr,
        )
        return 2
    from experiments.framework.cli import main  # only now: it imports the packages checked above

    return main()


if __name__ == "__main__":
    sys.exit(_main())
