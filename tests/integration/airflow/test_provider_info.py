"""Airflow accepts the description of the provider: its schema, its manager, the form of the connection."""

from __future__ import annotations

import json
import pkgutil
from importlib import import_module, resources
from importlib.util import find_spec

import jsonschema
import pytest
from airflow import __version__ as airflow_version
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
from airflow.providers_manager import ProvidersManager
from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger
from packaging.version import Version

from magichour_provider.get_provider_info import get_provider_info
from magichour_provider.version_compat import BaseHook

pytestmark = pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated")

INFO = get_provider_info()
FORM = INFO["connection-types"][0]
BASES = {"hooks": BaseHook, "operators": BaseOperator, "sensors": BaseOperator, "triggers": BaseTrigger}
HAS_FORM = Version(airflow_version) >= Version("3.2.0") or find_spec("wtforms") is not None
"""Airflow builds the form from the description since 3.2, and from wtforms before."""


def schema(name):
    return json.loads(resources.files("airflow").joinpath(name).read_text())


def load(path):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def classes(kind, module):
    found = [each for each in vars(import_module(module)).values() if isinstance(each, type)]
    return [each for each in found if issubclass(each, BASES[kind]) and each.__module__ == module]


def modules(kind):
    return [module for entry in INFO[kind] for module in entry["python-modules"]]


def test_description_follows_airflows_schema():
    rules = schema("provider_info.schema.json")
    jsonschema.validate(INFO, rules)
    assert set(INFO) <= set(rules["properties"])


def test_airflow_loads_the_installed_provider():
    provider = ProvidersManager().providers[INFO["package-name"]]
    assert {**provider.data, **INFO} == provider.data
    assert provider.version == import_module("magichour_provider").__version__
    hook = ProvidersManager().hooks["magichour"]
    assert (hook.hook_class_name, hook.hook_name) == (FORM["hook-class-name"], "Magic Hour")
    assert (hook.connection_id_attribute_name, hook.connection_testable) == ("magichour_conn_id", True)
    assert load(hook.hook_class_name).conn_type == "magichour"


@pytest.mark.parametrize("kind", BASES)
def test_every_public_module_is_listed(kind):
    package = import_module(f"magichour_provider.{kind}")
    names = [f"{package.__name__}.{each.name}" for each in pkgutil.iter_modules(package.__path__)]
    public = [name for name in names if not name.rpartition(".")[2].startswith("_") and classes(kind, name)]
    assert sorted(modules(kind)) == sorted(public)


def test_operators_of_one_job_have_the_registered_link():
    for kind in ("operators", "sensors"):
        for operator in [each for module in modules(kind) for each in classes(kind, module)]:
            if operator.__name__ not in ("ContactSheetOperator", "ImageToVideoBatchOperator"):
                links = [
                    f"{type(link).__module__}.{type(link).__name__}" for link in operator.operator_extra_links
                ]
                assert links == INFO["extra-links"]
    assert set(INFO["extra-links"]) <= set(ProvidersManager().extra_links_class_names)


def test_form_has_every_extra_and_our_labels():
    (form,) = [each for each in HookMetaService.hook_meta_data() if each.connection_type == "magichour"]
    assert (form.hook_class_name, form.hook_name) == (FORM["hook-class-name"], "Magic Hour")
    if not HAS_FORM:
        assert (form.extra_fields, form.standard_fields) == (None, None)
        return
    behaviour = {key.replace("-", "_"): value for key, value in FORM["ui-field-behaviour"].items()}
    jsonschema.validate(behaviour, schema("customized_form_field_behaviours.schema.json"))
    assert ProvidersManager().field_behaviours["magichour"] == behaviour
    for name, field in FORM["conn-fields"].items():
        shown = form.extra_fields[name]
        assert (shown["schema"]["title"], shown["description"]) == (field["label"], field["description"])
        assert (shown["schema"]["type"], shown["value"]) == (
            field["schema"]["type"],
            field["schema"].get("default"),
        )
    fields = form.standard_fields
    assert (fields.password.title, fields.host.title) == ("API key", "Base URL")
    assert (fields.password.hidden, fields.login.hidden, fields.url_schema.hidden) == (False, True, True)
    assert not fields.port.hidden, "the Test button of Airflow 3.3.1 and 3.3.2 needs a port"
