"""``nextify export BUNDLE --to FORMAT``: a bundle for another runtime, verified there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from nextify.cli.options import UNSET, Folder, Json, Reading, Threads, check_replaced, check_weights, unset
from nextify.cli.quantize import default_folder
from nextify.data.source import check_source
from nextify.paper.settings import Range


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a bundle for another runtime, after comparing its results there with the bundle's on real images.

    The folder holds the model file and nextify.json: classes, preprocessing, licence, and what the comparison found. A
    file whose results differ is not written.
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """A bundle left by nextify train, or other weights: a file, hf:owner/name or timm:name."""
    to: Annotated[Literal["onnx", "openvino", "torch", "aotinductor", "executorch"] | None, UNSET] = None
    """The runtime, with its precisions: onnx (fp32, fp16, int8) for ONNX Runtime, openvino (fp32, bf16, fp16,
    int8), torch (fp32, bf16, fp16) for torch.export, aotinductor (fp32, bf16) compiled for this machine, executorch
    (fp32)."""
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    """Precision of the file. int8 does the same as nextify quantize, and needs --data."""
    image_size: Annotated[str | None, unset(metavar="PIXELS|dynamic")] = None
    """Side of the input, or dynamic for any. Default: the bundle's."""
    with_preprocessing: Annotated[bool, UNSET] = False
    """Take uint8 pixels of any size, (N, H, W, 3) RGB, and resize, crop and normalize them inside the file."""
    fastest: Annotated[bool, UNSET] = False
    """Instead of --to: measure plain torch, compiled torch, torch with our kernels, ONNX Runtime and OpenVINO, in fp32,
    bf16 and int8, and write the fastest that keeps its accuracy on --data."""
    data: Annotated[str | None, UNSET] = None
    """Images to compare on: digits, cifar10, hf:OWNER/NAME, or a path. Default: the built-in digits."""
    max_drop: Annotated[float, Range(least=0, most=100)] = 0.3
    """Largest loss of top-1 that int8 and --fastest accept, in points, with 95 % confidence."""
    out: Folder = None
    """Folder to write. Default: next to the bundle, named BUNDLE-FORMAT-PRECISION, with --image-size or
    --with-preprocessing followed by -PIXELS, -dynamic or -preprocessing; with int8 BUNDLE-FORMAT-quantized, as another
    precision is written if int8 is refused; with --fastest BUNDLE-fastest."""
    threads: Threads = None
    """CPU threads of the comparison. Default: all."""
    json: Json = False
    reading: OmitArgPrefixes[Reading] = Reading()

    def check(self) -> None:
        """Raises ``ValueError`` for options that do not go together, and where something else would be overwritten;
        ``FileNotFoundError``, ``SourceError`` or ``UnusableFolder`` for what is not there."""
        size = self.image_size
        if (
            size is not None
            and size != "dynamic"
            and not (size.isascii() and size.isdigit() and 1 <= int(size) <= 4096)
        ):
            raise ValueError(f"--image-size is a whole number of pixels up to 4096, or dynamic; got {size!r}")
        if self.image_size == "dynamic" and self.with_preprocessing:
            raise ValueError(
                "--with-preprocessing takes images of any size as it is: give --image-size as the number of pixels to "
                "resize them to, or leave it out"
            )
        if (self.to is None) is not self.fastest:
            raise ValueError("give either --to with a format, or --fastest")
        if self.fastest or self.precision == "int8":
            what = "--fastest" if self.fastest else "--precision int8"
            if self.data is None:
                raise ValueError(f"{what} needs --data: images to calibrate and to test the accuracy on")
            if self.image_size or self.with_preprocessing or (self.fastest and self.precision != "fp32"):
                rest = "--image-size, --with-preprocessing and --precision"
                rest = rest if self.fastest else "--image-size and --with-preprocessing"
                raise ValueError(f"{what} is for the bundle's own inputs: leave out {rest}")
        check_weights(self.bundle)
        if self.data is not None:
            check_source(self.data)
        check_replaced(self.folder, self.bundle)

    @property
    def folder(self) -> Path:
        """The one to write."""
        precision = "quantized" if self.precision == "int8" else self.precision
        inputs = (self.image_size, "preprocessing" if self.with_preprocessing else None)
        kind = "-".join(part for part in (self.to, precision, *inputs) if part)
        return self.out or default_folder(self.bundle, "fastest" if self.to is None else kind)


run = "nextify.cli.exporting:run_export"
