#!/usr/bin/env python3
"""Build docker/Dockerfile in bare Debian roots, and run what comes of it as a container would, without Docker.

    check_image.py [--keep DIR]

Needs root, and Debian's debootstrap, which it installs. The Dockerfile is read and followed line by line: a `debian` image is a
fresh minimal Debian, a `rust` image is the same with this machine's Rust toolchain mounted. What is checked: the image's size
beyond its base, that it holds no libtorch, and that it serves as an unprivileged user with a read-only root, is healthy, answers,
and stops when told to; the same once more with an artefact store and a trace collector that are away. What Docker itself does
(its network, its health check's schedule, pulling base images) is not. docker/Dockerfile.cuda is only read: but for what a GPU
needs, it must say the same.
"""

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "docker/Dockerfile"
GPU_DOCKERFILE = ROOT / "docker/Dockerfile.cuda"
# The lines that these two do not share.
CPU_LINES = [r"RUN docker/fetch-native\.sh /image onnxruntime", r"FROM debian:\S+"]
GPU_LINES = [
    r"RUN docker/fetch-native\.sh /image onnxruntime-gpu",
    r"FROM nvidia/cuda:\S+",
    r"RUN apt-get update && apt-get install .* libnvinfer10=.*",
    r"ENV BIGNAS_DEVICE=tensorrt",
]
LARGEST_BYTES = 150_000_000
READY_S = 180
# Nobody listens there.
AWAY = "http://127.0.0.1:9"
# What a server shares children through and sends traces to.
CLIENTS = {
    "BIGNAS_ARTEFACT_STORE": "s3://children/ours",
    "AWS_ENDPOINT": AWAY,
    "AWS_ALLOW_HTTP": "true",
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "OTEL_EXPORTER_OTLP_ENDPOINT": AWAY,
}
# What the build may need to reach its package registries from here; nothing of it gets into the image.
PASSED = ("PIP_", "CARGO_", "SSL_", "http_proxy", "https_proxy", "no_proxy", "npm_config_", "NODE_EXTRA_CA_CERTS")
# This machine's certificates, and where they are seen inside: Debian's own package fills the usual place.
CERTIFICATES = ("/etc/ssl/certs", "/mnt/certificates")


def run(command, **options):
    print("+", shlex.join(map(str, command)), file=sys.stderr, flush=True)
    subprocess.run(list(map(str, command)), check=True, **options)


def instructions(dockerfile):
    """A Dockerfile's instructions, each in one line."""
    text = dockerfile.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def words(text):
    """The words of an instruction, in its JSON form or as a shell would split them."""
    return json.loads(text) if text.startswith("[") else shlex.split(text)


def ignore_patterns():
    """The patterns of .dockerignore: names and stars between slashes, `!` before what goes all the same."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    for pattern in patterns:
        if "**" in pattern or not re.fullmatch(r"!?[\w*][\w.*-]*(/[\w*][\w.*-]*)*", pattern):
            raise SystemExit(f"error: .dockerignore: {pattern} is not understood; teach {Path(__file__).name}")
    return patterns


def goes_to_builder(path):
    """Whether Docker gets to see a path of ours, and all that is in it: of the patterns for it or a folder above, the last decides."""
    parts, goes = path.relative_to(ROOT).parts, True
    for pattern in ignore_patterns():
        names = pattern.removeprefix("!").split("/")
        if len(names) <= len(parts) and all(map(fnmatch.fnmatchcase, parts, names)):
            goes = pattern.startswith("!")
    return goes


class Image:
    """A root file system, and what the Dockerfile says of how to run it."""

    def __init__(self, root, environment):
        self.root, self.environment = root, environment
        self.directory, self.user, self.mounts, self.settings = "/", None, [], {}

    def path(self, name):
        """Where a path of the image lies here; a relative one is relative to WORKDIR."""
        return self.root / os.path.normpath(os.path.join(self.directory, name)).lstrip("/")

    def copy(self, arguments, images):
        """COPY: folders give their contents, files go under their own names where the target ends in a slash."""
        source, there = ROOT, goes_to_builder
        if arguments[0].startswith("--from="):
            source, there = images[arguments.pop(0).removeprefix("--from=")].root, os.path.lexists
        *names, target = arguments
        to, found = self.path(target), []
        for name in names:
            paths = sorted(source.glob(name)) if "*" in name else [source / name.lstrip("/")]
            paths = [path for path in paths if there(path)]
            assert paths, f"nothing to copy is called {name}, or .dockerignore keeps it back"
            found += paths
        for path in found:
            if path.is_dir():
                kept_back = lambda folder, names: [name for name in names if not there(Path(folder, name))]
                shutil.copytree(path, to, symlinks=True, dirs_exist_ok=True, ignore=kept_back)
            else:
                file = to / path.name if target.endswith("/") or target == "." or len(found) > 1 else to
                file.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, file)

    def shell(self, command):
        """RUN, with this machine's name servers and certificates."""
        passed = {name: value.replace(*CERTIFICATES) for name, value in os.environ.items() if name.startswith(PASSED)}
        passed.pop("CARGO_HOME", None)
        mounts = ["set -e", f"mount --rbind /dev {self.root}/dev", f"mount -t proc proc {self.root}/proc"]
        for here, there in [("/etc/resolv.conf", "/etc/resolv.conf"), CERTIFICATES, *((path, path) for path in self.mounts)]:
            if Path(here).exists():
                to = self.path(there)
                to.parent.mkdir(parents=True, exist_ok=True)
                to.mkdir(exist_ok=True) if Path(here).is_dir() else to.touch()
                mounts.append(f"mount --bind -o ro {here} {to}")
        inside = f"cd {self.directory} && {command}"
        environment = [f"{name}={value}" for name, value in {**self.environment, **passed}.items()]
        script = "\n".join([*mounts, f"exec chroot {self.root} env -i {shlex.join(environment)} sh -c {shlex.quote(inside)}"])
        run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script])


