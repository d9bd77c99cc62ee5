#!/usr/bin/env bash
# A picture saved as JPEG XL through pillow-jxl-plugin says that its colours are sRGB, whatever they are. The plugin passes no colour
# profile to the encoder, neither the one that the image carries nor icc_profile=..., which the other formats of Pillow
# write: JPEG, WebP and AVIF. Photographs of phones are in Display P3; after a conversion of a data set
# to JPEG XL, lossless too, the numbers are the same and mean other colours. What converts to sRGB on loading, as
# a pipeline with profiles does, then leaves them as they are, and saturated colours come out pale. The reader returns a profile,
# that of sRGB, so a check that there is one passes. use_original_profile=True does not change it. Nothing warns.
#
# Seen 2026-11-30 with pillow-jxl-plugin 1.3.8, Pillow 13.0.0, pyvips 3.2.0 (libvips 8.18.7), NumPy 2.4.6, Python 3.11.7; squares of
# random sRGB colours, made Display P3 by libvips, saved, read and made sRGB by their profile; difference to the first colours:
#   PNG: values off by 0.0, colours off by 0.3, at most 4
#   WebP, lossless: values off by 0.0, colours off by 0.3, at most 4
#   JPEG, quality 95: values off by 0.3, colours off by 0.6, at most 5
#   AVIF, quality 95: values off by 0.9, colours off by 1.5, at most 19
#   JPEG XL, lossless: values off by 0.0, colours off by 11.3, at most 80
#   JPEG XL, lossless, original profile: values off by 0.0, colours off by 11.3, at most 80
#   JPEG XL, quality 95: values off by 1.2, colours off by 11.4, at most 88
# A guess that fails: "lossless keeps the colours".
# What works: making the colours sRGB before saving.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow-jxl-plugin==1.3.8 pillow==13.0.0 \
  pyvips==3.2.0 pyvips-binary==8.18.7 numpy==2.4.6
cat > "$folder/colours.py" <<'PY'
import io
import sys

import numpy as np
import pillow_jxl  # noqa: F401 - teaches Pillow the format
import pyvips
from PIL import Image, ImageCms

draw = np.random.default_rng(0)
first = np.kron(draw.integers(0, 256, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
wide = pyvips.Image.new_from_array(first).copy(interpretation="srgb").icc_transform("p3", input_profile="srgb")
profile = wide.get("icc-profile-data")
srgb = ImageCms.createProfile("sRGB")
found = {}
for name, kind, options in (
    ("PNG", "PNG", {}),
    ("WebP, lossless", "WEBP", {"lossless": True}),
    ("JPEG, quality 95", "JPEG", {"quality": 95, "subsampling": 0}),
    ("AVIF, quality 95", "AVIF", {"quality": 95, "subsampling": "4:4:4"}),
    ("JPEG XL, lossless", "JXL", {"lossless": True}),
    ("JPEG XL, lossless, original profile", "JXL", {"lossless": True, "use_original_profile": True}),
    ("JPEG XL, quality 95", "JXL", {"quality": 95}),
):
    file = io.BytesIO()
    image = Image.fromarray(wide.numpy())
    image.info["icc_profile"] = profile
    image.save(file, kind, icc_profile=profile, **options)
    back = Image.open(file)
    said = ImageCms.ImageCmsProfile(io.BytesIO(back.info["icc_profile"]))
    shown = np.asarray(ImageCms.profileToProfile(back.convert("RGB"), said, srgb), int)
    off = np.abs(shown - first)
    same = np.abs(np.asarray(back.convert("RGB"), int) - wide.numpy()).mean()
    found[name] = off.mean()
    print(f"{name}: values off by {same:.1f}, colours off by {off.mean():.1f}, at most {off.max()}")
sys.exit(not all((value > 5) == name.startswith("JPEG XL") for name, value in found.items()))
PY
"$folder/venv/bin/python" "$folder/colours.py"
