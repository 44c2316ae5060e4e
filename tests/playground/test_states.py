"""Servers in other states: nothing built yet, no runtime for browsers, a shared store, a key wanted."""

import tempfile
import unittest
from pathlib import Path

from browser import Page, Server, gate, until
from cases import BIGNAS, PageTest
from selenium.webdriver.common.keys import Keys


class States(PageTest):
    """A server that builds nothing ahead, keeps little in memory, and has no runtime for browsers."""

    flags, runtime = ("--warm-up", "false", "--memory-limit-bytes", "1"), False

    def test_children_are_built_on_demand_and_told_apart(self):
        states = lambda: {child["id"]: child["state"] for child in self.server.children()}
        self.assertIn("unbuilt", states().values())
        self.page.find("#axis-latency").click()
        self.assertIn("not measured yet", self.page.text("#budget-text"))
        self.page.find("#axis-mflops").click()
        shapes = {"loaded": "circle", "disk": "rect", "unbuilt": "path"}
        self.page.find("#budget").send_keys(Keys.HOME, *[Keys.PAGE_UP] * 2)
        until(lambda: "built for this request" in self.page.text("#answer-body .facts"), "a child is built")
        self.ladder()
        until(lambda: "unbuilt" not in states().values(), "every child is built")
        until(
            lambda: all(
                self.page.all(f'.child[data-id="{child}"] {shapes[state]}.{state}') for child, state in states().items()
            ),
            "the plot shows what the server says",
        )
        self.assertIn("disk", states().values(), "one byte of memory holds one child at most")

    def test_without_the_runtime_the_page_says_so(self):
        self.assertFalse(self.page.find("#here-run").is_enabled())
        self.assertIn("Run here is off: this server was started without onnxruntime-web", self.page.text("#here-text"))
        self.assertTrue(self.page.find("#download").get_attribute("href").endswith("/model.onnx"))
        self.assertEqual(self.page.violations(), [])


class Unmeasured(PageTest):
    """A server that builds and measures a child when it is first asked for."""

    flags = ("--warm-up", "false")

    def test_latencies_appear_as_they_are_measured(self):
        self.run_here()
        until(lambda: "alone, on this server" in self.page.text("#answer-body .facts"), "the answer has its latency")
        self.assertIn("median, measured alone", self.page.text(".versus"))
        self.page.find("#axis-latency").click()
        self.assertIn("not measured yet", self.page.text("#budget-text"))
        self.ladder()
        self.server.wait_until_ready()
        until(lambda: "not measured yet" not in self.page.text("#budget-text"), "the plot shows every child")
        children = sorted(self.server.children(), key=lambda child: child["latency_ms"])
        self.assertEqual(
            [mark.get_attribute("data-id") for mark in self.page.all(".child")],
            [child["id"] for child in children],
            "arrow keys go from the fastest to the slowest",
        )


class Store(unittest.TestCase):
    """Two servers, one after the other, that share what they build."""

    def test_a_child_of_the_shared_store_is_said_to_come_from_there(self):
        store = tempfile.TemporaryDirectory()
        self.addCleanup(store.cleanup)
        page = Page()
        self.addCleanup(page.close)
        for source in ("built for this request", "loaded from the store that servers share"):
            server = Server(BIGNAS, flags=("--warm-up", "false", "--artefact-store", f"file://{store.name}"))
            self.addCleanup(server.stop)
            page.open(server.base)
            page.answered()
            self.assertIn(source, page.text("#answer-body .facts"))
            until(lambda: list(Path(store.name).rglob("*.json")), "the child lies in the store, its receipt last")
        self.assertEqual(page.errors(), [])


class Key(unittest.TestCase):
    """Who may ask what."""

    def start(self, flags):
        server = Server(BIGNAS, flags=flags)
        self.addCleanup(server.stop)
        page = Page()
        self.addCleanup(page.close)
        return server, page

    def test_a_server_with_an_admin_key_answers_the_page_without_it(self):
        server, page = self.start(["--admin-key", "correct-horse"])
        page.open(server.base)
        page.answered()
        self.assertFalse(page.find("#key").is_displayed())
        self.assertEqual(page.errors(), [])

    def test_a_key_is_asked_for_where_one_is_wanted(self):
        server, page = self.start([])
        with gate(server.base, "open-sesame") as base:
            page.open(base)
            for key in ("wrong", "open-sesame"):
                until(lambda: page.find("#key").is_displayed(), "the page asks for a key")
                self.assertEqual(page.text("#key-text"), "the gate wants a key")
                self.assertEqual(page.violations(), [])
                page.find("#key-input").send_keys(key, Keys.ENTER)
            page.answered()
            page.open(base)
            until(lambda: page.find("#key").is_displayed(), "the key is not kept")
            page.find("#key-cancel").click()
            until(lambda: page.text("#answer-body") == "the gate wants a key", "the page says what is missing")