def toolchain():
    """This machine's Rust toolchain."""
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True).stdout
    return Path(sysroot.strip())


def base(folder):
    """A fresh minimal Debian."""
    if shutil.which("debootstrap") is None:
        run(["apt-get", "update"])
        run(["apt-get", "install", "--yes", "--no-install-recommends", "debootstrap"])
    run(["debootstrap", "--variant=minbase", "bookworm", folder / "base"], stdout=subprocess.DEVNULL)
    return folder / "base"


def build(folder, bare):
    """Follows the Dockerfile; returns its last image."""
    images, image = {}, None
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    for number, line in enumerate(instructions(DOCKERFILE)):
        print(line, file=sys.stderr, flush=True)
        instruction, rest = line.split(maxsplit=1)
        if instruction == "FROM":
            name, *alias = rest.split()
            root = folder / f"image-{number}"
            run(["cp", "--archive", bare, root])
            image = Image(root, {"PATH": path, "HOME": "/root"})
            if name.startswith("rust:"):
                image.mounts.append(str(toolchain()))
                image.environment["PATH"] = f"{toolchain()}/bin:{path}"
            images[alias[-1] if alias else str(number)] = image
        elif instruction == "COPY":
            image.copy(shlex.split(rest), images)
        elif instruction == "RUN":
            image.shell(rest)
        elif instruction == "WORKDIR":
            image.directory = rest
            image.path(rest).mkdir(parents=True, exist_ok=True)
        elif instruction == "ENV":
            image.environment.update(pair.split("=", 1) for pair in shlex.split(rest))
        elif instruction == "USER":
            image.user = rest
        elif instruction == "HEALTHCHECK":
            image.settings["HEALTHCHECK"] = words(rest[rest.index("CMD") + 3 :].strip())
        elif instruction in ("ENTRYPOINT", "CMD", "VOLUME", "EXPOSE"):
            image.settings[instruction] = words(rest)
        else:
            raise SystemExit(f"error: {DOCKERFILE.name}: {instruction} is not understood; teach {Path(__file__).name}")
    return image


def added_bytes(image, bare):
    """Bytes of the image's files that its base does not have just so."""
    total = 0
    for path in image.root.rglob("*"):
        below = bare / path.relative_to(image.root)
        if path.is_file() and not path.is_symlink():
            same = below.is_file() and (below.stat().st_size, below.stat().st_mtime) == (path.stat().st_size, path.stat().st_mtime)
            total += 0 if same else path.stat().st_size
    return total


