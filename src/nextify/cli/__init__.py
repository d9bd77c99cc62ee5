"""The command ``nextify``: one file per command, each a frozen dataclass ``Options`` and ``run(options) -> int``.

Only the requested command is imported, and what runs it only once ``check`` has refused whatever can be refused without
torch and without an image; ``run`` may name it as an entry point does, ``module:function``.
Exit codes: 0 success, 1 failure, 2 invalid request, 130 interrupted.
"""

import contextlib
import errno
import io
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any, Union

from nextify import __version__
from nextify.cli.printing import one_voice, said_once
from nextify.paper.settings import check_ranges
from nextify.system import processes
from nextify.system.allocator import keep_freed_memory

STARTED = time.monotonic()
"""When the command began, by ``time.monotonic``."""
GROUPS: dict[str, dict[str, str]] = {
    "Understand the paper": {
        "roadmap": "train the steps from ResNet to ConvNeXt on your images and report what each one gains",
        "attribute": "find out what each of the paper's decisions is worth in any order, by Shapley values",
        "search": "search for the best design for your images and machine within a latency budget",
        "models": "list the named networks with their cost and published accuracy",
        "show": "show one network: its blocks, and the cost of each stage",
        "diff": "show the differences between two networks, layer by layer",
    },
    "Train and use a network": {
        "pretrain": "pre-train a network on images without labels, by reconstructing masked pixels",
        "starts": "rank weights to start from on your images, by a probe that takes minutes",
        "train": "train a network on your images, from scratch or from given weights",
        "runs": "list training runs, and show what differed between two of them and by how much",
        "evaluate": "measure a bundle on your images: accuracy or precision, per class, confusion, calibration",
        "inspect": "find likely label errors, near duplicates and outliers among your images",
        "robustness": "measure a bundle under 15 corruptions of your images, and its mCE",
        "predict": "classify images, or find objects or regions in them: files, folders, patterns",
        "explain": "draw where a network looks, with checks of what the maps are worth",
    },
    "Run it elsewhere": {
        "serve": "serve a bundle or an export over HTTP, with a page",
        "export": "write a bundle for another runtime (ONNX, OpenVINO, torch.export, …), verified to give its results",
        "quantize": "write a bundle in int8 if it is faster and keeps its accuracy, otherwise the best that does",
        "convert": "convert weights between official ConvNeXt, timm, torchvision, Hugging Face and nextify",
    },
    "Measure and check this machine": {
        "compare": "measure networks of different families side by side: cost, speed, memory, and how they grow",
        "doctor": "report versions, devices, kernels, extras and speed of this installation, also for bug reports",
    },
}
"""``{title: {name: one line of help}}``; a command's code is the module ``nextify.cli.NAME``."""
COMMANDS = {name: line for group in GROUPS.values() for name, line in group.items()}
EXAMPLES = """\
  nextify roadmap --data photos/          what each decision of the paper gains on your images
  nextify show resnet50_depthwise         one row of the paper, as a network
  nextify train convnext_atto --data photos/ --epochs 20
  nextify evaluate runs/…/bundle --data photos/
  nextify predict runs/…/bundle one.jpg"""

SEE = {
    "WeightsError": "docs/weights.md#supported-files",
    "UnsafeFile": "docs/weights.md#safety",
    "ExportError": "docs/export.md",
    "MissingExtra": "docs/install.md#extras",
    "MissingEngine": "docs/cluster.md",
    "FormatError": "docs/export.md",
    "ExportFailed": "docs/export.md#what-is-verified",
    "TooFewImages": "docs/export.md#int8-that-keeps-its-promise",
    "PlanError": "docs/study.md",
    "BudgetError": "docs/compare.md#a-budget---budget",
    "DesignError": "docs/models.md",
    "StepError": "docs/models.md",
    "DeviceError": "docs/install.md#checking-the-installation",
}
"""Where in the documentation more is said about errors of a class or its subclasses, by its name. Errors in images name
their page themselves where they do not say all that there is to do."""


