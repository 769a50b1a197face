"""JSON Schemas of tools and of structured answers: checked once, and nothing is ever fetched."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from orchestrator.agent.values import flaw

Path = tuple[str | int, ...]
LITERALS = frozenset({"const", "enum", "default", "examples"})  # values, not schemas


def compile_schema(schema: dict[str, Any]) -> Draft202012Validator:
    """A validator. Raises SchemaError with the path of whatever is no JSON Schema, refers outside
    of it, or cannot be carried."""
    if problem := flaw(schema):
        raise SchemaError(problem)
    try:
        Draft202012Validator.check_schema(schema)
    except RecursionError:
        raise SchemaError("it nests too deep") from None
    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    resolver = Registry().with_resource("", resource).resolver()
    for path, keyword, value in _keywords(schema):
        if keyword in ("$ref", "$dynamicRef"):
            _check_reference(resolver, path, value)
        elif keyword == "$id" and path:
            raise _wrong((*path, keyword), "an $id inside a schema is not supported")
    return Draft202012Validator(schema, registry=Registry())


def problem_of(validator: Draft202012Validator, value: Any) -> ValidationError | None:
    """The most telling way in which a value breaks a schema."""
    try:
        found: ValidationError | None = best_match(validator.iter_errors(value))
    except RecursionError:
        return ValidationError("the schema refers to itself without end")
    return found


def schema_problem(validator: Draft202012Validator, value: Any) -> str | None:
    """Where and why a value breaks a schema, or None."""
    problem = problem_of(validator, value)
    return told(problem) if problem else None


def told(problem: ValidationError | SchemaError) -> str:
    """A problem in words, with the path of the value at fault; a large value is cut."""
    path = ".".join(str(part) for part in problem.absolute_path)
    message = problem.message
    if len(message) > 300:
        message = f"{message[:140]} … {message[-140:]}"
    return f"{path}: {message}" if path else message


def _keywords(schema: Any, path: Path = ()) -> Iterator[tuple[Path, str, Any]]:
    """Every keyword of a schema and of the schemas inside it, with the path of its schema."""
    if isinstance(schema, list):
        for index, inner in enumerate(schema):
            yield from _keywords(inner, (*path, index))
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key in LITERALS and not _names_properties(path):
                continue
            if not _names_properties(path):
                yield path, key, value
            yield from _keywords(value, (*path, key))


def _names_properties(path: Path) -> bool:
    """Whether the keys here are names that the schema's author chose."""
    names = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
    inside = 0
    for part in reversed(path):
        if part not in names:
            break
        inside += 1
    return inside % 2 == 1


def _check_reference(resolver: Any, path: Path, reference: str) -> None:
    where = (*path, "$ref")
    if not reference.startswith("#"):
        raise _wrong(where, f"{reference!r} is outside of this schema, and nothing is fetched")
    try:
        resolver.lookup(reference)
    except Unresolvable:
        raise _wrong(where, f"{reference!r} is not in this schema") from None


def _wrong(path: Path, message: str) -> SchemaError:
    return SchemaError(message, path=deque(path))
