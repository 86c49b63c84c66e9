"""HTML reports of known designs, with an index: reports/gallery/.

    python -m tests.benchmarks.gallery            # all pages
    python -m tests.benchmarks.gallery --shot     # and the screenshot that README shows, with a headless Chromium

The networks are those of tests/models with the weights of seed 0: made twice, the pages are the same, byte for byte
(with other versions of numpy or torch the draws and the versions that the pages state are others).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

import gnelint
from gnelint.lint.rulefile import load_rules
from gnelint.output import html
from gnelint.output.html.words import power
from gnelint.output.json import document
from gnelint.output.report import Earlier
from tests.models import network
from tests.output.browser import chromium, opened

ROOT = Path(__file__).resolve().parents[2]
GALLERY = ROOT / "reports" / "gallery"


@dataclass(frozen=True)
class Exhibit:
    """A page.

    Attributes:
        file: its name without the ending.
        title: the design.
        network: as tests.models names it.
        see: what to look at.
        before: the network that it is set against, "" for none.
    """

    file: str
    title: str
    network: str
    see: str
    before: str = ""


EXHIBITS: Sequence[Exhibit] = (
    Exhibit(
        "plain-half",
        "50 plain convolutions at half the He standard deviation",
        "a_bad",
        "The line leaves the green band and never comes back: every block shows the same blue bar, and one scale for "
        "all the weights is the whole fix.",
    ),
    Exhibit(
        "plain-fixed",
        "The same 50 convolutions at the right scale, beside what they were",
        "a_ok",
        "Before and after in one chart: the dashed line falls away, the solid one stays in the band.",
        before="a_bad",
    ),
    Exhibit(
        "vgg16",
        "VGG-16 without normalisation",
        "vgg16",
        "He initialisation over fan-out, as published: behind the first layer the convolutions nearly keep the "
        "gradient; two thirds of the bits are lost in the three layers of the head, whose weights are drawn "
        "small.",
    ),
    Exhibit(
        "vgg16-bn",
        "VGG-16 with batch normalisation",
        "vgg16_bn",
        "The second moment stays between 0.5 and 1.5 through all convolutions. Blocks that end in a pooling "
        "let the gradient grow; the small head takes as much as it does without normalisation.",
    ),
    Exhibit(
        "resnet50",
        "ResNet-50 with batch normalisation",
        "resnet50",
        "Every block with an identity shortcut is orange: its branch's gradient comes on top of the "
        "shortcut's. It is less the further the block is from the last projection, which starts the second "
        "moment anew.",
    ),
    Exhibit(
        "resnet50-zero-init",
        "ResNet-50, last scale of each branch at zero",
        "resnet50_zero",
        "One number changed: blocks behind a projection are the identity at first, and the line runs level. "
        "Their phi of 0.5 is that of their last ReLU, whose mask the gradient has passed already.",
    ),
    Exhibit(
        "residual-no-norm",
        "A residual network without normalisation",
        "residual_conv",
        "Each block multiplies the square of the gradient by 1.6 to 2, none of them much: it is the depth that "
        "makes it an error.",
    ),
    Exhibit(
        "nf-resnet18",
        "A normaliser-free ResNet-18",
        "nf_resnet18",
        "Scaled branches and standardised weights do by design what normalisation does by measuring: the first "
        "block of a stage lets the gradient grow, the second takes most of that back.",
    ),
    Exhibit(
        "densenet121",
        "DenseNet-121",
        "densenet121",
        "Four dense blocks hold 410 of the 431 layers. Each lets the gradient grow, for every layer in it has "
        "a short way to the input; the transitions between them take a part of it back.",
    ),
    Exhibit(
        "mobilenet-v2",
        "MobileNet v2",
        "mobilenet_v2",
        "Blocks with a shortcut let the gradient grow; those that change the width are drawn as the three "
        "serial blocks that they are, and hardly change it together.",
    ),
    Exhibit(
        "convnext-tiny",
        "ConvNeXt-T",
        "convnext_tiny",
        "Layer scales of 1e-6 make every block the identity at first; what change there is comes from the layers "
        "between the stages.",
    ),
    Exhibit(
        "transformer-pre-norm",
        "A pre-norm transformer (GPT-2, 6 layers)",
        "gpt2",
        "The trunk is never normalised, so no block takes gradient away; the activations' second moment grows "
        "with depth, and each block matters less than the one before.",
    ),
    Exhibit(
        "transformer-post-norm",
        "A post-norm transformer (BERT, 6 layers)",
        "bert",
        "The normalisation stands on the trunk, behind each sum: rule GNE303 says what that costs with depth.",
    ),
)


@dataclass(frozen=True)
class _Card:
    file: str
    title: str
    change: Markup
    see: str


def main() -> None:
    """Write every page and the index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shot", action="store_true", help="take the screenshot of README, too")
    parser.add_argument("-o", "--output", type=Path, default=GALLERY, help="the directory")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    cards = [_written(exhibit, arguments.output) for exhibit in EXHIBITS]
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    page = templates.get_template("gallery.html.j2").render(exhibits=cards, style=html.style())
    (arguments.output / "index.html").write_text(page + "\n", encoding="utf-8")
    if arguments.shot:
        _shoot(arguments.output / "plain-half.html", arguments.output / "screenshot.png")


def _written(exhibit: Exhibit, folder: Path) -> _Card:
    report = _report(exhibit.network)
    earlier = [Earlier(exhibit.before, _report(exhibit.before))] if exhibit.before else []
    file = folder / f"{exhibit.file}.html"
    file.write_text(html.render(report, earlier), encoding="utf-8")
    bits = report["targets"][0]["summary"]["gradient_log2"]
    print(f"{file.name:<28} {file.stat().st_size / 1000:>5.0f} kB  2^{bits:.1f}")
    return _Card(file.name, exhibit.title, power(bits), exhibit.see)


def _report(name: str) -> dict[str, object]:
    module, inputs = network(name)
    entry = gnelint.check(module, inputs).to_dict()
    for finding in entry["findings"]:
        if finding["location"] is not None:  # as it is from the repository's root, wherever that lies
            finding["location"]["file"] = Path(finding["location"]["file"]).relative_to(ROOT).as_posix()
    return document([{**entry, "target": name}], load_rules().rules)


def _shoot(page: Path, image: Path) -> None:
    path = chromium()
    if path is None:
        raise SystemExit("there is no Chromium on the path")
    with opened(path) as browser:
        view = browser.new_page(viewport={"width": 1100, "height": 1000})
        view.goto(page.resolve().as_uri())
        view.screenshot(path=image)


if __name__ == "__main__":
    main()
