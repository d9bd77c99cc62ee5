"""The Open Inference Protocol, version 2: tensors in JSON and in its binary extension, as Triton and KServe speak it.

https://github.com/kserve/open-inference-protocol and Triton's extension_binary_data.md. One input, ``images``:
normalized FP32 ``(N, C, H, W)``; the outputs are the task's.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nextify.system.files import parse_json
from nextify.system.text import plural, shortened

Floats = npt.NDArray[np.float32]
LENGTH = "Inference-Header-Content-Length"
DATATYPES = {"<f4": "FP32", "<i4": "INT32", "|u1": "UINT8"}
LARGEST = 1e6
"""Of a normalized image's values, with room to spare."""


class ProtocolError(ValueError):
    """A request that says something else than the protocol; the message is for its sender."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    images: Floats
    outputs: Sequence[tuple[str, bool]]
    """Names, and whether each is wanted in binary."""
    id: str


def describe(name: str, shape: Sequence[int], outputs: Mapping[str, tuple[str, Sequence[int]]]) -> dict[str, object]:
    """The model's metadata; ``shape`` is (C, H, W), and those of the outputs are of one image too."""
    return {
        "name": name,
        "versions": ["1"],
        "platform": "nextify",
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, *shape]}],
        "outputs": [
            {"name": output, "datatype": datatype, "shape": [-1, *sides]}
            for output, (datatype, sides) in outputs.items()
        ],
    }


def read(body: bytes, length: str | None, shape: Sequence[int], names: Sequence[str]) -> Asked:
    """A request's body; ``length`` is its header ``LENGTH``, and ``names`` are the outputs there are. Raises
    ``ProtocolError``."""
    if not body:
        raise ProtocolError("the request has no body")
    if length is not None and not (re.fullmatch("[0-9]{1,12}", length) and 1 <= int(length) <= len(body)):
        reason = f"must be a whole number from 1 to the body's {len(body)} bytes"
        raise ProtocolError(f"{LENGTH} {reason}, got {shortened(length)}")
    end = len(body) if length is None else int(length)
    try:
        asked = parse_json(body[:end])
    except ValueError as error:
        raise ProtocolError(f"the request is not JSON: {error}") from None
    parameters = _object(asked, "the request").get("parameters", {})
    all_binary = _object(parameters, "parameters").get("binary_data_output", False) is True
    inputs = _objects(asked.get("inputs"), "inputs")
    if [i.get("name") for i in inputs] != ["images"]:
        raise ProtocolError("inputs must hold exactly one tensor, named images")
    outputs = []
    for output in _objects(asked.get("outputs") or [{"name": name} for name in names], "outputs"):
        wishes = _object(output.get("parameters", {}), "an output's parameters")
        if output.get("name") not in names or wishes.keys() - {"binary_data"}:
            known = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
            raise ProtocolError(f"outputs are {known}, with binary_data or no parameter")
        outputs.append((output["name"], wishes.get("binary_data", all_binary) is True))
    text = asked.get("id", "")
    if not isinstance(text, str):
        raise ProtocolError("id must be a string")
    return Asked(_images(inputs[0], body[end:], shape), outputs, text)


def _images(tensor: Mapping[str, object], binary: bytes, wanted: Sequence[int]) -> Floats:
    shape = tensor.get("shape")
    fits = isinstance(shape, list) and all(type(side) is int for side in shape) and shape[1:] == list(wanted)
    if tensor.get("datatype") != "FP32" or not fits or shape[0] < 1:  # type: ignore[index]
        raise ProtocolError(f"images must be FP32 of [N, {', '.join(map(str, wanted))}], N from 1")
    assert isinstance(shape, list)
    size = _object(tensor.get("parameters", {}), "the input's parameters").get("binary_data_size")
    if ("data" in tensor) == (size is not None):
        raise ProtocolError("images must have either data or binary_data_size")
    if size is None:
        values = _numbers(tensor["data"])
        if values.ndim > 1 and values.shape != tuple(shape):  # such as (N, H, W, C), which has as many values
            raise ProtocolError(f"data is nested as {list(values.shape)}, but images has the shape {shape}")
    elif type(size) is not int or size < 1 or size % 4:
        raise ProtocolError(
            f"binary_data_size must be a whole number of bytes, 4 for each value, got {shortened(size)}"
        )
    elif size != len(binary):
        raise ProtocolError(
            f"binary_data_size is {shortened(size)}, but {plural(len(binary), 'byte follows', 'bytes follow')} the "
            f"JSON, whose own length {LENGTH} gives"
        )
    else:
        values = np.frombuffer(binary, "<f4")
    if values.size != math.prod(shape):
        raise ProtocolError(f"images has {plural(values.size, 'value')}, but its shape needs {math.prod(shape):,}")
    if not (np.abs(values) <= LARGEST).all():
        raise ProtocolError(f"images has NaN or infinite values, or some beyond ±{LARGEST:,.0f}: normalize it")
    return values.reshape(shape).astype(np.float32)


def _numbers(data: object) -> Floats:
    """The values of JSON, nested as they are there."""
    try:
        values = np.asarray(data)
    except ValueError:
        values = np.empty(0, object)
    if not isinstance(data, list) or values.dtype.kind not in "iuf":
        raise ProtocolError("data must be a list of numbers, flat or nested as its shape says")
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def answer(name: str, asked: Asked, found: Mapping[str, npt.NDArray[Any]]) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where binary data follows."""
    outputs, binary = [], []
    for output, wants_binary in asked.outputs:
        values = np.ascontiguousarray(found[output], found[output].dtype.newbyteorder("<"))
        told: dict[str, Any] = {"name": output, "datatype": DATATYPES[values.dtype.str], "shape": list(values.shape)}
        if wants_binary:
            binary.append(values.tobytes())
            told["parameters"] = {"binary_data_size": values.nbytes}
        else:
            told["data"] = values.ravel().tolist()
        outputs.append(told)
    content = {"model_name": name, "outputs": outputs} | ({"id": asked.id} if asked.id else {})
    text = json.dumps(content, allow_nan=False).encode()
    return b"".join([text, *binary]), len(text) if binary else None


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(f"{what} must be an object")
    return value


def _objects(value: object, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ProtocolError(f"{what} must be a list of objects")
    return value
