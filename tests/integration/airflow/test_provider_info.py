"""What Airflow makes of the provider's description: its schema, its manager, the connection's form."""

from __future__ import annotations

import json
import pkgutil
from importlib import import_module, resources
from importlib.util import find_spec

import jsonschema
import pytest
from airflow import __version__ as airflow_version
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
from airflow.providers.common.compat.sdk import BaseHook, BaseOperator
from airflow.providers_manager import ProvidersManager
from airflow.triggers.base import BaseTrigger
from packaging.version import Version

from magichour_provider.get_provider_info import get_provider_info
from magichour_provider.hooks.connection import ConnectionExtras
from magichour_provider.hooks.connection_form import CONN_FIELDS, UI_FIELD_BEHAVIOUR, wtforms_behaviour

pytestmark = pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated")

INFO = get_provider_info()
NAME = "airflow-provider-magichour"
HOOK = "magichour_provider.hooks.magichour.MagicHourHook"
KINDS = {"hooks": BaseHook, "operators": BaseOperator, "sensors": BaseOperator, "triggers": BaseTrigger}

FORM_FROM_METADATA = Version(airflow_version) >= Version("3.2.0")
HAS_FORM = FORM_FROM_METADATA or find_spec("wtforms") is not None
"""Before 3.2, Airflow builds forms of wtforms fields, and shows bare ones where wtforms is not installed."""


def schema(name):
    return json.loads(resources.files("airflow").joinpath(name).read_text())


def import_class(path):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def path_of(cls):
    return f"{cls.__module__}.{cls.__qualname__}"


def classes_of(kind, module):
    """The classes of a kind that a module defines itself."""
    found = vars(import_module(module)).values()
    return [
        each
        for each in found
        if isinstance(each, type) and issubclass(each, KINDS[kind]) and each.__module__ == module
    ]


def named_modules(kind):
    return [module for entry in INFO[kind] for module in entry["python-modules"]]


def form():
    (found,) = [each for each in HookMetaService.hook_meta_data() if each.connection_type == "magichour"]
    return found


def test_the_description_follows_airflows_schema_and_uses_no_key_outside_it():
    rules = schema("provider_info.schema.json")
    jsonschema.validate(INFO, rules)
    assert set(INFO) <= set(rules["properties"])


def test_airflow_takes_the_description_of_the_installed_package():
    provider = ProvidersManager().providers[NAME]
    assert {**provider.data, **INFO} == provider.data
    assert provider.version == import_module("magichour_provider").__version__


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_module_of_a_kind_is_named_and_imports(kind):
    package = import_module(f"magichour_provider.{kind}")
    modules = [f"{package.__name__}.{each.name}" for each in pkgutil.iter_modules(package.__path__)]
    assert sorted(named_modules(kind)) == sorted(module for module in modules if classes_of(kind, module))


def test_every_operator_and_sensor_of_one_job_carries_a_registered_link():
    operators = [
        operator
        for kind in ("operators", "sensors")
        for module in named_modules(kind)
        for operator in classes_of(kind, module)
        if operator.__name__ != "ContactSheetOperator"  # which is about many jobs
    ]
    carried = {
        path_of(each): [path_of(type(link)) for link in each.operator_extra_links] for each in operators
    }
    assert carried == {path_of(each): INFO["extra-links"] for each in operators}
    assert {path_of(import_class(path)) for path in INFO["extra-links"]} == set(INFO["extra-links"])
    assert set(INFO["extra-links"]) <= set(ProvidersManager().extra_links_class_names)


def test_the_connection_type_is_there_with_its_hook():
    hook = ProvidersManager().hooks["magichour"]
    assert (hook.hook_class_name, hook.hook_name, hook.package_name) == (HOOK, "Magic Hour", NAME)
    assert hook.connection_id_attribute_name == "magichour_conn_id"
    assert hook.connection_testable
    assert import_class(HOOK).conn_type == "magichour"


def test_the_behaviour_of_the_form_is_taken_and_follows_airflows_schema():
    behaviour = {key.replace("-", "_"): value for key, value in UI_FIELD_BEHAVIOUR.items()}
    for each in (behaviour, wtforms_behaviour()):
        jsonschema.validate(each, schema("customized_form_field_behaviours.schema.json"))
    assert ProvidersManager().field_behaviours.get("magichour") == (behaviour if HAS_FORM else None)


@pytest.mark.skipif(
    not HAS_FORM, reason="this Airflow shows fields with wtforms only, which is not installed"
)
def test_the_form_has_every_extra_and_our_labels():
    assert set(form().extra_fields) == set(ConnectionExtras.model_fields)
    for name, field in form().extra_fields.items():
        assert field["schema"]["title"] == CONN_FIELDS[name]["label"]
        assert field["schema"]["type"] == CONN_FIELDS[name]["schema"]["type"]
        assert field["value"] == CONN_FIELDS[name]["schema"].get("default")
        assert field["description"] == CONN_FIELDS[name]["description"]
    fields = form().standard_fields
    assert (fields.password.title, fields.host.title) == ("API key", "Base URL")
    assert fields.host.placeholder == "https://api.magichour.ai"
    assert not fields.password.hidden
    assert all(each.hidden for each in (fields.login, fields.url_schema))
    assert not fields.port.hidden, "Airflow's button Test needs one, see connection_form.py"


@pytest.mark.skipif(HAS_FORM, reason="this Airflow shows the whole form")
def test_without_wtforms_the_connection_type_is_offered_all_the_same():
    assert (form().hook_class_name, form().hook_name) == (HOOK, "Magic Hour")
    assert (form().extra_fields, form().standard_fields) == (None, None)
