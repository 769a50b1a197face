"""Models of well-known shapes, without their numbers: what counts for memory is all there."""

from models.gguf.header import Header, Tensor, Value
from models.gguf.quants import tensor_bytes
from tests.models.gguf.files import F32, IQ4_XS, MXFP4, Q4_K, Q8_0, Shapes

Q6_K = 14


def header_of(values: dict[str, Value], shapes: Shapes) -> Header:
    """As `read_header` would read them from a file."""
    tensors = []
    for name, (shape, kind) in shapes.items():
        numbers = 1
        for length in shape:
            numbers *= length
        tensors.append(Tensor(name, shape, kind, 0, tensor_bytes(kind, numbers) or 0))
    return Header(values, 0, tuple(tensors))


def named(architecture: str, **values: Value) -> dict[str, Value]:
    """Keys as a file has them; two underscores stand for a dot."""
    told = {f"{architecture}.{key.replace('__', '.')}": value for key, value in values.items()}
    return {"general.architecture": architecture, **told}


def dense() -> Header:
    """Of Qwen3-4B's shape: 36 layers, 8 key heads of 128, the input is the output."""
    values = named(
        "qwen3",
        block_count=36,
        embedding_length=2_560,
        feed_forward_length=9_728,
        attention__head_count=32,
        attention__head_count_kv=8,
        attention__key_length=128,
        attention__value_length=128,
    )
    shapes: dict[str, tuple[tuple[int, ...], int]] = {
        "token_embd.weight": ((2_560, 151_936), Q4_K),
        "output_norm.weight": ((2_560,), F32),
    }
    for layer in range(36):
        block = f"blk.{layer}."
        shapes |= {
            block + "attn_q.weight": ((2_560, 4_096), Q4_K),
            block + "attn_k.weight": ((2_560, 1_024), Q4_K),
            block + "attn_v.weight": ((2_560, 1_024), Q4_K),
            block + "attn_output.weight": ((4_096, 2_560), Q4_K),
            block + "ffn_gate.weight": ((2_560, 9_728), Q4_K),
            block + "ffn_up.weight": ((2_560, 9_728), Q4_K),
            block + "ffn_down.weight": ((9_728, 2_560), Q4_K),
        }
    return header_of(values, shapes)


def windowed() -> Header:
    """Of gpt-oss-20b's shape: 24 layers, every other one attends to 128 tokens."""
    values = named(
        "gpt-oss",
        block_count=24,
        embedding_length=2_880,
        feed_forward_length=2_880,
        attention__head_count=64,
        attention__head_count_kv=8,
        attention__key_length=64,
        attention__value_length=64,
        attention__sliding_window=128,
        expert_count=32,
        expert_used_count=4,
        expert_feed_forward_length=2_880,
    )
    shapes: dict[str, tuple[tuple[int, ...], int]] = {
        "token_embd.weight": ((2_880, 201_088), Q8_0),
        "output.weight": ((2_880, 201_088), Q8_0),
    }
    for layer in range(24):
        block = f"blk.{layer}."
        shapes |= {
            block + f"ffn_{name}_exps.weight": ((2_880, 2_880, 32), MXFP4)
            for name in ("gate", "up", "down")
        }
        shapes |= {block + "attn_q.weight": ((2_880, 4_096), Q8_0)}
    return header_of(values, shapes)


def hybrid(
    layers: int, width: int, kv_heads: int, inner: int, experts: bool, hidden: int = 0
) -> Header:
    """Of Qwen3.5's and 3.6's shape: every fourth layer attends, the others keep a state."""
    architecture = "qwen35moe" if experts else "qwen35"
    values = named(
        architecture,
        block_count=layers,
        embedding_length=width,
        attention__head_count=16,
        attention__head_count_kv=kv_heads,
        attention__key_length=256,
        attention__value_length=256,
        full_attention_interval=4,
        ssm__conv_kernel=4,
        ssm__state_size=128,
        ssm__group_count=16,
        ssm__inner_size=inner,
    )
    key = f"{architecture}."
    if experts:
        values |= {key + "expert_count": 256, key + "expert_used_count": 8}
        values |= {key + "expert_feed_forward_length": 512}
        values |= {key + "expert_shared_feed_forward_length": 512}
    else:
        values |= {key + "feed_forward_length": hidden}
    shapes: dict[str, tuple[tuple[int, ...], int]] = {
        "token_embd.weight": ((width, 248_320), Q6_K),
        "output.weight": ((width, 248_320), Q6_K),
    }
    for layer in range(layers):
        block = f"blk.{layer}."
        shapes |= {block + "attn_gate.weight": ((width, inner), Q8_0)}
        if experts:
            shapes |= {
                block + f"ffn_{name}_exps.weight": ((width, 512, 256), IQ4_XS)
                for name in ("gate", "up", "down")
            }
        else:
            shapes |= {block + "ffn_up.weight": ((width, hidden), IQ4_XS)}
    return header_of(values, shapes)


def hybrid_35b() -> Header:
    return hybrid(40, 2_048, kv_heads=2, inner=4_096, experts=True)


def hybrid_9b() -> Header:
    return hybrid(32, 4_096, kv_heads=4, inner=4_096, experts=False, hidden=12_288)


def hybrid_27b() -> Header:
    return hybrid(64, 5_120, kv_heads=4, inner=6_144, experts=False, hidden=17_408)
