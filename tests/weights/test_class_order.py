"""The class that each logit stands for: the accuracy is that of the library's own order, or the weights are refused."""

from __future__ import annotations

import argparse
import colorsys
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from nextify.cli import main
from nextify.data import DataError, Images, ImageSet, open_images
from nextify.data.images import UniformStore
from nextify.data.kept import Kept
from nextify.data.sources.parts import natural
from nextify.deploy.runners import predict
from nextify.evaluation.evaluate import evaluate, match_classes, name_classes
from nextify.networks.network import ConvNet
from nextify.networks.zoo import create_model
from nextify.paper.design import CONVNEXT_TINY, DESIGNS, RESNET50
from nextify.training.prepare import prepare
from nextify.training.request import Request, RequestError
from nextify.weights import (
    NAMINGS,
    About,
    Naming,
    Preprocessing,
    WeightsError,
    convert,
    find,
    load,
    rename,
    save_bundle,
)
from nextify.weights.class_names import in_order, read_class_file
from nextify.weights.naming import table

DESIGN = CONVNEXT_TINY.with_(depths=(1, 1, 1, 1), widths=(8, 16, 24, 32))
KINDS: dict[str, tuple[str, ...]] = {
    "plain": ("ant", "bee", "cow"),
    "numbers": tuple(map(str, range(12))),
    "mixed case": ("ant", "Bee", "cow", "Zebra"),
    "leading zeros": ("1", "01", "2", "10", "002"),
    "blanks": ("big cow", "big-cow", "Ant 2", "Ant 10"),
}
SIDE = 32
"""Of the images, in pixels."""
LIBRARY = {
    "imagefolder": sorted,  # torchvision.datasets.ImageFolder.find_classes
    "natural": lambda names: sorted(names, key=timm_key),
}


