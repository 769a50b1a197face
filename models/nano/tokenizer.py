"""The tokenizer of nano: byte-level BPE trained on its own dialogues, digits one by one.

python -m models.nano.tokenizer      trains it and writes tokenizer.json
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PATH = Path(__file__).parent / "tokenizer.json"
SIZE = 2048
TEXT_END, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"
SPECIAL = [TEXT_END, START, END, TOOL_CALL, TOOL_CALL_END]

JOINTS = "_/-"

# llama.cpp's pre-tokenizer "qwen2"; it splits numbers into digits.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(texts: Iterable[str], size: int = SIZE) -> Tokenizer:
    """Learn `size` tokens from `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return without_joints(tokenizer)


def without_joints(tokenizer: Tokenizer) -> Tokenizer:
    """The same vocabulary without merges of `_`, `/` or `-` with what follows: a word then has the
    same tokens in `boost_target`, `/boost` and after a quotation mark, and is easier to copy."""
    state = json.loads(tokenizer.to_str())
    model = state["model"]
    model["merges"] = [
        pair
        for pair in model["merges"]
        if pair[0][0] not in JOINTS or not any(mark.isalnum() for mark in pair[0] + pair[1])
    ]
    return Tokenizer.from_str(json.dumps(state))


def load(path: Path = PATH) -> Tokenizer:
    return Tokenizer.from_file(str(path))


def main() -> None:
    from models.nano.dialogues import corpus

    tokenizer = train(corpus(seed=0, size=24_000))
    tokenizer.save(str(PATH))
    print(f"{PATH}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
