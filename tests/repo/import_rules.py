"""Who may import whom: the table of rooms, and a reader of import statements that holds the code to it.

The imports are read from the syntax tree, so nothing is executed, and those under TYPE_CHECKING or inside a
function count too. `docs/architecture.md` explains the rules in words.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("engine", "tgi_cli", "bench")
HEAVY = ("numpy", "torch", "triton", "transformers", "rich")  # packages a room must be allowed by name
OPEN = ("engine.types", "engine.errors", "engine.config", "engine.logs", "engine.metrics", "engine.trace")
COMPUTE = ("engine.models", "engine.weights", "engine.quant", "engine.sample", "engine.spec", "engine.sched.plan")
IMPURE = (
    "asyncio",
    "datetime",
    "io",
    "logging",
    "os",
    "pathlib",
    "random",
    "socket",
    "subprocess",
    "threading",
    "time",
)
BENCH_WITH_ENGINE = tuple(f"bench.{name}" for name in ("offline", "micro", "cpu", "gpu", "overhead"))
ANYWHERE = ""  # inside any function, or for types


@dataclass(frozen=True)
class Room:
    """What the modules under a name may import besides each other and the standard library.

    `inside` names modules that must not be imported when the room is: only inside any function or under
    TYPE_CHECKING (`ANYWHERE`), or only inside the functions of one class or of one name. `heavy` names the
    packages of `HEAVY` the room may import.
    """

    ours: tuple[str, ...] = ()
    inside: dict[str, str] = field(default_factory=dict)
    heavy: tuple[str, ...] = ()
    no_stdlib: tuple[str, ...] = ()


ROOMS = {
    "engine": Room(("engine.answer", "engine.client", "engine.config", "engine.errors", "engine.llm", "engine.types")),
    "engine.types": Room(),
    "engine.errors": Room(("engine.types",)),
    "engine.config": Room(("engine.types", "engine.errors")),
    "engine.logs": Room(("engine.errors",)),
    "engine.metrics": Room(("engine.types", "engine.errors")),
    "engine.trace": Room(("engine.types", "engine.errors")),
    "engine.sched": Room(("engine.types", "engine.errors", "engine.config"), no_stdlib=IMPURE),
    "engine.text": Room((*OPEN, "engine.text.grammar")),
    "engine.text.grammar": Room((*OPEN, "engine.text"), heavy=("numpy",)),
    "engine.models": Room(OPEN),
    "engine.hub": Room(OPEN),
    "engine.validate": Room(OPEN),
    "engine.embedding": Room(),
    "engine.sample": Room(OPEN, heavy=("numpy",)),
    "engine.spec": Room(OPEN, heavy=("numpy",)),
    "engine.weights": Room((*OPEN, "engine.models", "engine.quant"), heavy=("numpy",)),
    "engine.quant": Room((*OPEN, "engine.models"), heavy=("numpy",)),
    "engine.runtimes": Room((*OPEN, "engine.sched.plan"), inside={"engine.runtimes": ANYWHERE}, heavy=("numpy",)),
    "engine.runtimes.pooling": Room(OPEN, heavy=("numpy",)),
    "engine.runtimes.reference": Room((*OPEN, *COMPUTE, "engine.runtimes"), heavy=("numpy",)),
    "engine.runtimes.native": Room((*OPEN, *COMPUTE, "engine.runtimes"), heavy=("numpy",)),
    "engine.core": Room(
        (
            *OPEN,
            "engine.constraints",
            "engine.sched",
            "engine.text.grammar",
            "engine.runtimes",
            "engine.validate",
            "engine.wire",
        )
    ),
    "engine.constraints": Room(
        (*OPEN, "engine.sched.plan"), inside={"engine.text.grammar": ANYWHERE}, heavy=("numpy",)
    ),
    "engine.wire": Room(OPEN),
    "engine.process": Room((*OPEN, "engine.wire"), inside={"engine.core": "main"}),
    "engine.client": Room(
        (*OPEN, "engine.wire"), inside={"engine.core": "InlineClient", "engine.process": "ProcessClient"}
    ),
    "engine.answer": Room((*OPEN, "engine.client", "engine.text")),
    "engine.llm": Room((*OPEN, "engine.answer", "engine.client", "engine.embedding", "engine.text", "engine.hub")),
    "engine.perplexity": Room((*OPEN, "engine.llm")),
    "engine.server": Room((*OPEN, "engine.answer", "engine.client", "engine.embedding", "engine.text")),
    "tgi_cli": Room(
        ("engine.types", "engine.config", "engine.errors", "tgi_cli.ui"),
        inside={"engine": ANYWHERE, "bench": ANYWHERE, "tgi_cli.local": ANYWHERE},
    ),
    "tgi_cli.local": Room(  # imported by a command once it is sure to run an engine here
        ("engine.types", "engine.errors", "engine.answer", "engine.llm", "tgi_cli.reply", "tgi_cli.sampling")
    ),
    "tgi_cli.ui": Room(("tgi_cli", "engine.types", "engine.config", "engine.errors"), heavy=("rich",)),
    "bench": Room(
        heavy=("numpy",),
        inside=dict.fromkeys((*BENCH_WITH_ENGINE, "bench.report.live"), ANYWHERE),
    ),
    **{name: Room(("bench", "engine"), heavy=("numpy",)) for name in BENCH_WITH_ENGINE},
    "bench.report.live": Room(("bench",), heavy=("rich",)),
    "bench.peers": Room(("bench",), heavy=("numpy",)),
    "bench.peers.transformers": Room(("bench",), heavy=("torch", "transformers")),
}


@dataclass(frozen=True)
class Import:
    module: str  # who imports
    target: str  # the module, or the package of the standard library or of others
    scope: str  # the qualified name of the function around it, or TYPE_CHECKING, or empty
    place: str  # path:line


def within(module: str, name: str) -> bool:
    return module == name or module.startswith(name + ".")


def modules(root: Path) -> dict[str, Path]:
    """Every module of the packages under `root`, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


