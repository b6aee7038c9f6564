"""The settings: where each comes from, every mistake at once, and no secret shown."""

import functools
import json
import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from tests.unit.samples import NEEDED, forget_secrets
from worker.errors import SettingsError
from worker.redaction import HIDDEN
from worker.settings import client_options, rules, show, tables
from worker.settings.load import Loaded, _Loader, _variable, load
from worker.settings.tables import TABLES, Route, fields_of
from worker.words import clean

SECRET = "hunter2-do-not-show"
FILE = """
[[routes]]
topic = "vectors"
index = "docs"
[oss]
region = "cn-hangzhou"
bucket = "my-bucket"
account_id = "123456789"
"""


def loaded(**variables: str) -> Loaded:
    """Load from the environment alone; `A__B="x"` is OSS_VECTORS_A__B."""
    return load(None, NEEDED | {f"OSS_VECTORS_{name}": value for name, value in variables.items()})


def mistakes(path: Path | None, environ: dict[str, str]) -> tuple[str, ...]:
    """Load what is wrong, and return what is told of it."""
    with pytest.raises(SettingsError) as raised:
        load(path, environ)
    return raised.value.mistakes


def mistakes_with(**variables: str) -> tuple[str, ...]:
    """Load what is needed and these, of which some are wrong, and return what is told of it."""
    return mistakes(None, NEEDED | {f"OSS_VECTORS_{name}": value for name, value in variables.items()})


@pytest.fixture(autouse=True)
def _no_known_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_secrets(monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "worker.toml"
    path.write_text(FILE)
    return path


def with_lines(file: Path, text: str) -> Path:
    file.write_text(FILE + text)
    return file


# -- where values come from


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(file: Path) -> None:
    path = with_lines(file, "[batch]\nmax_records = 100\nmax_bytes = 2048\n")
    result = load(path, {"OSS_VECTORS_BATCH__MAX_RECORDS": "7"})
    assert result.settings.batch == tables.Batch(max_records=7, max_bytes=2048, max_age_seconds=1.0)
    assert [result.origins[f"batch.{name}"] for name in ("max_records", "max_bytes", "max_age_seconds")] == [
        "OSS_VECTORS_BATCH__MAX_RECORDS",
        str(path),
        "default",
    ]


def test_without_a_path_the_variable_names_the_file(file: Path) -> None:
    result = load(None, {"OSS_VECTORS_CONFIG": str(file)})
    assert (result.settings.oss.bucket, result.origins["oss.bucket"]) == ("my-bucket", str(file))


def test_the_path_wins_over_the_variable(file: Path) -> None:
    assert load(file, {"OSS_VECTORS_CONFIG": "/nowhere"}).settings.topics == ("vectors",)


def test_the_environment_alone_is_enough() -> None:
    settings = loaded().settings
    assert (settings.routes, settings.kafka) == ((Route(topic="vectors", index="docs"),), tables.Kafka())


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        pytest.param("KAFKA__BOOTSTRAP_SERVERS", "a:1, b:2,", ("a:1", "b:2"), id="a list"),
        pytest.param("KAFKA__CLIENT", '{"retry_backoff_ms": 5}', {"retry_backoff_ms": 5}, id="a table"),
        pytest.param("BATCH__MAX_RECORDS", "7", 7, id="a number"),
        pytest.param("BATCH__MAX_AGE_SECONDS", "0.25", 0.25, id="a fraction"),
        pytest.param("BATCH__MAX_AGE_SECONDS", "2", 2.0, id="a whole number of seconds"),
        pytest.param("OSS__ALLOW_HTTP", "true", True, id="a boolean"),
        pytest.param("OSS__ALLOW_HTTP", "0", False, id="a boolean as a digit"),
        pytest.param("KAFKA__GROUP_ID", "5", "5", id="a string of digits stays one"),
        pytest.param("DEAD_LETTER__IDEMPOTENT", "true", "true", id="a word that looks like a boolean"),
        pytest.param("DEAD_LETTER__TOPIC", "", "", id="empty"),
    ],
)
def test_a_variable_is_read_as_its_settings_type(variable: str, text: str, expected: object) -> None:
    table, _, name = variable.lower().partition("__")
    assert getattr(getattr(loaded(**{variable: text}).settings, table), name) == expected


ROUTE = Route(topic="a", index="docs")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a:docs", (ROUTE,), id="one"),
        pytest.param(" a:docs , b.c-d_e:images, ", (ROUTE, Route(topic="b.c-d_e", index="images")), id="several"),
        pytest.param('[{"topic": "a", "index": "docs"}]', (ROUTE,), id="JSON"),
        pytest.param(
            ' [{"topic": "a", "index": "docs", "dimension": 3, "distance_metric": "cosine", "non_filterable_metadata_keys": ["t"]}]',
            (Route(topic="a", index="docs", dimension=3, distance_metric="cosine", non_filterable_metadata_keys=("t",)),),
            id="JSON in full",
        ),
    ],
)  # fmt: skip
def test_routes_are_written_as_pairs_or_as_json(text: str, expected: tuple[Route, ...]) -> None:
    assert loaded(ROUTES=text).settings.routes == expected


def test_routes_of_the_environment_replace_those_of_the_file(file: Path) -> None:
    result = load(file, {"OSS_VECTORS_ROUTES": "other:docs"})
    assert (result.settings.topics, result.origins["routes"]) == (("other",), "OSS_VECTORS_ROUTES")


def test_indexes_come_once_each_in_the_order_of_the_routes() -> None:
    settings = loaded(ROUTES="a:docs,b:images,c:docs").settings
    assert (settings.topics, settings.indexes) == (("a", "b", "c"), ("docs", "images"))


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_setting_is_read_from_a_file_of_its_own_named_in_the_environment(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(f" {SECRET} {ending}".encode())
    result = loaded(KAFKA__SASL_PLAIN_PASSWORD_FILE=str(path))
    assert result.settings.kafka.sasl_plain_password == f" {SECRET} "
    assert result.origins["kafka.sasl_plain_password"] == "OSS_VECTORS_KAFKA__SASL_PLAIN_PASSWORD_FILE"


def test_a_setting_is_read_from_a_file_of_its_own_named_in_the_settings_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "number").write_text("42\n")
    path = with_lines(file, f'[batch]\nmax_records_file = "{tmp_path / "number"}"\n')
    result = load(path, {})
    assert (result.settings.batch.max_records, result.origins["batch.max_records"]) == (
        42,
        f"{path} (max_records_file)",
    )


