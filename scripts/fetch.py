#!/usr/bin/env python3
"""Fetch the native parts pinned in native.json into a cache that all clones of one user share.

    fetch.py PART                  make sure of the part, print where it lies
    fetch.py --check [PART ...]    verify what the cache holds

Only the path goes to stdout. The cache is $BIGNAS_NATIVE_DIR, else $XDG_CACHE_HOME/bignas/native,
else ~/.cache/bignas/native. Each part has a variable, such as ORT_DYLIB_PATH or LIBTORCH, that names a
copy which is already there: it is printed as it stands, and nothing is fetched.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

PINS = Path(__file__).resolve().parent.parent / "native.json"


class FetchError(Exception):
    """What went wrong and what to do about it, in one line."""


def log(message):
    print(f"fetch: {message}", file=sys.stderr, flush=True)


def cache_dir():
    """The per-user cache; the serving binary looks in the same place."""
    if os.environ.get("BIGNAS_NATIVE_DIR"):
        return Path(os.environ["BIGNAS_NATIVE_DIR"]).absolute()
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification wants relative paths ignored.
    base = Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache"
    return base / "bignas" / "native"


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def extracted(part):
    """What the finished directory must hold: one entry a file or folder, as in native.json."""
    return [entry for package in part["packages"] for entry in package["extract"]]


def is_whole(root, part):
    """Whether every pinned path is there. Directories appear whole or not at all, so none is hashed."""
    names = [entry["to"] for entry in extracted(part)]
    names += [link["link"] for link in part.get("links", [])]
    return all((root / name).exists() for name in names)


def mismatches(root, part):
    """One line for each pinned path under `root` that is missing or differs."""
    for entry in extracted(part):
        path = root / entry["to"]
        if not path.exists():
            yield f"{path} is missing"
        elif "sha256" in entry and (actual := sha256(path)) != entry["sha256"]:
            yield f"{path}: expected sha256 {entry['sha256']}, got {actual}"
    for link in part.get("links", []):
        if not (root / link["link"]).exists():
            yield f"{root / link['link']} is missing"


def run(command, remedy, folder):
    """Run a downloader in `folder`; its own output goes to stderr, since stdout is for the path alone."""
    try:
        status = subprocess.run(command, cwd=folder, stdout=sys.stderr, check=False).returncode
    except FileNotFoundError:
        raise FetchError(f"{command[0]} is not installed; {remedy}") from None
    if status != 0:
        raise FetchError(f"'{' '.join(command[:4])} ...' exited with status {status}; {remedy}")


def pip_download(package, folder, remedy):
    """Take the wheel by its own tags, so that any host Python fetches the pinned file."""
    if importlib.util.find_spec("pip") is None:
        raise FetchError(f"{sys.executable} has no pip; install it (Debian: python3-pip) and try again")
    python, abi, platforms = package["file"][: -len(".whl")].split("-")[-3:]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--dest", "."]
    command += ["--implementation", python[:2], "--abi", abi]
    command += ["--python-version", python[2:] if python.startswith("cp") else "3.11"]
    for tag in platforms.split("."):
        command += ["--platform", tag]
    if not sys.stderr.isatty():
        command.append("--quiet")
    run(command + [f"{package['wheel']}=={package['version']}"], remedy, folder)


def apt_download(package, folder, remedy):
    """Take the package with the machine's own lists or, where it has none, with fresh private ones."""
    name = f"{package['deb']}={package['version']}"
    get = ["apt-get", "--quiet=2", "-o", "APT::Sandbox::User=root"]
    lists = folder / "lists"
    private = get + ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={folder / 'apt'}"]
    try:
        run(get + ["download", name], remedy, folder)
    except FetchError:
        log(f"reading the package lists to find {name}")
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        run(private + ["update"], remedy, folder)
        run(private + ["download", name], remedy, folder)


def npm_download(package, folder, remedy):
    """Pack the package as its registry holds it; none of its scripts is run, and none of its dependencies fetched."""
    remedy = f"{remedy} (npm is in Debian's package npm)"
    command = ["npm", "pack", "--silent", "--ignore-scripts", "--cache", str(folder / "npm")]
    run(command + [f"{package['npm']}@{package['version']}"], remedy, folder)


# How a package is fetched, by the kind that its entry names.
DOWNLOADERS = {"wheel": pip_download, "deb": apt_download, "npm": npm_download}


