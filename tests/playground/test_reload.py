"""A model that is replaced under an open page."""

import json
import shutil
import tempfile
from pathlib import Path

from browser import MODEL, png, until
from cases import SAME, PageTest


class Reload(PageTest):
    """The shipped model, in a folder where each test changes something else."""

    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.model = Path(scratch.name) / "model"
        shutil.copytree(MODEL, cls.model)
        super().setUpClass()
        cls.server.wait_until_ready()

    def change(self, name, edit):
        """Has `edit` change what a JSON file of the model says."""
        file = self.model / name
        content = json.loads(file.read_text(encoding="utf-8"))
        edit(content)
        file.write_text(json.dumps(content), encoding="utf-8")

    def rename(self, old, new):
        """Gives a class another label, and its example too."""
        for name in ("model.json", "examples/examples.json"):
            file = self.model / name
            file.write_text(file.read_text(encoding="utf-8").replace(f'"{old}"', f'"{new}"'), encoding="utf-8")

    def examples(self):
        return [image.get_attribute("alt") for image in self.page.all(".example img")]

    def test_an_image_of_the_visitors_own_stays(self):
        file = Path(self.page.downloads.name) / "stripes.png"
        file.write_bytes(png(40, 30, 3, lambda x, y, channel: x * 5 + y * 3 + channel * 40))
        self.page.find("#file").send_keys(str(file))
        until(lambda: self.page.text("#picture-name") == "stripes.png · 40×30 px", "the chosen file is shown")
        self.page.answered()
        self.run_here()
        # The same model as far as `/model` tells, but who knows its statistics.
        self.server.reload()
        until(lambda: not self.page.all(".versus"), "what the old model said is gone")
        self.page.answered()
        self.assertEqual(self.page.text("#picture-name"), "stripes.png · 40×30 px")
        self.assertEqual(self.page.all('.example[aria-pressed="true"]'), [])

    def test_an_example_with_another_label_is_wrong_to_all(self):
        index = self.model / "examples/examples.json"
        before = index.read_text(encoding="utf-8")
        self.addCleanup(self.server.reload)
        self.addCleanup(index.write_text, before, encoding="utf-8")
        self.change(
            "examples/examples.json",
            lambda index: [each.update(label="Sandal") for each in index["examples"] if each["label"] == "Bag"],
        )
        self.server.reload()
        until(lambda: self.examples().count("Sandal") == 2, "the page follows")
        self.page.all('.example img[alt="Sandal"]')[-1].click()
        until(lambda: self.page.text("#picture-name").startswith("Sandal"), "the example is shown")
        self.assertEqual(self.page.answered(), "Bag")
        rungs = self.ladder()
        self.assertEqual({"wrong" in rung.get_attribute("class").split() for rung in rungs}, {True})
        self.assertEqual([rung for rung in rungs if "first wrong" in rung.text], rungs[:1])
        said = self.page.text("#ladder-text")
        self.assertRegex(said, r"Even the biggest child, .* MMACs, is wrong\. Right is the example's label, Sandal\.")

    def test_the_page_follows_another_model(self):
        kept = self.server.children()[:-2]
        biggest = kept[-1]["id"]
        self.example("Trouser")
        self.point(kept[-1]).click()
        self.assertEqual(self.page.answered(biggest), "Trouser")
        self.ladder()
        self.run_here()

        self.rename("Trouser", "Slacks")
        self.change("family.json", lambda family: family.update(children=family["children"][:-2]))
        # The statistics are those of the whole family. Without them, children are recalibrated on the images that the model has too.
        self.change("model.json", lambda card: card.pop("statistics"))
        (self.model / "statistics.safetensors").unlink()
        self.change("examples/examples.json", lambda index: index["examples"].pop())
        (self.model / "examples/test-0000.png").write_bytes(png(40, 30, 1, lambda x, y, _: x * y))
        self.server.reload()
        until(lambda: f"{len(kept)} networks" in self.page.text("#model"), "the page notices")
        self.assertEqual(self.page.all(".rung"), [])
        self.assertEqual(self.page.answered(biggest), "Slacks")
        until(lambda: self.page.text("#picture-name").startswith("Slacks ·"), "the image has its new name")
        self.assertEqual(self.page.find('.example[aria-pressed="true"] img').get_attribute("alt"), "Slacks")
        self.assertEqual(set(self.examples()) & {"Trouser", "Bag"}, set())
        until(
            lambda: self.page.find('.example img[alt="Ankle boot"]').get_property("naturalWidth") == 40,
            "the examples are read again",
        )

        self.assertEqual(len(self.page.all(".child")), len(kept))
        self.assertIn(f"{len(kept)} of {len(kept)} children fit", self.page.text("#budget-text"))
        # The budget is what the biggest child takes, and the axis is longer than that by 6 %.
        self.assertEqual(self.page.find("#budget").get_attribute("value"), str(round(1000 / 1.06)))
        self.assertEqual(self.page.all(".versus"), [])
        self.assertLess(self.run_here(), SAME)
        self.assertIn("✓ Same answer", self.page.text(".verdict"))
        self.assertIn("Slacks", self.page.text(".versus"))

    def test_until_the_page_notices_it_says_nothing_wrong(self):
        child = self.server.children()[0]
        self.example("Sneaker")
        self.point(child).click()
        self.page.answered(child["id"])
        self.run_here()
        # Nobody looks, so the page does not look either.
        self.page.script("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
        self.rename("Sneaker", "Trainer")
        self.change(
            "examples/examples.json",
            lambda index: index.update(examples=[each for each in index["examples"] if each["label"] != "Dress"]),
        )
        self.server.reload()
        self.assertTrue(self.page.all(".versus"))
        self.point(child).click()
        until(lambda: not self.page.all(".versus"), "a run of the old child is not shown beside the new one's answer")
        self.page.answered(child["id"])
        self.page.find('.example img[alt="Dress"]').click()
        until(lambda: "there is no example" in self.page.text("#answer-body .problem"), "the page says what is wrong")
        errors = until(self.page.errors, "the console says what could not be had")
        self.assertEqual(["404" in error for error in errors], [True], errors)

        self.page.script("delete document.hidden")
        until(lambda: "Trainer" in self.examples(), "the page follows")
        self.page.answered(child["id"])
        until(lambda: self.page.text("#picture-name").startswith("Trainer ·"), "the image has its new name")
        self.assertNotIn("Dress", self.examples())
