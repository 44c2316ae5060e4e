"""The shipped model on the page: everything that there is to click."""

import hashlib
import os
import re
import subprocess
from pathlib import Path

from browser import MODEL, ROOT, png, until
from cases import BIGNAS, SAME, PageTest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

SCREENSHOTS = Path(os.environ.get("BIGNAS_SCREENSHOTS", ROOT / "target/playground"))


def mmacs(child):
    """A child's cost, as the page writes it."""
    return f"{digits(child['mflops'])} MMACs"


def digits(value, significant=3):
    """A number, as the page writes it."""
    return f"{value:#.{significant}g}".rstrip(".")


class Playground(PageTest):
    """The shipped model, with every child in memory."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.wait_until_ready()
        cls.children = cls.server.children()

    def fit(self, count):
        """What the page says of a budget that so many children are within."""
        return f"{count} of {len(self.children)} children fit"

    def sees(self, image):
        """What each child sees in an image, the biggest first."""
        return [self.server.first_label(child, image) for child in reversed(self.children)]

    def slider(self, keys):
        self.page.find("#budget").send_keys(keys)

    def load(self):
        """Sends what independent clients might for some seconds, and waits until the strip has seen it."""
        command = [
            BIGNAS,
            "bench",
            "--url",
            self.server.base,
            "--image",
            MODEL / "example.png",
            "--arrivals",
            "poisson",
            "--rate",
            "40",
        ]
        command += [
            "--ask",
            "mflops=2",
            "mflops=6",
            "mflops=20",
            "--warm-up-s",
            "0",
            "--window-s",
            "4",
            "--windows",
            "2",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: float(self.page.text("#live-rate").split()[0]) > 10, "the strip sees the load")

    def test_an_answer_says_all_about_itself(self):
        self.example("Trouser")
        self.assertEqual(len(self.page.all("#answer-body .bars li")), 5)
        self.assertEqual(self.page.text("#answer-badge"), "✓ budget met")
        self.assertRegex(
            self.page.find("#answer-said").get_attribute("textContent"),
            r"^Trouser, [\d.]+ %, by the child of .* MMACs; budget met$",
        )
        facts = self.page.text("#answer-body .facts")
        for part in ("MMACs", "parameters", "px", "measured, Fashion-MNIST test", "alone, on this server", "in memory"):
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
        self.assertEqual(len(self.page.all("#tip tbody tr")), len(second["choices"]["stages"]))
        self.assertEqual(self.page.all('.child[aria-describedby="tip"]'), [self.point(second)])
        self.page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
        self.assertFalse(self.page.find("#tip").is_displayed())
        self.assertEqual(self.page.all(".child[aria-describedby]"), [])
        self.page.driver.switch_to.active_element.send_keys(Keys.ENTER)
        self.page.answered(second["id"])
        self.assertIn(self.fit(2), self.page.text("#budget-text"))

    def test_a_click_makes_a_child_the_budget_on_either_axis(self):
        best = max(self.children, key=lambda child: child["accuracy"])
        for axis in ("mflops", "latency_ms"):
            self.page.find(f"#axis-{axis.removesuffix('_ms')}").click()
            # Nobody better is within the budgets of these two.
            for child in (min(self.children, key=lambda child: child[axis]), best):
                self.point(child).click()
                self.page.answered(child["id"])
                self.assertEqual(self.point(child).get_attribute("aria-pressed"), "true")
                self.assertEqual(self.page.text("#answer-badge"), "✓ budget met")

    def test_the_slider_moves_the_budget(self):
        self.slider(Keys.END)
        self.page.answered(self.children[-1]["id"])
        self.assertIn(self.fit(len(self.children)), self.page.text("#budget-text"))
        self.slider([Keys.PAGE_DOWN] * 3)
        answering = until(
            lambda: self.page.child() != self.children[-1]["id"] and self.page.child(), "a smaller child answers"
        )
        best = next(child for child in self.children if child["id"] == answering)
        self.assertIn("MMACs", self.page.find("#budget").get_attribute("aria-valuetext"))
        self.assertLess(best["mflops"], self.children[-1]["mflops"])
        self.slider(Keys.HOME)
        self.assertIn(f"none fits, the smallest takes {mmacs(self.children[0])}", self.page.text("#budget-text"))
        until(lambda: "No child is within this budget" in self.page.text("#answer-body"), "the page says so")
        self.page.find("#axis-latency").click()
        self.slider(Keys.END)
        self.page.answered(self.children[-1]["id"])
        self.assertIn(f" ms: {self.fit(len(self.children))}", self.page.text("#budget-text"))

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
            self.page.script(
                "const transfer = new DataTransfer(); transfer.items.add(new File([new Uint8Array(arguments[0])], arguments[1], "
                "{ type: 'image/png' })); " + event,
                list(picture),
                name,
            )
            until(lambda: self.page.text("#picture-name") == f"{name} · 40×30 px", f"{name} is shown")
            self.page.answered()
        self.page.find("#file").send_keys(str(file))
        until(lambda: self.page.text("#picture-name") == "stripes.png · 40×30 px", "the file is shown that was chosen before")
        self.page.answered()
        self.ladder()
        self.assertIn("What it shows is not known; right is the biggest child's answer", self.page.text("#ladder-text"))

    def test_how_small_one_can_go(self):
        biggest, smallest = self.children[-1], self.children[0]
        examples = {image.get_attribute("alt"): image.get_attribute("src") for image in self.page.all(".example img")}
        easy = next(
            label
            for label, url in examples.items()
            if set(self.sees(self.server.get(url.removeprefix(self.server.base)))) == {label}
        )
        self.example(easy)
        rungs = self.ladder()
        self.assertEqual(len(rungs), len(self.children))
        self.assertRegex(rungs[0].text, rf"{re.escape(mmacs(biggest))}\n✓\s?{re.escape(easy)}\n[\d.]+ %\n[\d.]+ ms")
        times = digits(biggest["mflops"] / smallest["mflops"], 2)
        said = self.page.text("#ladder-text")
        self.assertIn(f"Right down to the smallest: {mmacs(smallest)}, {times} times smaller", said)
        self.assertIn(f"Right is the example's label, {easy}.", said)

    def test_where_children_begin_to_differ(self):
        self.example("Trouser")
        self.ladder()
        hard = next(
            picture
            for step in range(1, 100)
            if len(set(self.sees(picture := png(28, 28, 1, lambda x, y, _: (x * step + y * y) // 3)))) > 1
        )
        file = Path(self.page.downloads.name) / "hard.png"
        file.write_bytes(hard)
        self.page.find("#file").send_keys(str(file))
        until(lambda: self.page.text("#picture-name").startswith("hard.png"), "the chosen file is shown")
        self.assertEqual(self.page.all(".rung"), [], "another image begins anew")
        self.page.answered()
        rungs, seen = self.ladder(), self.sees(hard)
        is_wrong = [label != seen[0] for label in seen]
        self.assertEqual(["wrong" in rung.get_attribute("class").split() for rung in rungs], is_wrong)
        first = is_wrong.index(True)
        self.assertEqual([rung for rung in rungs if "first wrong" in rung.text], [rungs[first]])
        cost = mmacs(self.children[-1 - first])
        self.assertIn(f"the first wrong answer comes at {cost}", self.page.text("#ladder-text"))

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
        self.assertRegex(
            self.page.text(".versus"),
            r"(?s)This browser.*ms\nmedian of \d+ runs.*The server.*ms\nmedian, measured alone",
        )

    def test_the_live_strip_follows_the_load(self):
        until(lambda: self.page.text("#live-queue") == "0", "the strip reads the metrics")
        self.ladder()
        self.load()
        until(
            lambda: self.page.text("#live-met") == "100 %" and "more" in self.page.text("#live-mix-text"),
            "the strip shows the answers",
        )
        for quantile in ("#live-p50", "#live-p99"):
            self.assertRegex(self.page.text(quantile), r"^[\d.]+ ms$")
        self.assertRegex(self.page.text("#live-rate"), r"^[\d.]+ /s$")
        self.assertRegex(
            self.page.find("#live-mix").get_attribute("aria-label"),
            re.escape(mmacs(self.children[-1])) + r" [234]\d %",
            "a third of the load asks for the biggest",
        )

    def test_everything_can_be_reached_and_seen_with_the_keyboard(self):
        reached = []
        for _ in range(40):
            ActionChains(self.page.driver).send_keys(Keys.TAB).perform()
            name, outline = self.page.script(
                "const node = document.activeElement; const ring = node.querySelector?.('.ring');"
                "const seen = getComputedStyle(node.matches('#file') ? node.parentElement : node);"
                "return node === document.body ? ['', ''] : [node.id || node.className.baseVal || node.className || node.textContent,"
                "  ring ? getComputedStyle(ring).stroke : seen.outlineStyle + seen.boxShadow]"
            )
            reached.append(name)
            # The slider shows it on its thumb, of which no script can ask; behind the last control comes the browser itself.
            if name not in ("budget", ""):
                self.assertNotIn(outline, ("nonenone", "rgba(0, 0, 0, 0)"), f"{name} shows its focus")
        for wanted in (
            "skip",
            "file",
            "example",
            "axis-mflops",
            "axis-latency",
            "budget",
            "ladder-run",
            "download",
            "here-run",
        ):
            self.assertIn(wanted, reached)
        self.assertTrue(any(name.startswith("child") for name in reached), reached)

    def test_only_this_server_is_asked(self):
        self.run_here()
        asked = self.page.script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        self.assertGreater(len(asked), 20)
        self.assertEqual(
            [url for url in asked if not url.startswith((self.server.base, f"blob:{self.server.base}"))], []
        )

    def test_axe_finds_nothing_and_the_screenshots_are_taken(self):
        looks = {
            "playground": (1280, "light"),
            "playground-dark": (1280, "dark"),
            "playground-phone": (390, "light"),
            None: (390, "dark"),
        }
        for name, (width, scheme) in looks.items():
            with self.subTest(name):
                self.page.look(width, 900, scheme)
                self.page.open(self.server.base)
                self.page.answered()
                self.assertEqual(self.page.violations(), [], "before anything is done")
                self.example("Pullover")
                self.ladder()
                self.run_here()
                self.load()
                self.assertEqual(self.page.violations(), [], "with everything shown")
                self.assertLessEqual(
                    self.page.script("return document.documentElement.scrollWidth"),
                    width,
                    "nothing is wider than the screen",
                )
                ActionChains(self.page.driver).move_to_element(self.page.find("h1")).perform()
                if name:
                    self.page.screenshot(SCREENSHOTS / f"{name}.png")
                self.page.script("arguments[0].focus()", self.point(self.children[3]))
                self.assertEqual(self.page.violations(), [], "with a configuration shown")