KINDS: list[type[tables.Table]] = [Route, *tables.TABLES.values()]
TEXTS = [
    f"{table}.{name}"
    for table, kind in tables.TABLES.items()
    for name, field in tables.fields_of(kind).items()
    if "str" in str(field.type)
]
"""Every setting that is text, a list of texts, or a word."""

FREE = {"kafka.sasl_plain_password", "kafka.ssl_password", "registry.password"}


def default_of(name: str) -> str:
    """Return some value of a setting of text, as a variable holds it."""
    table, _, short = name.partition(".")
    given = NEEDED.get(_variable(table, short))
    value = getattr(getattr(loaded().settings, table), short)
    return given or (",".join(value) if isinstance(value, tuple) else value) or SAMPLES.get(name, "a")


SAMPLES = {
    "oss.endpoint": "https://oss.example.com",
    "oss.proxy_url": "http://proxy:3128",
    "registry.url": "https://registry.example.com",
    "dead_letter.accept_until": "2026-01-31T12:00:00Z",
    "kafka.sasl_mechanism": "GSSAPI",
    "kafka.client": '{"ssl_ciphers": "a"}',
}


def with_files(name: str, value: str, tmp_path: Path) -> str:
    """Return the value, or the name of a file where the setting asks for one."""
    is_file = name in ("kafka.ssl_cafile", "kafka.ssl_certfile", "kafka.ssl_keyfile", "oss.ca_file", "registry.ca_file")
    if not is_file:
        return value
    (tmp_path / "pem").write_bytes(certificate_and_key())
    return str(tmp_path / "pem")


@functools.cache
def certificate_and_key() -> bytes:
    return trustme.CA().issue_cert("client").private_key_and_cert_chain_pem.bytes()


@pytest.mark.parametrize("name", [name for name in TEXTS if name not in FREE])
@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", "  {}\t", "\ufeff{}", "{}\u00a0"])
def test_white_space_around_a_variable_is_dropped_and_in_a_file_of_its_own(
    name: str, around: str, tmp_path: Path
) -> None:
    table, _, short = name.partition(".")
    value = with_files(name, default_of(name), tmp_path)
    plain = getattr(getattr(loaded(**{f"{table.upper()}__{short.upper()}": value}).settings, table), short)
    for way in ("", "_FILE"):
        given = around.format(value)
        if way:
            (tmp_path / "value").write_text(given, encoding="utf-8", newline="")
            given = f" {tmp_path / 'value'}\n"
        if name == "oss.credentials" and way:
            continue  # its file is the setting credentials_file
        environ = {**NEEDED, f"{_variable(table, short)}{way}": given}
        if way:
            environ.pop(_variable(table, short), None)
        assert getattr(getattr(load(None, environ).settings, table), short) == plain


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    "bad", ["{}\n", " {}", "{}\u2028", "{}\x00", "a\x1b[31m{}", "a\u202e{}", "a\u200b{}", "\ud800{}"]
)
def test_what_cannot_be_seen_is_refused_in_the_settings_file(name: str, bad: str) -> None:
    """As a value of the document, since TOML itself takes neither a null byte nor half a pair of surrogates."""
    table, _, short = name.partition(".")
    field = tables.fields_of(tables.TABLES[table])[short]
    is_list, is_table = "tuple" in str(field.type), "dict" in str(field.type)
    text = bad.format(SECRET if is_table else default_of(name))
    given: object = [text] if is_list else {"ssl_ciphers": [text]} if is_table else text
    loader = _Loader({}, to_run=False)
    loader._fill(table, tables.TABLES[table], {short: given}, "worker.toml")
    found = [each for each in loader._mistakes if each.startswith(f"{name} = ")]
    allowed = {
        **dict.fromkeys(FREE, (" {}", "{}\u2028", "a\u202e{}", "a\u200b{}")),
        "oss.credentials_process": ("{}\n", " {}"),
    }
    if bad in allowed.get(name, ()):
        assert found == []
    else:
        assert len(found) == 1
        assert "white space before or after it" in found[0] or "that cannot be seen" in found[0]
        assert SECRET not in found[0]


def test_every_pattern_ends_at_the_end_of_the_text() -> None:
    """A dollar sign matches before a line break at the end too."""
    patterns = [
        meta.pattern
        for kind in KINDS
        for field in tables.fields_of(kind).values()
        for meta in getattr(field.type, "__metadata__", ())
        if isinstance(meta, msgspec.Meta) and meta.pattern
    ]
    assert len(patterns) >= 5
    assert [pattern for pattern in patterns if not (pattern.startswith("^") and pattern.endswith(r"\Z"))] == []


@pytest.mark.parametrize("password", [" p ", "p\t", "\u00a0p", "\u200bp"])
def test_a_password_keeps_its_spaces_and_loses_a_line_break_at_its_end(password: str) -> None:
    if "\t" in password:
        (told,) = mistakes_with(KAFKA__SASL_PLAIN_PASSWORD=password)
        assert "kafka.sasl_plain_password = ********" in told
        return
    assert loaded(KAFKA__SASL_PLAIN_PASSWORD=f"{password}\n").settings.kafka.sasl_plain_password == password


def test_routes_are_looked_at_like_other_settings() -> None:
    told = mistakes_with(
        ROUTES=json.dumps([{"topic": "a\n", "index": "docs\n"}, {"topic": " b", "index": "do\u200bcs"}])
    )
    assert [each.partition(" (from")[0] for each in told] == [
        'routes[0].topic = "a\\n"',
        'routes[0].index = "docs\\n"',
        'routes[1].topic = " b"',
        'routes[1].index = "do\\u200bcs"',
    ]


