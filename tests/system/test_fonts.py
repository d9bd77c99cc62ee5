"""Names in any script: drawn with an installed font that has them, otherwise as boxes and with one warning."""

import io
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from nextify.report.drawing import canvas, png, svg
from nextify.system import fonts

RARE, UNKNOWN = "\U000f0123", "\U000f0124"
"""Characters for private use, which no common font has."""


@pytest.fixture
def rare_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed font whose only character is ``RARE``, a triangle."""
    pen = TTGlyphPen(None)
    for place in ((0, 0), (500, 700), (700, 0)):
        (pen.lineTo if place != (0, 0) else pen.moveTo)(place)
    pen.closePath()
    made = FontBuilder(1000, isTTF=True)
    made.setupGlyphOrder([".notdef", "rare"])
    made.setupCharacterMap({ord(RARE): "rare"})
    made.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "rare": pen.glyph()})
    made.setupHorizontalMetrics({".notdef": (800, 0), "rare": (800, 0)})
    made.setupHorizontalHeader(ascent=800, descent=-200)
    made.setupNameTable({"familyName": "Nextify Rare", "styleName": "Regular"})
    made.setupOS2()
    made.setupPost()
    made.save(tmp_path / "rare.ttf")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    font_manager.fontManager.addfont(tmp_path / "rare.ttf")
    fonts.fallbacks.cache_clear()
    return "Nextify Rare"


def drawn(words: str) -> bytes:
    figure = canvas(2, 1)
    figure.text(0.1, 0.5, words)
    assert svg(figure).startswith("<?xml")
    return png(figure)


def test_a_name_is_drawn_with_a_font_that_has_it(rare_font: str, caplog: pytest.LogCaptureFixture) -> None:
    assert fonts.fallbacks(frozenset(RARE)) == (rare_font,)
    assert drawn(f"class {RARE}") not in (drawn(f"class {UNKNOWN}"), drawn("class "))
    assert [record for record in caplog.messages if RARE in record] == []


def test_what_no_font_has_is_a_box_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    fonts.fallbacks.cache_clear()
    assert drawn(f"line\nbreak {UNKNOWN}") != drawn("line\nbreak ")
    assert len(caplog.messages) == 1
    assert UNKNOWN in caplog.messages[0]
    assert "no installed font" in caplog.messages[0]


def test_pictures_of_an_evaluation_take_every_name(rare_font: str) -> None:
    from nextify.evaluation.pictures import curves_picture

    curve = [{"epoch": 1.0, "train_loss": 0.5, "test_top1": None}]
    plain, rare = (curves_picture(curve, f"folder {word}") for word in ("", RARE))
    assert io.BytesIO(rare).read(4) == b"\x89PNG"
    assert plain != rare
