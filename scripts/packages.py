"""Pinned Python packages in a folder that all clones of one user share, beside the other fetched parts (see fetch.py).

A folder and not a virtual environment, which Debian's python3 cannot make without a further package.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from fetch import cache_dir, log


def installed(requirements, name):
    """The folder of the packages, whole or not there; its name changes with the pins and with Python."""
    version = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = cache_dir() / f"{name}-py{sys.version_info.major}{sys.version_info.minor}-{version}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    log(f"installing {requirements.name} into {folder}")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as partial:
        tree = Path(partial) / "tree"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "--target", str(tree), "-r", str(requirements)]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
            sys.exit(f"error: pip could not install {requirements.name}; see its message above")
        if not folder.exists():  # another run may have been faster
            tree.rename(folder)
    return folder