def download(package, part, folder):
    """The pinned archive in `folder`, its size and checksum verified."""
    archive = folder / package["file"]
    if archive.exists() and sha256(archive) == package["sha256"]:
        return archive  # left by an interrupted fetch
    archive.unlink(missing_ok=True)  # pip would keep a damaged one
    log(f"downloading {package['file']} ({package['bytes'] / 1e6:.0f} MB)")
    remedy = f"see its message above, and try again or set {part['env']} to a copy of your own"
    next(fetch for kind, fetch in DOWNLOADERS.items() if kind in package)(package, folder, remedy)
    if not archive.exists():
        raise FetchError(f"the download did not give {package['file']}; {remedy}")
    size, digest = archive.stat().st_size, sha256(archive)
    if (size, digest) != (package["bytes"], package["sha256"]):
        archive.unlink()
        raise FetchError(
            f"{package['file']} refused: expected sha256 {package['sha256']} ({package['bytes']} bytes), "
            f"got {digest} ({size} bytes); check the package index in use and try again"
        )
    return archive


def write(source, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def target(member, extract):
    """Where an archive member goes, or None if it is not wanted. A trailing slash takes a folder."""
    for entry in extract:
        if member == entry["member"]:
            return entry["to"]
        if entry["member"].endswith("/") and member.startswith(entry["member"]):
            return entry["to"] + member[len(entry["member"]) :]
    return None


def unpack(archive, package, tree):
    """Put what native.json names into `tree`, and nothing else."""
    if "wheel" in package:
        with zipfile.ZipFile(archive) as wheel:
            for member in wheel.infolist():
                to = target(member.filename, package["extract"])
                if to is not None and not member.is_dir():
                    with wheel.open(member) as source:
                        write(source, tree / to)
        return
    if "npm" in package:
        with open(archive, "rb") as packed:
            unpack_tar(packed, "r|gz", package, tree)
        return
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as deb:
        unpack_tar(deb.stdout, "r|", package, tree)


def unpack_tar(stream, mode, package, tree):
    """The same for a tar archive, read once from front to back."""
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for member in tar:
            to = target(member.name.removeprefix("./"), package["extract"])
            if to is not None and member.isfile():
                write(tar.extractfile(member), tree / to)


def build(name, part, root):
    """Download and unpack beside `root`, then move into place in one step."""
    here = f"{platform.system().lower()} {platform.machine()}"
    if part["platform"] not in ("any", here):
        raise FetchError(
            f"{name} is pinned for {part['platform']}, this is {here}; set {part['env']} to a copy of your own"
        )
    partial = root.with_name(root.name + ".partial")
    tree = partial / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for package in part["packages"]:
        unpack(download(package, part, partial), package, tree)
    for link in part.get("links", []):
        (tree / link["link"]).symlink_to(link["target"])
    if not is_whole(tree, part):
        raise FetchError(f"{name}: {next(mismatches(tree, part))}; correct its entry in native.json")
    # Thousands of headers: one sync of everything is cheaper than one for each file.
    os.sync()
    if root.exists():
        shutil.rmtree(root)
    tree.rename(root)
    shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def locked(root):
    """Hold the part's lock: of several runs one fetches, the others wait and find it there."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with open(root.with_name(root.name + ".lock"), "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log(f"waiting for another run that is fetching {root.name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def provide(name, part):
    """The path of the part, fetched if it has to be."""
    own = os.environ.get(part["env"])
    if own:
        if not Path(own).exists():
            raise FetchError(f"{part['env']} names {own}, which does not exist; correct it or unset it")
        return Path(own).absolute()
    root = cache_dir() / f"{name}-{part['version']}"
    if not is_whole(root, part):
        system = Path(part.get("system", root))
        if system.is_dir() and not any(mismatches(system, part)):
            return system
        with locked(root):
            if not is_whole(root, part):
                build(name, part, root)
                log(f"{name} {part['version']} is in {root}")
    return root / part["path"]


def check(names, pins):
    """Verify what the cache holds of `names`; what was never fetched is no fault."""
    faults = []
    for name in names:
        root = cache_dir() / f"{name}-{pins[name]['version']}"
        found = list(mismatches(root, pins[name])) if root.exists() else []
        state = "not fetched" if not root.exists() else "damaged" if found else "ok"
        log(f"{name} {pins[name]['version']}: {state}")
        faults += [f"{fault}; remove {root} and fetch again" for fault in found]
    if faults:
        raise FetchError(faults[0])


def main():
    pins = json.loads(PINS.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="verify the cache, fetch nothing")
    parser.add_argument("part", nargs="*", help=", ".join(pins))
    args = parser.parse_args()
    unknown = [name for name in args.part if name not in pins]
    if unknown or (not args.check and len(args.part) != 1):
        parser.error(f"name one of {', '.join(pins)}")
    try:
        if args.check:
            check(args.part or pins, pins)
        else:
            print(provide(args.part[0], pins[args.part[0]]))
    except (FetchError, OSError, RuntimeError, tarfile.TarError, zipfile.BadZipFile) as error:
        log(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        log("error: interrupted; run it again to go on")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