def test_a_metadata_key_may_have_spaces() -> None:
    routes = [{"topic": "a", "index": "docs", "non_filterable_metadata_keys": [" a b "]}]
    assert loaded(ROUTES=json.dumps(routes)).settings.routes[0].non_filterable_metadata_keys == (" a b ",)


def test_a_byte_order_mark_before_the_settings_is_dropped(file: Path) -> None:
    file.write_text(FILE, encoding="utf-8-sig")
    assert load(file, {}).settings.topics == ("vectors",)


def test_a_command_may_stand_on_several_lines(file: Path) -> None:
    path = with_lines(file, "credentials = 'process'\ncredentials_process = '''\n/bin/program\n  --flag\n'''\n")
    assert load(path, {}).settings.oss.credentials_process.split() == ["/bin/program", "--flag"]


@pytest.mark.parametrize("kind", ["fifo", "device", "large"])
@pytest.mark.parametrize("place", ["settings", "value", "certificate"])
def test_what_is_no_small_file_is_refused_at_once(tmp_path: Path, kind: str, place: str) -> None:
    path = tmp_path / "file"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(2**40)
    if place == "settings":
        (told,) = mistakes(path, NEEDED)
    elif place == "value":
        (told,) = mistakes_with(KAFKA__SASL_PLAIN_PASSWORD_FILE=str(path))
    else:
        (told,) = mistakes_with(OSS__CA_FILE=str(path))
    assert "it is larger than " in told if kind == "large" else "it is not a regular file" in told
    assert str(path) in told


def test_a_mistake_is_one_line_of_a_bounded_length_whatever_it_quotes() -> None:
    (told,) = mistakes_with(RECORDS__FORMAT="x\n\x1b[31m" * 10_000)
    assert (len(told) < 1000, told.isprintable()) == (True, True)
    (told,) = mistakes_with(ROUTES="forged\nline" * 100_000)
    assert (len(told) < 1000, told.isprintable()) == (True, True)
    (told,) = mistakes_with(**{"NO__SETTING\nforged": "x"})
    assert told.isprintable()


def test_the_setting_credentials_file_is_a_setting_and_no_file_of_the_setting_credentials() -> None:
    oss = loaded(OSS__CREDENTIALS="file", OSS__CREDENTIALS_FILE="/not/read/here").settings.oss
    assert (oss.credentials, oss.credentials_file) == ("file", "/not/read/here")