class OptionError(ValueError):
    """An option that no command accepts; the message names it and what it accepts."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Only a bug in nextify ends in a traceback."""
    global STARTED
    if argv is not None:  # called from Python, maybe long after the import
        STARTED = time.monotonic()
    else:
        warnings.formatwarning = _format_warning
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Log files grow line by line, and a name that the terminal cannot encode must not lose a result.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        with sigterm_interrupts():
            code = _run(arguments)
        sys.stdout.flush()  # a full disk or a closed pipe must surface inside this try
    except KeyboardInterrupt:
        print("nextify: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _discard_stdout()  # the reader (head, less) has closed the pipe
        return 1
    except Exception as error:
        line = _explain(error)
        if line is None:
            raise
        print(f"nextify: {line}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            _discard_stdout()
        return 1 if isinstance(error, OSError | ImportError | RuntimeError) else 2
    return code


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
    _python: Any = warnings.formatwarning,
) -> str:
    """A warning of ours as one line, as errors are; those of libraries as Python writes them."""
    if category.__module__.startswith("nextify."):
        return f"nextify: warning: {message}\n"
    return str(_python(message, category, filename, lineno, line))


@contextlib.contextmanager
def sigterm_interrupts() -> Any:
    """Let SIGTERM stop the command as Ctrl-C does."""
    command = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != command:  # a helper process that was forked
            os._exit(128 + number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _discard_stdout() -> None:
    """Send the rest of stdout to the null device, so that the interpreter does not fail again when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"nextify {__version__}")
        return 0
    name, *rest = arguments
    if name == "--completion":
        print_completion(rest)
        return 0
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"nextify: no command {name!r}; {hint}", file=sys.stderr)
        return 2
    module = import_module(f"nextify.cli.{name}")
    try:
        options = _parse(name, module, rest)
    except SystemExit as end:  # tyro has printed the help
        return end.code if isinstance(end.code, int) else 0
    with one_voice(first=processes.number() == 0):
        check_ranges(options, OptionError)
        if hasattr(options, "check"):
            options.check()
    keep_freed_memory()
    with said_once():
        run = module.run
        if isinstance(run, str):
            place, _, function = run.partition(":")
            run = getattr(import_module(place), function)
        return int(run(options))


def _parse(name: str, module: Any, arguments: list[str]) -> Any:
    """The command's options. Raises ``SystemExit`` after help was printed, and ``OptionError`` for unfit arguments."""
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), _defaults_of_their_types():
            return tyro.cli(module.Options, prog=f"nextify {name}", args=arguments, config=_style())
    except SystemExit as end:
        if not end.code:
            raise
        box = said.getvalue().partition("\n")[2]  # without its title
        words = [word for word in box.split() if not set(word) <= set("│╭╮╰╯├┤─") and not re.fullmatch("-{9,}", word)]
        text = re.sub(
            r"(?: Argument helptext: .*)? (?:For full helptext, run|see):?(?= nextify)", "; see", " ".join(words)
        )
        text = re.sub(r"\. Expected one of \((.*?)\)(?=\.)", _choices, text.replace(" Expected 1 values.", ""))
        text = text.replace(".; see", "; see")
        text = re.sub(r"invalid literal for int\(\) with base 10:", "INT wanted, got", text)
        text = text.replace("could not convert string to float:", "FLOAT wanted, got")
        if "--set" in arguments:
            each = r"\1\2 (put --set before each setting, as in --set \1)"
            text = re.sub(r"(?<=Unrecognized options: )(\w[\w.]*=[^,;]*)(.*)(?=; see)", each, text)
        raise OptionError(
            re.sub(
                r"no type matching \{?((?<=\{)[^}]*|\S+)\}? .* from \[(.*?)\].*(?=; see)", r"\1 wanted, got \2", text
            )
        ) from None


def _style() -> tuple[Any, ...]:
    from tyro import conf

    return (conf.FlagCreatePairsOff, conf.ConsolidateSubcommandArgs, conf.DisallowNone)


def print_completion(arguments: list[str]) -> None:
    """Print tyro's script that makes a shell complete all commands and options. Raises ``OptionError``."""
    if arguments not in (["bash"], ["zsh"]):
        raise OptionError("--completion takes one shell: bash or zsh")
    import tyro

    commands = tuple(
        Annotated[
            import_module(f"nextify.cli.{name}").Options,
            tyro.conf.subcommand(name, description=line, prefix_name=False),
        ]
        for name, line in COMMANDS.items()
    )
    any_command: Any = Union[commands]  # noqa: UP007
    with contextlib.suppress(SystemExit):
        tyro.cli(any_command, prog="nextify", args=["--tyro-print-completion", *arguments], config=_style())


@contextlib.contextmanager
def _defaults_of_their_types() -> Iterator[None]:
    """Spare tyro typeguard, whose import takes longer than the parsing.

    tyro asks it whether the default of a ``str | None`` or a tuple is of that type, which mypy has answered.
    """
    if "typeguard" in sys.modules:
        yield
        return
    stand_in: Any = ModuleType("typeguard")
    stand_in.check_type, stand_in.TypeCheckError = (lambda value, kind: value), TypeError
    sys.modules["typeguard"] = stand_in
    try:
        yield
    finally:
        del sys.modules["typeguard"]


def _choices(found: re.Match[str]) -> str:
    """What tyro would take for an option; where it may be left out, tyro has None among them, in no order."""
    names = found[1].replace("'", "").split(", ")
    return ": choose " + ", ".join(sorted({*names} - {"None"}) if "None" in names else names)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    groups = (
        "\n".join([f"{title}:", *(f"  {name:<{width}}  {line}" for name, line in group.items())])
        for title, group in GROUPS.items()
    )
    return (
        "From ResNet to ConvNeXt, one design decision at a time.\n\nusage: nextify COMMAND [OPTIONS]\n\n"
        + "\n\n".join(groups)
        + f"\n\nExamples:\n{EXAMPLES}\n\n"
        "nextify COMMAND --help lists a command's options; nextify --version prints the version, nextify --completion\n"
        "bash (or zsh) a script that makes your shell complete all of this."
    )


def _explain(error: Exception) -> str | None:
    """One line for an error that the user can fix; None for a bug."""
    if isinstance(error, OSError):
        return _explain_os(error)
    if isinstance(error, ValueError | KeyError | ImportError | RuntimeError) and _is_ours(error):
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        line = " ".join(str(message).split())
        see = next((SEE[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in SEE), None)
        return line if see is None or "docs/" in line else f"{line} (see {see})"
    return None


def _explain_os(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        where = ", ".join(filter(None, (error.filename, str(error.strerror).partition(", ")[2])))
        return f"no space left on the disk{f' ({where})' if where else ''}; free some and run the same command again"
    if error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}; check the path and its permissions"
    return " ".join(str(error).split()) or type(error).__name__


def _is_ours(error: Exception) -> bool:
    """Whether nextify raised the error on purpose: one of our classes, or a built-in one raised in our code.

    A wrong key or value that surfaces inside another library is a bug and needs its traceback, and so does a failed
    import or a ``RuntimeError``, unless it is of a class of ours.
    """
    if type(error).__module__.startswith("nextify"):
        return True
    if isinstance(error, ImportError | RuntimeError):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_by = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    # A dictionary's KeyError('x') is not a message.
    return str(raised_by).startswith("nextify") and " " in str(error)
