"""Claims about who imports whom, wing by wing, and a core that starts light."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = {"numpy", "numba", "llvmlite", "gymnasium", "pydantic", "yaml"}  # llvmlite is a part of Numba
HEAVY = ("torch", "wandb", "pandas", "pyarrow", "matplotlib", "stable_baselines3", "scipy", "numba")
ORDER = ("experiments", "agents", "cace_env")  # each package may import itself and what stands to its right
# The house, from the ground floor up: a wing (folder, or module beside the folders) may import those named here, which
# stand above it, and `cace_env` itself; commands of experiments may import everything but each other.
READ = "cace_env experiments/running experiments/reading"
COMMON = "config files tables compilation workload observation"
WINGS = {
    "cace_env/config": "",
    "cace_env/files": "",
    "cace_env/tables": "",
    "cace_env/linking": "",
    "cace_env/held": "",
    "cace_env/compilation": "linking",
    "cace_env/workload": "tables",
    "cace_env/observation": "",
    "cace_env/sessions": "config files tables",
    "cace_env/fleets": "config tables",
    "cace_env/generator": "config tables workload compilation held",
    "cace_env/traces": "config tables workload",
    "cace_env/kernel": "sessions tables workload compilation observation held",
    "cace_env/scenarios": "sessions config tables workload fleets generator traces",
    "cace_env/cases": "config tables workload scenarios",
    "cace_env/simulation": f"{COMMON} held kernel fleets",
    "cace_env/forecasting": f"{COMMON} sessions held kernel generator simulation",
    "cace_env/policies": f"{COMMON} kernel simulation scenarios cases forecasting",
    "cace_env/executor": "workload scenarios cases policies",
    "cace_env/export": f"{COMMON} kernel simulation cases policies",
    "cace_env/decision_log": f"{COMMON} kernel simulation policies",
    "cace_env/rendering": f"{COMMON} kernel simulation",
    "cace_env/evaluation": f"{COMMON} fleets traces scenarios cases simulation policies decision_log rendering",
    "cace_env/planning": f"{COMMON} held kernel scenarios cases simulation policies",
    "cace_env/envs": f"{COMMON} kernel fleets scenarios cases simulation policies decision_log rendering",
    "cace_env/wrappers": f"{COMMON} envs",
    "cace_env/networks": f"{COMMON} policies",
    "cace_env/sb3": f"{COMMON} scenarios cases policies evaluation envs networks",
    "cace_env/live": f"{COMMON} held kernel fleets simulation policies decision_log evaluation",
    "cace_env/compile": f"{COMMON} scenarios cases simulation policies evaluation planning envs",
    "agents/state_files": "cace_env",
    "agents/algorithms": "cace_env",
    "agents/objective": "cace_env",
    "agents/evolution": "cace_env agents/objective",
    "agents/imitation": "cace_env agents/state_files",
    "agents/sb3": "cace_env agents/state_files",
    "agents/rllib": "cace_env agents/state_files",
    "experiments/running": "cace_env",
    "experiments/reading": "cace_env experiments/running",
    "experiments/reports": "cace_env experiments/running experiments/reading",
    "experiments/yardsticks": "cace_env experiments/running experiments/reading",
    "experiments/speed": "cace_env",
    "experiments/calibration": "cace_env experiments/reports",
    "experiments/training": "cace_env agents experiments/running experiments/reading experiments/reports",
    "experiments/tuning": "cace_env agents experiments/running experiments/reading",
    "experiments/logs": f"{READ} agents experiments/reports experiments/tuning experiments/yardsticks",
    "experiments/serving": "cace_env experiments/running experiments/logs",
    "experiments/futures": f"{READ} experiments/logs",
    "experiments/pages": f"{READ} experiments/reports experiments/training experiments/yardsticks",
    "experiments/validation": f"{READ} experiments/reports experiments/calibration experiments/pages",
    "experiments/board": f"{READ} experiments/pages",
}
MOST_MODULES = 17  # in a folder; more want a folder of their own
MOST_LINES = 400  # of a file outside the kernel; the reference, one class, may be longer, too
INSTALLED_AS = {"PIL": "pillow", "pygame": "pygame-ce", "sb3_contrib": "sb3-contrib", "yaml": "pyyaml"}  # by import


class Import(NamedTuple):
    """One imported module, and whether it is loaded as soon as its importer is."""

    module: str
    at_import: bool
    where: str

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports_in(source: str, package: str, where: str = "source") -> Iterator[Import]:
    """Every import of `source`, a module directly in `package`, those inside functions and `if TYPE_CHECKING` too."""
    todo: list[tuple[ast.AST, bool]] = [(ast.parse(source), True)]
    while todo:
        node, at_import = todo.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, at_import, f"{where}:{node.lineno}")
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            stem = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                yield Import(f"{stem}.{alias.name}", at_import, f"{where}:{node.lineno}")
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += [(child, False) for child in node.body] + [(child, at_import) for child in node.orelse]
        else:
            inside = at_import and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            todo += [(child, inside) for child in ast.iter_child_nodes(node)]


@functools.cache
def imports_of(path: Path) -> list[Import]:
    relative = path.relative_to(ROOT)
    return list(imports_in(path.read_text(encoding="utf-8"), ".".join(relative.parent.parts), relative.as_posix()))


def knows_torch(path: Path) -> bool:
    """Whether a module of the package may import torch: its networks, and all that is for Stable-Baselines3."""
    return path.relative_to(ROOT).as_posix().startswith(("cace_env/networks.py", "cace_env/sb3/"))


def loaded_alone(path: Path) -> set[str]:
    """Libraries that a module may import at once, because nothing loads it but what needs them."""
    inside = path.relative_to(ROOT).as_posix()
    if inside.removeprefix("cace_env/live/") in ("proxy.py", "metrics.py", "demo.py", "shadow/forwarding.py"):
        return {"aiohttp", "prometheus_client"}
    return {"pyarrow"} if inside.startswith("cace_env/traces/gateways/") else set()


def declared(*extras: str) -> set[str]:
    """Names to install of the core dependencies and of `extras`, those an extra takes from another one included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [*project["dependencies"], *(f"cace-env[{extra}]" for extra in extras)]
    names: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        if requirement.startswith("cace-env["):
            inner = requirement.removeprefix("cace-env[").removesuffix("]").split(",")
            waiting += [line for extra in inner for line in project["optional-dependencies"][extra]]
        else:
            names.add(re.split(r"[\[<>=; ]", requirement)[0].lower())
    return names