# -- mistakes


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        pytest.param({"BATCH__MAX_RECORDS": "501"}, ['batch.max_records = "501" (from OSS_VECTORS_BATCH__MAX_RECORDS)', "<= 500", "The service accepts at most 500"], id="too much"),
        pytest.param({"BATCH__MAX_RECORDS": "\u0665"}, ["batch.max_records", "Expected `int`"], id="an Arabic digit"),
        pytest.param({"OSS__ACCOUNT_ID": "\u0661\u0662\u0663"}, ["oss.account_id", "digits"], id="an account in Arabic digits"),
        pytest.param({"KAFKA__BOOTSTRAP_SERVERS": "a:\u0661"}, ["kafka.bootstrap_servers: 'a:\u0661' is not host:port"], id="a port in Arabic digits"),
        pytest.param({"KAFKA__BOOTSTRAP_SERVERS": "a:0"}, ["'a:0' is not host:port"], id="port 0"),
        pytest.param({"KAFKA__BOOTSTRAP_SERVERS": "a:65536"}, ["'a:65536' is not host:port"], id="a port beyond the last"),
        pytest.param({"KAFKA__BOOTSTRAP_SERVERS": "[::1::]:9092"}, ["is not host:port"], id="no IPv6 address"),
        pytest.param({"KAFKA__BOOTSTRAP_SERVERS": "a b:9092"}, ["'a b:9092' is not host:port"], id="a space within a server"),
        pytest.param({"KAFKA__BOOTSTRAP_SERVERS": "http://a"}, ["is not host:port"], id="a URL for a server"),
        pytest.param({"KAFKA__SESSION_TIMEOUT_MS": "9999999999", "KAFKA__MAX_POLL_INTERVAL_MS": "2147483647"}, ["kafka.session_timeout_ms", "<= 2147483647"], id="more than the protocol has room for"),
        pytest.param({"BUFFER__MAX_BYTES": "1" * 30}, ["buffer.max_bytes", "<= "], id="a huge number"),
        pytest.param({"DEAD_LETTER__LIMIT_WINDOW": "1" * 30}, ["dead_letter.limit_window", "<= "], id="a huge window"),
        pytest.param({"BATCH__MAX_AGE_SECONDS": "1e400"}, ["batch.max_age_seconds", "out of range"], id="beyond a float"),
        pytest.param({"OSS__ALLOW_HTTP": "yes"}, ["oss.allow_http", "`bool`"], id="yes"),
        pytest.param({"KAFKA__CLIENT": '{"retry_backoff_ms": NaN}'}, ["kafka.client = ********", "JSON has no NaN"], id="JSON's NaN"),
        pytest.param({"KAFKA__CLIENT": "[" * 100_000}, ["kafka.client = ********", "nested too deep"], id="JSON too deep"),
        pytest.param({"KAFKA__CLIENT": '{"fetch_max_bytes": 9999999999}'}, ["kafka.client: fetch_max_bytes is larger than 2147483647"], id="a client setting that is too large"),
        pytest.param({"ROUTES": "[" * 100_000}, ["OSS_VECTORS_ROUTES is not JSON", "nested too deep"], id="routes too deep"),
        pytest.param({"ROUTES": "..:docs"}, ["'..' is not a valid name of a topic"], id="a topic of dots"),
        pytest.param({"OSS__CREDENTIALS": "process", "OSS__CREDENTIALS_PROCESS": "a 'b"}, ["oss.credentials_process is not a command"], id="an open quotation mark"),
        pytest.param({"KAFKA__SASL_PLAIN_PASSWORD_FILE": "a\x00b"}, ["kafka.sasl_plain_password from the file", "null"], id="a null byte in a path"),
        pytest.param({"OSS__ENDPOINT": "https://us er:hunter2@h"}, ["oss.endpoint = ********"], id="a login in a wrong endpoint"),
        pytest.param({"BATCH__MAX_RECORDS": "many"}, ['batch.max_records = "many"', "Expected `int`"], id="no number"),
        pytest.param({"BATCH__MAX_AGE_SECONDS": "0"}, ["batch.max_age_seconds", "> 0"], id="zero seconds"),
        pytest.param({"BATCH__MAX_AGE_SECONDS": "nan"}, ["batch.max_age_seconds", "> 0"], id="not a number"),
        pytest.param({"DELIVERY__RETRY_MAX_SECONDS": "inf"}, ["delivery.retry_max_seconds", "<= 31536000"], id="for ever"),
        pytest.param({"DELIVERY__VECTORS_PER_SECOND": "inf"}, ["delivery.vectors_per_second", "0 is no limit"], id="endless rate"),
        pytest.param({"SHUTDOWN__DRAIN_SECONDS": "inf"}, ["shutdown.drain_seconds"], id="endless drain"),
        pytest.param({"RECORDS__FORMAT": "avro"}, ['records.format = "avro"', '"auto" | "json" | "msgpack"'], id="no such word"),
        pytest.param({"OSS__ALLOW_HTTP": "maybe"}, ['oss.allow_http = "maybe"', "`bool`"], id="no boolean"),
        pytest.param({"OSS__BUCKET": "-bucket"}, ['oss.bucket = "-bucket"', "3 to 32 of a-z, 0-9 and -"], id="no bucket name"),
        pytest.param({"OSS__ACCOUNT_ID": "me"}, ['oss.account_id = "me"', "digits"], id="no account"),
        pytest.param({"KAFKA__BOOTSTRAP_SERVERS": " , "}, ["kafka.bootstrap_servers", "length >= 1"], id="an empty list"),
        pytest.param({"KAFKA__CLIENT": "{"}, ["kafka.client = ********", "OSS_VECTORS_KAFKA__CLIENT"], id="no JSON"),
        pytest.param({"KAFKA__CLIENT": "[1]"}, ["kafka.client = ********", "Expected `object`, got `array`"], id="no table"),
        pytest.param({"ROUTES": ""}, ["routes: at least one is needed", 'OSS_VECTORS_ROUTES="topic:index"'], id="no routes"),
        pytest.param({"ROUTES": "[]"}, ["routes: at least one is needed"], id="no routes in JSON"),
        pytest.param({"ROUTES": "vectors"}, ["OSS_VECTORS_ROUTES = 'vectors'", "allowed are topic:index,topic:index and JSON"], id="no pair"),
        pytest.param({"ROUTES": "[{"}, ["OSS_VECTORS_ROUTES is not JSON"], id="broken JSON routes"),
        pytest.param({"ROUTES": "[1]"}, ["routes (from OSS_VECTORS_ROUTES) is not a list of tables"], id="JSON routes of numbers"),
        pytest.param({"ROUTES": '[{"topic": "a"}]'}, ["routes[0].index is needed. The index to write to"], id="a route without its index"),
        pytest.param({"ROUTES": '[{"topic": "a", "index": "docs", "indx": 1}]'}, ["routes[0].indx", "did you mean index?"], id="a route's unknown setting"),
        pytest.param({"ROUTES": "a:my-index"}, ['routes[0].index = "my-index"', "letters and digits"], id="no index name"),
        pytest.param({"ROUTES": "a b:docs"}, ["'a b' is not a valid name of a topic; allowed are letters, digits"], id="no topic name"),
        pytest.param({"ROUTES": "a:docs,a:images"}, ["topic 'a' is in several routes; a topic goes to one index"], id="a topic twice"),
        pytest.param({"ROUTES": "a:docs", "DEAD_LETTER__TOPIC": "a"}, ["dead_letter.topic = 'a' is the topic of a route"], id="dead letters into a route"),
        pytest.param({"KAFKA__CLIENT": '{"group_id": "x", "acks": 1}'}, ["kafka.client: acks, group_id cannot be set here; the worker owns acks, allow_auto"], id="what the worker owns"),
        pytest.param({"KAFKA__SECURITY_PROTOCOL": "SASL_SSL"}, ["kafka.sasl_mechanism is needed with kafka.security_protocol = 'SASL_SSL'"], id="no mechanism"),
        pytest.param({"KAFKA__SASL_MECHANISM": "PLAIN", "KAFKA__SASL_PLAIN_USERNAME": "me"}, ["kafka.sasl_plain_password is needed"], id="no password"),
        pytest.param({"KAFKA__SSL_CAFILE": "/nowhere.pem"}, ["kafka.ssl_cafile = '/nowhere.pem': no such file"], id="no Kafka CA file"),
        pytest.param({"OSS__CA_FILE": "/nowhere.pem"}, ["oss.ca_file = '/nowhere.pem': no such file"], id="no OSS CA file"),
        pytest.param({"OSS__CREDENTIALS": "file"}, ["oss.credentials_file is needed"], id="no credentials file"),
        pytest.param({"OSS__CREDENTIALS": "process"}, ["oss.credentials_process is needed"], id="no credentials process"),
        pytest.param({"KAFKA__CLIENT": '{"fetch_max_wait_ms": 15000}'}, ["kafka.client: fetch_max_wait_ms = 15000 must be less than request_timeout_ms = 15000"], id="fetches that wait for too long"),
        pytest.param({"KAFKA__CLIENT": '{"connections_max_idle_ms": 15000}'}, ["kafka.client: request_timeout_ms = 15000 must be less than connections_max_idle_ms = 15000"], id="connections that end too soon"),
        pytest.param({"KAFKA__CLIENT": '{"request_timeout_ms": 500}'}, ["kafka.client: fetch_max_wait_ms = 500 must be less than request_timeout_ms = 500"], id="requests that end too soon"),
        pytest.param({"DEAD_LETTER__ACCEPT_UNTIL": "tomorrow"}, ["dead_letter.accept_until = 'tomorrow'", "RFC 3339"], id="no time"),
        pytest.param({"DEAD_LETTER__ACCEPT_UNTIL": "2026-01-31T12:00:00"}, ["dead_letter.accept_until", "RFC 3339"], id="a time without a zone"),
        pytest.param({"BATCH__MAX_RECORD": "5"}, ["OSS_VECTORS_BATCH__MAX_RECORD is not a setting; did you mean OSS_VECTORS_BATCH__MAX_RECORDS?"], id="an unknown name"),
        pytest.param({"NOTHING__HERE": "5"}, ["OSS_VECTORS_NOTHING__HERE is not a setting"], id="an unknown table"),
        pytest.param({"BATCH_MAX_RECORDS": "5"}, ["OSS_VECTORS_BATCH_MAX_RECORDS is not a setting; did you mean OSS_VECTORS_BATCH__MAX_RECORDS, with two underscores"], id="a single underscore"),
        pytest.param({"KAFKA_SASL_PLAIN_PASSWORD_FILE": "x"}, ["did you mean OSS_VECTORS_KAFKA__SASL_PLAIN_PASSWORD_FILE"], id="a single underscore before a file"),
        pytest.param({"BATCH__MAX_RECORDS_FILE": "/nowhere"}, ["batch.max_records from the file '/nowhere' (OSS_VECTORS_BATCH__MAX_RECORDS_FILE): No such file"], id="no such file"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_told_with_its_name_its_value_and_what_is_allowed(
    variables: dict[str, str], expected: list[str]
) -> None:
    told = mistakes_with(**variables)
    assert (len(told), [part for part in expected if part not in told[0]]) == (1, [])


@pytest.mark.parametrize(("mechanism", "package"), [("GSSAPI", "gssapi"), ("AWS_MSK_IAM", "botocore")])
def test_a_login_whose_package_is_missing_is_told_with_the_command_that_installs_it(
    mechanism: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = {"KAFKA__SECURITY_PROTOCOL": "SASL_SSL", "KAFKA__SASL_MECHANISM": mechanism}
    asked = []

    def find_spec(name: str) -> object:
        asked.append(name)
        return found

    monkeypatch.setattr(rules, "find_spec", find_spec)
    found = None
    assert loaded(**login).settings.kafka.sasl_mechanism == mechanism  # a command that does not connect needs none
    variables = NEEDED | {f"OSS_VECTORS_{name}": value for name, value in login.items()}
    variables |= {"OSS_ACCESS_KEY_ID": "id", "OSS_ACCESS_KEY_SECRET": SECRET}
    with pytest.raises(SettingsError, match=f"needs one more package: pip install {package}"):
        load(None, variables, to_run=True)
    found = object()
    load(None, variables, to_run=True)
    assert asked == [package, package]


def test_a_login_of_aws_without_tls_is_told() -> None:
    assert mistakes_with(KAFKA__SECURITY_PROTOCOL="SASL_PLAINTEXT", KAFKA__SASL_MECHANISM="AWS_MSK_IAM") == (
        "kafka.sasl_mechanism = 'AWS_MSK_IAM' needs kafka.security_protocol = 'SASL_SSL'",
    )


@pytest.mark.parametrize("region", ["oss-cn-hangzhou", "cn-hangzhou-internal", "oss-cn-hangzhou-internal"])
def test_a_region_is_no_part_of_an_endpoint(region: str) -> None:
    (told,) = mistakes_with(OSS__REGION=region)
    assert told.startswith(f"oss.region = {region!r}: allowed is the region alone, such as cn-hangzhou, without oss- ")


@pytest.mark.parametrize("region", ["cn-hangzhou.aliyuncs.com", "https://oss-cn-hangzhou.aliyuncs.com", "cn_hangzhou"])
def test_a_region_has_no_dots(region: str) -> None:
    (told,) = mistakes_with(OSS__REGION=region)
    assert told.startswith("oss.region = ")


ENDPOINTS_REFUSED = [
    *("docs", "oss.example.com", "ftp://oss.example.com", "https://", "https://[::1", "https://h:99999", "https://h:x"),
    *(
        "https://h/path",
        "https://h?query",
        "https://user:secret@h",
        "https://a b",
        "https://a..b",
        f"https://{'a' * 64}",
    ),
]


@pytest.mark.parametrize("endpoint", ENDPOINTS_REFUSED)
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    told = mistakes_with(OSS__ENDPOINT=endpoint)
    shown = HIDDEN if "@" in endpoint else repr(endpoint)
    assert told == (f"oss.endpoint = {shown}: allowed is https://host or https://host:port",)


@pytest.mark.parametrize("host", ["é..x", "a b", "[::]", "a" * 64, "127.0.0.1:80"])
def test_what_the_port_cannot_listen_on_is_told(host: str) -> None:
    (told,) = mistakes_with(HTTP__HOST=host)
    assert told.startswith(f"http.host = {host!r}: ")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost", "worker-0.workers.default.svc."])
def test_the_port_listens_on_an_address_or_a_name(host: str) -> None:
    assert loaded(HTTP__HOST=host).settings.http.host == host


@pytest.mark.parametrize("host", ["oss.example.com", "10.0.0.1", "127.example.com", "127.0.0.1.example.com", "[::2]"])
def test_plain_http_is_for_loopback_unless_it_is_allowed(host: str) -> None:
    (told,) = mistakes_with(OSS__ENDPOINT=f"http://{host}")
    assert told.endswith("plain HTTP is for loopback; oss.allow_http = true allows it elsewhere")
    assert loaded(OSS__ENDPOINT=f"http://{host}", OSS__ALLOW_HTTP="true").settings.oss.endpoint == f"http://{host}"


@pytest.mark.parametrize(
    "endpoint",
    ["", "https://oss.example.com", "https://h:8443/", "http://127.0.0.1:9000", "http://127.0.0.2", "http://localhost:9000", "http://a.localhost", "http://[::1]:9000"],
)  # fmt: skip
def test_https_and_plain_http_to_this_machine_are_taken(endpoint: str) -> None:
    assert loaded(OSS__ENDPOINT=endpoint).settings.oss.endpoint == endpoint


def test_variables_that_kubernetes_makes_are_left_alone() -> None:
    made = {
        "SERVICE_HOST": "10.0.0.1", "SERVICE_PORT": "9464", "SERVICE_PORT_METRICS": "9464", "PORT": "tcp://10.0.0.1:9464",
        "PORT_9464_TCP": "tcp://10.0.0.1:9464", "PORT_9464_TCP_ADDR": "10.0.0.1", "PORT_9464_TCP_PROTO": "tcp",
    }  # fmt: skip
    assert loaded(**made) == loaded()


def test_every_mistake_is_told_at_once(file: Path) -> None:
    path = with_lines(
        file,
        'surprise = 1\n[batch]\nmax_records = "x"\nmax_byte = 1\n[kafa]\n[records]\nformat = "avro"\ntombstones = 5\n',
    )
    told = mistakes(path, {"OSS_VECTORS_HTTP__PORT": "70000", "OSS_VECTORS_LOG__LEVL": "x", "OSS_VECTORS_ROUTES": "x"})
    expected = [
        *("kafa (in", "OSS_VECTORS_LOG__LEVL", "OSS_VECTORS_ROUTES = 'x'", "oss.surprise (in", "batch.max_byte (in"),
        *('batch.max_records = "x"', 'records.format = "avro"', "records.tombstones = 5", 'http.port = "70000"'),
    ]
    assert [part for part in expected if not any(part in each for each in told)] == []
    assert len(told) == len(expected)


def test_what_is_needed_and_missing_is_told_by_its_name() -> None:
    told = mistakes(None, {})
    assert [each.partition(" is needed")[0].partition(":")[0] for each in told] == [
        *("routes", "oss.region", "oss.bucket", "oss.account_id")
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("[kafka\n", "is not TOML", id="broken"),
        pytest.param("\xff", "is not TOML", id="not UTF-8"),
        pytest.param("oss = 5", "oss (in ", id="a value for a table"),
        pytest.param("routes = 5", "is not a list of tables; write each as [[routes]]", id="a value for the routes"),
        pytest.param("[routes]\ntopic = 'a'", "is not a list of tables; write each as [[routes]]", id="one table for the routes"),
        pytest.param("a = " + "[" * 5000, "is nested too deep", id="nested too deep"),
        pytest.param("a = " + "1" * 5000, "is not TOML", id="a number of thousands of digits"),
        pytest.param("[http]\nport_file = 5", "http.port from the file 5", id="a number for a file"),
        pytest.param("[kafka]\nbootstrap_servers = ['']", "kafka.bootstrap_servers: '' is not host:port", id="an empty string in a list"),
        pytest.param("[kafka]\nbootstrap_servers = ['a:1 ']", "kafka.bootstrap_servers", id="white space in a list"),
        pytest.param("[batch]\nmax_age_seconds = inf", "batch.max_age_seconds", id="TOML's infinity"),
        pytest.param("[batch]\nmax_records = true", "batch.max_records = true", id="a boolean for a number"),
        pytest.param("[kafka]\nbootstrap_servers = 'a:1'", "kafka.bootstrap_servers", id="a string for a list"),
        pytest.param("[http]\nhost_file = \"a\\u0000b\"", "http.host from the file", id="a null byte in a path"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_told(file: Path, text: str, expected: str) -> None:
    file.write_text(text, encoding="latin-1")
    assert [each for each in mistakes(file, {}) if expected in each] != []


def test_a_file_that_is_missing_or_a_directory_is_told(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    assert mistakes(missing, NEEDED) == (f"the settings file {missing} cannot be read: No such file or directory",)
    assert mistakes_with(CONFIG=str(tmp_path)) == (f"the settings file {tmp_path} cannot be read: Is a directory",)


def test_a_setting_and_its_file_together_are_told(file: Path, tmp_path: Path) -> None:
    (tmp_path / "n").write_text("5")
    path = with_lines(file, f'[batch]\nmax_records = 5\nmax_records_file = "{tmp_path / "n"}"\n')
    assert "only one of them may be set" in mistakes(path, {})[0]
    assert (
        "only one of them may be set"
        in mistakes_with(BATCH__MAX_RECORDS="5", BATCH__MAX_RECORDS_FILE=str(tmp_path / "n"))[0]
    )


# -- secrets


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"KAFKA__SASL_PLAIN_PASSWORD": SECRET, "KAFKA__SASL_MECHANISM": "PLAIN"}, id="password beside a mistake"),
        pytest.param({"KAFKA__CLIENT": f'{{"sasl_oauth": "{SECRET}"'}, id="client settings that are no JSON"),
        pytest.param({"KAFKA__CLIENT": f'["{SECRET}"]'}, id="client settings that are a list"),
        pytest.param({"KAFKA__CLIENT": f'{{"ssl_password": "{SECRET}"}}'}, id="client settings that the worker owns"),
        pytest.param({"OSS__PROXY_URL": f"http://user:{SECRET}@h:1", "HTTP__PORT": "x"}, id="proxy beside a mistake"),
        pytest.param({"KAFKA__SASL_PLAIN_PASSWRD": SECRET}, id="password under a wrong name"),
        pytest.param({"KAFKA_SASL_PLAIN_PASSWORD": SECRET}, id="password with a single underscore"),
    ],
)  # fmt: skip
def test_a_mistake_never_shows_a_secret(variables: dict[str, str]) -> None:
    assert [each for each in mistakes_with(**variables) if SECRET in each] == []


KEY_PEM = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"KAFKA__SASL_PLAIN_PASSWORD_FILE": SECRET}, id="password for the name of its file"),
        pytest.param({"OSS__PROXY_URL_FILE": f"http://me:{SECRET}@h:1"}, id="address for the name of its file"),
        pytest.param({"KAFKA__SSL_KEYFILE": KEY_PEM}, id="key for the name of its file"),
        pytest.param({"KAFKA__SSL_KEYFILE": KEY_PEM.replace("\n", " ")}, id="key in one line"),
        pytest.param({"OSS__PROXY_URL": f"http://me:{SECRET}@a b:1"}, id="proxy without a name"),
        pytest.param({"OSS__CA_FILE": json.dumps({"secret": SECRET})}, id="credentials for certificates"),
        pytest.param({"CONFIG": f'[kafka]\nssl_password = "{SECRET}"'}, id="settings for the name of their file"),
        pytest.param({"KAFKA__BOOTSTRAP_SERVERS": f"me:{SECRET}@h:1"}, id="login before a broker"),
        pytest.param({"ROUTES": f"me:{SECRET}@h"}, id="login in a route"),
        pytest.param({"KAFKA__CLIENT": f'{{"proxy_url": "socks5://me:{SECRET}/x@h:1"}}'}, id="proxy with a slash in the password"),
        pytest.param({"KAFKA__SASL_PLAIN_PASSWORD": SECRET, "KAFKA__SASL_MECHANISM": SECRET}, id="password in two settings"),
    ],
)  # fmt: skip
def test_a_secret_in_the_wrong_place_is_a_mistake_and_not_shown(variables: dict[str, str]) -> None:
    told = mistakes_with(**variables)
    assert told != ()
    assert SECRET not in "".join(told)


