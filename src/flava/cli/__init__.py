"""The command line: finds the command, runs it, and turns its errors into an exit status.

Each module of this folder holds one command, or a few related ones. Only the module of the given
command is imported, so that ``flava --help`` does not load PyTorch and answers at once.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

# It must be set before PyTorch starts its threads. By default each thread of OpenMP spins for a
# millisecond at the end of every operation, and all wait for one whose core is in use by another
# process. With this setting a step of pairs took 2.5 s instead of 4.8 s on a busy machine, and as
# long as before on an idle one (docs/log.md).
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import tyro

COMMANDS = {
    "train": ("train", "Train a recipe, or continue an interrupted run (--resume)."),
    "recipes": (
        "recipes",
        "List the recipes of flava train, or show one of them with all of its fields.",
    ),
    "reproduce": (
        "reproduce",
        "Train and evaluate small versions of all columns of Table C.1, and compare them.",
    ),
    "evaluate": (
        "evaluate",
        "Evaluate a run, or a published FLAVA or CLIP, on held-out data or on the paper's tasks.",
    ),
    "plan": (
        "plan",
        "Estimate the memory, operations, communication and days that a recipe needs on GPUs.",
    ),
    "report": (
        "evaluate",
        "Write a run's report.html, or the table of the results of `flava evaluate --tasks`.",
    ),
    "data": (
        "data",
        "Build shards for training from the paper's data or your own; check and describe shards.",
    ),
    "convert": (
        "convert",
        "Write a model in the layout of transformers (hf), TorchMultimodal or flava, or as ONNX.",
    ),
    "embed": ("embed", "Write the embedding of every image, text or pair to a file."),
    "classify": (
        "embed",
        "Classify images into classes that are given by name, without training (zero-shot).",
    ),
    "match": ("embed", "Compute how well each image and its text match."),
    "search": (
        "search",
        "Find images or texts by text or image: first index them, then query the index.",
    ),
    "fill-mask": ("fill_mask", "Print the most probable tokens for each [MASK] in a text."),
    "reconstruct": (
        "fill_mask",
        "Mask blocks of an image, predict them, and write original and results side by side.",
    ),
    "finetune": (
        "finetune",
        "Train a classifier of your own images, texts or pairs, starting from a pretrained model.",
    ),
    "probe": (
        "finetune",
        "Fit a linear classifier to a frozen model's features of your own images, texts or pairs.",
    ),
    "predict": (
        "finetune",
        "Classify images, texts or pairs with a classifier of `flava finetune` or `flava probe`.",
    ),
}
"""Command -> its module and the first sentence of its help, in the order of `flava --help`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status, as `exit_status_of` gives it.

    Args:
        arguments: The command and its arguments; by default those of the process.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s")
    arguments = sys.argv[1:] if arguments is None else arguments
    if not (needed := _needed_commands(arguments)):
        _run(dict.fromkeys(COMMANDS), arguments)  # it prints the help or an error, and exits
        return 0
    commands = {name: load(name) if name in needed else None for name in COMMANDS}
    return exit_status_of(lambda: _run(commands, arguments))


def _needed_commands(arguments: Sequence[str]) -> set[str]:
    """The commands that must be loaded: the given one, or all for a shell's completion script."""
    first = arguments[0] if arguments else ""
    return set(COMMANDS) if first.startswith("--tyro") else {first} & set(COMMANDS)


def load(name: str) -> Callable[..., Any]:
    """Import the function of a command."""
    module = import_module(f"flava.cli.{COMMANDS[name][0]}")
    return getattr(module, name.replace("-", "_"))


def _run(commands: dict[str, Callable[..., Any] | None], arguments: Sequence[str]) -> None:
    """Let tyro call the command of the arguments; a command that is not loaded is only listed."""
    tyro.extras.subcommand_cli_from_dict(
        {name: command or _listed(name) for name, command in commands.items()},
        prog="flava",
        description="FLAVA: one model for images, texts and both together.",
        args=arguments,
        config=(tyro.conf.CascadeSubcommandArgs,),
    )


def _listed(name: str) -> Callable[[], None]:
    def command() -> None: ...

    command.__doc__ = COMMANDS[name][1]
    return command


def exit_status_of(command: Callable[[], object]) -> int:
    """Call a command; print an expected error as one message instead of a traceback.

    Returns:
        0, or 1 after an error, or 130 after Ctrl-C.
    """
    try:
        command()
    except KeyboardInterrupt as stop:
        return _interrupted(stop)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"flava: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        from flava.training.launch import Interrupted  # loads PyTorch, as not all commands do

        if not isinstance(error, Interrupted):
            raise
        return _interrupted(error)
    return 0


def _interrupted(error: BaseException) -> int:
    if os.environ.get("RANK", "0") == "0":  # torchrun and Slurm start many ranks: one message
        print(f"flava: {str(error) or 'stopped'}", file=sys.stderr)
    return 130
