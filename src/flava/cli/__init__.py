"""The command line: one module for each group of commands.

Only the module of the command that is asked for is imported, so that ``flava --help`` needs no
PyTorch and answers at once.
"""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

# Before torch starts its threads: by default each spins for a millisecond at the end of every
# operation, and where another process has its core the rest wait. A pair update took 2.5 s for
# 4.8 s on a machine in use, and as long as before on a quiet one (docs/log.md).
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import tyro

COMMANDS = {
    "train": ("train", "Train a recipe, or go on with an interrupted run (--resume)."),
    "recipes": (
        "recipes",
        "List the recipes of flava train, or show one of them with all of its fields.",
    ),
    "reproduce": (
        "reproduce",
        "Train the stages and columns of Table C.1 as small twins, evaluate them, compare them.",
    ),
    "evaluate": (
        "evaluate",
        "Evaluate a run, or a published FLAVA or CLIP, on held-out data or on the paper's tasks.",
    ),
    "plan": (
        "plan",
        "Tell what a recipe needs of some GPUs: memory, operations, messages and days.",
    ),
    "report": (
        "evaluate",
        "Write RUN/report.html; or the paper's table of what `flava evaluate --tasks` found.",
    ),
    "data": (
        "data",
        "Build the paper's data, or one's own, into shards that train; check and describe them.",
    ),
    "convert": (
        "convert",
        "Write a model in another layout: transformers', TorchMultimodal's, our own; or as ONNX.",
    ),
    "embed": ("embed", "Write the embedding of every image, text or pair to a file."),
    "classify": (
        "embed",
        "Name the likeliest classes of every image, without training (zero-shot).",
    ),
    "match": ("embed", "Tell how well each image and its text match."),
    "search": ("search", "Find images or texts by text or image: index once, then query."),
    "fill-mask": ("fill_mask", "Print the likeliest tokens for each [MASK] in a text."),
    "reconstruct": (
        "fill_mask",
        "Hide blocks of an image, fill them in, and write both beside the original.",
    ),
    "finetune": (
        "finetune",
        "Train a classifier of your own images, texts or pairs, on top of a model.",
    ),
    "probe": (
        "finetune",
        "Fit a linear classifier on a model's frozen features of your own images, texts or pairs.",
    ),
    "predict": (
        "finetune",
        "Classify images, texts or pairs with what `flava finetune` or `flava probe` made.",
    ),
}
"""Each command's module and first sentence, in the order that `flava --help` lists them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, or 1 after an error, or 130 after Ctrl-C."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    arguments = sys.argv[1:] if arguments is None else arguments
    if not (named := asked(arguments)):
        run(dict.fromkeys(COMMANDS), arguments)  # help, or an error: tyro exits
        return 0
    from flava.cli.messages import reporting

    commands = {name: load(name) if name in named else None for name in COMMANDS}
    return reporting(lambda: run(commands, arguments))


def asked(arguments: Sequence[str]) -> set[str]:
    """The commands that must be known whole: the one that is named, all to complete a shell's."""
    first = arguments[0] if arguments else ""
    return set(COMMANDS) if first.startswith("--tyro") else {first} & set(COMMANDS)


def load(name: str) -> Callable[..., Any]:
    module = import_module(f"flava.cli.{COMMANDS[name][0]}")
    return getattr(module, name.replace("-", "_"))


def run(commands: dict[str, Callable[..., Any] | None], arguments: Sequence[str]) -> None:
    """Let tyro choose; a command that is not loaded is only described."""
    tyro.extras.subcommand_cli_from_dict(
        {name: command or described(name) for name, command in commands.items()},
        prog="flava",
        description="FLAVA: one model for images, texts and both together.",
        args=arguments,
        config=(tyro.conf.CascadeSubcommandArgs,),
    )


def described(name: str) -> Callable[[], None]:
    def command() -> None: ...

    command.__doc__ = COMMANDS[name][1]
    return command