class ImportReader(ast.NodeVisitor):
    """Collects the imports of one module with the functions around them."""

    def __init__(self, module: str, path: Path, root: Path, known: dict[str, Path]) -> None:
        self.found: list[Import] = []
        self._module, self._known = module, known
        self._package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        self._place = path.relative_to(root)
        self._names: list[str] = []
        self._later = 0

    def _add(self, target: str, node: ast.AST) -> None:
        scope = ".".join(self._names) if self._later else ""
        self.found.append(Import(self._module, target, scope, f"{self._place}:{getattr(node, 'lineno', 0)}"))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parents = self._package.split(".")
            base = ".".join([*parents[: len(parents) - node.level + 1], *([node.module] if node.module else [])])
        for alias in node.names:
            name = f"{base}.{alias.name}"
            self._add(name if name in self._known else base, node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            self._add(str(node.args[0].value), node)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._enter(node.name, node, later=False)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._enter(node.name, node, later=True)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._enter(node.name, node, later=True)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            self._enter("TYPE_CHECKING", node, later=True)
        else:
            self.generic_visit(node)

    def _enter(self, name: str, node: ast.AST, *, later: bool) -> None:
        """Visit what is inside; `later` where it does not run when the module is imported."""
        self._names.append(name)
        self._later += later
        self.generic_visit(node)
        self._later -= later
        self._names.pop()


def room_of(module: str) -> str | None:
    """The longest name of the table that holds this module; `engine` holds only itself."""
    names = [name for name in ROOMS if within(module, name) and (name != "engine" or module == "engine")]
    return max(names, key=len, default=None)


def allows(name: str, found: Import) -> bool:
    room, top = ROOMS[name], found.target.partition(".")[0]
    if top in HEAVY:
        return top in room.heavy
    if top not in PACKAGES:
        return top not in room.no_stdlib
    if name != "engine" and within(found.target, name) and room_of(found.target) == name:
        return True
    if any(within(found.target, allowed) for allowed in room.ours):
        return True
    return any(
        bool(found.scope) and within(found.target, allowed) and (scope == ANYWHERE or within(found.scope, scope))
        for allowed, scope in room.inside.items()
    )


def imports(root: Path) -> Iterator[Import]:
    known = modules(root)
    for module, path in known.items():
        reader = ImportReader(module, path, root, known)
        reader.visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        yield from reader.found


def violations(root: Path) -> list[str]:
    """A line for each module without a room and each import that its room does not allow."""
    homeless = [f"{path.relative_to(root)}: no room holds {m}" for m, path in modules(root).items() if not room_of(m)]
    broken = []
    for found in imports(root):
        name = room_of(found.module)
        if name is not None and not allows(name, found):
            where = f" inside {found.scope}" if found.scope else ""
            broken.append(f"{found.place}: {found.module} imports {found.target}{where}")
    return homeless + broken
