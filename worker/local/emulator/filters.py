"""The metadata filter language of QueryVectors.

    {"$and": [{"type": {"$in": ["comedy", "documentary"]}}, {"year": {"$eq": "2020"}}]}

`$eq` and `$ne` take a string, `$in` and `$nin` a non-empty list of strings, `$exists` a boolean, `$and` and `$or` a
non-empty list of filters. A list in the metadata matches when one of its elements does. A vector without the field
fulfils `$ne` and `$nin`. Several fields, or several operators of one field, must all be true.
"""

from collections.abc import Callable, Collection, Mapping

from worker.local.emulator.errors import Refusal, invalid

Metadata = Mapping[str, str | list[str]]
Predicate = Callable[[Metadata], bool]

# Limits of the documentation of QueryVectors, beside 64 KB for the whole filter.
MAX_DEPTH = 8
MAX_CONDITIONS = 1024


def compile_filter(tree: object, non_filterable: Collection[str]) -> Predicate:
    """Make a predicate over metadata of the JSON value `tree`; raise Refusal (400) when it is not a filter."""
    return _Compiler(non_filterable).filter(tree, depth=1)


class _Compiler:
    def __init__(self, non_filterable: Collection[str]) -> None:
        self._non_filterable = non_filterable
        self._conditions = 0

    def filter(self, tree: object, depth: int) -> Predicate:
        if depth > MAX_DEPTH:
            raise invalid(f"filter: nested deeper than {MAX_DEPTH} levels.")
        if not isinstance(tree, dict) or not tree:
            raise invalid("filter: expected a non-empty object.")
        parts = [self._member(name, value, depth) for name, value in tree.items()]
        return lambda metadata: all(part(metadata) for part in parts)

    def _member(self, name: str, value: object, depth: int) -> Predicate:
        if name not in {"$and", "$or"}:
            return self._field(name, value)
        if not isinstance(value, list) or not value:
            raise invalid(f"filter: {name} takes a non-empty list of filters.")
        parts = [self.filter(part, depth + 1) for part in value]
        if name == "$and":
            return lambda metadata: all(part(metadata) for part in parts)
        return lambda metadata: any(part(metadata) for part in parts)

    def _field(self, field: str, operators: object) -> Predicate:
        if field.startswith("$"):
            raise invalid(f"filter: unknown operator {field}.")
        if field in self._non_filterable:
            raise invalid(f"filter: {field} is a non-filterable metadata key of this index.")
        if not isinstance(operators, dict) or not operators:
            raise invalid(f'filter: expected an object of operators for {field}, such as {{"$eq": "value"}}.')
        self._conditions += len(operators)
        if self._conditions > MAX_CONDITIONS:
            raise invalid(f"filter: more than {MAX_CONDITIONS} conditions.")
        tests = [_operator(name, operand) for name, operand in operators.items()]
        return lambda metadata: all(test(metadata.get(field)) for test in tests)


def _operator(name: str, operand: object) -> Callable[[str | list[str] | None], bool]:
    match name, operand:
        case "$exists", bool():
            return lambda value: (value is not None) == operand
        case "$eq", str():
            return lambda value: operand in _values(value)
        case "$ne", str():
            return lambda value: operand not in _values(value)
        case "$in", [_, *_]:
            wanted = _strings(name, operand)
            return lambda value: not wanted.isdisjoint(_values(value))
        case "$nin", [_, *_]:
            wanted = _strings(name, operand)
            return lambda value: wanted.isdisjoint(_values(value))
    raise _refuse_operator(name)


def _refuse_operator(name: str) -> Refusal:
    kinds = {"$exists": "a boolean", "$eq": "a string", "$ne": "a string"}
    kinds |= dict.fromkeys(("$in", "$nin"), "a non-empty list of strings")
    return invalid(f"filter: {name} takes {kinds[name]}." if name in kinds else f"filter: unknown operator {name}.")


def _strings(name: str, operand: object) -> frozenset[str]:
    if not isinstance(operand, list) or not all(isinstance(item, str) for item in operand):
        raise _refuse_operator(name)
    return frozenset(operand)


def _values(value: str | list[str] | None) -> list[str]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
