"""Measure the layout of the source tree: how large, how doubled and how tangled its files are.

    python scripts/measure_house.py [TREE] [--trainer MODULE] [--start FUNCTION] [--check]

TREE is the folder of a package, by default src/flava. The figures of its .py files are printed as a
Markdown table, with lists of what was counted below it. Nothing is imported or run: all is read
from the source. With --check only what breaks a rule is printed, and then the exit status is 1: a
file longer than 400 lines, a file name used twice, a class name defined twice. What is counted:

Names used more than once
    Of files: their names without folders, ``__init__.py`` left out. Of classes: the names of those
    at the top of modules, in an ``if`` or ``try`` there too. Other CamelCase names: those assigned
    there, such as ``Found = TypeVar("Found")``, where another module has the same one or a class.
Modules loaded by the trainer's
    The modules of the package that are loaded when the trainer's module is imported: that module
    itself, and the packages around each, are among them. Followed are the imports that run when a
    module is imported: not those in functions, and not those under ``if TYPE_CHECKING``.
Following the run
    A walk as of a reader who follows a run's configuration through the code. It begins with the
    function ``start``, and takes what stands in it in source order. At each call that is given the
    run it goes to what is called, reads that in the same way, and comes back. Each function and
    class is read once: a later call of it is passed over. Of a class, all methods are read.

    A call is given the run if an argument contains the name ``run``, ``self.run``, or an attribute
    of them such as ``run.data``. What stands inside a further call in the argument does not count,
    but for ``replace(run, ...)``. ``partial(f, run)`` is a call of ``f``. Only functions and
    classes at the top of the package's modules are followed, by a name that the module defines or
    imports; not methods of objects, whose class the source does not tell. Where the run is given to
    a parameter of another name, the trail ends there.

    The path is the list of files that the reader is in, one after another. Its files are counted,
    each once; its moves back up to a file on a higher floor; and its returns, the moves to a file
    that the reader was in before. The order of floors is the list ``layers`` of import-linter's
    contract in pyproject.toml, in a folder above TREE.
Public functions without a mention elsewhere
    Functions at the top of a module, without a leading underscore, that no other module imports or
    names. A string that is the name is a mention: the command line finds its commands so.
Checks by hand
    Methods and properties, and functions apart from them, whose names are or end in mistakes,
    problems or misfits.
"""

import argparse
import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from statistics import median

LONGEST = 400
"""Lines that a file may have."""

ALLOWED_TWICE: dict[str, frozenset[str]] = {
    "file": frozenset(
        {
            # A method has a model, an objective and recipes: files of one name on three floors.
            *("classifier.py", "clip.py", "codebook.py", "dino.py", "flava.py", "unimodal.py"),
            # A command is named like the module that does its work.
            *("evaluate.py", "finetune.py", "plan.py", "reproduce.py", "search.py"),
        }
    ),
    "class": frozenset(),
}
"""Names of files and of classes that may be used more than once."""

CAMEL_CASE = re.compile(r"[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*")
CHECK_BY_HAND = re.compile(r"(.*_)?(mistakes|problems|misfits)")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; or, with --check, what breaks a rule. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tree", type=Path, nargs="?", default=Path("src/flava"))
    parser.add_argument("--trainer", help="by default the module that defines the class Trainer")
    parser.add_argument("--start", help="by default PACKAGE.recipes.start.start")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a rule is broken")
    options = parser.parse_args(arguments)
    house = House(options.tree)
    if options.check:
        for line in (found := house.broken_rules()):
            print(line)
        return 1 if found else 0
    print(report(house, options.trainer, options.start))
    return 0