TEXTS = [
    f"{table}.{name}"
    for table, kind in TABLES.items()
    for name in fields_of(kind)
    if not name.endswith("file") and name not in ("fields", "client")
]


@pytest.mark.parametrize("text", [f"me:{SECRET}@h", f"https://me:{SECRET}@h:1/x", f"{SECRET}\n{SECRET}"])
@pytest.mark.parametrize("name", TEXTS)
def test_no_setting_shows_what_looks_like_a_secret_in_the_wrong_place(name: str, text: str) -> None:
    variable = f"OSS_VECTORS_{name.upper().replace('.', '__')}"
    told = ""
    try:
        load(None, NEEDED | {variable: text})
    except SettingsError as error:
        told = str(error)
    assert SECRET not in told


@pytest.mark.parametrize(
    "route",
    [
        {"topic": f"me:{SECRET}@h", "index": "a"},
        {"topic": "t", "index": f"me:{SECRET}@h"},
        {"topic": "t", "index": ["a", f"me:{SECRET}@h"], "index_by": "key"},
        {"topic": "t", "index": ["a"], "index_by": f"me:{SECRET}@h"},
        {"topic": "t", "index_by": "header:t", "indexes": {f"me:{SECRET}@h": "b-c"}},
        {"topic": "t", "index": "a", "distance_metric": f"me:{SECRET}@h"},
        {"topic": "t", "index": "a", "records": {"format": f"me:{SECRET}@h"}},
    ],
    ids=str,
)
def test_no_route_shows_what_looks_like_a_secret_in_the_wrong_place(route: dict[str, Any]) -> None:
    told = mistakes_with(ROUTES=json.dumps([route]))
    assert told != ()
    assert SECRET not in "".join(told)


