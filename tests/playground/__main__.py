"""Clicks through the playground in a headless Chromium, against the real server.

    python3 -B tests/playground BIGNAS [TEST ...]    such as test_page.Playground

BIGNAS_SCREENSHOTS names the folder for screenshots; without it they lie in target/playground.
"""

import os
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    os.environ["BIGNAS_TEST_BINARY"] = os.path.abspath(sys.argv[1])
    sys.path.insert(0, str(HERE.parents[1] / "scripts"))
    from packages import installed

    sys.path.insert(0, str(installed(HERE / "requirements.txt", "browser-driver")))
    names = sys.argv[2:] or [file.stem for file in sorted(HERE.glob("test_*.py"))]
    unittest.main(module=None, argv=[sys.argv[0], *names], verbosity=2)


if __name__ == "__main__":
    main()
