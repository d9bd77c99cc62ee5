#!/usr/bin/env bash
# supervision draws the polygons of COCO, Pascal VOC and YOLO files with OpenCV's rule, which fills the far edges too: a square
# from 10 to 14 covers 25 pixels, in pycocotools, and by its area in the file, 16. A mask is a row and a column larger than the
# official one, wherever it comes from. Two things that agree to the pixel in the file have an IoU of 0.64 at 4 pixels of side
# and 0.94 at 32, so that a segmenter whose masks are exactly the official ones gets a mask AP of 0.58 from supervision, and one
# that learned from supervision's masks is found too large by every COCO tool. Boxes are not affected.
#
# Seen 2026-11-30 with supervision 0.31.2, pycocotools 2.0.11, NumPy 2.4.6, Python 3.11.7:
#   square of 4 x 4: 25 pixels in supervision, 16 in pycocotools, IoU 0.64
#   square of 8 x 8: 81 pixels in supervision, 64 in pycocotools, IoU 0.79
#   square of 16 x 16: 289 pixels in supervision, 256 in pycocotools, IoU 0.89
#   square of 32 x 32: 1089 pixels in supervision, 1024 in pycocotools, IoU 0.94
#   square of 64 x 64: 4225 pixels in supervision, 4096 in pycocotools, IoU 0.97
#   mask AP in supervision of predictions that are pycocotools' masks of the same file: 0.585, at IoU 0.75 0.642
# A guess that fails: "a polygon of a COCO file has one mask".
# What works: masks by pycocotools (annToMask) on both sides, given to supervision as arrays.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check supervision==0.31.2 pycocotools==2.0.11 pandas==3.1.1 numpy==2.4.6 pillow==13.0.0
cat > "$folder/polygons.py" <<'PY'
import json
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import numpy as np
import supervision as sv
from PIL import Image
from pycocotools.coco import COCO
from supervision.metrics import MeanAveragePrecision, MetricTarget

root = Path(sys.argv[1])
(root / "images").mkdir()
SIDES = (4, 8, 16, 32, 64)
annotations = []
for image, side in enumerate(SIDES, 1):
    Image.new("RGB", (200, 200)).save(root / "images" / f"{image}.png")
    for x, y in ((10, 20), (110, 100)):
        corners = [x, y, x + side, y, x + side, y + side, x, y + side]
        annotations.append(
            {"id": len(annotations) + 1, "image_id": image, "category_id": 1, "bbox": [x, y, side, side], "area": side * side, "iscrowd": 0, "segmentation": [corners]}
        )
images = [{"id": image, "file_name": f"{image}.png", "width": 200, "height": 200} for image in range(1, len(SIDES) + 1)]
(root / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}))

official = COCO(str(root / "coco.json"))
data = sv.DetectionDataset.from_coco(str(root / "images"), str(root / "coco.json"), force_masks=True)
truths, perfect, pixels = [], [], {}
for image, side in enumerate(SIDES, 1):
    (truth,) = (data.annotations[path] for path in data.annotations if Path(path).name == f"{image}.png")
    masks = np.stack([official.annToMask(entry) for entry in official.loadAnns(official.getAnnIds(image))]).astype(bool)
    overlap = (truth.mask[0] & masks[0]).sum() / (truth.mask[0] | masks[0]).sum()
    pixels[side] = int(truth.mask[0].sum()), int(masks[0].sum())
    print(f"square of {side} x {side}: {pixels[side][0]} pixels in supervision, {pixels[side][1]} in pycocotools, IoU {overlap:.2f}")
    truths.append(truth)
    perfect.append(sv.Detections(xyxy=truth.xyxy, mask=masks, class_id=truth.class_id, confidence=np.array([0.9, 0.8])))
result = MeanAveragePrecision(metric_target=MetricTarget.MASKS).update(perfect, truths).compute()
print(f"mask AP in supervision of predictions that are pycocotools' masks of the same file: {result.map50_95:.3f}, at IoU 0.75 {result.map75:.3f}")
sys.exit(not (all(pixels[side] == ((side + 1) ** 2, side * side) for side in SIDES) and result.map50_95 < 0.9))
PY
"$folder/venv/bin/python" "$folder/polygons.py" "$folder"