def test_a_path_with_an_at_sign_is_shown_in_its_mistake() -> None:
    (told,) = mistakes_with(RECORDS__FIELDS=json.dumps({"key": "@type.@id["}))
    assert '"@type.@id["' in told


def test_a_secret_of_the_credentials_is_not_shown_in_another_setting() -> None:
    environ = {"OSS_ACCESS_KEY_SECRET": f"{SECRET} ", "OSS_VECTORS_OSS__REGION": SECRET.upper() + SECRET}
    told = mistakes(None, NEEDED | environ)
    assert [each.partition(" (from")[0] for each in told] == [f'oss.region = "{SECRET.upper()}{HIDDEN}"']


def test_what_is_given_for_the_credentials_file_is_not_shown_in_force() -> None:
    inline = json.dumps({"access_key_id": "id", "access_key_secret": SECRET})
    assert SECRET not in show.in_force(load(None, NEEDED | {"OSS_VECTORS_OSS__CREDENTIALS_FILE": inline}))


def test_a_login_in_a_wrong_address_is_not_shown(file: Path) -> None:
    (told,) = mistakes(with_lines(file, f'endpoint = "https://user:{SECRET}@h "\n'), {})
    assert told.startswith("oss.endpoint = ******** (from")


def test_a_secret_of_a_wrong_type_is_not_shown(file: Path) -> None:
    path = with_lines(file, f'[kafka]\nsasl_plain_password = ["{SECRET}"]\nssl_password = {{a = "{SECRET}"}}\n')
    told = mistakes(path, {})
    assert [each.partition(" (from")[0] for each in told] == [
        "kafka.ssl_password = ********",
        "kafka.sasl_plain_password = ********",
    ]
    assert SECRET not in "".join(told)


