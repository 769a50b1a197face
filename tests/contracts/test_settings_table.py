from pydantic.fields import FieldInfo

from contracts import settings_table
from contracts.broker_settings import BrokerSettings
from contracts.deployment import Deployment
from contracts.gateway_settings import GatewaySettings
from contracts.settings import Settings

PAGES = (Settings, Deployment, GatewaySettings)
FIELDS: dict[str, FieldInfo] = settings_table.fields()


def test_a_name_stands_on_one_page_only() -> None:
    names = [name for page in PAGES for name in page.model_fields]
    assert len(names) == len(set(names))
    # What Compose reads and the broker is given, has one default.
    for name in names:
        own, broker = FIELDS[name], BrokerSettings.model_fields.get(name)
        assert broker is None or broker.default == own.default, name


def test_every_setting_is_in_the_example_once_with_its_meaning() -> None:
    lines = settings_table.env_example().splitlines()
    for name, field in FIELDS.items():
        (at,) = [i for i, line in enumerate(lines) if line.startswith(f"# {name.upper()}=")]
        assert field.description, name
        assert lines[at - 1][3:].startswith(field.description[1:].rstrip(".")), name


def test_every_setting_is_on_the_page_once() -> None:
    page = settings_table.page()
    for name in FIELDS:
        assert page.count(f"| `{name.upper()}` |") == 1


def test_every_number_says_its_unit() -> None:
    numbers = [
        n for n, f in FIELDS.items() if any(k in str(f.annotation) for k in ("int", "float"))
    ]
    units = {row.name.lower(): row.unit for row in settings_table.rows()}
    assert [name for name in numbers if not units[name]] == []


def test_sections_and_units_name_settings_that_are_there() -> None:
    assert settings_table.SECTIONS.keys() <= FIELDS.keys()
    assert settings_table.UNITS.keys() <= FIELDS.keys()
    assert all(row.section for row in settings_table.rows())


def test_a_setting_of_one_host_says_which() -> None:
    hosts = {row.name: row.host for row in settings_table.rows()}
    assert hosts["GATEWAY_API_KEY"] == "brain"
    assert hosts["POSTGRES_PASSWORD"] == "hands"
    assert hosts["LOG_LEVEL"] == ""


def test_the_readme_lists_a_part_of_them() -> None:
    listed = settings_table.table().count("\n| `")
    assert 10 <= listed <= 36
    assert listed < len(FIELDS) / 2


def test_a_bar_does_not_end_a_cell() -> None:
    row = next(line for line in settings_table.page().splitlines() if "`POLICY_FILE`" in line)
    assert row.replace("\\|", "").count("|") == 6


def test_no_secret_has_a_default() -> None:
    assert [row.name for row in settings_table.rows() if row.secret and row.default] == []
