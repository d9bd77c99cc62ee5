#!/usr/bin/env bash
# A network that AOTInductor compiled for a plain (N, 1, H, W) input gives other results for the same numbers with the
# strides of channels last: one channel of (N, H, W, 1) images, permuted, as NumPy and OpenCV deliver them. The usual
# remedy, x.contiguous(), does nothing: torch calls that tensor contiguous already, since the stride of an axis of
# length 1 does not count, and returns it as it is. Neither loading nor calling checks the strides by default. Eager
# torch and torch.export's own program are right. x.clone(memory_format=torch.contiguous_format) gives plain strides.
#
# Seen VERSIONS