def enter(image, command, root, settings):
    """The command line that runs `command` in the image as its user, with its environment, `settings` and no capability."""
    uid, gid = image.user.split(":")
    environment = [f"{name}={value}" for name, value in {**image.environment, **settings}.items()]
    confined = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    return ["chroot", root, "/usr/bin/env", "-i", *environment, *confined, *command], uid, gid


def ask(port, path, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, headers={"Content-Type": "application/octet-stream"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def serve(image, port, settings):
    """Runs the image with a read-only root, and puts it to work."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"BIGNAS_PORT": str(port), **settings}
        command, uid, gid = enter(image, image.settings["ENTRYPOINT"] + image.settings["CMD"], folder, settings)
        volume = image.settings["VOLUME"][0]
        owner = image.path(volume).stat()
        assert (owner.st_uid, owner.st_gid) == (int(uid), int(gid)), f"{volume} is not the user's"
        mounts = [
            f"mount --bind -o ro {image.root} {folder}",
            f"mount -t proc proc {folder}/proc && mount --rbind /dev {folder}/dev",
            f"mount -t tmpfs -o uid={uid},gid={gid} cache {folder}{volume}",
            f"! touch {folder}/writable 2>/dev/null",
        ]
        script = "set -e\n" + "\n".join([*mounts, "exec " + shlex.join(map(str, command))])
        server = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", script])
        try:
            health, *_ = enter(image, image.settings["HEALTHCHECK"], image.root, settings)
            end = time.monotonic() + READY_S
            while subprocess.run([*health, "--ready"], check=False, capture_output=True).returncode != 0:
                assert server.poll() is None, "the server ended"
                assert time.monotonic() < end, "the server does not get ready"
                time.sleep(0.5)
            run(health)
            check_answers(port)
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0, "SIGTERM is a good end"
            assert subprocess.run(health, check=False, capture_output=True).returncode != 0, "nobody is there to be healthy"
        finally:
            server.kill()


def check_answers(port):
    """An example of the model's own is classified, and the playground has its runtime."""
    example = json.loads(ask(port, "/model"))["examples"][0]
    answer = json.loads(ask(port, "/classify", ask(port, example["url"])))
    assert answer["predictions"], answer
    assert b"<html" in ask(port, "/"), "the playground"
    assert ask(port, "/playground/onnxruntime-web/ort-wasm-simd-threaded.wasm")[:4] == b"\0asm", "its runtime"
    print(f"answered: {answer['predictions'][0]} by child {answer['child']['id']}", file=sys.stderr)


def check_gpu_image():
    """docker/Dockerfile.cuda says what docker/Dockerfile does, in the same order, but for the lines named above."""
    ours, gpu = instructions(DOCKERFILE), instructions(GPU_DOCKERFILE)
    assert [line for line in ours if line in gpu] == [line for line in gpu if line in ours], "the Dockerfiles differ in order"
    for lines, others, patterns in [(ours, gpu, CPU_LINES), (gpu, ours, GPU_LINES)]:
        own = [line for line in lines if line not in others]
        assert len(own) == len(patterns) and all(map(re.fullmatch, patterns, own)), f"the Dockerfiles have drifted apart: {own}"


def check_composition():
    """What docker/compose.yaml mounts is there, and every image has a version."""
    text = (ROOT / "docker/compose.yaml").read_text(encoding="utf-8")
    mounted = re.findall(r"^ *- (\./[^:]+):", text, re.MULTILINE)
    assert len(mounted) == 4 and all((ROOT / "docker" / path).exists() for path in mounted), mounted
    images = re.findall(r"^ *image: (\S+)$", text, re.MULTILINE)
    assert len(images) == 3 and all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in images), images


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="build in this empty folder, and leave it there")
    parser.add_argument("--port", type=int, default=18080)
    args = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("error: only root can change roots; run this as root")
    check_composition()
    check_gpu_image()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="bignas-image-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        bare = base(folder)
        image = build(folder, bare)
        size = added_bytes(image, bare)
        assert size < LARGEST_BYTES, f"{size / 1e6:.0f} MB beyond the base"
        torch = [path for path in image.root.rglob("*") if path.name.startswith(("libtorch", "libc10"))]
        assert not torch, f"the image holds {torch}"
        for settings in [{}, CLIENTS]:
            serve(image, args.port, settings)
    finally:
        if args.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"the image adds {size / 1e6:.1f} MB to its base, and serves as an unprivileged user with a read-only root")


if __name__ == "__main__":
    main()
