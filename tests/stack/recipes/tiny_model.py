"""A Qwen3 of a few hundred thousand weights made at random, as vLLM reads it: what it says is
noise, how it says it is real. One token is one byte.

Heads of 64, since vLLM's attention on a CPU knows no 16. A constant in the first place of the
residual stream lets `lm_head` prefer printable bytes, and an end after some of them.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
BYTES = 256
VOCABULARY = 320
HIDDEN, LAYERS, HEADS, HEAD, INNER = 128, 2, 2, 64, 256
WINDOW = 1_024
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LIKED, DISLIKED = 6.0, -30.0


def write(folder: Path) -> None:
    """Write the model's files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", _config())
    _write_json(folder / "tokenizer.json", _tokenizer())
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": WINDOW,
            "clean_up_tokenization_spaces": False,
            "chat_template": TEMPLATE,
        },
    )
    _write_weights(folder / "model.safetensors", _weights(np.random.default_rng(7)))


def _config() -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "head_dim": HEAD,
        "hidden_act": "silu",
        "max_position_embeddings": WINDOW,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "eos_token_id": BYTES + SPECIAL.index("<|im_end|>"),
        "pad_token_id": BYTES,
        "torch_dtype": "float32",
    }


def _tokenizer() -> dict[str, Any]:
    added = [
        {
            "id": BYTES + place,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            # As Qwen registers it: what tells thinking apart has to survive in the text.
            "special": "think" not in text,
        }
        for place, text in enumerate(SPECIAL)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {**level, "use_regex": False},
        "decoder": {**level, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {character: place for place, character in enumerate(_characters())},
            "merges": [],
        },
    }


def _characters() -> list[str]:
    """How byte-level tokenizers write the 256 bytes down: each as one visible character."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (code for code in range(BYTES, BYTES * 2))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(BYTES)]


def _weights(random: np.random.Generator) -> dict[str, Any]:
    def matrix(rows: int, columns: int) -> Any:
        return random.normal(0, 0.02, (rows, columns)).astype("<f4")

    embedding, head = matrix(VOCABULARY, HIDDEN), matrix(VOCABULARY, HIDDEN)
    embedding[:, 0] = 1.0
    head[:, 0] = DISLIKED
    head[ord("a") : ord("z") + 1, 0] = LIKED
    # Nothing else is in the first place after the last norm, which makes it about 11.
    head[:, 0] /= 11.0
    head[BYTES + SPECIAL.index("</think>"), 0] = LIKED / 11.0
    weights: dict[str, Any] = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": np.ones(HIDDEN, "<f4"),
        "lm_head.weight": head,
    }
    for layer in range(LAYERS):
        below = f"model.layers.{layer}"
        out, down = matrix(HIDDEN, HEADS * HEAD), matrix(HIDDEN, INNER)
        out[0], down[0] = 0.0, 0.0
        weights |= {
            f"{below}.input_layernorm.weight": np.ones(HIDDEN, "<f4"),
            f"{below}.post_attention_layernorm.weight": np.ones(HIDDEN, "<f4"),
            f"{below}.self_attn.q_proj.weight": matrix(HEADS * HEAD, HIDDEN),
            f"{below}.self_attn.k_proj.weight": matrix(HEAD, HIDDEN),
            f"{below}.self_attn.v_proj.weight": matrix(HEAD, HIDDEN),
            f"{below}.self_attn.q_norm.weight": np.ones(HEAD, "<f4"),
            f"{below}.self_attn.k_norm.weight": np.ones(HEAD, "<f4"),
            f"{below}.self_attn.o_proj.weight": out,
            f"{below}.mlp.gate_proj.weight": matrix(INNER, HIDDEN),
            f"{below}.mlp.up_proj.weight": matrix(INNER, HIDDEN),
            f"{below}.mlp.down_proj.weight": down,
        }
    return weights


def _write_weights(path: Path, weights: dict[str, Any]) -> None:
    """The format safetensors: the length of a header of JSON, the header, and the numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, values in weights.items():
        end = at + values.nbytes
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in weights.values():
            file.write(values.tobytes())


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
