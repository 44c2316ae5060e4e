"""Clicks through the playground in a headless Chromium, against the real server.

    test_page.py BIGNAS [TEST ...]

BIGNAS_SCREENSHOTS names the folder for screenshots; without it they lie in target/playground.
"""

import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from packages import installed  # noqa: E402

sys.path.insert(0, str(installed(Path(__file__).with_name("requirements.txt"), "browser-driver")))
from browser import MODEL, ROOT, Page, Server, gate, png, until  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

BIGNAS = os.path.abspath(sys.argv.pop(1)) if len(sys.argv) > 1 else sys.exit(__doc__)
SCREENSHOTS = Path(os.environ.get("BIGNAS_SCREENSHOTS", ROOT / "target/playground"))
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

    def example(self, label):
        """Takes the example that shows `label`."""
        self.page.find(f'.example img[alt="{label}"]').click()
        until(lambda: self.page.text("#picture-name").startswith(label), "the example is shown")
        return self.page.answered()

    def ladder(self):
        """Asks every child; the rungs, when all have answered."""
        self.page.find("#ladder-run").click()
        until(lambda: self.page.text("#ladder-run") == "Ask every child" and not self.page.all(".rung.waiting"), "every child has answered")
        return self.page.all(".rung")

    def run_here(self):
        """Runs the child in the browser; by how much a probability differs from the server's."""
        self.page.find("#here-run").click()
        until(lambda: self.page.all(".versus, #here-body .problem"), "the child has run")
        self.assertEqual(self.page.all("#here-body .problem"), [], self.page.text("#here-body"))
        return float(self.page.find("#here-body").get_attribute("data-gap"))


