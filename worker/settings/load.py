"""Reads the settings from a TOML file and the environment, and finds every mistake at once.

The environment wins over the file, the file over the defaults. Nothing is read at import.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, get_args, get_origin

import msgspec

from worker import redaction
from worker.errors import SettingsError
from worker.redaction import HIDDEN
from worker.settings import files, value_text
from worker.settings.mistakes import SHOWN_CHARACTERS, quoted, suggestion
from worker.settings.rules import contradictions, credential_mistakes, package_mistakes
from worker.settings.tables import (
    CONFIG_VARIABLE,
    ENV_PREFIX,
    SECRET_VARIABLES,
    SECRETS,
    TABLES,
    Kafka,
    Oss,
    Records,
    Route,
    Settings,
    Table,
    description_of,
    fields_of,
    table_in,
)
from worker.words import clean

_MISTAKE_CHARACTERS: Final = 2000


class Loaded(msgspec.Struct, frozen=True):
    """The settings in force, and for each `table.name` where its value came from."""

    settings: Settings
    origins: dict[str, str]


def load(path: Path | None, environ: Mapping[str, str], *, to_run: bool = False) -> Loaded:
    """Read the settings. The environment wins over the file, the file over the defaults.

    `path` is the file of `--config`. If it is None, `OSS_VECTORS_CONFIG` may name a file; if that is not set, no file is read.
    With `to_run` the credentials must be set too, and the packages must be there that the login to Kafka needs. Raises `SettingsError` with every mistake.
    """
    return _Loader(environ, to_run=to_run).load(path)


class _Loader:
    """Collects values and mistakes, table by table."""

    def __init__(self, environ: Mapping[str, str], *, to_run: bool) -> None:
        self._environ = environ
        self._to_run = to_run
        self._mistakes: list[str] = []
        self._wrong: set[str] = set()  # the settings that have a mistake by themselves
        self._origins: dict[str, str] = {}
        self._possible_secrets: list[str] = []

    def load(self, path: Path | None) -> Loaded:
        redaction.remember(*(self._environ.get(name, "").strip() for name in SECRET_VARIABLES))
        document = self._read(path)
        source = str(path or self._environ.get(CONFIG_VARIABLE) or "")
        self._refuse_unknown_tables(document, source)
        self._refuse_unknown_variables()
        routes = self._routes(document.get("routes"), source)
        tables = {name: self._table(name, kind, document.get(name, {}), source) for name, kind in TABLES.items()}
        # A setting that is wrong by itself has its default here, so a rule about it could report a mistake that is none.
        self._mistakes += [m for m in contradictions(routes, tables) if m.partition(" ")[0] not in self._wrong]
        oss, kafka = tables["oss"], tables["kafka"]
        if self._to_run and isinstance(oss, Oss) and oss.credentials == "environment":
            self._mistakes += credential_mistakes(self._environ)
        if self._to_run and isinstance(kafka, Kafka):
            self._mistakes += package_mistakes(kafka)
        if self._mistakes:
            redaction.remember(*self._possible_secrets)  # whichever mistake quotes them
            raise SettingsError([clean(mistake, _MISTAKE_CHARACTERS) for mistake in self._mistakes])
        return Loaded(Settings(routes=routes, **tables), self._origins)  # type: ignore[arg-type]  # each is of its table's type

    def _read(self, path: Path | None) -> dict[str, Any]:
        if path is None:
            named = self._environ.get(CONFIG_VARIABLE, "").strip()
            if not named:
                return {}
            path = Path(named)
        try:
            content = files.read(path, files.SETTINGS_BYTES)
        except (OSError, ValueError) as error:  # ValueError: a path with a null byte
            self._mistakes.append(f"the settings file {value_text.shown_path(path)} cannot be read: {files.why(error)}")
            return {}
        try:
            return tomllib.loads(content.decode("utf-8-sig"))
        except ValueError as error:  # also not UTF-8, and a number of thousands of digits
            self._mistakes.append(f"the settings file {value_text.shown_path(path)} is not TOML: {error}")
        except RecursionError:
            self._mistakes.append(f"the settings file {value_text.shown_path(path)} is nested too deep")
        return {}

    def _refuse_unknown_tables(self, document: Mapping[str, Any], source: str) -> None:
        known = ["routes", *TABLES]
        self._mistakes += [
            f"{name} (in {source}) is not a table of the settings{suggestion(name, known)}; there are {', '.join(known)}"
            for name in document
            if name not in known
        ]

    def _refuse_unknown_variables(self) -> None:
        known = {
            _variable(table, name): f"{table}.{name}" for table, kind in TABLES.items() for name in fields_of(kind)
        }
        known |= {f"{variable}_FILE": f"{name}_file" for variable, name in known.items()}
        flattened = {variable.replace("__", "_"): variable for variable in known}
        for variable in self._environ:
            if (
                not variable.startswith(ENV_PREFIX)
                or variable in known
                or variable in (CONFIG_VARIABLE, f"{ENV_PREFIX}ROUTES")
            ):
                continue
            if "__" in variable[len(ENV_PREFIX) :]:
                self._mistakes.append(f"the variable {variable} is not a setting{suggestion(variable, list(known))}")
            elif variable in flattened:
                self._mistakes.append(
                    f"the variable {variable} is not a setting; did you mean {flattened[variable]}, with two underscores after the table?"
                )

    def _routes(self, value: Any, source: str) -> tuple[Route, ...]:
        origin = source
        text = self._environ.get(f"{ENV_PREFIX}ROUTES")
        if text is not None:
            origin = f"{ENV_PREFIX}ROUTES"
            value = self._routes_from_text(text)
            if value is None:
                return ()
        if not value:
            self._mistakes.append(
                f'routes: at least one is needed, in the file as [[routes]] with topic and index, or as {ENV_PREFIX}ROUTES="topic:index"'
            )
            return ()
        if not isinstance(value, list) or not all(isinstance(route, dict) for route in value):
            self._mistakes.append(f"routes (from {origin}) is not a list of tables; write each as [[routes]]")
            return ()
        self._origins["routes"] = origin
        routes = [
            self._fill(f"routes[{place}]", Route, _with_index(route), origin) for place, route in enumerate(value)
        ]
        for place, route in enumerate(value):
            if isinstance(records := route.get("records"), dict):
                self._fill(f"routes[{place}].records", Records, records, origin)
        return tuple(route for route in routes if isinstance(route, Route))

    def _routes_from_text(self, text: str) -> list[dict[str, Any]] | None:
        if text.lstrip().startswith("["):
            try:
                value: list[dict[str, Any]] = _from_json(text)
            except ValueError as error:
                self._mistakes.append(f"{ENV_PREFIX}ROUTES is not JSON: {error}")
                return None
            return value
        pairs = [pair.strip().rpartition(":") for pair in text.split(",") if pair.strip()]
        if not all(topic and index for topic, _, index in pairs):
            shown = HIDDEN if value_text.may_be_secret(text) else quoted(text)
            self._mistakes.append(f"{ENV_PREFIX}ROUTES = {shown}: allowed are topic:index,topic:index and JSON")
            return None
        return [{"topic": topic, "index": index} for topic, _, index in pairs]

    def _table(self, table: str, kind: type[Table], document: Any, source: str) -> Table | None:
        if not isinstance(document, dict):
            self._mistakes.append(f"{table} (in {source}) is not a table; write it as [{table}]")
            return None
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for name, value in document.items():
            if name in fields_of(kind):
                values[name], origins[name] = value, source
            elif name.endswith("_file") and (stem := name[: -len("_file")]) in fields_of(kind):
                if stem in document:
                    self._mistakes.append(
                        f"{table}.{stem} and {table}.{name} (in {source}): only one of them may be set"
                    )
                self._read_file(table, stem, value, f"{source} ({name})", values, origins)
            else:
                self._mistakes.append(
                    f"{table}.{name} (in {source}) is not a setting{suggestion(name, list(fields_of(kind)))}"
                )
        self._read_environment(table, kind, values, origins)
        for name in fields_of(kind):
            self._origins[f"{table}.{name}"] = origins.get(name, "default")
        _remember({name: value for name, value in values.items() if f"{table}.{name}" in SECRETS})
        return self._fill(table, kind, values, source, origins)

    def _read_environment(self, table: str, kind: type[Table], values: dict[str, Any], origins: dict[str, str]) -> None:
        for name in fields_of(kind):
            variable = _variable(table, name)
            if variable in self._environ:
                values[name] = _FromText(value_text.stripped(name, self._environ[variable]))
                origins[name] = variable
            file_variable = f"{variable}_FILE"
            if file_variable in self._environ and f"{name}_file" not in fields_of(kind):
                if variable in self._environ:
                    self._mistakes.append(f"{variable} and {file_variable}: only one of them may be set")
                self._read_file(table, name, self._environ[file_variable], file_variable, values, origins)

    def _read_file(
        self, table: str, name: str, path: Any, origin: str, values: dict[str, Any], origins: dict[str, str]
    ) -> None:
        origins[name] = origin
        try:
            content = files.read(Path(str(path).strip()), files.SECRET_BYTES)
            values[name] = _FromText(value_text.stripped(name, content.decode()))
        except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path with a null byte
            shown = value_text.shown_path(path, of_secret=f"{table}.{name}" in SECRETS)
            self._mistakes.append(f"{table}.{name} from the file {shown} ({origin}): {files.why(error)}")
            self._wrong.add(f"{table}.{name}")
            values.pop(name, None)

    def _fill(
        self,
        place: str,
        kind: type[Table],
        values: Mapping[str, Any],
        source: str,
        origins: Mapping[str, str] | None = None,
    ) -> Table | None:
        """Convert each value by itself, so that every mistake is found.

        A wrong value is replaced by the setting's default, or by "" if it has none.
        """
        converted: dict[str, Any] = {}
        fields = fields_of(kind)
        for name in values.keys() - fields.keys():
            self._mistakes.append(f"{place}.{name} (in {source}) is not a setting{suggestion(name, list(fields))}")
        self._note_possible_secrets(values)
        for name, field in fields.items():
            if name not in values:
                if field.required and f"{place}.{name}" not in self._wrong:
                    self._mistakes.append(f"{place}.{name} is needed. {description_of(field.type)}")
                    self._wrong.add(f"{place}.{name}")
                if field.required:
                    converted[name] = ""
                continue
            try:
                if (within := table_in(field.type)) is not None:
                    given = _as_table(values[name])
                    origin = (origins or {}).get(name, source)
                    converted[name] = self._fill(f"{place}.{name}", within, given, origin)
                    continue
                converted[name] = _converted(name, values[name], field.type)
            except (msgspec.ValidationError, ValueError) as error:
                origin = (origins or {}).get(name, source)
                is_hidden = f"{place}.{name}" in SECRETS or value_text.may_be_secret(values[name])
                shown = HIDDEN if is_hidden else _shown(values[name])
                self._mistakes.append(
                    f"{place}.{name} = {shown} (from {origin}): {error}. {description_of(field.type)}"
                )
                self._wrong.add(f"{place}.{name}")
                if field.required:
                    converted[name] = ""
        return kind(**converted)

    def _note_possible_secrets(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name not in _WITH_AT and not name.endswith("file"):  # a file's name is hidden by a rule of its own
                self._possible_secrets += value_text.possible_secrets(value)


_WITH_AT: Final = frozenset({"records", "fields", "key", "vector", "metadata", "delete"})
"""Settings whose right values may have an @, as the paths of JSON-LD do, and the tables that have them."""


def _with_index(route: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a route as it was given; one that chooses by a header or field needs no `index` beside its `indexes`."""
    return {"index": [], **route} if route.get("indexes") else route


