"""Print what this environment's Airflow has of the names that a package uses, as JSON.

    python describe_airflow.py magichour_provider

`check_drift.py` runs it in the environments that it compares.

The names come from the package's own syntax trees: its imports of `airflow`, the attributes of what it
imports, of parameters with such a type and of what `isinstance` tells, `getattr` and `hasattr` with a literal
name, keys of the context, and options of the configuration. Names of providers and the package's own options
are left out.
"""

from __future__ import annotations

import ast
import inspect
import json
import pkgutil
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any, TypedDict

_READERS = ("get", "getint", "getfloat", "getboolean")
_OPTION = "airflow.cfg "


class Found(TypedDict):
    """What Airflow has of one name.

    `what` is its kind, or the default of an option; empty if it does not exist. If the package calls it,
    `parameters` are set, and `unfit` has the calls that they do not take. `used_at` has `path:line`.
    """

    what: str
    parameters: list[str]
    unfit: list[str]
    used_at: list[str]


@dataclass
class _Uses:
    """How the package uses one name.

    A call is a number of positional arguments, keywords, and whether it has `*` or `**` arguments, too.
    """

    calls: set[tuple[int, tuple[str, ...], bool]] = field(default_factory=set)
    places: list[str] = field(default_factory=list)


def describe(package: Path) -> dict[str, Found]:
    """All names of Airflow that the package uses."""
    uses: defaultdict[str, _Uses] = defaultdict(_Uses)
    trees = {path: ast.parse(path.read_text("utf-8")) for path in sorted(package.rglob("*.py"))}
    exported = {}
    for path, tree in trees.items():
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        exported[module] = _Reader(defaultdict(_Uses), "", {}).read_module(tree)
    for path, tree in trees.items():
        _Reader(uses, str(path.relative_to(package.parent)), exported).read_module(tree)
    return {name: _find(name, use) for name, use in sorted(uses.items())}