class Playground(PageTest):
    """The shipped model, with every child in memory."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.wait_until_ready()
        cls.children = cls.server.children()

    def point(self, child):
        return self.page.find(f'.child[data-id="{child["id"]}"]')

    def slider(self, keys):
        self.page.find("#budget").send_keys(keys)

    def test_an_answer_says_all_about_itself(self):
        self.example("Trouser")
        self.assertEqual(len(self.page.all("#answer-body .bars li")), 5)
        self.assertEqual(self.page.text("#answer-badge"), "✓ budget met")
        facts = self.page.text("#answer-body .facts")
        for part in ("MMACs", "parameters", "px", "measured on Fashion-MNIST, test", "alone, on this server", "in memory"):
            self.assertIn(part, facts)
        phases = self.page.find("#answer-body .stack").get_attribute("aria-label")
        for phase in ("decode", "resolve", "queue", "inference"):
            self.assertRegex(phases, phase + r" [\d.]+ ms")

    def test_the_plot_shows_every_child_and_its_configuration_to_mouse_and_keyboard(self):
        self.assertEqual(len(self.page.all(".child")), len(self.children))
        first, second = self.children[:2]
        ActionChains(self.page.driver).move_to_element(self.point(second)).perform()
        self.assertIn(second["id"], self.page.text("#tip"))
        ActionChains(self.page.driver).move_to_element(self.page.find("h1")).perform()
        self.assertFalse(self.page.find("#tip").is_displayed())

        self.page.script("arguments[0].focus()", self.point(first))
        self.page.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
        tip = self.page.text("#tip")
        self.assertIn(second["id"], tip)
        self.assertIn(f"{second['params']:,} parameters", tip)
        self.assertEqual(len(self.page.all("#tip tbody tr")), len(second["choices"]["stages"]) + 2)
        self.page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
        self.assertFalse(self.page.find("#tip").is_displayed())
        self.page.driver.switch_to.active_element.send_keys(Keys.ENTER)
        self.page.answered(second["id"])
        self.assertIn("2 of 8 children fit", self.page.text("#budget-text"))

    def test_a_click_makes_a_child_the_budget_on_either_axis(self):
        for button in ("#axis-mflops", "#axis-latency"):
            self.page.find(button).click()
            for child in (self.children[0], self.children[-1]):
                self.point(child).click()
                self.page.answered(child["id"])
                self.assertEqual(self.point(child).get_attribute("aria-pressed"), "true")
                self.assertEqual(self.page.text("#answer-badge"), "✓ budget met")

    def test_the_slider_moves_the_budget(self):
        self.slider(Keys.END)
        self.page.answered(self.children[-1]["id"])
        self.assertIn("8 of 8 children fit", self.page.text("#budget-text"))
        self.slider([Keys.PAGE_DOWN] * 3)
        answering = until(lambda: self.page.child() != self.children[-1]["id"] and self.page.child(), "a smaller child answers")
        best = next(child for child in self.children if child["id"] == answering)
        self.assertIn("MMACs", self.page.find("#budget").get_attribute("aria-valuetext"))
        self.assertLess(best["mflops"], self.children[-1]["mflops"])
        self.slider(Keys.HOME)
        self.assertIn("no child is that small: the smallest takes 0.846 MMACs", self.page.text("#budget-text"))
        until(lambda: "No child is within this budget" in self.page.text("#answer-body"), "the page says so")
        self.page.find("#axis-latency").click()
        self.slider(Keys.END)
        self.page.answered(self.children[-1]["id"])
        self.assertIn(" ms: 8 of 8", self.page.text("#budget-text"))

    def test_an_image_is_chosen_pasted_or_dropped(self):
        picture = png(40, 30, 3, lambda x, y, channel: x * 5 + y * 3 + channel * 40)
        file = Path(self.page.downloads.name) / "stripes.png"
        file.write_bytes(picture)
        self.page.find("#file").send_keys(str(file))
        until(lambda: self.page.text("#picture-name") == "stripes.png · 40×30 px", "the chosen file is shown")
        events = {
            "pasted.png": "document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer }))",
            "dropped.png": "document.getElementById('drop').dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true }))",
        }
        for name, event in events.items():
            self.page.script("const transfer = new DataTransfer(); transfer.items.add(new File([new Uint8Array(arguments[0])], arguments[1], "
                             "{ type: 'image/png' })); " + event, list(picture), name)
            until(lambda: self.page.text("#picture-name") == f"{name} · 40×30 px", f"{name} is shown")
            self.page.answered()
        self.ladder()
        self.assertIn("What it shows is not known; right is the biggest child's answer", self.page.text("#ladder-text"))

    def test_how_small_one_can_go(self):
        self.example("Coat")
        rungs = self.ladder()
        self.assertEqual(len(rungs), len(self.children))
        self.assertRegex(rungs[0].text, r"10\.4 MMACs\n✓\s?Coat\n[\d.]+ %\n[\d.]+ ms")
        wrong = [rung for rung in rungs if "wrong" in rung.get_attribute("class").split()]
        first = [rung for rung in rungs if "first wrong" in rung.text]
        self.assertEqual(first, wrong[:1])
        self.assertIn("Right is the example's label, Coat.", self.page.text("#ladder-text"))
        self.assertIn("first wrong answer comes at", self.page.text("#ladder-text"))
        self.example("Trouser")
        self.assertEqual(self.page.all(".rung"), [], "another image begins anew")
        self.ladder()
        self.assertIn("Right down to the smallest: 0.846 MMACs, 12 times less", self.page.text("#ladder-text"))

    def test_the_graph_is_downloaded(self):
        self.example("Bag")
        child = self.page.child()
        self.page.find("#download").click()
        file = Path(self.page.downloads.name) / f"{child}.onnx"
        until(file.exists, "the graph is there")
        graph = self.server.get(f"/children/{child}/model.onnx")
        self.assertEqual(hashlib.sha256(file.read_bytes()).digest(), hashlib.sha256(graph).digest())

    def test_the_browser_runs_every_child_as_the_server_does(self):
        self.example("Shirt")
        for child in self.children:
            self.point(child).click()
            self.page.answered(child["id"])
            self.assertLess(self.run_here(), SAME, child["id"])
            self.assertIn("✓ Same answer", self.page.text(".verdict"))
        self.assertRegex(self.page.text(".versus"), r"(?s)This browser.*ms\nmedian of \d+ runs.*The server.*ms\nmedian, measured alone")

    def test_the_live_strip_follows_the_load(self):
        until(lambda: self.page.text("#live-queue") == "0", "the strip reads the metrics")
        self.ladder()
        until(lambda: self.page.text("#live-met") == "100 %" and "more" in self.page.text("#live-mix-text"), "the strip shows the answers")
        for quantile in ("#live-p50", "#live-p99"):
            self.assertRegex(self.page.text(quantile), r"^[\d.]+ ms$")
        self.assertRegex(self.page.text("#live-rate"), r"^[\d.]+ /s$")
        self.assertNotEqual(self.page.text("#live-rate"), "0 /s")
        self.assertIn("10.4 MMACs", self.page.find("#live-mix").get_attribute("aria-label"))

    def test_everything_can_be_reached_and_seen_with_the_keyboard(self):
        reached = []
        for _ in range(40):
            ActionChains(self.page.driver).send_keys(Keys.TAB).perform()
            name, outline = self.page.script(
                "const node = document.activeElement; const ring = node.querySelector?.('.ring');"
                "const seen = getComputedStyle(node.matches('#file') ? node.parentElement : node);"
                "return node === document.body ? ['', ''] : [node.id || node.className.baseVal || node.className || node.textContent,"
                "  ring ? getComputedStyle(ring).stroke : seen.outlineStyle + seen.boxShadow]")
            reached.append(name)
            # The slider shows it on its thumb, of which no script can ask; behind the last control comes the browser itself.
            if name not in ("budget", ""):
                self.assertNotIn(outline, ("nonenone", "rgba(0, 0, 0, 0)"), f"{name} shows its focus")
        for wanted in ("skip", "file", "example", "axis-mflops", "axis-latency", "budget", "ladder-run", "download", "here-run"):
            self.assertIn(wanted, reached)
        self.assertTrue(any(name.startswith("child") for name in reached), reached)

    def test_only_this_server_is_asked(self):
        self.run_here()
        asked = self.page.script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        self.assertGreater(len(asked), 20)
        self.assertEqual([url for url in asked if not url.startswith((self.server.base, f"blob:{self.server.base}"))], [])

    def test_axe_finds_nothing_and_the_screenshots_are_taken(self):
        for name, width, scheme, scale in (("", 1280, "light", 1), ("-dark", 1280, "dark", 1), ("-phone", 390, "light", 1), ("-phone-dark", 390, "dark", 1)):
            with self.subTest(name):
                self.page.look(width, 900, scheme, scale)
                self.page.open(self.server.base)
                self.page.answered()
                self.assertEqual(self.page.violations(), [], "before anything is done")
                self.example("Coat")
                self.ladder()
                self.run_here()
                self.assertEqual(self.page.violations(), [], "with everything shown")
                self.assertLessEqual(self.page.script("return document.documentElement.scrollWidth"), width, "nothing is wider than the screen")
                self.page.script("document.activeElement.blur()")
                self.page.screenshot(SCREENSHOTS / f"playground{name}.png")
                self.page.script("arguments[0].focus()", self.point(self.children[3]))
                self.assertEqual(self.page.violations(), [], "with a configuration shown")


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
        until(lambda: all(self.page.all(f'.child[data-id="{child}"] {shapes[state]}.{state}') for child, state in states().items()),
              "the plot shows what the server says")
        self.assertIn("disk", states().values(), "one byte of memory holds one child at most")

    def test_without_the_runtime_the_page_says_so(self):
        self.assertFalse(self.page.find("#here-run").is_enabled())
        self.assertIn("Run here is off: this server was started without onnxruntime-web", self.page.text("#here-text"))
        self.assertTrue(self.page.find("#download").get_attribute("href").endswith("/model.onnx"))
        self.assertEqual(self.page.violations(), [])


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


class Preprocessing(PageTest):
    """A random model of colour photographs: the browser must make the same input of an image as the server."""

    # Two JPEG decoders differ by a level here and there, and random weights let nothing pass unnoticed.
    nearly = 0.005
    filter = "bicubic"

    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.model = Path(scratch.name) / "model"
        subprocess.run([BIGNAS, "init", "--space", "cifar10", "--classes", "7", "--output", cls.model], check=True, stdout=subprocess.DEVNULL)
        (cls.model / "example.png").write_bytes(png(50, 40, 3, lambda x, y, channel: x * 3 + y * (channel + 2)))
        file = cls.model / "model.json"
        card = json.loads(file.read_text(encoding="utf-8"))
        card["preprocessing"].update(resize=card["preprocessing"]["crop"] + 9, filter=cls.filter, background=[200, 30, 90])
        file.write_text(json.dumps(card), encoding="utf-8")
        super().setUpClass()

    def choose(self, name, content):
        file = Path(self.page.downloads.name) / name
        file.write_bytes(content)
        self.page.find("#file").send_keys(str(file))
        until(lambda: self.page.text("#picture-name").startswith(f"{name} ·"), "the image is shown")
        self.page.answered()

    def test_the_input_is_the_same(self):
        wave = lambda x, y, channel: int(128 + 60 * math.sin(x / 5 + channel) + 50 * math.cos(y / 7 - channel))
        exact = {
            "wide.png": png(190, 83, 3, wave),
            "tall.png": png(61, 140, 3, wave),
            "small.png": png(20, 17, 3, wave),
            "grey.png": png(99, 99, 1, wave),
            "clear.png": png(90, 70, 4, lambda x, y, channel: 255 * (x // 9 % 2) if channel == 3 else wave(x, y, channel)),
        }
        photographs = {name: (ROOT / "tests/data/images" / name).read_bytes() for name in ("progressive.jpg", "lossy.webp")}
        for name, content in (exact | photographs).items():
            with self.subTest(name):
                self.choose(name, content)
                self.assertLess(self.run_here(), SAME if name in exact else self.nearly)


class Bilinear(Preprocessing):
    """The same with the other filter."""

    filter = "bilinear"


if __name__ == "__main__":
    unittest.main(verbosity=2)
