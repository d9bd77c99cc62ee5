"""The options of the engines of clusters, checked before anything is loaded."""

import re
from collections.abc import Sequence
from importlib.util import find_spec

ENGINES = {"ray": "ray", "slurm": "submitit"}
"""Those that need a package, which its extra of that name installs."""
OPTIONS = (
    *("partition", "time", "account", "qos", "mem", "gres", "gpus-per-node", "constraint", "reservation"),
    *("nodelist", "exclude", "nice", "comment"),
)
"""Of sbatch's that may be given."""


def slurm_options(given: Sequence[str]) -> dict[str, str]:
    """``NAME=VALUE`` texts as a mapping. Raises ``ValueError`` for what is unknown, given twice or has no value."""
    found: dict[str, str] = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in OPTIONS or not value or name in found:
            problem = "given twice" if name in found else "no value" if name in OPTIONS else "not known"
            raise ValueError(f"--slurm {text}: {problem}; give NAME=VALUE, each once, of {', '.join(OPTIONS)}")
        found[name] = value
    if "time" in found:
        minutes(found["time"])
    return found


def minutes(text: str) -> int:
    """Sbatch's times, ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M`` or ``D-H:M:S``, in whole minutes, 1 at least."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if found is None:
        raise ValueError(f"--slurm time={text}: give minutes, H:M:S or D-H:M:S")
    days, *rest = found.groups()
    first, second, third = (int(part or 0) for part in rest)
    if days is not None:
        seconds = ((int(days) * 24 + first) * 60 + second) * 60 + third
    else:
        seconds = (first * 60 + second) * 60 + third if rest[2] is not None else first * 60 + second
    return max(1, seconds // 60)


class MissingEngine(ImportError):
    """An engine's package is not installed; the message names the command that installs it."""


class ClusterUnavailable(OSError):
    """The cluster cannot be reached, or has no room for a single trial; the message says what to do."""


def check_engine(engine: str) -> None:
    """Raises ``MissingEngine`` where the engine's package is not installed."""
    if engine in ENGINES and find_spec(ENGINES[engine]) is None:
        raise MissingEngine(f"--engine {engine} needs a package: pip install 'nextify[{engine}]'")
