"""Architectures that read text or sound, decoders with caches of keys and values among them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from architecture_models import Architecture, Feed
from torch import Tensor, nn

PASTS = (16, 128, 512)
"""Tokens in the cache when one more is decoded."""
PREFILL = 128
LAYERS, HEADS, HEAD = 12, 12, 64
"""Of GPT-2 with 124 million parameters, of which 85 in its layers."""
LLAMA = {
    "vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 4, "max_position_embeddings": 1024, "tie_word_embeddings": True,
}  # fmt: skip


def ids(batch: int, length: int, vocabulary: int, *axes: str) -> Feed:
    """Tokens; names of the open axes out of batch and the length."""
    return Feed((batch, length), dict(enumerate(axes)) if axes else {}, vocabulary)


class Attribute(nn.Module):
    """One result of a model of transformers, which takes its inputs by keyword."""

    def __init__(self, build: Callable[[], nn.Module], result: str, *keywords: str, **fixed: Any) -> None:
        super().__init__()
        self.module, self.result, self.keywords, self.fixed = build(), result, keywords, fixed

    def forward(self, *given: Tensor) -> Tensor:
        """That result."""
        found: Tensor = getattr(self.module(**dict(zip(self.keywords, given)), **self.fixed), self.result)
        return found


class Decoder(nn.Module):
    """A language model whose cache of keys and values goes in and comes out longer, as plain tensors."""

    def __init__(self, build: Callable[[], nn.Module], only_last: bool = False) -> None:
        super().__init__()
        self.module, self.only_last = build(), only_last

    def forward(self, tokens: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Logits (of the last token only, where asked for), then keys and values of each layer."""
        from transformers import DynamicCache

        cache = DynamicCache(list(zip(past[::2], past[1::2]))) if past else DynamicCache()
        found = self.module(tokens, cache=cache, use_cache=True, logits_to_keep=1 if self.only_last else 0)
        return (found.logits, *chain.from_iterable((layer.keys, layer.values) for layer in cache.layers))


class Tagger(nn.Module):
    """Words, a recurrent net in both directions, a tag for every word."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], hidden: int = 128, layers: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(5000, 100)
        self.net = kind(100, hidden, layers, batch_first=True, bidirectional=True)
        self.tags = nn.Linear(2 * hidden, 17)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the tags."""
        tags: Tensor = self.tags(self.net(self.words(tokens))[0])
        return tags


def made(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    """A class of transformers with a configuration."""

    def build() -> nn.Module:
        import transformers

        module: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**options))
        return module

    return build


def cached(
    name: str, what: str, build: Callable[[], nn.Module], vocabulary: int, layers: int, heads: int
) -> tuple[Architecture, ...]:
    """Decoding one token with a cache, and reading a prompt."""
    caches = [f"{kind}{layer}" for layer in range(layers) for kind in ("key", "value")]
    after = tuple(f"{name}_after" for name in caches)
    past = {cache: Feed((1, heads, 128, HEAD), {2: "past"}) for cache in caches}
    return (
        Architecture(
            f"{name}_decode", f"{what}, one token with a cache", lambda: Decoder(build), {"tokens": ids(1, 1, vocabulary), **past},
            ("logits", *after), tuple({"past": length} for length in PASTS if length != 128),
        ),
        Architecture(
            f"{name}_prefill", f"{what}, a prompt of {PREFILL}", lambda: Decoder(build, only_last=True),
            {"tokens": Feed((1, PREFILL), {1: "length"}, vocabulary)}, ("logits", *after),
        ),
    )  # fmt: skip


def gpt2() -> nn.Module:
    """GPT-2, the small one."""
    return made("GPT2LMHeadModel", "GPT2Config", n_layer=LAYERS, n_head=HEADS, n_embd=LAYERS * HEAD)()


def bert(name: str, what: str, model: str, config: str, **options: Any) -> Architecture:
    """An encoder of text with a mask."""
    return Architecture(
        name, what, lambda: Attribute(made(model, config, **options), "last_hidden_state", "input_ids", "attention_mask"),
        {"tokens": ids(1, 128, 30522, "batch", "length"), "mask": ids(1, 128, 1, "batch", "length")},
    )  # fmt: skip


T5 = {"num_layers": 6, "num_decoder_layers": 6, "d_model": 512, "d_ff": 2048, "num_heads": 8, "d_kv": 64}
WHISPER = {
    "d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 6, "decoder_attention_heads": 6,
    "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536,
}  # fmt: skip


def t5_encoder() -> nn.Module:
    """The stack that reads."""
    return Attribute(made("T5EncoderModel", "T5Config", **T5), "last_hidden_state", "input_ids")


