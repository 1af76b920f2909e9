"""Letters that Matplotlib's own font lacks are drawn with an installed one, here one that the test makes."""

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from vmp.figures import fonts
from vmp.figures.canvas import figure, save, style
from vmp.figures.panels import words

WASH = "\u6d17"  # Chinese for "wash"
EM = 1000  # units


def make_font(path, letters: str) -> None:
    """Write a font of black squares, as wide as the text is high."""
    names = {ord(letter): f"square{number}" for number, letter in enumerate(letters)}
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, EM), (EM, EM), (EM, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square, nothing = pen.glyph(), TTGlyphPen(None).glyph()
    made = FontBuilder(EM, isTTF=True)
    made.setupGlyphOrder([".notdef", *names.values()])
    made.setupCharacterMap(names)
    made.setupGlyf({".notdef": nothing, **dict.fromkeys(names.values(), square)})
    made.setupHorizontalMetrics(dict.fromkeys((".notdef", *names.values()), (EM, 0)))
    made.setupHorizontalHeader(ascent=EM, descent=0)
    made.setupNameTable({"familyName": "Noto Sans CJK SC", "styleName": "Regular"})
    made.setupOS2()
    made.setupPost()
    made.save(path)


@pytest.fixture
def installed(tmp_path):
    """A font with one Chinese letter and a space."""
    make_font(tmp_path / "squares.ttf", WASH + "a")
    before = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(tmp_path / "squares.ttf")
    fonts.files.cache_clear()
    yield
    font_manager.fontManager.ttflist = before
    fonts.files.cache_clear()


@pytest.fixture
def bare_machine(monkeypatch):
    """No other fonts than Matplotlib's."""
    fonts.files.cache_clear()
    monkeypatch.setattr(fonts, "OTHERS", ())
    yield
    fonts.files.cache_clear()


def ink(text: str, path) -> float:
    """Black share of a picture of 72 x 72 pixels with a text 36 pixels high."""
    with style():
        drawn = figure(1, 1)
        drawn.text(0.25, 0.25, text, fontsize=36)
    (file,) = save(drawn, path, kinds=("png",))
    with Image.open(file) as picture:
        return float((np.asarray(picture.convert("L")) < 128).mean())


def test_figures_take_a_letter_that_matplotlib_lacks_from_an_installed_font(installed, tmp_path, capsys):
    assert ink(WASH, tmp_path / "wash") == pytest.approx(0.25, abs=0.02)  # 36 x 36 of 72 x 72 are black
    assert ink("a", tmp_path / "a") < 0.1  # the rest looks the same everywhere
    assert capsys.readouterr().err == ""


def test_lines_above_videos_do_so_too(installed):
    square = words(WASH, 100)
    assert (square[:, :, 0] < 128).sum() == pytest.approx(12 * 12, abs=24)
    assert (words("a", 100)[:, :, 0] < 128).sum() < 50


def test_letters_that_no_font_has_are_named_once(bare_machine, tmp_path, capsys):
    assert ink(f"{WASH}\u624b{WASH}", tmp_path / "hands") > 0  # boxes
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {tmp_path}/hands.png: boxes stand for ")
    assert said.count("\n") == said.count(WASH) == said.count("\u624b") == 1
