"""Diagrams: the notation, what a drawing contains, which parts are marked as changed; and that the docs are current."""

from __future__ import annotations

import importlib
import re
import runpy
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import nextify
from nextify.networks.layout import Conv
from nextify.networks.zoo import designs
from nextify.paper.design import CONVNEXT_TINY, DESIGNS, RESNET50
from nextify.paper.roadmap import ROADMAPS
from nextify.report.block_drawing import block_svg
from nextify.report.diagram import Change, block_lines, block_text, layer_differences
from tests.helpers import ROOT, Captured

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in ET.fromstring(svg).iter(f"{SVG}text")]


def changed(svg: str) -> list[str]:
    """Labels marked as changed, and boxes marked as changed (by the text that follows)."""
    found, box = [], False
    for element in ET.fromstring(svg).iter():
        if element.tag == f"{SVG}rect":
            box = "changed" in (element.get("class") or "")
        elif element.tag == f"{SVG}text":
            if box:
                found.append("".join(element.itertext()))
            box = False
        elif element.tag == f"{SVG}tspan":
            found.append(element.text or "")
    return found


def test_blocks_are_written_as_in_figure_4() -> None:
    lines = dict(block_lines(CONVNEXT_TINY))
    assert lines["stem"] == "4×4/4, 96 → LN"
    assert lines["stage 1 blocks 1–3"] == "d7×7, 96 → LN → 1×1, 384 → GELU → 1×1, 96 → ×γ (+)"
    assert lines["stage 2 downsampling"] == "LN → 2×2/2, 192"
    assert "stage 1 blocks 2–3  1×1, 64 → BN → ReLU → 3×3, 64 → BN → ReLU → 1×1, 256 → BN (+) → ReLU" in block_text(
        RESNET50
    )
    assert "3×3, 128, g=32" in block_text(RESNET50.with_(groups=32, widths=(128, 256, 512, 1024)))
    assert "GRN" in block_text(DESIGNS["convnextv2_atto"])


def test_full_labels_tell_what_the_short_ones_leave_out() -> None:
    assert Conv(96, 96, 7, 2, 3, 96, True).full_label == "d7×7/2, 96→96, bias"
    assert Conv(96, 96, 1, 1, 0, 1, False).full_label == "1×1, 96→96"
    assert Conv(64, 64, 3, 1, 1, 32, False).full_label == "3×3, 64→64, g=32"


@pytest.mark.parametrize("name", designs())
def test_every_block_can_be_drawn(name: str) -> None:
    design = designs()[name]
    for stage in range(len(design.depths)):
        root = ET.fromstring(block_svg(design, stage))
        width, height = (float(root.get(side) or 0) for side in ("width", "height"))
        assert 0 < width < 900
        for element in root.iter(f"{SVG}rect"):
            x, y, w, h = (float(element.get(key) or 0) for key in ("x", "y", "width", "height"))
            assert 0 <= x <= x + w <= width
            assert 0 <= y <= y + h <= height


def test_a_block_shows_its_layers_and_its_shortcut() -> None:
    drawn = texts(block_svg(RESNET50, stage=1))
    assert drawn[:3] == ["block 1", "256-d", "1×1, 128"]
    assert "1×1/2, 512" in drawn
    assert "blocks 2–4" in drawn


def test_changed_parts_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    side_by_side_svg = importlib.import_module("changes").side_by_side_svg
    rows = ROADMAPS["resnet50"]

    def marked(name: str) -> list[str]:
        return changed(side_by_side_svg(rows[rows[name].compared_with or ""].design, rows[name].design))

    assert marked("kernel_7") == ["d3×3, 96", "d7×7, 96", "changed"]
    assert marked("depthwise") == ["3×3, 64", "d3×3, 64", "changed"]
    assert set(marked("layer_norm")) == {"BN", "LN", "changed"}
    assert set(marked("fewer_activations")) == {"GELU", "changed"}
    assert "max pool 3×3/2" in marked("patchify")
    assert {"2×2/2, 192", "1×1/2, 192", "LN", "×γ"} <= set(marked("separate_downsampling"))
    assert marked("training_technique") == []


def test_differences_layer_by_layer() -> None:
    rows = ROADMAPS["resnet50"]
    assert layer_differences(rows["gelu"].design, rows["gelu"].design) == []
    first = layer_differences(rows["move_up"].design, rows["kernel_7"].design)
    assert first[0] == Change("stage 1, block 1", "d3×3, 96→96", "d7×7, 96→96")
    assert len(first) == 4
    everything = layer_differences(RESNET50, CONVNEXT_TINY)
    assert Change("stage 3, blocks", "6 blocks", "9 blocks") in everything
    assert Change("stage 2, downsampling", None, "2×2/2, 96→192, bias") in everything
    assert Change("stage 2, block 1, shortcut", "1×1/2, 256→512", None) in everything
    assert everything[-1] == Change("head", None, "LN, 768")


def test_differences_of_networks_with_different_numbers_of_stages() -> None:
    changes = layer_differences(CONVNEXT_TINY, DESIGNS["convnext_isotropic_small"])
    assert Change("stage 4, blocks", "3 blocks", None) in changes
    assert changes[0].part == "stem"


@pytest.mark.parametrize(
    "tool",
    ["cards.py", "models_table.py", "results_pages.py", "compare_pages.py", "command_pages.py", "api_pages.py"],
)
def test_generated_docs_are_current(tool: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.setattr(sys, "argv", [tool, "--check"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
    assert end.value.code == 0, capsys.readouterr().err


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_of_the_cards_lead_somewhere() -> None:
    pages = [*(ROOT / "docs" / "decisions").glob("*.md"), ROOT / "docs" / "models.md", ROOT / "docs" / "design.md"]
    assert len(pages) == 19
    for page in pages:
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            if "://" in path:
                continue
            led_to = page.parent / path if path else page
            assert led_to.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors(led_to), f"{page.name}: {target}"


def test_every_step_has_a_card() -> None:
    for number, row in enumerate(nextify.roadmap("resnet50").rows[1:], start=1):
        name = f"{number:02d}-{row.name.replace('_', '-')}.md"
        assert row.title in (ROOT / "docs" / "decisions" / name).read_text(encoding="utf-8")
