"""Which tool calls may run: `allow`, `confirm` or `deny`, per tool and arguments."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from contracts.errors import ErrorBody, SettingsError
from orchestrator.agent.effects import declared_effect, effect
from orchestrator.agent.values import flaw

Rule = Literal["allow", "confirm", "deny"]
RULES = ("allow", "confirm", "deny")
READONLY_WHEN = "variet/readonly_when"
REFUSED = "variet/refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    rule: Rule
    reason: str


@dataclass(frozen=True, slots=True)
class Traits:
    """What `server` declares of a tool: `readonly_when` lists argument values that change nothing,
    `refused` says why it would refuse every call, so that nobody is asked about one."""

    server: str = ""
    read_only: bool = False
    destructive: bool = True
    open_world: bool = False
    readonly_when: Mapping[str, tuple[str, ...]] | None = None
    refused: ErrorBody | None = None


class Policy:
    """The owner's rules first, then what the tool declares of itself; the unknown is confirmed."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = dict(rules)

    def unmatched(self, tools: Iterable[str]) -> list[str]:
        """Names that have a rule but are no tool: a slip of the pen, or a server that is down."""
        return sorted(self._rules.keys() - set(tools))

    def decide(self, tool: str, traits: Traits | None, arguments: dict[str, Any]) -> Verdict:
        if traits is not None and traits.refused is not None:
            return Verdict("deny", traits.refused.message)
        rule = self._rules.get(tool)
        if rule is not None and rule != "confirm":
            return Verdict(rule, f"the policy says {rule} for {tool}")
        if traits is None:
            return Verdict("confirm", f"{tool} is not known")
        what = effect(traits.server, tool, arguments) or declared_effect(
            tool, traits.destructive, traits.open_world
        )
        if rule == "confirm":
            said = f"the policy says confirm for {tool}"
            return Verdict("confirm", said if traits.read_only else f"{what}; {said}")
        if traits.read_only:
            return Verdict("allow", f"{tool} only reads")
        if _changes_nothing(traits, arguments):
            return Verdict("allow", f"{tool} only reads with these arguments")
        return Verdict("confirm", what)


def load_policy(path: Path | None) -> Policy:
    """Read `policy.yaml`: a mapping of tool name to rule. Raises SettingsError naming the key."""
    if path is None:
        return Policy({})
    try:
        rules = yaml.load(path.read_text("utf-8"), Loader=UniqueKeys) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(
            "bad_policy", f"POLICY_FILE={path} cannot be read: {error}.", "Correct the file."
        ) from error
    if not isinstance(rules, dict):
        raise SettingsError(
            "bad_policy", f"POLICY_FILE={path} is not a mapping.", "Write `tool: confirm` lines."
        )
    for tool, rule in rules.items():
        if not isinstance(tool, str):
            raise SettingsError(
                "bad_policy",
                f"POLICY_FILE={path}: {tool!r} is not the name of a tool.",
                "Put the name in quotes.",
            )
        if rule not in RULES:
            raise SettingsError(
                "bad_policy",
                f"POLICY_FILE={path}: {tool}={rule!r} is not a rule.",
                f"Use one of {', '.join(RULES)}.",
            )
    return Policy(rules)


def readonly_values(declared: Any) -> dict[str, tuple[str, ...]] | None:
    """`readonly_when` as a server declares it: `{argument: [values]}`. Anything else counts for
    nothing, so that the call is confirmed."""
    if not isinstance(declared, dict):
        return None
    for values in declared.values():
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            return None
    return {argument: tuple(values) for argument, values in declared.items()}


def refusal(declared: Any) -> ErrorBody | None:
    """`refused` as a server declares it: `{code, message, remedy}`. Anything else counts for
    nothing: the call is asked about, and refused by the server."""
    try:
        body = ErrorBody.model_validate(declared)
    except ValidationError:
        return None
    return None if flaw(body.model_dump()) else body


class UniqueKeys(yaml.SafeLoader):
    """Refuses a key that comes twice: the later one would win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.YAMLError(f"{key_node.value} is there twice")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _changes_nothing(traits: Traits, arguments: dict[str, Any]) -> bool:
    if not traits.readonly_when:
        return False
    return all(arguments.get(k) in values for k, values in traits.readonly_when.items())