def test_the_settings_in_force_are_toml_with_every_name_its_origin_and_no_secret(file: Path) -> None:
    path = with_lines(
        file,
        f'[kafka]\nssl_password = "{SECRET}"\n[kafka.client]\nproxy_url = "socks5://me:{SECRET}@h:1"\nretries = 3\n',
    )
    environ = {"OSS_VECTORS_OSS__PROXY_URL": f"http://me:{SECRET}@proxy:1", "OSS_VECTORS_LOG__LEVEL": "debug"}
    text = show.in_force(load(path, environ))
    shown: dict[str, Any] = tomllib.loads(text)
    assert SECRET not in text
    assert {name: sorted(table) for name, table in shown.items() if name != "routes"} == {
        name: sorted(kind.__struct_fields__) for name, kind in tables.TABLES.items()
    }
    assert shown["kafka"]["client"] == {"proxy_url": HIDDEN, "retries": HIDDEN}
    assert 'level = "debug"  # OSS_VECTORS_LOG__LEVEL' in text.splitlines()
    assert f'ssl_password = "********"  # {path}' in text.splitlines()
    assert 'sasl_plain_password = ""  # default' in text.splitlines()


# -- the example


def test_the_example_loads_again_and_holds_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "example.toml"
    path.write_text(show.example())
    assert load(path, {}).settings == loaded().settings