class _FromText(str):
    """A value from the environment or a file of its own, which is text whatever its setting's type."""

    __slots__ = ()


def _converted(name: str, given: Any, kind: Any) -> Any:
    """Return the value of the setting `name` as its type. Raises `ValueError`, whose text does not quote the value."""
    value = _parsed(given, kind) if isinstance(given, _FromText) else given
    if found := value_text.problem(name, value):
        raise ValueError(found)
    return msgspec.convert(value, kind, strict=not isinstance(given, _FromText))


def _parsed(given: _FromText, kind: Any) -> Any:
    """Return the value in a text: JSON for a table, comma-separated elements for a list, else the text itself."""
    text = str(given)
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(plain) is dict:
        return _from_json(text)
    if get_origin(plain) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _as_table(given: Any) -> dict[str, Any]:
    """Return a table as it was given, from a text of JSON too. Raises `ValueError`."""
    value = _from_json(str(given)) if isinstance(given, _FromText) else given
    if isinstance(value, dict):
        return value
    raise ValueError("it is not a table")


def _from_json(text: str) -> Any:
    """Read JSON as its standard defines it. Raises `ValueError`, whose text does not quote it."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("JSON has no NaN and no Infinity")


def _remember(secrets: Mapping[str, Any]) -> None:
    """Hide these values in every text from now on, also those that are wrong, and wherever else they were written."""
    for value in secrets.values():
        if isinstance(value, str):
            redaction.remember(str(value))
            redaction.remember_url(str(value))


def _variable(table: str, name: str) -> str:
    return f"{ENV_PREFIX}{table.upper()}__{name.upper()}"


def _shown(value: Any) -> str:
    return clean(json.dumps(value, default=str), SHOWN_CHARACTERS)