def report(house: "House", trainer: str | None = None, start: str | None = None) -> str:
    """The table, and below it lists of what was counted."""
    modules = house.modules.values()
    longest = max(modules, key=lambda each: each.length)
    trainer = trainer or house.module_of_class("Trainer")
    path = house.path_of_run(start or f"{house.package}.recipes.start.start")
    methods, functions = house.checks_by_hand()
    rows: dict[str, object] = {
        "files": len(modules),
        "median lines of a file": f"{median(each.length for each in modules):g}",
        "lines of the longest file": f"{longest.length} ({longest.path})",
    }
    lists: dict[str, Iterable[str]] = {}
    for kind, names in house.doubled.items():
        times = sum(map(len, names.values()))
        rows[f"{kind} names used more than once"] = f"{len(names)}, {times} times in all"
        lists[f"The {kind} names used more than once"] = listed(names)
    rows |= {
        f"modules loaded by {trainer}": len(house.loaded_by(trainer)),
        "following the run: files": len(set(path)),
        "following the run: back up to a higher floor": house.moves_up(path),
        "following the run: returns to a file": len(path) - len(set(path)),
        "public functions without a mention elsewhere": len(house.unmentioned_functions()),
        "checks by hand: methods and properties": methods,
        "checks by hand: functions": functions,
    }
    lists["The files, in the order in which the run is followed to them"] = dict.fromkeys(path)
    lines = ["| what | figure |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows.items())]
    for title, each in lists.items():
        lines += ["", f"{title}:", "", *(f"- {line}" for line in each)]
    return "\n".join(lines)


def listed(doubled: dict[str, list[str]]) -> list[str]:
    """A line for each name, those in most places first."""
    order = sorted(doubled, key=lambda name: (-len(doubled[name]), name))
    return [f"{name}, {len(doubled[name])} times: {', '.join(doubled[name])}" for name in order]


@dataclass(frozen=True)
class Module:
    """One file of the tree."""

    name: str
    """With dots, the package's first."""
    path: str
    """Below the package's folder."""
    text: str
    is_package: bool

    @property
    def length(self) -> int:
        return len(self.text.splitlines())

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def statements(self) -> list[ast.AST]:
        """Those at its top, which run when it is imported."""
        return list(run_at_import(self.tree.body))

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """The functions and classes at its top."""
        return {each.name: each for each in self.statements if isinstance(each, Definition)}

    @property
    def classes(self) -> set[str]:
        return {name for name, node in self.definitions.items() if isinstance(node, ast.ClassDef)}

    @property
    def assigned(self) -> set[str]:
        """The CamelCase names that are assigned at its top."""
        found = [each.targets for each in self.statements if isinstance(each, ast.Assign)]
        found += [[each.target] for each in self.statements if isinstance(each, ast.AnnAssign)]
        names = {name.id for targets in found for name in targets if isinstance(name, ast.Name)}
        return set(filter(CAMEL_CASE.fullmatch, names))

    @property
    def loads(self) -> list[str]:
        """What it imports when it is imported, with dots; some of it may be names in modules."""
        return [whole for _, _, whole in self.bindings(self.statements)]

    @cached_property
    def imported(self) -> dict[str, str]:
        """What the names that it imports, anywhere in it, stand for, with dots."""
        return {name: meant for name, meant, _ in self.bindings(ast.walk(self.tree))}

    def bindings(self, nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str, str]]:
        """Of each import: the name here, what it stands for, and what is loaded."""
        for node in nodes:
            if isinstance(node, ast.Import):
                for each in node.names:
                    meant = each.name if each.asname else each.name.split(".")[0]
                    yield each.asname or meant, meant, each.name
            elif isinstance(node, ast.ImportFrom):
                for each in node.names:
                    whole = f"{self.origin(node)}.{each.name}"
                    yield each.asname or each.name, whole, whole

    def origin(self, node: ast.ImportFrom) -> str:
        """The module that is imported from."""
        if not node.level:
            return node.module or ""
        above = self.name.split(".")[: self.name.count(".") + 1 - node.level + self.is_package]
        return ".".join([*above, *([node.module] if node.module else [])])


