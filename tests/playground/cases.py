"""What the tests of the page share: one browser and one server a class."""

import os
import unittest

from browser import MODEL, Page, Server, until

BIGNAS = os.environ["BIGNAS_TEST_BINARY"]
# How far a probability may be off where the browser runs the same network on the same pixels: floating point, and no more.
SAME = 1e-5


class PageTest(unittest.TestCase):
    """One browser and one server for all tests of a class; each test begins with a fresh page."""

    flags, model, runtime = (), MODEL, True

    @classmethod
    def setUpClass(cls):
        cls.server = Server(BIGNAS, cls.model, cls.flags, cls.runtime)
        cls.addClassCleanup(cls.server.stop)
        cls.page = Page()
        cls.addClassCleanup(cls.page.close)

    def setUp(self):
        self.page.errors()
        self.page.look()
        self.page.open(self.server.base)
        self.page.answered()

    def tearDown(self):
        self.assertEqual(self.page.errors(), [], "the console stays silent")

    def point(self, child):
        return self.page.find(f'.child[data-id="{child["id"]}"]')

    def example(self, label):
        """Takes the example that shows `label`."""
        self.page.find(f'.example img[alt="{label}"]').click()
        until(lambda: self.page.text("#picture-name").startswith(label), "the example is shown")
        return self.page.answered()

    def ladder(self):
        """Asks every child; the rungs, when all have answered."""
        self.page.find("#ladder-run").click()
        until(
            lambda: self.page.text("#ladder-run") == "Ask every child" and not self.page.all(".rung.waiting"),
            "every child has answered",
        )
        return self.page.all(".rung")

    def run_here(self):
        """Runs the child in the browser; by how much a probability differs from the server's."""
        self.page.find("#here-run").click()
        until(lambda: self.page.all(".versus, #here-body .problem"), "the child has run")
        self.assertEqual(self.page.all("#here-body .problem"), [], self.page.text("#here-body"))
        return float(self.page.find("#here-body").get_attribute("data-gap"))
