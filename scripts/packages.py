"""Pinned Python packages, installed once into a folder beside the fetched parts (see fetch.py).

A folder and not a virtual environment, which Debian's python3 cannot make without a further package.
"""

import hashlib
import subprocess
import sys
import tempfile

from fetch import cache_dir, log


def installed(requirements, name):
    """The folder of the packages in `requirements`, whole or not there; it changes with the pins and with Python."""
    version = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = cache_dir() / f"{name}-py{sys.version_info.major}{sys.version_info.minor}-{version}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    log(f"installing {requirements.name} into {folder}")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as partial:
        tree = f"{partial}/tree"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "--target", tree, "-r", str(requirements)]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
            sys.exit(f"error: pip could not install {requirements}; see its message above")
        if not folder.exists():  # another run may have been faster
            (folder.parent / partial / "tree").rename(folder)
    return folder
