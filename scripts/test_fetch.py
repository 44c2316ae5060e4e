"""fetch.py offline: a made-up wheel in a folder stands for the package index."""

import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile
from pathlib import Path
from unittest import mock

FETCH = Path(__file__).resolve().parent / "fetch.py"
WHEEL = "fakepart-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"
DEB = "fakedata_1.0_all.deb"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def make_wheel(path, body):
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("fakepart/lib.so", body)
        wheel.writestr("fakepart/include/a/b.h", "header")
        wheel.writestr("fakepart/unwanted", "unwanted")
        wheel.writestr("fakepart-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: fakepart\nVersion: 1.0\n")
        wheel.writestr("fakepart-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: cp311-cp311-manylinux_2_28_x86_64\n")
        wheel.writestr("fakepart-1.0.dist-info/RECORD", "")


class Fetch(unittest.TestCase):
    """Each test has a clone of the script, an index folder and an empty cache."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = Path(scratch.name)
        self.index, self.cache = self.dir / "index", self.dir / "cache"
        (self.dir / "scripts").mkdir()
        self.index.mkdir()
        shutil.copy(FETCH, self.dir / "scripts")
        make_wheel(self.index / WHEEL, "right")
        self.root = self.cache / "part-1.0"
        self.path = self.root / "lib.so"
        package = {"wheel": "fakepart", "version": "1.0", "file": WHEEL}
        package["extract"] = [
            {"member": "fakepart/lib.so", "to": "lib.so", "sha256": sha256(b"right")},
            {"member": "fakepart/include/", "to": "include/"},
        ]
        self.part = {"version": "1.0", "env": "FAKE_PART", "path": "lib.so", "platform": "any"}
        self.part["packages"] = [package]
        self.part["links"] = [{"link": "alias.so", "target": "lib.so"}]
        self.pin(self.index / WHEEL)

    def pin(self, archive):
        self.part["packages"][0].update(sha256=sha256(archive.read_bytes()), bytes=archive.stat().st_size)
        self.write_pins()

    def write_pins(self):
        (self.dir / "native.json").write_text(json.dumps({"part": self.part}))

    def start(self, *args, **env):
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.dir),
            "BIGNAS_NATIVE_DIR": str(self.cache),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.index),
            **env,
        }
        command = [sys.executable, self.dir / "scripts" / "fetch.py", *(args or ["part"])]
        return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def fetch(self, *args, **env):
        process = self.start(*args, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def assert_fetched(self, result):
        self.assertEqual(result[:2], (0, f"{self.path}\n"), result[2])
        self.assertEqual(self.path.read_text(), "right")

    def assert_refused(self, result, *words):
        status, out, err = result
        self.assertEqual((status, out), (1, ""), err)
        last = err.splitlines()[-1]
        for word in ("fetch: error: ", *words):
            self.assertIn(word, last)

    def test_takes_what_is_named_and_prints_the_path(self):
        self.assert_fetched(self.fetch())
        names = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir()}
        self.assertEqual(names, {"lib.so", "alias.so", "include/a/b.h"})

    def test_second_call_downloads_nothing(self):
        self.assert_fetched(self.fetch())
        (self.index / WHEEL).unlink()
        self.assert_fetched(self.fetch())

    def test_mismatch_is_refused(self):
        expected = self.part["packages"][0]["sha256"]
        make_wheel(self.index / WHEEL, "wrong")
        actual = sha256((self.index / WHEEL).read_bytes())
        self.assert_refused(self.fetch(), WHEEL, expected, actual)
        self.assertFalse(self.root.exists())
        make_wheel(self.index / WHEEL, "right")
        self.pin(self.index / WHEEL)
        self.assert_fetched(self.fetch())

    def test_interrupted_fetch_is_redone(self):
        partial = self.cache / "part-1.0.partial"
        (partial / "tree").mkdir(parents=True)
        (partial / "tree" / "lib.so").write_text("ri")
        (partial / WHEEL).write_bytes((self.index / WHEEL).read_bytes()[:100])
        self.assert_fetched(self.fetch())
        self.assertFalse(partial.exists())

    def test_finished_download_of_an_interrupted_fetch_is_used(self):
        (self.cache / "part-1.0.partial").mkdir(parents=True)
        (self.index / WHEEL).rename(self.cache / "part-1.0.partial" / WHEEL)
        self.assert_fetched(self.fetch())

    def test_directory_that_lost_a_file_is_fetched_again(self):
        self.assert_fetched(self.fetch())
        self.path.unlink()
        self.assert_fetched(self.fetch())

    def test_runs_side_by_side_share_one_fetch(self):
        runs = [self.start() for _ in range(3)]
        logs = ""
        for process in runs:
            out, err = process.communicate(timeout=60)
            self.assert_fetched((process.returncode, out, err))
            logs += err
        self.assertEqual(logs.count("downloading"), 1, logs)

    def test_own_copy_is_printed_and_nothing_fetched(self):
        own = self.dir / "own.so"
        own.write_text("own")
        self.assertEqual(self.fetch(FAKE_PART=str(own)), (0, f"{own}\n", ""))
        self.assertFalse(self.cache.exists())
        self.assert_refused(self.fetch(FAKE_PART="/no/such.so"), "FAKE_PART", "/no/such.so", "unset")

    def test_other_platform_is_told_what_to_set(self):
        self.part["platform"] = "plan9 mips"
        self.write_pins()
        self.assert_refused(self.fetch(), "plan9 mips", "FAKE_PART")

    def test_failed_download_names_the_remedy(self):
        (self.index / WHEEL).unlink()
        self.assert_refused(self.fetch(), "try again", "FAKE_PART")

    def test_member_that_the_archive_lacks_is_named(self):
        self.part["packages"][0]["extract"][0]["member"] = "fakepart/gone.so"
        self.write_pins()
        self.assert_refused(self.fetch(), "lib.so is missing", "native.json")

    def test_check_finds_damage(self):
        status, out, err = self.fetch("--check")
        self.assertEqual((status, out), (0, ""), err)
        self.assertIn("not fetched", err)
        self.assert_fetched(self.fetch())
        self.assertIn("part 1.0: ok", self.fetch("--check", "part")[2])
        self.path.write_text("wrong")
        self.assert_refused(self.fetch("--check"), str(self.path), sha256(b"right"), sha256(b"wrong"))

    def test_unknown_part_is_a_usage_error(self):
        status, out, err = self.fetch("parts")
        self.assertEqual((status, out), (2, ""))
        self.assertIn("name one of part", err)

    @unittest.skipUnless(shutil.which("dpkg-deb"), "dpkg-deb builds the package that is fetched")
    def test_debian_package_unless_the_system_has_the_same_files(self):
        tree, system, bin_dir = self.dir / "deb", self.dir / "system", self.dir / "bin"
        for folder in (tree / "DEBIAN", tree / "usr/share/fake", system, bin_dir):
            folder.mkdir(parents=True)
        control = "Package: fakedata\nVersion: 1.0\nArchitecture: all\nMaintainer: none\nDescription: none\n"
        (tree / "DEBIAN/control").write_text(control)
        (tree / "usr/share/fake/data.gz").write_text("right")
        subprocess.run(["dpkg-deb", "--build", tree, self.index / DEB], check=True, stdout=subprocess.DEVNULL)
        # The first download fails, as on a machine that has no package lists yet.
        apt_get = f'#!/bin/sh\ncase "$*" in\n*update) touch {self.dir}/lists ;;\n'
        apt_get += f"*) test -e {self.dir}/lists && cp {self.index / DEB} . ;;\nesac\n"
        (bin_dir / "apt-get").write_text(apt_get)
        (bin_dir / "apt-get").chmod(0o755)
        extract = [{"member": "usr/share/fake/data.gz", "to": "data.gz", "sha256": sha256(b"right")}]
        package = {"deb": "fakedata", "version": "1.0", "file": DEB, "extract": extract}
        self.part.update(path="", system=str(system), packages=[package], links=[])
        self.pin(self.index / DEB)

        (system / "data.gz").write_text("right")
        self.assertEqual(self.fetch(), (0, f"{system}\n", ""))
        (system / "data.gz").write_text("wrong")
        result = self.fetch(PATH=f"{bin_dir}:{os.environ['PATH']}")
        self.assertEqual(result[:2], (0, f"{self.root}\n"), result[2])
        self.assertEqual((self.root / "data.gz").read_text(), "right")

    def test_npm_package(self):
        tgz, bin_dir = self.index / "fakepart-1.0.tgz", self.dir / "bin"
        with tarfile.open(tgz, "w:gz") as tar:
            for name, body in [("package/lib.so", b"right"), ("package/unwanted", b"unwanted")]:
                member = tarfile.TarInfo(name)
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
        bin_dir.mkdir()
        (bin_dir / "npm").write_text(f'#!/bin/sh\ncase "$*" in pack*fakepart@1.0) cp {tgz} . ;; *) exit 1 ;; esac\n')
        (bin_dir / "npm").chmod(0o755)
        extract = [{"member": "package/lib.so", "to": "lib.so", "sha256": sha256(b"right")}]
        self.part["packages"] = [{"npm": "fakepart", "version": "1.0", "file": tgz.name, "extract": extract}]
        self.part["links"] = []
        self.pin(tgz)

        self.assert_refused(self.fetch(PATH="/nowhere"), "npm is not installed", "Debian's package npm", "FAKE_PART")
        self.assert_fetched(self.fetch(PATH=f"{bin_dir}:{os.environ['PATH']}"))
        names = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir()}
        self.assertEqual(names, {"lib.so"})

    def test_cache_follows_the_environment(self):
        spec = importlib.util.spec_from_file_location("fetch", FETCH)
        fetch = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(fetch)
        for env, expected in [
            ({"HOME": "/h"}, "/h/.cache/bignas/native"),
            ({"HOME": "/h", "XDG_CACHE_HOME": "relative"}, "/h/.cache/bignas/native"),
            ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/bignas/native"),
            ({"HOME": "/h", "XDG_CACHE_HOME": "/x", "BIGNAS_NATIVE_DIR": "/n"}, "/n"),
            ({"HOME": "/h", "BIGNAS_NATIVE_DIR": ""}, "/h/.cache/bignas/native"),
        ]:
            with self.subTest(env), mock.patch.dict(os.environ, env, clear=True):
                self.assertEqual(str(fetch.cache_dir()), expected)


if __name__ == "__main__":
    unittest.main()
