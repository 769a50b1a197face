"""A GGUF of a few hundred kilobytes with a real tokenizer and the ChatML + Hermes tool template.

Its text is gibberish; what is real is everything that llama.cpp does with it: loading, batching,
streaming, grammars, tool-call parsing, cancellation. The blocks write nothing to the residual
stream, so the next token depends on the last one alone and token biases can be set exactly.
"""

import json
import math
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKERS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
VOCABULARY = 768
WIDTH = 64
HEADS = 2
LAYERS = 2
FORBIDDEN = -12.0

TEMPLATE = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- "# Tools\n<tools>" }}
    {%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) or (message.role == 'assistant' and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
            {%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' }}{{- message.content }}{{- '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}
"""  # noqa: E501


def write_tiny_gguf(path: Path, mean_tokens: int = 40, tool_call_every: int = 0) -> Path:
    """Write the model to `path` and return it.

    A reply ends after about `mean_tokens` tokens (0: never, until the limit of the request); a
    `<tool_call>` begins about every `tool_call_every` tokens (0: never of its own accord).
    """
    tokens, merges = _tokenizer()
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_name("tiny")
    writer.add_context_length(131_072)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([_token_type(token) for token in tokens])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in _weights(tokens, mean_tokens, tool_call_every).items():
        writer.add_tensor(name, tensor.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tokenizer() -> tuple[list[str], list[str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(CONTROL + MARKERS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEMPLATE], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    ordered = sorted(model["vocab"], key=lambda token: int(model["vocab"][token]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return ordered + CONTROL + MARKERS, merges


def _token_type(token: str) -> gguf.TokenType:
    if token in CONTROL:
        return gguf.TokenType.CONTROL
    return gguf.TokenType.USER_DEFINED if token in MARKERS else gguf.TokenType.NORMAL


def _weights(
    tokens: list[str], mean_tokens: int, tool_call_every: int
) -> dict[str, NDArray[np.float64]]:
    generator = np.random.default_rng(0)
    count = len(tokens)
    embedding = generator.normal(0, 1, (count, WIDTH))
    embedding[:, 0] = 0
    embedding[:, 1] = 0
    embedding *= math.sqrt(WIDTH * 0.75) / np.linalg.norm(embedding, axis=1, keepdims=True)
    # After the RMS norm column 0 is 4 for every token: the output's column 0 is a bias.
    embedding[:, 0] = math.sqrt(WIDTH * 0.25)
    output = generator.normal(0, 1 / math.sqrt(WIDTH), (count, WIDTH))
    bias = np.zeros(count)
    for index, token in enumerate(tokens):
        text = token.replace("\u0120", " ")
        if token in CONTROL + MARKERS or not text.isascii() or not text.strip():
            bias[index] = FORBIDDEN
        elif text.startswith('"'):
            bias[index] = 3.0
    if mean_tokens:
        bias[tokens.index("<|im_end|>")] = math.log(count / mean_tokens)
    output[:, 1] = 0
    if tool_call_every:
        call = tokens.index("<tool_call>")
        bias[call] = math.log(count / tool_call_every)
        # Column 1 marks the call's opening, which a line feed must follow.
        embedding[call, 1] = math.sqrt(WIDTH)
        output[tokens.index("\u010a"), 1] = 40 / math.sqrt(WIDTH)
    output[:, 0] = bias / math.sqrt(WIDTH * 0.25)
    zeros = np.zeros
    weights = {
        "token_embd.weight": embedding,
        "output_norm.weight": np.ones(WIDTH),
        "output.weight": output,
    }
    head = WIDTH // HEADS
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        weights |= {
            block + "attn_norm.weight": np.ones(WIDTH),
            block + "ffn_norm.weight": np.ones(WIDTH),
            block + "attn_q.weight": zeros((WIDTH, WIDTH)),
            block + "attn_q.bias": zeros(WIDTH),
            block + "attn_k.weight": zeros((head, WIDTH)),
            block + "attn_k.bias": zeros(head),
            block + "attn_v.weight": zeros((head, WIDTH)),
            block + "attn_v.bias": zeros(head),
            block + "attn_output.weight": zeros((WIDTH, WIDTH)),
            block + "ffn_gate.weight": zeros((WIDTH, WIDTH)),
            block + "ffn_up.weight": zeros((WIDTH, WIDTH)),
            block + "ffn_down.weight": zeros((WIDTH, WIDTH)),
        }
    return weights
