"""The house's rules, read from the sources with `ast`: nothing is imported here, so a broken file breaks one rule only."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("adapters_store", "service", "research", "lethe_client")
APART = {"lethe_client": "client"}  # package -> the folder that its distribution has for itself

# A file imports from its own room and from rooms that stand further left. Rooms that stand together do not know each other.
ORDER: tuple[tuple[str, ...], ...] = (
    ("lethe_client",),
    ("adapters_store", "service.arrays", "service.errors", "service.records", "service.bundled", "service.version"),
    ("service.config", "service.generation"),
    ("service.data",),
    ("service.ledger",),
    ("service.llm",),
    ("service.routing", "service.memory"),
    ("service.building", "service.scoring"),
    ("service.forgetting", "service.access"),
    ("service.entrypoints",),
    ("research.datasets",),
    ("research.evaluation",),
    ("research.benchmarks",),
    ("research.pretraining",),
    ("research.commands",),
)

# Settings are read at the doors and passed on as plain values, so nobody else needs to know where they came from.
READS_SETTINGS = (
    "service.config",
    "service.entrypoints",
    "research.commands",
    "research.benchmarks.gpu",
    "research.benchmarks.low_precision",
)

# Dependency -> the only modules (or rooms) that import it.
OWNERS = {
    "sqlalchemy": ("service.ledger",),
    "alembic": ("service.ledger",),
    "faiss": ("service.routing.neighbors",),
    "redis": ("service.forgetting.bell", "service.access.shared_buckets", "service.entrypoints.event_stream"),
    "fastapi": ("service.entrypoints",),
    "fastapi_offline": ("service.entrypoints",),
    "starlette": ("service.entrypoints",),
    "uvicorn": ("service.entrypoints",),
    "typer": ("service.entrypoints", "research.commands"),
    "rich": ("service.entrypoints", "research.commands"),
    "prometheus_client": ("service.entrypoints",),
    "opentelemetry": ("service.entrypoints.tracing",),
    "peft": (
        "service.building.training.training",
        "research.benchmarks.peers",
        "research.evaluation.unlearning.learner",
    ),
    "boto3": ("adapters_store.s3",),
    "botocore": ("adapters_store.s3",),
    "jwt": ("service.access.identity",),
    "cryptography": (
        "adapters_store.sealing",
        "service.forgetting.receipts",
        "service.forgetting.receipt_keys",
        "research.commands.bench_ingestion",  # a key of its own, for nobody's receipts
    ),
    "pyarrow": ("service.data.importers", "service.data.exporters.parquet"),
    "pydantic_settings": ("service.config",),
    "matplotlib": ("research.evaluation.comparison.charts",),
    "cycler": ("research.evaluation.comparison.charts",),
    "jinja2": ("research.evaluation.comparison.report",),
    "implicit": ("research.evaluation.ranking.peers.ials",),
    "scipy": ("research.evaluation.ranking.peers",),
    "markupsafe": ("research.evaluation.comparison.report",),
    "httpx": ("lethe_client", "research.benchmarks", "research.commands"),
}

SERVING = "service.entrypoints.serving"  # an API replica without a worker

READS_ENVIRONMENT = ("service.config",)
# cuBLAS and CUDA take these from nowhere else, and only before their first use in a process.
WRITES_ENVIRONMENT = {
    "service.building.workers.process_pool": {
        "CUBLAS_WORKSPACE_CONFIG",
        "CUDA_MPS_CLIENT_PRIORITY",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    }
}

FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
LONGEST_FUNCTION = 50  # lines

Rule = Callable[["Tree"], Iterator[str]]


@dataclass(frozen=True)
class Module:
    name: str
    is_package: bool
    tree: ast.Module

    def imports(self) -> Iterator[str]:
        """Every imported module; for `from a import b` both `a` and `a.b`, as only one of them need be a module."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)

    def _absolute(self, node: ast.ImportFrom) -> str:
        parts = self.name.split(".")
        keep = len(parts) - node.level + self.is_package
        return ".".join([*(parts[:keep] if node.level else []), *([node.module] if node.module else [])])