def python(code: str) -> str:
    """What a fresh interpreter prints that starts in the checkout."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_scan_sees_imports_wherever_they_hide():
    source = "\n".join(
        (
            "import numpy as np",
            "if TYPE_CHECKING:",
            "    import torch",
            "def late():",
            "    from experiments import compare",
            "class Eager:",
            "    import yaml",
            "from . import events",
            "from ..tables import TASKS",
        )
    )
    found = {(name, at_import) for name, at_import, _ in imports_in(source, "cace_env.kernel")}
    assert found == {
        ("numpy", True),
        ("torch", False),
        ("experiments.compare", False),
        ("yaml", True),
        ("cace_env.kernel.events", True),
        ("cace_env.tables.TASKS", True),
    }


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_one_way(package: str):
    forbidden = {*ORDER[: ORDER.index(package)], "tests"}
    wrong = [found for path in modules(package) for found in imports_of(path) if found.top in forbidden]
    assert not wrong, f"{package} must not import {sorted(forbidden)}"


@functools.cache
def module_names() -> dict[str, Path]:
    """The path of every module of the packages, by its dotted name."""
    found = {}
    for package in ORDER:
        for path in modules(package):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def wing_of(path: Path) -> str:
    """`cace_env/kernel` of `cace_env/kernel/run.py`, `cace_env/tables` of `cace_env/tables.py`."""
    inside = path.relative_to(ROOT)
    return "/".join(inside.parts[:2]) if len(inside.parts) > 2 else inside.with_suffix("").as_posix()


def imported_modules(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    """Where each import of a module of ours stands, and what it imports."""
    for found in imports_of(path):
        parts = found.module.split(".")
        for end in range(len(parts), 0, -1):
            name = ".".join(parts[:end])
            if name in known:
                yield found.where, known[name]
                break


def may_import(wing: str) -> set[str]:
    """The wings that a wing may import, whole packages as their names."""
    package = wing.partition("/")[0]
    return {name if name in ORDER or "/" in name else f"{package}/{name}" for name in WINGS[wing].split()}


def is_command(path: Path) -> bool:
    return path.parent == ROOT / "experiments" and path.name != "__init__.py"


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_imports_what_stands_below_it(wing: str):
    known, allowed = module_names(), may_import(wing)
    paths = [path for path in known.values() if wing_of(path) == wing]
    assert paths, f"{wing} is gone: take it out of WINGS"
    wrong = [
        f"{where} imports {target.relative_to(ROOT)}"
        for path in paths
        for where, target in imported_modules(path, known)
        if wing_of(target) not in {wing, *allowed, *(f"{package}/__init__" for package in ORDER)}
        and wing_of(target).partition("/")[0] not in allowed
    ]
    assert not wrong, f"{wing} may import {sorted(allowed)} only"


def test_every_module_stands_in_a_wing_and_wings_in_order():
    order = list(WINGS)
    for wing in order:
        assert all(order.index(name) < order.index(wing) for name in may_import(wing) - set(ORDER)), wing
    packages = {f"{package}/__init__" for package in ORDER}
    outside = {wing_of(path) for path in module_names().values() if not is_command(path)} - {*WINGS, *packages}
    assert not outside, "name these in WINGS"


def test_no_modules_import_each_other_in_a_circle():
    known = module_names()
    waiting = {
        path: {target for _, target in imported_modules(path, known) if target.name != "__init__.py"} - {path}
        for path in known.values()
        if path.name != "__init__.py"
    }
    while free := [path for path, needs in waiting.items() if not needs & waiting.keys()]:
        for path in free:
            del waiting[path]
    assert not waiting, sorted(path.relative_to(ROOT).as_posix() for path in waiting)


def test_no_module_imports_a_command():
    known = module_names()
    wrong = [
        f"{where} imports {target.relative_to(ROOT)}"
        for path in known.values()
        for where, target in imported_modules(path, known)
        if is_command(target) and target != path
    ]
    assert not wrong


def test_folders_and_files_are_small_enough_to_survey():
    folders = [folder for package in (*ORDER, "tests") for folder in (ROOT / package).rglob("*") if folder.is_dir()]
    folders += [ROOT / package for package in (*ORDER[1:], "tests")]  # commands are counted apart
    full = [f for f in folders if len(list(f.glob("*.py"))) > MOST_MODULES]
    assert not full, f"more than {MOST_MODULES} modules"
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for package in (*ORDER, "tests")
        for path in modules(package)
        if wing_of(path) != "cace_env/kernel" and path != ROOT / "tests" / "specification" / "reference.py"
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert not long, f"more than {MOST_LINES} lines"


def test_core_needs_nothing_but_its_dependencies_to_be_imported():
    allowed = CORE | {"cace_env"} | set(sys.stdlib_module_names)
    wrong = [
        found
        for path in modules("cace_env")
        if not knows_torch(path)
        for found in imports_of(path)
        if found.at_import and found.top not in allowed | loaded_alone(path)
    ]
    assert not wrong, "import these inside the function that uses them, with an error that names the extra"


def test_the_core_imports_neither_torch_nor_what_imports_it():
    torch = ("stable_baselines3", "sb3_contrib", "torch", "cace_env.sb3", "cace_env.networks")
    wrong = [
        found
        for path in modules("cace_env")
        if not knows_torch(path)
        for found in imports_of(path)
        if f"{found.module}.".startswith(tuple(f"{name}." for name in torch))
    ]
    assert not wrong


def test_the_networks_need_torch_alone():
    imported = {found.top for found in imports_of(ROOT / "cace_env" / "networks.py")}
    assert not imported & {"stable_baselines3", "sb3_contrib"}


@pytest.mark.parametrize(
    ("package", "extras"),
    [
        ("cace_env", ("traces", "render", "human", "learn", "export", "servers")),
        ("agents", ("train", "rllib")),
        ("experiments", ("train", "dev", "rllib", "peers")),
        ("tests", ("train", "video", "dev")),
    ],
)
def test_every_imported_library_is_declared(package: str, extras: tuple[str, ...]):
    names = declared(*extras)
    known = set(sys.stdlib_module_names) | set(ORDER) | {"integrations", "tests", "llvmlite"}
    wrong = [
        found
        for path in modules(package)
        for found in imports_of(path)
        if found.top not in known and INSTALLED_AS.get(found.top, found.top.replace("_", "-")).lower() not in names
    ]
    assert not wrong, f"not in pyproject.toml's dependencies or extras {extras}"


def test_no_test_is_skipped_for_want_of_a_library_that_nothing_installs():
    names = declared("train", "dev")
    asked = {
        name
        for path in modules("tests")
        for name in re.findall(r"importorskip\(\s*\"(\w+)", path.read_text(encoding="utf-8"))
    }
    assert "matplotlib" in asked
    assert {INSTALLED_AS.get(name, name.replace("_", "-")).lower() for name in asked} <= names


def test_what_only_tests_use_is_asked_of_developers_alone():
    shipped = {found.top for package in ORDER for path in modules(package) for found in imports_of(path)}
    tested = {found.top for path in modules("tests") for found in imports_of(path)}
    only_tests = {INSTALLED_AS.get(top, top.replace("_", "-")).lower() for top in tested - shipped}
    assert not only_tests & declared("experiments")


def test_every_mark_for_tests_is_used():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in modules("tests"))
    assert [mark for mark in settings["markers"] if f"pytest.mark.{mark.partition(':')[0]}" not in text] == []


@pytest.mark.integration
def test_importing_the_package_loads_nothing_heavy():
    loaded = python(f"import cace_env, sys; print(*[name for name in {HEAVY} if name in sys.modules])")
    assert loaded == ""


@pytest.mark.integration
def test_the_environment_is_registered_in_a_fresh_interpreter():
    code = "import cace_env, gymnasium; print(gymnasium.spec(cace_env.EVICTION_ID).entry_point)"
    assert python(code) == "cace_env.envs:EvictionEnv"


def test_evaluate_is_the_function_of_the_evaluation_module():
    import cace_env
    from cace_env.evaluation import episodes as evaluation

    assert cace_env.evaluate is evaluation.evaluate
    assert "evaluate" in dir(cace_env)


def test_a_misspelt_name_is_an_attribute_error():
    import cace_env

    with pytest.raises(AttributeError, match="evalaute"):
        cace_env.evalaute  # noqa: B018


def test_library_code_never_prints():
    for package in ("cace_env", "agents"):
        for path in modules(package):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in {"print", "pprint"}, f"{path.relative_to(ROOT)}:{node.lineno} prints"