class _Reader(ast.NodeVisitor):
    """Collects the uses in one module. `names` are the names in scope that stand for something of Airflow."""

    def __init__(self, uses: defaultdict[str, _Uses], path: str, exported: dict[str, dict[str, str]]) -> None:
        self.uses, self.path, self.exported = uses, path, exported
        self.names: dict[str, str] = {}

    def read_module(self, tree: ast.Module) -> dict[str, str]:
        self.visit(tree)
        return self.names

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        for each in node.body:
            self.visit(each)
        if "AIRFLOW_V_" not in ast.unparse(node.test):  # the other branch is for an older Airflow
            for each in node.orelse:
                self.visit(each)

    def visit_Try(self, node: ast.Try) -> None:
        for each in (*node.body, *node.orelse, *node.finalbody):
            self.visit(each)
        if not any(isinstance(each, ast.ImportFrom) for each in node.body):
            for handler in node.handlers:  # after an import they are for an older Airflow
                self.visit(handler)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        for alias in node.names:
            target = f"{module}.{alias.name}"
            if module.startswith("airflow") and not module.startswith("airflow.providers"):
                self.names[alias.asname or alias.name] = target
                self._use(target, node)
            elif alias.name in self.exported.get(module, {}):
                self.names[alias.asname or alias.name] = self.exported[module][alias.name]

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outer = dict(self.names)
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            self.names.pop(argument.arg, None)
            if argument.annotation is not None and (target := self._target(argument.annotation)):
                self.names[argument.arg] = target
        for each in ast.walk(node):
            if isinstance(each, ast.Call) and ast.unparse(each.func) == "isinstance":
                value, kind = each.args
                if isinstance(value, ast.Name) and (target := self._target_within(node, kind)):
                    self.names.setdefault(value.id, target)
        self.generic_visit(node)
        returned = [
            self._target(each.value) for each in node.body if isinstance(each, ast.Return) and each.value
        ]
        self.names = outer
        if returned and returned[0]:
            self.names[f"{node.name}()"] = returned[0]

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        if isinstance(node.targets[0], ast.Name) and (found := self._target(node.value)):
            self.names[node.targets[0].id] = found

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if isinstance(node.target, ast.Name) and (found := self._target(node.annotation)):
            self.names[node.target.id] = found

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._use(self._target(node), node)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            self._use(self._target(node), node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        literals = [each.value for each in node.args if isinstance(each, ast.Constant)]
        if ast.unparse(node.func) in ("getattr", "hasattr"):
            self._use(self._target(node), node)
        elif isinstance(node.func, ast.Attribute) and node.func.attr in _READERS and len(literals) >= 2:
            is_own = literals[0] == "magichour"
            if not is_own and (self._target(node.func.value) or "").endswith(".conf"):
                self._use(f"{_OPTION}[{literals[0]!s}] {literals[1]!s}", node)
        elif name := self._target(node.func):
            positional = [each for each in node.args if not isinstance(each, ast.Starred)]
            keywords = tuple(sorted(each.arg for each in node.keywords if each.arg))
            is_open = len(positional) < len(node.args) or len(keywords) < len(node.keywords)
            self.uses[name].calls.add((len(positional), keywords, is_open))

    def _use(self, name: str | None, node: ast.AST) -> None:
        if name is not None:
            self.uses[name].places.append(f"{self.path}:{node.lineno}")  # type: ignore[attr-defined]

    def _target(self, node: ast.expr) -> str | None:
        """What of Airflow an expression stands for; an instance is named as its class."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._target(node.value)
            return f"{owner}.{node.attr}" if owner else None
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            owner = self._target(node.value)
            return f"{owner}.{node.slice.value!s}" if owner else None
        if isinstance(node, ast.BinOp):  # `Context | None`
            return self._target(node.left)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("getattr", "hasattr") and isinstance(node.args[1], ast.Constant):
                owner = self._target(node.args[0])
                return f"{owner}.{node.args[1].value!s}" if owner else None
            is_class = called.rpartition(".")[2][:1].isupper()
            return self.names.get(f"{called}()") or (self._target(node.func) if is_class else None)
        return None

    def _target_within(self, function: ast.AST, node: ast.expr) -> str | None:
        """As `_target`, for a name that the function may import itself, further up or down."""
        inner = [each for each in ast.walk(function) if isinstance(each, ast.ImportFrom)]
        if isinstance(node, ast.Name):
            for each in inner:
                if (each.module or "").startswith("airflow") and node.id in [one.name for one in each.names]:
                    return f"{each.module}.{node.id}"
        return self._target(node)


def _find(name: str, use: _Uses) -> Found:
    found: Found = {"what": "", "parameters": [], "unfit": [], "used_at": use.places}
    if name.startswith(_OPTION):
        section, _, option = name.removeprefix(f"{_OPTION}[").partition("] ")
        from airflow.configuration import conf

        if conf.has_option(section, option):
            found["what"] = f"option, by default {conf.get_default_value(section, option)}"
        return found
    owner_name, _, attribute = name.rpartition(".")
    try:
        owner = pkgutil.resolve_name(owner_name)
        try:
            value = pkgutil.resolve_name(name)
        except AttributeError:
            if not isinstance(owner, type) or attribute not in _instance_attributes(owner):
                raise
            return {**found, "what": "attribute"}
    except (ImportError, AttributeError):
        return found
    found["what"] = type(value).__name__
    signature = _signature(owner, attribute, value) if use.calls else None
    if signature is None:
        return found
    found["parameters"] = list(signature.parameters)
    for positional, keywords, is_open in sorted(use.calls):
        bind = signature.bind_partial if is_open else signature.bind
        try:
            bind(*[None] * positional, **dict.fromkeys(keywords))
        except TypeError as error:
            arguments = ", ".join([*["..."] * positional, *(f"{each}=" for each in keywords)])
            found["unfit"].append(f"({arguments}): {error}")
    return found


def _signature(owner: Any, attribute: str, value: Any) -> inspect.Signature | None:
    """The signature for a caller that has an instance; None if there is none."""
    if not callable(value):
        return None
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return None
    is_method = isinstance(owner, type) and isinstance(inspect.getattr_static(owner, attribute), FunctionType)
    return signature.replace(parameters=list(signature.parameters.values())[is_method:])


def _instance_attributes(kind: type) -> set[str]:
    """What classes declare, and what their methods assign to `self`, by their source."""
    return {name for each in kind.__mro__ if each is not object for name in _declared(each)}


def _declared(kind: type) -> Iterator[str]:
    yield from getattr(kind, "__annotations__", {})
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


if __name__ == "__main__":
    print(json.dumps(describe(Path(sys.argv[1]))))
