"""Small real tokenizers for chats and prompts: byte-level BPE, Metaspace BPE, word-level."""

from typing import Any

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GENERATION = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
)
INST = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set offset = 1 %}{% else %}"
    "{% set offset = 0 %}{% endif %}{% for m in messages[offset:] %}{% if m['role'] == 'user' %}"
    "[INST] {% if loop.first and offset %}{{ messages[0]['content'] }}\n\n{% endif %}"
    "{{ m['content'] | trim }} [/INST]{% elif m['role'] == 'assistant' %}"
    " {{ m['content'] | trim }}{{ eos_token }}{% else %}"
    "{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
GLUED = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
DROPS = "{% for m in messages %}{{ m['role'] }}:{{ m['content'].split('|')[-1] }}\n{% endfor %}"
SPECIALS = ["<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "system user assistant hello there, how are you today? I am well, thank you! [INST] [/INST]",
    "hello there hello there how are you how are you I am well I am well userhello wellhello",
    "naïve café — größer 東京 😀 naïve café größer 東京 😀",
    "user\nhello\nassistant\nI am well.\nsystem\nBe kind.\nBe kind. Be kind.",
] * 4


def _wrap(tokenizer: Any, template: str | None) -> Any:
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast


def _bos_first(tokenizer: Any) -> None:
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )


def byte_level(
    template: str | None = CHATML,
    *,
    corpus: list[str] = CORPUS,
    size: int = 420,
    trim_offsets: bool = False,
    prefix: bool = False,
    digits: int = 0,
    spaced_digits: bool = True,
) -> Any:
    """A byte-level BPE tokenizer that adds BOS; ``digits`` splits numbers into pieces so long.

    The first piece holds the space before it, or (``spaced_digits=False``, Llama 3's manner) the
    space is a token of its own.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=None))
    byte = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    if digits:
        lead = " ?" if spaced_digits else ""
        cut = pre_tokenizers.Split(Regex(rf"{lead}\d{{1,{digits}}}"), "isolated")
        byte = pre_tokenizers.Sequence([cut, byte])
    tokenizer.pre_tokenizer = byte
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    from tokenizers import decoders

    tokenizer.decoder = decoders.ByteLevel()
    if trim_offsets:  # as GPT-2's own: offsets leave the leading space out
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    else:
        _bos_first(tokenizer)
    return _wrap(tokenizer, template)


def metaspace(template: str | None = INST, *, corpus: list[str] = CORPUS, size: int = 300) -> Any:
    """A Metaspace BPE tokenizer (Llama 2's manner), with byte fallback, that adds BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = [f"<0x{i:02X}>" for i in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=256 + size, special_tokens=[*SPECIALS, *alphabet], show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    _bos_first(tokenizer)
    return _wrap(tokenizer, template)


def word_level(words: list[str], template: str | None = None) -> Any:
    """A word-level tokenizer that splits at spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    index = {word: i for i, word in enumerate(dict.fromkeys([*SPECIALS, *words]))}
    tokenizer = Tokenizer(models.WordLevel(index, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    _bos_first(tokenizer)
    return _wrap(tokenizer, template)
