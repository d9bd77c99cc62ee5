#!/usr/bin/env bash
# pycocotools counts an object whose id is 0 as never found, and the detection that is on it as a false one: in the table of what was
# matched with what, 0 stands for nothing. The COCO format does not forbid the id, and writers number from 0: globox does,
# and so does Label Studio's converter (id = len(annotations)). So each data set that goes from there to pycocotools, or to
# what calls it, has one object that cannot be found. The mean over classes makes that large: perfect detections of a
# data set with 3 classes, one of which has a single object, which comes first, have AP 0.67, and adding a second object to
# the class makes its AP 0.25. Where the file comes from another order of images, it is another class that loses. Neither
# side warns; faster-coco-eval 1.8 gives the same numbers, with a warning, and hotcoco the right ones.
#
# Seen 2026-11-30 with pycocotools 2.0.11, globox 2.9.0, faster-coco-eval 1.8.0, hotcoco 1.3.0, NumPy 2.4.6, Python 3.11.7; 40 images with
# a dog and a cat in each, birds in the first ones only, and detections that are the true boxes:
#   1 bird, ids from 0, as globox writes them, pycocotools: bird 0.00, cat 1.00, dog 1.00, mean 0.67
#   1 bird, ids from 0, as globox writes them, faster-coco-eval: bird 0.00, cat 1.00, dog 1.00, mean 0.67
#   1 bird, ids from 0, as globox writes them, hotcoco: bird 1.00, cat 1.00, dog 1.00, mean 1.00
#   1 bird, ids from 1, pycocotools: bird 1.00, cat 1.00, dog 1.00, mean 1.00
#   1 bird, ids from 1, faster-coco-eval: bird 1.00, cat 1.00, dog 1.00, mean 1.00
#   1 bird, ids from 1, hotcoco: bird 1.00, cat 1.00, dog 1.00, mean 1.00
#   2 birds, ids from 0, as globox writes them, pycocotools: bird 0.25, cat 1.00, dog 1.00, mean 0.75
#   2 birds, ids from 0, as globox writes them, faster-coco-eval: bird 0.25, cat 1.00, dog 1.00, mean 0.75
#   2 birds, ids from 0, as globox writes them, hotcoco: bird 1.00, cat 1.00, dog 1.00, mean 1.00
#   2 birds, ids from 1, pycocotools: bird 1.00, cat 1.00, dog 1.00, mean 1.00
#   2 birds, ids from 1, faster-coco-eval: bird 1.00, cat 1.00, dog 1.00, mean 1.00
#   2 birds, ids from 1, hotcoco: bird 1.00, cat 1.00, dog 1.00, mean 1.00
# A guess that fails: "detections that are the true boxes have an AP of 1".
# What works: adding 1 to all ids of annotations before anything reads them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pycocotools==2.0.11 globox==2.9.0 \
  faster-coco-eval==1.8.0 hotcoco==1.3.0 numpy==2.4.6
cat > "$folder/ids.py" <<'PY'
import contextlib
import io
import json
import sys
from pathlib import Path

import faster_coco_eval
import hotcoco
import pycocotools.coco
import pycocotools.cocoeval
from globox import Annotation, AnnotationSet, BoundingBox

folder = Path(sys.argv[1])


def truth(birds: int) -> AnnotationSet:
    images = AnnotationSet()
    for i in range(40):
        box = {"image_id": f"{i:03}.jpg"}
        boxes = [BoundingBox(label="bird", xmin=400, ymin=10, xmax=450, ymax=60)] if i < birds else []
        boxes += [
            BoundingBox(label="cat", xmin=10 + i, ymin=20, xmax=110 + i, ymax=90),
            BoundingBox(label="dog", xmin=200, ymin=200 + i, xmax=320, ymax=380 + i),
        ]
        images.add(Annotation(box["image_id"], (640, 480), boxes))
    return images


def precisions(module: object, evaluation: type, given: Path, found: Path) -> list[float]:
    """AP of each class."""
    with contextlib.redirect_stdout(io.StringIO()):
        gold = module.COCO(str(given))
        compared = evaluation(gold, gold.loadRes(str(found)), "bbox")
        compared.evaluate()
        compared.accumulate()
        compared.summarize()
    return [float(value) for value in compared.eval["precision"][:, :, :, 0, 2].mean((0, 1))] + [float(compared.stats[0])]


tools = {
    "pycocotools": (pycocotools.coco, pycocotools.cocoeval.COCOeval),
    "faster-coco-eval": (faster_coco_eval, faster_coco_eval.COCOeval_faster),
    "hotcoco": (hotcoco, hotcoco.COCOeval),
}
result = {}
for birds in (1, 2):
    given, found, renumbered = (folder / f"{name}-{birds}.json" for name in ("given", "found", "renumbered"))
    truth(birds).save_coco(given, auto_ids=True)
    written = json.loads(given.read_text())
    keys = ("image_id", "category_id", "bbox")
    found.write_text(json.dumps([{key: each[key] for key in keys} | {"score": 0.9} for each in written["annotations"]]))
    for each in written["annotations"]:
        each["id"] += 1
    renumbered.write_text(json.dumps(written))
    names = [each["name"] for each in sorted(written["categories"], key=lambda each: each["id"])] + ["mean"]
    for ids, path in (("from 0, as globox writes them", given), ("from 1", renumbered)):
        for tool, (module, evaluation) in tools.items():
            values = precisions(module, evaluation, path, found)
            result[birds, ids, tool] = values
            said = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, values, strict=True))
            print(f"{birds} bird{'s' * (birds > 1)}, ids {ids}, {tool}: {said}")
lost = {key for key, values in result.items() if values[-1] < 0.8}
expected = {(birds, "from 0, as globox writes them", tool) for birds in (1, 2) for tool in ("pycocotools", "faster-coco-eval")}
rest = all(min(values) > 0.999 for key, values in result.items() if key not in expected)
sys.exit(not (lost == expected and rest))
PY
"$folder/venv/bin/python" -W ignore "$folder/ids.py" "$folder"