def timm_key(name: str) -> tuple[list[str | int], str]:
    """``natural_key`` of timm, copied; 1 and 01, which it does not tell apart, go by code point here."""
    return [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", name.lower())], name


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of three images per class, a colour for each."""
    found = {}
    for kind, names in KINDS.items():
        found[kind] = tmp_path_factory.mktemp("data") / "data"
        for i, name in enumerate(names):
            (found[kind] / name).mkdir(parents=True)
            for j, value in enumerate((0.8, 0.9, 1.0)):
                colour = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(i / len(names), 1, value))
                Image.new("RGB", (SIDE, SIDE), colour).save(found[kind] / name / f"{j}.png")
    return found


def classifier_inputs(model: ConvNet, x: Tensor) -> Tensor:
    """``(N, F + 1)``, float64: what the classifier gets for ``x``, and 1 for its bias."""
    kept: list[Tensor] = []
    hook = model.head.classifier.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    with torch.no_grad():
        model(x)
    hook.remove()
    return torch.cat([kept[0], torch.ones(len(x), 1)], 1).double()


def fitted(
    folder: Path, classes: list[str] | tuple[str, ...], preprocessing: Preprocessing | None = None
) -> dict[str, Tensor]:
    """A random network whose classifier was fitted, in closed form, to the images with ``classes`` as its order."""
    return dict(fitted_once(folder, tuple(classes), preprocessing or Preprocessing()))


@cache
def fitted_once(folder: Path, classes: tuple[str, ...], preprocessing: Preprocessing) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = create_model(DESIGN.with_(layer_scale=1.0), len(classes)).eval()
    files = sorted(folder.glob("*/*.png"))
    x = torch.stack([preprocessing(Image.open(f)) for f in files])
    labels = torch.tensor([classes.index(f.parent.name) for f in files])
    features = classifier_inputs(model, x)
    with torch.no_grad():
        wanted = torch.nn.functional.one_hot(labels, len(classes)).double() * 20
        solved = torch.linalg.lstsq(features, wanted, driver="gelsd").solution.float()
        model.head.classifier.weight.copy_(solved[:-1].T)
        model.head.classifier.bias.copy_(solved[-1])
        assert (model(x).argmax(1) == labels).all(), "100 % in its own order"
    return dict(model.state_dict())


@pytest.mark.parametrize("library", LIBRARY)
@pytest.mark.parametrize(
    ("naming", "kind"),
    [
        pytest.param(naming, kind, marks=() if naming == "timm" or kind == "mixed case" else pytest.mark.slow)
        for naming in ("timm", "torchvision", "huggingface", "official")
        for kind in KINDS
    ],
)
def test_accuracy_is_that_of_the_librarys_own_order_or_refused(
    pictures: dict[str, Path], kind: str, library: str, naming: Any, tmp_path: Path
) -> None:
    images = open_images(str(pictures[kind]))
    own = LIBRARY[library](KINDS[kind])
    state = rename(fitted(pictures[kind], own, Preprocessing.from_crop_ratio(SIDE, 1.0)), DESIGN, naming)
    torch.save({"model": state, "args": argparse.Namespace(img_size=SIDE, crop_pct=1.0)}, tmp_path / "w.pth")
    assert evaluate(tmp_path / "w.pth", images, part="all", class_order=library).top1 == 100
    assert evaluate(tmp_path / "w.pth", images, part="all", class_order=own).top1 == 100
    if len({tuple(order(KINDS[kind])) for order in LIBRARY.values()}) > 1:
        with pytest.raises(WeightsError, match=r"--class-order imagefolder\|natural\|FILE"):
            evaluate(tmp_path / "w.pth", images, part="all")
    else:
        found = evaluate(tmp_path / "w.pth", images, part="all")
        assert found.top1 == 100
        assert any("matched by order" in note for note in found.notes)


# -- any names, in every naming -------------------------------------------------------------------------------------

FAMILIES = {
    "convnext": DESIGN.with_(layer_scale=1.0),
    "convnextv2": DESIGN.with_(layer_scale="off", response_norm="global"),
    "isotropic": DESIGNS["convnext_isotropic_small"].with_(depths=(1,), widths=(32,)),
    "resnet": RESNET50.with_(depths=(1, 1, 1, 1), widths=(8, 16, 24, 32)),
}
EVERY_NAMING = [(n, f) for n in NAMINGS for f in FAMILIES if table(n, f) is not None]  # type: ignore[arg-type]
MOST_CLASSES = 8
COLOURS = np.array([[int(255 * c) for c in colorsys.hsv_to_rgb(i / MOST_CLASSES, 1, 0.9)] for i in range(MOST_CLASSES)])
NAMES = st.one_of(
    st.integers(0, 120).map(str),
    st.text("0123456789", min_size=1, max_size=3),
    st.text("aAbBzZéÉ0129 _-٣", min_size=1, max_size=4),
)


def coloured(classes: tuple[str, ...]) -> Images:
    """One image per class, in a colour of its own."""
    pixels = np.broadcast_to(COLOURS[: len(classes), None, None], (len(classes), SIDE, SIDE, 3)).astype(np.uint8)
    part = ImageSet(np.arange(len(classes)), UniformStore(Kept(pixels)))
    return Images("colours", classes, part, part, True, "f", (), (SIDE, SIDE))


@cache
def trained(family: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """A random network, the inputs of its classifier for the coloured images, ``(K, F + 1)``, and the classifier fitted
    to them in closed form, ``(K, F + 1)``; it takes the first image for one of the second's class."""
    torch.manual_seed(0)
    model = create_model(FAMILIES[family], MOST_CLASSES).eval()
    x = torch.stack(
        [
            Preprocessing.from_crop_ratio(SIDE, 1.0)(np.asarray(coloured(tuple("abcdefgh")).test.load(i)))
            for i in range(MOST_CLASSES)
        ]
    )
    inputs = classifier_inputs(model, x)
    wanted = 20 * torch.eye(MOST_CLASSES, dtype=torch.float64)
    wanted[0] = wanted[1]
    return dict(model.state_dict()), inputs, torch.linalg.lstsq(inputs, wanted, driver="gelsd").solution.T


def accuracy_is_the_librarys(
    naming: Naming, family: str, folder: Path, names: list[str], order: str, shuffled: Random, carried: bool
) -> None:
    numbered = names[:]  # as the data number their classes
    if order == "data":
        shuffled.shuffle(numbered)
    else:
        numbered.sort(key=natural)
    own = {**LIBRARY, "data": list}[order](numbered)
    state, inputs, fitted_head = trained(family)
    head = fitted_head[[numbered.index(name) for name in own]]
    answers = [own[i] for i in (inputs[: len(names)] @ head.T).argmax(1).tolist()]
    accuracy = 100 * sum(map(str.__eq__, answers, numbered)) / len(names)
    state = {**state, "head.classifier.weight": head[:, :-1].float(), "head.classifier.bias": head[:, -1].float()}
    if naming == "nextify":
        settings = Preprocessing.from_crop_ratio(SIDE, 1.0)
        about = About(FAMILIES[family], len(own), classes=tuple(own) if carried else (), preprocessing=settings)
        weights = save_bundle(folder / "b.safetensors", state, about)
    else:
        weights = folder / "w.pth"
        args = argparse.Namespace(img_size=SIDE, crop_pct=1.0, **({"class_names": own} if carried else {}))
        torch.save({"model": rename(state, FAMILIES[family], naming), "args": args}, weights)
    images = coloured(tuple(numbered))
    orders = {tuple(sort(numbered)) for sort in (*LIBRARY.values(), list)}
    distinct = len({tuple(timm_key(name)[0]) for name in names}) == len(names)  # to timm
    if carried or (len(orders) == 1 and distinct):
        assert evaluate(weights, images).top1 == accuracy
    else:
        with pytest.raises(WeightsError, match="--class-order"):
            evaluate(weights, images)
    assert evaluate(weights, images, class_order=own if carried else order).top1 == accuracy


HEADS = st.fixed_dictionaries(
    {
        "names": st.lists(NAMES, min_size=2, max_size=MOST_CLASSES, unique=True),
        "order": st.sampled_from([*LIBRARY, "data"]),
        "shuffled": st.randoms(use_true_random=False),
        "carried": st.booleans(),
    }
)
PROFILE = settings(derandomize=True, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
heads = given(heads=st.fixed_dictionaries(dict.fromkeys(EVERY_NAMING, HEADS)))


@settings(PROFILE, max_examples=2)
@heads
def test_any_class_names_in_every_naming(heads: dict[tuple[Naming, str], Any], tmp_path: Path) -> None:
    for (naming, family), drawn in heads.items():
        accuracy_is_the_librarys(naming, family, tmp_path, **drawn)


@pytest.mark.slow
@settings(PROFILE, max_examples=40)
@heads
def test_any_class_names_in_every_naming_deeply(heads: dict[tuple[Naming, str], Any], tmp_path: Path) -> None:
    for (naming, family), drawn in heads.items():
        accuracy_is_the_librarys(naming, family, tmp_path, **drawn)


def test_what_is_assumed_is_said_once(
    pictures: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    names = sorted(KINDS["plain"])
    torch.save(rename(fitted(pictures["plain"], names), DESIGN, "timm"), tmp_path / "w.pth")
    asked = ["--data", str(pictures["plain"]), "--part", "all", "--device", "cpu", "--threads", "1"]
    assert main(["evaluate", str(tmp_path / "w.pth"), *asked]) == 0
    said = caplog.text + capsys.readouterr().err
    assert said.count("does not say how to prepare images") == 1


def test_names_that_timm_does_not_tell_apart_have_no_order() -> None:
    for names in (("01", "1"), ("Ant", "ant")):
        with pytest.raises(WeightsError, match=f"timm does not tell '{names[0]}' from '{names[1]}'"):
            in_order(names)
        assert in_order(names, "natural") == names


def test_the_orders_are_the_libraries_own(pictures: dict[str, Path]) -> None:
    from timm.data.readers.reader_image_folder import find_images_and_targets

    datasets = pytest.importorskip("torchvision.datasets")
    for kind, names in KINDS.items():
        order = datasets.ImageFolder(pictures[kind]).classes
        assert list(in_order(names, "imagefolder")) == order
        if kind != "leading zeros":  # timm does not tell 1 from 01
            assert list(in_order(names, "natural")) == list(find_images_and_targets(str(pictures[kind]))[1])
    assert in_order(("b", "a"), "data") == ("b", "a")
    with pytest.raises(WeightsError, match=r"data: as these images are numbered; FILE"):
        in_order(("b", "a"))
    assert in_order(("caf\u00e9", "dog")) == ("caf\u00e9", "dog")
    for name in ("\u00e9cole", "e\u0301cole"):  # before zebra or after it
        with pytest.raises(WeightsError, match="comes elsewhere in another Unicode form"):
            in_order(sorted((name, "zebra")))
    with pytest.raises(WeightsError, match=r"imagefolder\|natural\|data\|FILE"):
        in_order(("b", "a"))


NUMBERS = sorted(KINDS["numbers"])
CARRIED: dict[str, dict[str, Any]] = {
    "class_to_idx": {"class_to_idx": {name: i for i, name in enumerate(NUMBERS)}},
    "classes": {"classes": NUMBERS},
    "class_names": {"class_names": tuple(NUMBERS)},
    "names, numbered": {"names": dict(enumerate(NUMBERS))},
    "id2label": {"config": {"id2label": {str(i): name for i, name in enumerate(NUMBERS)}}},
    "label2id": {"config": {"label2id": {name: str(i) for i, name in enumerate(NUMBERS)}}},
    "args": {"args": argparse.Namespace(class_names=NUMBERS, lr=1.0)},
    "meta": {"meta": {"dataset_meta": {"classes": NUMBERS}}, "classes": 12},
}


@pytest.mark.parametrize("how", CARRIED)
def test_names_in_a_checkpoint_are_read(pictures: dict[str, Path], how: str, tmp_path: Path) -> None:
    state = rename(fitted(pictures["numbers"], NUMBERS), DESIGN, "timm")
    torch.save({"state_dict": state, "epoch": 3, **CARRIED[how]}, tmp_path / "c.pth")
    assert find(tmp_path / "c.pth").bundle.about.classes == tuple(NUMBERS)
    assert evaluate(tmp_path / "c.pth", open_images(str(pictures["numbers"])), part="all").top1 == 100


@pytest.mark.parametrize("text", ["\n".join(NUMBERS), "\r\n".join(NUMBERS) + "\r\n", json.dumps(NUMBERS)])
@pytest.mark.parametrize("beside", [True, False])
def test_a_file_names_the_classes(pictures: dict[str, Path], text: str, beside: bool, tmp_path: Path) -> None:
    torch.save(rename(fitted(pictures["numbers"], NUMBERS), DESIGN, "timm"), tmp_path / "w.pth")
    file = tmp_path / ("classes.txt" if beside else "names.json" if text[0] == "[" else "names.txt")
    file.write_bytes(text.encode())
    images = open_images(str(pictures["numbers"]))
    assert evaluate(tmp_path / "w.pth", images, part="all", class_order=None if beside else file).top1 == 100
    guess = predict(tmp_path / "w.pth", [pictures["numbers"] / "10"], class_order=None if beside else str(file))[0]
    assert (guess.guesses[0].name, guess.guesses[0].index) == ("10", 2)


def test_timms_class_map_beside_the_weights(tmp_path: Path) -> None:
    state = rename(create_model(DESIGN, 3).state_dict(), DESIGN, "timm")
    torch.save({"state_dict": state, "args": argparse.Namespace(class_map="/gone/map.txt")}, tmp_path / "c.pth")
    assert any("/gone/map.txt" in note for note in find(tmp_path / "c.pth").notes)
    (tmp_path / "map.txt").write_text("c\na\nb\n")
    assert find(tmp_path / "c.pth").bundle.about.classes == ("c", "a", "b")


def test_names_that_contradict_each_other_or_do_not_fit(tmp_path: Path) -> None:
    state = rename(create_model(DESIGN, 3).state_dict(), DESIGN, "timm")
    torch.save(
        {"model": state, "classes": ["a", "b", "c"], "class_to_idx": {"a": 0, "c": 1, "b": 2}}, tmp_path / "x.pth"
    )
    with pytest.raises(WeightsError, match="class_to_idx and classes in the weights order the classes differently"):
        load(tmp_path / "x.pth")
    assert load(tmp_path / "x.pth", class_order=["a", "b", "c"]).about.classes == ("a", "b", "c")
    torch.save({"model": state, "classes": [0, 1, 2], "idx_to_class": {0: 0, 1: 1, 2: 2}}, tmp_path / "z.pth")
    assert find(tmp_path / "z.pth").bundle.about.classes == ()  # a numbering is no name
    torch.save({"model": state, "classes": ["a", "b"]}, tmp_path / "y.pth")
    found = find(tmp_path / "y.pth")
    assert found.bundle.about.classes == ()
    assert any("ignored classes: it names 2 classes, but the weights have 3" in note for note in found.notes)
    for wrong, problem in (
        (["a", "b"], "names 2 classes"),
        (["a", "a", "b"], "twice"),
        ("natural", "needs|give a FILE"),
    ):
        with pytest.raises(WeightsError, match=problem):
            load(tmp_path / "y.pth", class_order=wrong)
    with pytest.raises(WeightsError, match=r"none\.txt is not a file"):
        load(tmp_path / "y.pth", class_order="none.txt")
    for text, problem in (("a\n\nb\n", "line 2 of .* is blank"), ("a\nb\na\n", "the class 'a' twice")):
        (tmp_path / "f.txt").write_text(text)
        with pytest.raises(WeightsError, match=problem):
            read_class_file(tmp_path / "f.txt")


@pytest.mark.parametrize("name", ["names.json", "names.txt"])
def test_a_deeply_nested_class_file_is_no_recursion_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("[" * 100_000)
    if name.endswith(".json"):
        with pytest.raises(WeightsError, match=f"{name} must hold a JSON list"):
            read_class_file(tmp_path / name)
    else:
        assert len(read_class_file(tmp_path / name)) == 1  # one odd name, which the number of classes refuses


def test_duplicate_names_and_contradicting_orders_are_refused(pictures: dict[str, Path], tmp_path: Path) -> None:
    images = open_images(str(pictures["plain"]))
    with pytest.raises(DataError, match="several classes called ant"):
        match_classes(About(DESIGN, 4, classes=("ant", "ant", "bee", "cow")), images, [])
    state = fitted(pictures["plain"], ("cow", "bee", "ant"))
    save_bundle(tmp_path / "b", state, About(DESIGN, 3, classes=("cow", "bee", "ant")))
    with pytest.raises(WeightsError, match="leave --class-order out"):
        evaluate(tmp_path / "b", images, class_order="natural")
    save_bundle(tmp_path / "b", state, About(DESIGN, 3, classes=("ant", "bee", "cow")))
    assert any(
        "--class-order can be left out" in note
        for note in evaluate(tmp_path / "b", images, class_order="natural").notes
    )
    more = About(DESIGN, 4, classes=("ant", "bee", "cow", "dog"))
    with pytest.raises(WeightsError, match="leave --class-order out"):
        name_classes(more, images, [], "natural")
    # Names in other words than the data's: the order given counts.
    save_bundle(tmp_path / "b", state, About(DESIGN, 3, classes=("Kuh", "Biene", "Ameise")))
    assert evaluate(tmp_path / "b", images, part="all", class_order=["cow", "bee", "ant"]).top1 == 100


def test_predict_calls_a_class_without_a_name_by_its_index(
    pictures: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(rename(fitted(pictures["numbers"], NUMBERS), DESIGN, "timm"), tmp_path / "w.pth")
    image = str(pictures["numbers"] / "10" / "0.png")
    assert main(["predict", str(tmp_path / "w.pth"), image, "--top", "1"]) == 0
    out, err = capsys.readouterr()
    assert "class #2" in out
    assert "do not name their classes" in err
    assert "--class-order FILE" in err
    assert main(["predict", str(tmp_path / "w.pth"), image, "--top", "1", "--json"]) == 0
    guess = json.loads(capsys.readouterr().out)[0]["guesses"][0]
    assert (guess["name"], guess["index"]) == (None, 2)
    (tmp_path / "names.txt").write_text("\n".join(NUMBERS))
    assert main(["predict", str(tmp_path / "w.pth"), image, "--class-order", str(tmp_path / "names.txt")]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"0\.png +10 +\d", out)
    assert "do not name" not in err


@pytest.mark.parametrize("naming", ["official", "timm", "torchvision", "huggingface"])
@pytest.mark.parametrize("ending", ["x.safetensors", "x.pth", "directory"])
def test_names_survive_a_conversion_and_its_way_back(naming: Any, ending: str, tmp_path: Path) -> None:
    names = ("10", "2", "big cow ", "Ünze")
    save_bundle(tmp_path / "ours", create_model(DESIGN, 4).state_dict(), About(DESIGN, 4, classes=names))
    convert(tmp_path / "ours", tmp_path / "there" / ending, naming)
    convert(tmp_path / "there" / ending, tmp_path / "back", "nextify")
    assert find(tmp_path / "back").bundle.about.classes == names
    if ending != "directory":  # another file's names in the way are not overwritten, nor taken for these weights' own
        save_bundle(tmp_path / "others", create_model(DESIGN, 4).state_dict(), About(DESIGN, 4, classes=tuple("abcd")))
        with pytest.raises(WeightsError, match="names other classes"):
            convert(tmp_path / "others", tmp_path / "there" / f"other-{ending}", naming)


def test_timm_builds_from_a_converted_directory(tmp_path: Path) -> None:
    import timm

    design = DESIGNS["convnext_atto"]
    model = create_model(design, 3).eval()
    about = About(design, 3, name="convnext_atto", classes=("b", "a", "c"))
    save_bundle(tmp_path / "ours", model.state_dict(), about)
    convert(tmp_path / "ours", tmp_path / "timm", "timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    assert list(theirs.pretrained_cfg["label_names"]) == ["b", "a", "c"]
    assert theirs.pretrained_cfg["crop_pct"] == about.preprocessing.crop_ratio
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), model(x), rtol=1e-4, atol=1e-5)


def test_fine_tuning_permutes_a_head_of_the_same_classes(pictures: dict[str, Path], tmp_path: Path) -> None:
    images = open_images(str(pictures["numbers"]))
    design = DESIGNS["convnext_atto"]
    state = {k: v.clone() for k, v in create_model(design, 12).state_dict().items()}
    order = [NUMBERS.index(name) for name in images.classes]
    save_bundle(tmp_path / "b", state, About(design, 12, name="convnext_atto", classes=tuple(NUMBERS)))
    torch.save(rename(state, design, "timm"), tmp_path / "w.pth")
    request = Request("convnext_atto", weights=str(tmp_path / "b"), epochs=1, image_size=32)
    nameless = replace(request, weights=str(tmp_path / "w.pth"))
    for asked in (request, replace(nameless, class_order="imagefolder")):
        start = prepare(asked, images).start
        assert start is not None
        for leaf in ("weight", "bias"):
            assert torch.equal(start[f"head.classifier.{leaf}"], state[f"head.classifier.{leaf}"][order])
    new = prepare(nameless, images)
    assert new.start is not None
    assert "head.classifier.weight" not in new.start
    assert any("--class-order would keep" in note for note in new.notes)
    with pytest.raises(RequestError, match="leave --class-order natural out"):
        prepare(replace(request, class_order="natural"), images)
    with pytest.raises(RequestError, match="give --weights too"):
        prepare(Request("convnext_atto", class_order="natural"), images)


def test_data_that_number_their_own_classes_are_a_third_order(pictures: dict[str, Path], tmp_path: Path) -> None:
    images = open_images(str(pictures["plain"]))
    turned = replace(images, classes=images.classes[::-1])
    torch.save(rename(fitted(pictures["plain"], images.classes), DESIGN, "timm"), tmp_path / "w.pth")
    assert isinstance(turned, Images)
    with pytest.raises(WeightsError, match=r"natural\|data"):
        evaluate(tmp_path / "w.pth", turned, part="all")
    assert evaluate(tmp_path / "w.pth", turned, part="all", class_order="data").top1 == 100
    assert np.isclose(evaluate(tmp_path / "w.pth", turned, part="all", class_order="natural").top1, 100 / 3)