class T5Decoder(nn.Module):
    """The stack that writes, all words of the target at once."""

    def __init__(self) -> None:
        super().__init__()
        self.module = made("T5ForConditionalGeneration", "T5Config", **T5)()

    def forward(self, tokens: Tensor, states: Tensor) -> Tensor:
        """Logits."""
        found: Tensor = self.module(decoder_input_ids=tokens, encoder_outputs=(states,), use_cache=False).logits
        return found


def whisper_part(part: str, *keywords: str, **fixed: Any) -> Callable[[], nn.Module]:
    """Encoder or decoder of Whisper, the tiny one."""
    return lambda: Attribute(
        lambda: getattr(made("WhisperModel", "WhisperConfig", **WHISPER)(), part),
        "last_hidden_state",
        *keywords,
        **fixed,
    )


class Cells(nn.Module):
    """The same in one direction, written as a loop over cells, which exporters unroll."""

    def __init__(self, kind: type[nn.LSTMCell] | type[nn.GRUCell], hidden: int = 128) -> None:
        super().__init__()
        self.words, self.hidden = nn.Embedding(5000, 100), hidden
        self.cell, self.tags = kind(100, hidden), nn.Linear(hidden, 17)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the tags."""
        words = self.words(tokens)
        state: Any = torch.zeros(tokens.shape[0], self.hidden)
        state = (state, state) if isinstance(self.cell, nn.LSTMCell) else state
        seen = []
        for step in range(words.shape[1]):
            state = self.cell(words[:, step], state)
            seen.append(state[0] if isinstance(state, tuple) else state)
        tags: Tensor = self.tags(torch.stack(seen, 1))
        return tags


def taggers(
    name: str, net: type[nn.LSTM] | type[nn.GRU], cell: type[nn.LSTMCell] | type[nn.GRUCell]
) -> tuple[Architecture, ...]:
    """Nets for sentences of 32 words: by the operator, and unrolled."""
    what = f"{name.upper()} tagger"
    return (
        Architecture(
            f"{name}_tagger", f"{what}, two layers, both directions", lambda: Tagger(net),
            {"tokens": ids(1, 32, 5000, "batch", "length")}, traced=True,
        ),
        Architecture(f"{name}_unrolled", f"{what}, a loop over cells", lambda: Cells(cell), {"tokens": ids(1, 32, 5000)}),
    )  # fmt: skip


SEQUENCES = (
    bert("bert_base", "BERT, 12 layers of 768", "BertModel", "BertConfig"),
    bert("distilbert", "DistilBERT, 6 layers of 768", "DistilBertModel", "DistilBertConfig"),
    *cached("gpt2", "GPT-2 124M", gpt2, 50257, LAYERS, HEADS),
    *cached("llama", "Llama, 8 layers of 512, grouped queries", made("LlamaForCausalLM", "LlamaConfig", **LLAMA), 32000, 8, 4),
    Architecture("t5_encoder", "T5-small, encoder", t5_encoder, {"tokens": ids(1, 64, 32128, "batch", "length")}),
    Architecture(
        "t5_decoder", "T5-small, decoder without a cache", T5Decoder,
        {
            "tokens": ids(1, 16, 32128, "batch", "target"),
            "states": Feed((1, 64, 512), {0: "batch", 1: "source"}),
        },
    ),
    Architecture(
        "whisper_encoder", "Whisper-tiny, encoder", whisper_part("encoder", "input_features"),
        {"sound": Feed((1, 80, 3000), {0: "batch"})},
    ),
    Architecture(
        "whisper_decoder", "Whisper-tiny, decoder without a cache",
        whisper_part("decoder", "input_ids", "encoder_hidden_states", use_cache=False),
        {"tokens": ids(1, 16, 51865, "batch", "length"), "states": Feed((1, 1500, 384), {0: "batch"})},
    ),
    Architecture(
        "wav2vec2", "Wav2Vec2, 6 layers of 384, one second",
        lambda: Attribute(
            made(
                "Wav2Vec2Model", "Wav2Vec2Config", hidden_size=384, num_hidden_layers=6, num_attention_heads=6,
                intermediate_size=1536, mask_time_prob=0.0,
            ),
            "last_hidden_state", "input_values",
        ),
        {"sound": Feed((1, 16000), {0: "batch", 1: "samples"})},
    ),
    *taggers("lstm", nn.LSTM, nn.LSTMCell),
    *taggers("gru", nn.GRU, nn.GRUCell),
)  # fmt: skip