def run_at_import(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Statements, the insides of ``if``, ``try`` and ``with`` too, but not of definitions."""
    for each in body:
        yield each
        if isinstance(each, ast.If) and "TYPE_CHECKING" in ast.unparse(each.test):
            yield from run_at_import(each.orelse)
        elif isinstance(each, ast.If | ast.Try | ast.ExceptHandler | ast.With):
            for field in ("body", "handlers", "orelse", "finalbody"):
                yield from run_at_import(getattr(each, field, ()))


class House:
    """A package's source tree."""

    def __init__(self, tree: Path) -> None:
        self.folder = tree.resolve()
        self.package = self.folder.name
        self.modules = {each.name: each for each in map(self.read, sorted(tree.rglob("*.py")))}
        if not self.modules:
            raise SystemExit(f"{tree} holds no .py files: give the folder of a package")

    def read(self, file: Path) -> Module:
        inside = file.resolve().relative_to(self.folder)
        whole = ".".join([self.package, *inside.with_suffix("").parts])
        name = whole.removesuffix(".__init__")
        return Module(name, inside.as_posix(), file.read_text(encoding="utf-8"), name != whole)

    @cached_property
    def doubled(self) -> dict[str, dict[str, list[str]]]:
        """Of each kind of name: those that several modules have, with the files of those."""
        assigned = {name for each in self.modules.values() for name in each.assigned}
        names_of: dict[str, Callable[[Module], Iterable[str]]] = {
            "file": lambda each: () if each.is_package else (Path(each.path).name,),
            "class": lambda each: each.classes,
            "other CamelCase": lambda each: assigned & (each.assigned | each.classes),
        }
        found: dict[str, dict[str, list[str]]] = {kind: defaultdict(list) for kind in names_of}
        for module in self.modules.values():
            for kind, names in names_of.items():
                for name in names(module):
                    found[kind][name].append(module.path)
        return {k: {n: paths for n, paths in v.items() if len(paths) > 1} for k, v in found.items()}

    def broken_rules(self) -> list[str]:
        """A line for each file that is too long, and for each name that is used twice."""
        return [
            f"{each.path} has {each.length} lines: at most {LONGEST} are allowed"
            for each in self.modules.values()
            if each.length > LONGEST
        ] + [
            f"the {kind} name {name} is used {len(paths)} times: {', '.join(paths)}"
            for kind, allowed in ALLOWED_TWICE.items()
            for name, paths in self.doubled[kind].items()
            if name not in allowed
        ]

    def resolve(self, dotted: str) -> tuple[Module, str] | None:
        """The definition that a name with dots leads to, through what modules import."""
        seen: set[str] = set()
        while dotted not in seen:
            seen.add(dotted)
            parts = dotted.split(".")
            known = [n for n in range(1, len(parts)) if ".".join(parts[:n]) in self.modules]
            if not known:
                return None
            module, (name, *rest) = self.modules[".".join(parts[: known[-1]])], parts[known[-1] :]
            if name in module.definitions:
                return module, name
            if name not in module.imported:
                return None
            dotted = ".".join([module.imported[name], *rest])
        return None

    def meant(self, module: Module, expression: ast.expr) -> tuple[Module, str] | None:
        """The definition that a name, or a name with attributes, stands for in a module."""
        first, *rest = parts_of(expression) or [""]
        return self.resolve(".".join([module.imported.get(first, f"{module.name}.{first}"), *rest]))

    def module_of_class(self, name: str) -> str:
        """Raises SystemExit: no module defines it, or several do."""
        found = [each.name for each in self.modules.values() if name in each.definitions]
        if len(found) != 1:
            raise SystemExit(f"{name} is defined in {found or 'no module'}: give --trainer")
        return found[0]

    def loaded_by(self, name: str) -> set[str]:
        """The modules that are loaded when one is imported, itself among them."""
        if name not in self.modules:
            raise SystemExit(f"there is no module {name} in {self.folder}")
        found, waiting = set(), [name]
        while waiting:
            parts = waiting.pop().split(".")
            around = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
            new = (around & self.modules.keys()) - found
            found |= new
            waiting += [each for module in new for each in self.modules[module].loads]
        return found

    def path_of_run(self, start: str) -> list[str]:
        """The files that the walk is in, one after another."""
        if not (first := self.resolve(start)):
            raise SystemExit(f"there is no function {start}: give --start")
        path: list[str] = []
        seen: set[tuple[str, str]] = set()

        def read(module: Module, name: str) -> None:
            seen.add((module.name, name))
            path.append(module.path)
            calls = [n for n in ast.walk(module.definitions[name]) if isinstance(n, ast.Call)]
            for call in sorted(calls, key=lambda each: (each.lineno, each.col_offset)):
                called, given = called_with(call)
                target = self.meant(module, called) if any(map(carries_run, given)) else None
                if target and (target[0].name, target[1]) not in seen:
                    read(*target)
                    path.append(module.path)

        read(*first)
        return [file for file, _ in groupby(path)]

    @cached_property
    def floors(self) -> dict[str, int]:
        """The floor of each part of the package, counted from the uppermost."""
        for file in (folder / "pyproject.toml" for folder in self.folder.parents):
            settings = tomllib.loads(file.read_text()) if file.is_file() else {}
            for contract in settings.get("tool", {}).get("importlinter", {}).get("contracts", []):
                if self.package in contract.get("containers", []) and "layers" in contract:
                    return {
                        part.strip(" ()"): number
                        for number, floor in enumerate(contract["layers"])
                        for part in re.split("[|:]", floor)
                    }
        raise SystemExit(f"no pyproject.toml above {self.folder} has the layers of {self.package}")

    def moves_up(self, path: Sequence[str]) -> int:
        """Moves to a file on a higher floor; files that are on none do not count."""
        floors = [self.floors.get(file.split("/")[0].removesuffix(".py")) for file in path]
        return sum(a is not None and b is not None and b < a for a, b in pairwise(floors))

    def unmentioned_functions(self) -> set[tuple[str, str]]:
        """Public functions that no other module mentions: module and name."""
        strings: dict[str, set[str]] = defaultdict(set)
        mentioned: set[tuple[str, str]] = set()
        for module in self.modules.values():
            found = [self.resolve(each) for each in module.imported.values()]
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Attribute):
                    found.append(self.meant(module, node))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    strings[node.value.replace("-", "_")].add(module.name)
            mentioned |= {(each[0].name, each[1]) for each in found if each and each[0] != module}
        return {
            (module.name, name)
            for module in self.modules.values()
            for name, node in module.definitions.items()
            if isinstance(node, Function)
            and not name.startswith("_")
            and (module.name, name) not in mentioned
            and not strings[name] - {module.name}
        }

    def checks_by_hand(self) -> tuple[int, int]:
        """Methods and properties, and other functions, that list what is wrong."""
        found = [
            isinstance(around, ast.ClassDef)
            for module in self.modules.values()
            for around in ast.walk(module.tree)
            for each in ast.iter_child_nodes(around)
            if isinstance(each, Function) and CHECK_BY_HAND.fullmatch(each.name)
        ]
        return found.count(True), found.count(False)


def parts_of(expression: ast.expr) -> list[str]:
    """The parts of a name with attributes; none if it is anything else."""
    if isinstance(expression, ast.Name):
        return [expression.id]
    if isinstance(expression, ast.Attribute) and (before := parts_of(expression.value)):
        return [*before, expression.attr]
    return []


def called_with(call: ast.Call) -> tuple[ast.expr, list[ast.expr]]:
    """What is called, with which arguments; what ``partial`` is given is called."""
    arguments = [*call.args, *(each.value for each in call.keywords)]
    if parts_of(call.func)[-1:] == ["partial"] and call.args:
        return call.args[0], arguments[1:]
    return call.func, arguments


def carries_run(argument: ast.AST) -> bool:
    """Whether an argument contains the run, or a part of it, outside of a further call."""
    match argument:
        case ast.Name(id="run") | ast.Attribute(attr="run", value=ast.Name(id="self")):
            return True
        case ast.Call(func=ast.Name(id="replace"), args=[first, *_]):
            return carries_run(first)
        case ast.Call():
            return False
    return any(map(carries_run, ast.iter_child_nodes(argument)))


if __name__ == "__main__":
    sys.exit(main())
