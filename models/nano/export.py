"""Writes a checkpoint as GGUF: weights, tokenizer and chat template in one file.

python -m models.nano.export models/nano/work/checkpoint.pt models/nano/nano.gguf
"""

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from models.nano.network import Network, Shape
from models.nano.template import TEMPLATE
from models.nano.tokenizer import END, PATH, TEXT_END, TOOL_CALL, TOOL_CALL_END

HERE = Path(__file__).parent


def write(state: dict[str, torch.Tensor], shape: Shape, path: Path, tokenizer: Path = PATH) -> None:
    """Write `state` (of a `Network` of `shape`) to `path` in float16, norms in float32."""
    writer = gguf.GGUFWriter(str(path), "lfm2")
    _settings(writer, shape)
    _vocabulary(writer, json.loads(tokenizer.read_text()), shape.vocabulary)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in state.items():
        array = tensor.float().numpy()
        whole = array.ndim == 1 or name.endswith("kernel")
        writer.add_tensor(_name(name), array if whole else array.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _settings(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name("nano")
    writer.add_license("MIT")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(len(shape.blocks))
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv([shape.heads if kind == "a" else 0 for kind in shape.blocks])
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_shortconv_l_cache(shape.taps)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def _vocabulary(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], size: int) -> None:
    ids: dict[str, int] = dict(tokenizer["model"]["vocab"])
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    ids.update(special)
    words = {number: word for word, number in ids.items()}
    # A control token is dropped from the text that llama.cpp parses for tool calls.
    spoken = {ids[TOOL_CALL], ids[TOOL_CALL_END]}
    kinds = []
    for number in range(size):
        if number in spoken:
            kinds.append(gguf.TokenType.USER_DEFINED)
        elif number in special.values():
            kinds.append(gguf.TokenType.CONTROL)
        else:
            kinds.append(gguf.TokenType.NORMAL if number in words else gguf.TokenType.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([words.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types(kinds)
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(ids[TEXT_END])
    writer.add_eos_token_id(ids[END])
    writer.add_pad_token_id(ids[TEXT_END])
    writer.add_add_bos_token(False)


_PARTS = {
    "mix_norm.weight": "attn_norm",
    "feed_norm.weight": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "mixer.in_proj": "shortconv.in_proj",
    "mixer.kernel": "shortconv.conv",
    "mixer.out_proj": "shortconv.out_proj",
    "mixer.q": "attn_q",
    "mixer.k": "attn_k",
    "mixer.v": "attn_v",
    "mixer.o": "attn_output",
    "mixer.q_norm.weight": "attn_q_norm",
    "mixer.k_norm.weight": "attn_k_norm",
}


def _name(name: str) -> str:
    if name == "embedding":
        return "token_embd.weight"
    if name == "norm.weight":
        return "token_embd_norm.weight"
    _, number, part = name.split(".", 2)
    return f"blk.{number}.{_PARTS[part]}.weight"


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    saved = torch.load(source, map_location="cpu", weights_only=True)
    shape = Shape(**saved["shape"])
    Network(shape).load_state_dict(saved["model"])
    write(saved["model"], shape, target)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, step {saved['step']}")


if __name__ == "__main__":
    main()
