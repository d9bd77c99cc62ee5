"""``nextify completion SHELL``: what makes a shell complete nextify's commands and options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional


@dataclass(frozen=True)
class Options:
    """Print a script that makes a shell complete nextify's commands and options.

    bash: nextify completion bash > ~/.local/share/bash-completion/completions/nextify; zsh: nextify completion zsh >
    a folder in $fpath, as _nextify; tcsh: nextify completion tcsh >> ~/.tcshrc.
    """

    shell: Positional[Literal["bash", "zsh", "tcsh"]]


def run(options: Options) -> int:
    from nextify.cli import print_completion

    print_completion(options.shell)
    return 0
