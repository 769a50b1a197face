"""The chat template: Jinja for llama.cpp, embedded in the GGUF, and the same in Python.

One tool is one short line, `name(argument, argument): description`, in the order given. A tool
call is written in Hermes form, which is how llama.cpp recognises the parser to use.
"""

import json
from typing import Any

TEMPLATE = r"""{%- set first = messages[0] -%}
{%- if tools or first.role == 'system' -%}
<|im_start|>system
{% if first.role == 'system' %}{{ first.content }}{% endif %}
{%- if tools %}{% if first.role == 'system' %}{{ '\n\n' }}{% endif %}Tools:
{%- for tool in tools %}{{ '\n' }}{{ tool.function.name }}(
{%- for name in tool.function.parameters.properties %}{{ name }}{% if not loop.last %}, {% endif %}
{%- endfor %}): {{ tool.function.description }}
{%- endfor %}
{%- endif %}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role != 'system' %}<|im_start|>{{ message.role }}
{% if message.content %}{{ message.content }}{% endif %}
{%- if message.tool_calls %}
{%- for call in message.tool_calls %}
{%- if message.content or not loop.first %}{{ '\n' }}{% endif %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}
{%- endif %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""

Messages = list[dict[str, Any]]


def tool_line(tool: dict[str, Any]) -> str:
    """One OpenAI tool definition as the model sees it."""
    function = tool["function"]
    names = ", ".join(function["parameters"].get("properties", {}))
    return f"{function['name']}({names}): {function['description']}"


def system_block(system: str | None, tools: list[dict[str, Any]]) -> str:
    """The opening of a conversation; empty if there is neither a system prompt nor a tool."""
    parts = [] if system is None else [system]
    if tools:
        parts.append("Tools:\n" + "\n".join(tool_line(tool) for tool in tools))
    return block("system", "\n\n".join(parts)) if parts else ""


def block(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """A tool call as the model writes it."""
    body = json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{name}", "arguments": {body}}}\n</tool_call>'


def render(system: str | None, tools: list[dict[str, Any]], turns: list[tuple[str, str]]) -> str:
    """A whole conversation; `turns` are (role, content) with tool calls already in text form."""
    return system_block(system, tools) + "".join(block(role, text) for role, text in turns)