Tree = Mapping[str, Module]


def read_tree(root: Path) -> Tree:
    found = {}
    for path in sorted(
        path for package in PACKAGES for path in (root / APART.get(package, "") / package).rglob("*.py")
    ):
        parts = path.relative_to(root).with_suffix("").parts
        parts = parts[1:] if parts[0] in APART.values() else parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found[name] = Module(name, is_package, ast.parse(path.read_text(), str(path)))
    return found


def within(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def level_and_room(module: str) -> tuple[int, str] | None:
    return next(
        ((level, room) for level, rooms in enumerate(ORDER) for room in rooms if within(module, (room,))),
        None,
    )


def inner_imports(tree: Tree) -> Iterator[tuple[str, str]]:
    """(module, module of ours that it imports); the packages that hold all rooms are nobody's target."""
    for module in tree.values():
        for target in sorted(set(module.imports())):
            if target in tree and target not in ("service", "research", module.name):
                yield module.name, target


def outer_imports(tree: Tree) -> Iterator[tuple[str, str]]:
    for module in tree.values():
        for target in sorted({name.partition(".")[0] for name in module.imports()}):
            if target not in PACKAGES:
                yield module.name, target


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


# The rules: each yields one sentence per violation


def every_module_stands_in_a_room(tree: Tree) -> Iterator[str]:
    for name in tree:
        if name not in ("service", "research") and level_and_room(name) is None:
            yield f"{name} stands in no room of ORDER"


def imports_point_to_the_left(tree: Tree) -> Iterator[str]:
    for module, target in inner_imports(tree):
        here, there = level_and_room(module), level_and_room(target)
        if here is None or there is None or here[1] == there[1]:
            continue
        if there[0] >= here[0]:
            yield f"{module} imports {target}, which does not stand to its left"


def the_store_knows_nothing_of_the_service(tree: Tree) -> Iterator[str]:
    for module in tree.values():
        if within(module.name, ("adapters_store",)):
            yield from (f"{module.name} imports {name}" for name in module.imports() if within(name, ("service",)))


def settings_are_read_at_the_doors(tree: Tree) -> Iterator[str]:
    for module, target in inner_imports(tree):
        if target == "service.config" and not within(module, READS_SETTINGS):
            yield f"{module} imports the settings; hand it plain values"


def each_dependency_has_one_owner(tree: Tree) -> Iterator[str]:
    for module, target in outer_imports(tree):
        if target in OWNERS and not within(module, OWNERS[target]):
            yield f"{module} imports {target}, which belongs to {', '.join(OWNERS[target])}"


def no_import_hides_in_a_function(tree: Tree) -> Iterator[str]:
    for module in tree.values():
        for function in functions(module.tree):
            if any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(function)):
                yield f"{module.name}.{function.name} imports inside a function"


def an_api_replica_builds_nothing(tree: Tree) -> Iterator[str]:
    """What serves must start fast and small: it never imports training, however many modules lie between."""
    reached, waiting = {SERVING}, [SERVING]
    imported: dict[str, list[str]] = {}
    for module, target in inner_imports(tree):
        imported.setdefault(module, []).append(target)
    while waiting:
        for target in imported.get(waiting.pop(), ()):
            if target not in reached:
                reached.add(target)
                waiting.append(target)
    yield from (
        f"{SERVING} reaches {name}" for name in sorted(reached) if within(name, ("service.building", "research"))
    )


