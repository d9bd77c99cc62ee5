"""The paper's figures of the roadmap, typed in from its tables apart from the package's own."""

import json
from pathlib import Path
from typing import Any

PAPER: dict[str, Any] = json.loads(Path(__file__).with_name("roadmap.json").read_text(encoding="utf-8"))