def test_the_example_shows_every_setting_with_its_meaning() -> None:
    shown = tomllib.loads(show.example())
    assert {name: list(table) for name, table in shown.items() if name != "routes"} == {
        name: list(kind.__struct_fields__) for name, kind in tables.TABLES.items()
    }
    assert list(shown["routes"][0]) == list(Route.__struct_fields__)
    settings = [line for line in show.example().splitlines() if " = " in line and not line.startswith("#")]
    assert [line for line in settings if len(line.partition("  # ")[2]) < 4] == []


def test_the_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        loaded().settings.batch.max_records = 5  # type: ignore[misc]  # that it cannot be set is what is tried
    assert msgspec.structs.asdict(loaded().settings.batch)["max_records"] == 500


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2026-01-31T12:00:00Z", "2026-01-31T12:00:00+00:00"), ("2026-01-31T12:00:00+08:00", "2026-01-31T12:00:00+08:00")],
)
def test_a_time_of_rfc_3339_is_read_with_its_zone(text: str, expected: str) -> None:
    moment = rules.accept_until(loaded(DEAD_LETTER__ACCEPT_UNTIL=text).settings.dead_letter)
    assert moment is not None
    assert moment.isoformat() == expected


def test_what_the_client_would_choke_on_is_told_before_it_starts() -> None:
    told = mistakes_with(
        KAFKA__BOOTSTRAP_SERVERS="broker:9092,broker:nine",
        KAFKA__CLIENT='{"fetch_max_bytes": "abc", "metrics_enabled": false, "ftech_max_bytes": 1}',
        KAFKA__MAX_POLL_INTERVAL_MS="10000",
        OSS__PROXY_URL="nope",
    )
    assert sorted(line.split(";")[0][:60] for line in told) == sorted(
        line[:60]
        for line in (
            "kafka.client: metrics_enabled cannot be set here",
            "kafka.max_poll_interval_ms must not be shorter than kafka.session_timeout_ms",
            "kafka.bootstrap_servers: 'broker:nine' is not host:port",
            "kafka.client: fetch_max_bytes must be of type int, as in kafka-python",
            "kafka.client: ftech_max_bytes is not a setting of kafka-python",
            "oss.proxy_url: allowed is http://host:port or http://user:password@host:port",
        )
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("api_version", wrong) for wrong in (SECRET, [2, 8], 2, "", "2.", "\u0662.8")),
        *(("compression_type", wrong) for wrong in ("none", 1, ["gzip"])),
        *(("socket_options", wrong) for wrong in ("x", [[6, 1]], [[6, 1, "1"]], 1)),
        *(("receive_buffer_bytes", wrong) for wrong in (0, -1, "1", True, 1.5)),
        *(("proxy_url", wrong) for wrong in (1, "h", "http://h:x", "http://[h", "http://h:0")),
        *((name, "x") for name in ("metric_reporters", "partitioner", "selector", "ssl_context")),
        *((name, 1) for name in ("ssl_ciphers", "ssl_crlfile", "sasl_kerberos_name", "sasl_kerberos_domain_name", "socks5_proxy")),
    ],
)  # fmt: skip
def test_a_client_setting_whose_default_is_none_has_a_form_too(name: str, value: object) -> None:
    (told,) = mistakes_with(KAFKA__CLIENT=json.dumps({name: value}))
    assert told.startswith(f"kafka.client: {name} must be ")
    assert SECRET not in told


def test_every_client_setting_without_a_typed_default_has_a_form() -> None:
    untyped = {
        name
        for name, default in client_options.client_defaults().items()
        if type(default) not in (bool, int, float, str)
    }
    assert untyped - client_options.OWNED == client_options.FORMS.keys()


def test_client_settings_of_the_right_form_are_taken() -> None:
    given = {
        "api_version": "2.8.2", "compression_type": "zstd", "socket_options": [[6, 1, 1]], "receive_buffer_bytes": 65536,
        "proxy_url": "socks5://me:it@h:1080", "ssl_ciphers": "ALL",
    }  # fmt: skip
    assert loaded(KAFKA__CLIENT=json.dumps(given)).settings.kafka.client == given


def test_a_list_of_revoked_certificates_that_is_no_file_is_told_before_it_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (told,) = mistakes_with(KAFKA__CLIENT=json.dumps({"ssl_crlfile": str(tmp_path / "fifo")}))
    assert told == f"kafka.client.ssl_crlfile = '{tmp_path}/fifo': it is not a regular file"


def test_routes_of_one_index_that_contradict_each_other_are_told() -> None:
    routes = [{"topic": topic, "index": "docs", "dimension": size} for topic, size in (("a", 3), ("b", 4), ("c", 0))]
    assert mistakes_with(ROUTES=json.dumps(routes)) == (
        "routes: the routes to index 'docs' contradict each other: dimension is [3, 4]",
    )


def test_the_secrets_of_the_settings_are_hidden_in_every_text() -> None:
    settings = loaded(
        KAFKA__SASL_PLAIN_PASSWORD="sasl-password", KAFKA__SSL_PASSWORD="key-password",
        OSS__PROXY_URL="http://me:proxy-password@h:1",
        KAFKA__CLIENT='{"proxy_url": "socks5://me:other-password@h", "ssl_ciphers": "ALL:!aNULL"}',
    ).settings  # fmt: skip
    show.remember_secrets(settings)
    told = clean("sasl-password key-password proxy-password other-password ALL:!aNULL")
    assert told == " ".join([HIDDEN] * 4 + ["ALL:!aNULL"])


def test_missing_credentials_are_told_with_the_other_mistakes_where_they_are_needed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        load(None, {}, to_run=True)
    assert [line for line in raised.value.mistakes if "OSS_ACCESS_KEY" in line] == [
        'oss.credentials = "environment" takes OSS_ACCESS_KEY_ID from the environment, and it is not set',
        'oss.credentials = "environment" takes OSS_ACCESS_KEY_SECRET from the environment, and it is not set',
    ]