def imports_make_no_cycle(tree: Tree) -> Iterator[str]:
    graph: dict[str, set[str]] = {}
    for module, target in inner_imports(tree):
        if not module.startswith(f"{target}."):  # a module may name the package that it is in
            graph.setdefault(module, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"these import each other: {' -> '.join(error.args[1])}"


def only_the_settings_read_the_environment(tree: Tree) -> Iterator[str]:
    for module in tree.values():
        written = _written_variables(module.tree)
        for name in sorted(set(written.values()) - WRITES_ENVIRONMENT.get(module.name, set())):
            yield f"{module.name} sets the environment's {name}"
        reads = [node for node in _environment_nodes(module.tree) if id(node) not in written]
        if reads and not within(module.name, READS_ENVIRONMENT):
            yield f"{module.name} reads the environment in line {reads[0].lineno}"


def _environment_nodes(tree: ast.AST) -> Iterator[ast.ImportFrom | ast.Attribute]:
    return (node for node in ast.walk(tree) if _is_environment(node))


def _is_environment(node: ast.AST) -> TypeGuard[ast.ImportFrom | ast.Attribute]:
    names = {"environ", "environb", "getenv", "getenvb"}
    if isinstance(node, ast.ImportFrom):
        return node.module == "os" and any(alias.name in names for alias in node.names)
    return isinstance(node, ast.Attribute) and node.attr in names


def _written_variables(tree: ast.AST) -> dict[int, str]:
    """id of an `os.environ` node that is only assigned through -> the variable."""
    written = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and _is_environment(node.value):
            written[id(node.value)] = str(node.slice.value) if isinstance(node.slice, ast.Constant) else "<computed>"
    return written


def no_module_is_a_drawer_for_everything(tree: Tree) -> Iterator[str]:
    for name in tree:
        if FORBIDDEN_NAMES & set(name.split(".")):
            yield f"{name} says nothing of what is in it"


def no_function_is_long(tree: Tree) -> Iterator[str]:
    for module in tree.values():
        for function in functions(module.tree):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield f"{module.name}.{function.name} has {lines} lines; {LONGEST_FUNCTION} are allowed"


def what_is_public_says_what_it_is(tree: Tree) -> Iterator[str]:
    for module in tree.values():
        if not module.is_package and ast.get_docstring(module.tree) is None:
            yield f"{module.name} has no docstring"
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not _is_plain(node):
                yield f"{module.name}.{node.name} has no docstring"


def _is_plain(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Private, documented, or so short that its name and signature say it all."""
    if node.name.startswith("_") or ast.get_docstring(node) is not None:
        return True
    if isinstance(node, ast.ClassDef):
        bases = {ast.unparse(base) for base in node.bases}
        return bool(bases & {"Protocol", "TypedDict"}) or _is_exception(node)
    return len(node.body) == 1 and isinstance(node.body[0], ast.Return)


def _is_exception(node: ast.ClassDef) -> bool:
    # The tree of errors is drawn in its module's docstring.
    return any(part in ast.unparse(base) for base in node.bases for part in ("Error", "Input", "Overloaded"))


_NEEDS_ITS_NEIGHBOR = re.compile(r"(The same|As|Of)\b")


def a_docstring_stands_alone(tree: Tree) -> Iterator[str]:
    """An editor shows one docstring and not the one above it."""
    for module in tree.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                opening = _NEEDS_ITS_NEIGHBOR.match(ast.get_docstring(node) or "")
                if opening is not None:
                    name = "" if isinstance(node, ast.Module) else f".{node.name}"
                    yield f'{module.name}{name} begins with "{opening[1]}", as if something stood above it'


def a_class_name_occurs_once(tree: Tree) -> Iterator[str]:
    """In what is served: whoever reads a name knows which class is meant."""
    homes: dict[str, list[str]] = {}
    for module in tree.values():
        if not within(module.name, ("research", "lethe_client")):
            for node in ast.walk(module.tree):
                if isinstance(node, ast.ClassDef):
                    homes.setdefault(node.name, []).append(module.name)
    yield from (f"{name} is defined in {' and in '.join(at)}" for name, at in sorted(homes.items()) if len(at) > 1)


def nothing_else_imports_research(tree: Tree) -> Iterator[str]:
    """Whether or not such a module is there: the served distribution knows of it by entry points alone."""
    for module in tree.values():
        if not within(module.name, ("research",)):
            found = sorted(name for name in set(module.imports()) if within(name, ("research",)))
            yield from (f"{module.name} imports {name}" for name in found[:1])


def the_client_stands_alone(tree: Tree) -> Iterator[str]:
    """It is installed where no service is, and the service where no client is: what joins them is the contract."""
    for module in tree.values():
        ours = within(module.name, ("lethe_client",))
        for name in sorted({name.partition(".")[0] for name in module.imports()}):
            if ours and name in PACKAGES and name != "lethe_client":
                yield f"{module.name} imports {name}, which is not there where a client is"
            if not ours and name == "lethe_client":
                yield f"{module.name} imports the client"


_HOLDS_THE_LEDGER = ("service.ledger", "service.entrypoints", "service.building.dry_run", "research")


def rooms_ask_for_what_they_need(tree: Tree) -> Iterator[str]:
    """The whole ledger is for the doors, which wire it; a room names the methods that it calls (`ports.py`)."""
    for module in tree.values():
        if within(module.name, _HOLDS_THE_LEDGER):
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and any(alias.name == "Ledger" for alias in node.names):
                yield f"{module.name} imports the whole Ledger"


RULES: tuple[Rule, ...] = (
    every_module_stands_in_a_room,
    imports_point_to_the_left,
    the_store_knows_nothing_of_the_service,
    settings_are_read_at_the_doors,
    each_dependency_has_one_owner,
    no_import_hides_in_a_function,
    imports_make_no_cycle,
    an_api_replica_builds_nothing,
    only_the_settings_read_the_environment,
    no_module_is_a_drawer_for_everything,
    no_function_is_long,
    what_is_public_says_what_it_is,
    a_docstring_stands_alone,
    a_class_name_occurs_once,
    nothing_else_imports_research,
    the_client_stands_alone,
    rooms_ask_for_what_they_need,
)


@pytest.fixture(scope="module")
def house() -> Tree:
    return read_tree(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_in_this_house(rule: Rule, house: Tree) -> None:
    assert list(rule(house)) == []


def test_the_whole_house_is_read(house: Tree) -> None:
    known = {
        "adapters_store.store",
        "service.building.training.training",
        "service.entrypoints.commands.main",
        "research.commands",
        "lethe_client.calls",
    }
    assert known <= set(house)


# The rules themselves: each of these files breaks one of them

_LONG = "def long():\n    '''Long.'''\n" + "    x = 1\n" * LONGEST_FUNCTION
VIOLATIONS: list[tuple[Rule, dict[str, str], str]] = [
    (every_module_stands_in_a_room, {"service/attic/boxes.py": ""}, "service.attic.boxes"),
    (
        imports_point_to_the_left,
        {"service/data/x.py": "from service.building import y", "service/building/y.py": ""},
        "y",
    ),
    (imports_point_to_the_left, {"service/data/x.py": "from ..llm.y import z", "service/llm/y.py": ""}, "llm.y"),
    (
        imports_point_to_the_left,
        {"service/scoring/x.py": "import service.forgetting.y", "service/forgetting/y.py": ""},
        "service.scoring.x imports service.forgetting.y",
    ),
    (
        imports_point_to_the_left,
        {"service/building/x.py": "import service.scoring.y", "service/scoring/y.py": ""},
        "service.building.x imports service.scoring.y",
    ),
    (
        imports_point_to_the_left,
        {"service/entrypoints/x.py": "import research.datasets.y", "research/datasets/y.py": ""},
        "service.entrypoints.x imports research.datasets.y",
    ),
    (the_store_knows_nothing_of_the_service, {"adapters_store/x.py": "from service import errors"}, "service"),
    (
        settings_are_read_at_the_doors,
        {"service/building/x.py": "from service.config import Settings", "service/config.py": ""},
        "service.building.x",
    ),
    (each_dependency_has_one_owner, {"service/building/x.py": "import sqlalchemy.orm as o"}, "sqlalchemy"),
    (each_dependency_has_one_owner, {"service/building/training_more.py": "from peft import LoraConfig"}, "peft"),
    (no_import_hides_in_a_function, {"service/data/x.py": "def f():\n    import os"}, "service.data.x.f"),
    (no_import_hides_in_a_function, {"service/x.py": "class C:\n  async def f(self):\n    from os import path"}, "f"),
    (
        imports_make_no_cycle,
        {"service/data/x.py": "from service.data.y import a", "service/data/y.py": "from service.data import x"},
        "service.data.x",
    ),
    (
        an_api_replica_builds_nothing,
        {
            "service/entrypoints/serving.py": "import service.entrypoints.x",
            "service/entrypoints/x.py": "from service.building import y",
            "service/building/y.py": "",
        },
        "service.building.y",
    ),
    (only_the_settings_read_the_environment, {"service/data/x.py": "import os\nos.getenv('A')"}, "line 2"),
    (only_the_settings_read_the_environment, {"service/data/x.py": "from os import environ"}, "line 1"),
    (
        only_the_settings_read_the_environment,
        {"service/building/workers/process_pool.py": "import os\nos.environ['B'] = '1'"},
        "B",
    ),
    (
        only_the_settings_read_the_environment,
        {"service/building/workers/process_pool.py": "import os\nprint(os.environ['CUBLAS_WORKSPACE_CONFIG'])"},
        "reads",
    ),
    (no_module_is_a_drawer_for_everything, {"service/data/utils.py": ""}, "utils"),
    (no_module_is_a_drawer_for_everything, {"adapters_store/common/x.py": ""}, "common"),
    (no_function_is_long, {"service/data/x.py": _LONG}, "service.data.x.long"),
    (what_is_public_says_what_it_is, {"service/data/x.py": "'''X.'''\ndef f(a):\n    a += 1\n    return a"}, "x.f"),
    (what_is_public_says_what_it_is, {"service/data/x.py": "'''X.'''\nclass C:\n    a: int"}, "x.C"),
    (what_is_public_says_what_it_is, {"service/data/x.py": "a = 1"}, "service.data.x"),
    (a_docstring_stands_alone, {"service/data/x.py": "'''X.'''\ndef f():\n    '''The same, sorted.'''"}, "x.f"),
    (a_docstring_stands_alone, {"service/data/x.py": "'''X.'''\nclass C:\n  def _f(self):\n    '''As `C`.'''"}, "x._f"),
    (a_docstring_stands_alone, {"research/datasets/x.py": "'''Of old data sets.'''"}, "research.datasets.x"),
    (
        a_class_name_occurs_once,
        {"service/data/x.py": "class Plan: ...", "adapters_store/y.py": "def f():\n    class Plan: ..."},
        "Plan is defined in adapters_store.y and in service.data.x",
    ),
    (nothing_else_imports_research, {"service/entrypoints/x.py": "from research import datasets"}, "entrypoints.x"),
    (the_client_stands_alone, {"client/lethe_client/x.py": "from service.errors import LetheError"}, "client.x"),
    (the_client_stands_alone, {"service/entrypoints/x.py": "import lethe_client.calls"}, "entrypoints.x"),
    (rooms_ask_for_what_they_need, {"service/scoring/x.py": "from service.ledger import Ledger"}, "scoring.x"),
]


@pytest.mark.parametrize(("rule", "files", "named"), VIOLATIONS)
def test_a_violation_is_found(rule: Rule, files: dict[str, str], named: str, tmp_path: Path) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    found = list(rule(read_tree(tmp_path)))
    assert found
    assert all(named in violation for violation in found)


def test_every_rule_has_a_violation() -> None:
    assert {rule for rule, _, _ in VIOLATIONS} == set(RULES)


def test_no_folder_of_tests_is_left_out(pytestconfig: pytest.Config) -> None:
    """Pytest leaves out folders by name, among them one that this house needs: `build`."""
    folders = [path.name for path in Path(__file__).parent.rglob("*") if path.is_dir()]
    skipped = pytestconfig.getini("norecursedirs")
    assert [name for name in folders if any(fnmatch(name, pattern) for pattern in skipped)] == []
