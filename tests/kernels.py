"""What the tests of compiled kernels share."""

import pytest
import torch

from nextify import compiled

needs_kernels = pytest.mark.skipif(compiled._compiler() is None, reason="no C++ compiler here")
DTYPES = [torch.float32, torch.bfloat16]
