"""Makes the models that the parity tests compare with `transformers`: small random ones with all
their files, and for the large shapes only what `transformers` answers (the weights are made again,
bit for bit, by the test)."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

ROOT = Path(__file__).parent.parent / "models/tests/fixtures"

MAILS = [
    "are we still on for lunch on Thursday?",
    "Re: Q3 numbers\nHi Anna,\n\nplease find the figures attached. The total is $1,204.50 (up 7%).\n\nBest, Tom",
    "URGENT: your account has been LIMITED!!!\nClick http://paypa1.example.com/login within 24h to restore access.",
    "ok",
    "Käse, façade, naïve: Grüße aus Köln! Ça va? Żółć. Ελληνικά. Привет, как дела?",
    "会议改到星期五下午三点。ミーティングは金曜日です。회의는 금요일입니다.",
    "Party tonight 🎉🎉 bring 🍕 and 👩‍👩‍👧 — it's gonna be \U0001f525!!!",
    "   leading and trailing blanks\t\ttabs\n\n\n\nand lines   ",
    "Unsubscribe: <a href=\"mailto:x@y.example\">here</a> &amp; a_very_long_identifier_without_any_spaces_at_all_"
    + "x" * 120,
    "The delivery of your order #4711-0815 is delayed. We are sorry; tracking: https://track.example/4711?x=1&y=2",
    "[MASK] <s> </s> <pad> [CLS] [SEP] [PAD] special words in a mail",
    "a",
]
LONG = " ".join(MAILS[:10]) + " "
TEXTS = MAILS + [LONG * 3, LONG * 12]
PAIRS = [("Do you want lunch?", "Yes, at noon."), (LONG * 3, "short"), ("short", LONG * 3), (LONG * 2, LONG * 3)]
CORPUS = TEXTS + [line for text in TEXTS for line in text.split("\n")]


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=700, special_tokens=special))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer, {"pad_token": "[PAD]", "unk_token": "[UNK]"}


def byte_pairs(modern=False):
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if modern:
        tokenizer.normalizer = normalizers.NFC()
        special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    )
    if modern:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
            special_tokens=[("[CLS]", 0), ("[SEP]", 2)],
        )
        return tokenizer, {"pad_token": "[PAD]"}
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    return tokenizer, {"pad_token": "<pad>"}


def unigram(style):
    tokenizer = Tokenizer(models.Unigram())
    xlm = style == "xlm"
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if xlm else ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(transformers_blank(), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=500, special_tokens=special, unk_token=special[3])
    )
    if xlm:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        return tokenizer, {"pad_token": "<pad>"}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return tokenizer, {"pad_token": "[PAD]"}


def transformers_blank():
    from tokenizers import Regex

    return Regex(" {2,}")


SMALL = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=56, hidden_dropout_prob=0.0)
DEBERTA = dict(SMALL, max_position_embeddings=96, relative_attention=True, pad_token_id=0)
MODERN = dict(
    hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48, max_position_embeddings=96,
    local_attention=16, pad_token_id=1, cls_token_id=0, sep_token_id=2, bos_token_id=0, eos_token_id=2,
)
THREE = {0: "ham", 1: "spam", 2: "list"}
VARIANTS = {
    "bert": ("bert", "word", dict(SMALL, max_position_embeddings=64, id2label=THREE)),
    "bert-relu-one-label": ("bert", "word", dict(SMALL, max_position_embeddings=64, hidden_act="relu", num_labels=1)),
    "distilbert": (
        "distilbert", "word",
        dict(dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64, id2label=THREE),
    ),
    "roberta-multi-label": (
        "roberta", "bytes",
        dict(SMALL, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, num_labels=5,
             problem_type="multi_label_classification"),
    ),
    "xlm-roberta": (
        "xlm-roberta", "xlm", dict(SMALL, max_position_embeddings=50, type_vocab_size=1, pad_token_id=1, id2label=THREE),
    ),
    "electra": ("electra", "word", dict(SMALL, embedding_size=20, max_position_embeddings=64)),
    "electra-gelu-new": ("electra", "word", dict(SMALL, embedding_size=32, hidden_act="gelu_new", max_position_embeddings=64)),
    "deberta-v3": (
        "deberta-v2", "deberta",
        dict(DEBERTA, pos_att_type=["p2c", "c2p"], share_att_key=True, position_buckets=16, norm_rel_ebd="layer_norm",
             position_biased_input=False, type_vocab_size=0, max_relative_positions=-1, id2label=THREE),
    ),
    "deberta-v2-conv": (
        "deberta-v2", "deberta",
        dict(DEBERTA, pos_att_type=["p2c", "c2p"], share_att_key=False, position_buckets=-1, max_relative_positions=24,
             position_biased_input=True, type_vocab_size=2, conv_kernel_size=3, conv_act="gelu", norm_rel_ebd="none"),
    ),
    "deberta-v2-c2p": (
        "deberta-v2", "deberta",
        dict(DEBERTA, pos_att_type=["c2p"], share_att_key=True, position_buckets=8, max_relative_positions=64,
             position_biased_input=False, type_vocab_size=0, embedding_size=20),
    ),
    "deberta-v2-p2c": (
        "deberta-v2", "deberta",
        dict(DEBERTA, pos_att_type=["p2c"], share_att_key=False, position_buckets=-1, position_biased_input=True,
             type_vocab_size=0, pooler_hidden_act="tanh"),
    ),
    "deberta-v2-absolute": (
        "deberta-v2", "deberta",
        dict(DEBERTA, relative_attention=False, pos_att_type=[], position_biased_input=True, type_vocab_size=2),
    ),
    "modernbert-cls": ("modernbert", "modern", dict(MODERN, classifier_pooling="cls", id2label=THREE)),
    "modernbert-mean-biases": (
        "modernbert", "modern",
        dict(MODERN, classifier_pooling="mean", attention_bias=True, mlp_bias=True, norm_bias=True, classifier_bias=True,
             classifier_activation="silu", hidden_activation="gelu_pytorch_tanh"),
    ),
}
MAKERS = {
    "word": word_piece, "bytes": byte_pairs, "xlm": lambda: unigram("xlm"), "deberta": lambda: unigram("deberta"),
    "modern": lambda: byte_pairs(modern=True),
}
LARGE = {
    "large-bert-tiny": (
        "bert", dict(vocab_size=30522, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
    ),
    "large-distilbert-base": ("distilbert", dict(vocab_size=30522)),
    "large-roberta-base": (
        "roberta",
        dict(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1,
             num_labels=19, problem_type="multi_label_classification"),
    ),
}


def tokens_max_of(config):
    positions = config.max_position_embeddings
    return positions - 2 if config.model_type in ("roberta", "xlm-roberta") else positions


def answers(model, tokenizer, texts, pairs):
    rows = []
    for first, second in [(text, None) for text in texts] + list(pairs):
        inputs = tokenizer(first, second, truncation=True, return_tensors="pt", return_token_type_ids=True)
        if model.config.model_type in ("roberta", "xlm-roberta", "distilbert", "modernbert"):
            inputs.pop("token_type_ids", None)
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        rows.append({"text": first, "pair": second, "ids": inputs["input_ids"][0].tolist(), "logits": logits.tolist()})
    return rows


def dump(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def small(name, kind, tokenizer_kind, settings):
    torch.manual_seed(len(name) * 7919 + sum(map(ord, name)))
    folder = ROOT / name
    folder.mkdir(parents=True)
    raw, special = MAKERS[tokenizer_kind]()
    config = AutoConfig.for_model(kind, vocab_size=raw.get_vocab_size(), **settings)
    model = AutoModelForSequenceClassification.from_config(config).eval().float()
    with torch.no_grad():
        for key, value in model.named_parameters():
            norm = "norm" in key.lower()
            value.copy_(torch.randn_like(value) * (0.1 if norm else 0.2) + (1.0 if norm and key.endswith("weight") else 0.0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=tokens_max_of(config), **special)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    raw.save(str(folder / "tokenizer.json"), pretty=False)
    dump(folder / "expected.json", answers(model, tokenizer, TEXTS, PAIRS))
    return model


def rewrite(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    dump(path, config)


def as_transformers_4(config):
    """What version 4 wrote instead."""
    config["transformers_version"] = "4.30.0"
    config["torch_dtype"] = config.pop("dtype", "float32")
    if config["model_type"] == "modernbert":
        rope = config.pop("rope_parameters")
        config.pop("layer_types")
        config["global_rope_theta"] = rope["full_attention"]["rope_theta"]
        config["local_rope_theta"] = rope["sliding_attention"]["rope_theta"]
        config["global_attn_every_n_layers"] = 3
    if config["model_type"] == "deberta-v2" and config.get("pos_att_type"):
        config["pos_att_type"] = "|".join(config["pos_att_type"])


def derived():
    """The same models in other files: old settings, old names, no prefix, shards, half precision."""
    for source, name in (("bert", "bert-v4-old-names"), ("modernbert-cls", "modernbert-v4"), ("deberta-v3", "deberta-v3-v4")):
        shutil.copytree(ROOT / source, ROOT / name)
        rewrite(ROOT / name, as_transformers_4)
    model = AutoModelForSequenceClassification.from_pretrained(ROOT / "bert")
    old = {
        key.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"):
        value.contiguous() for key, value in model.state_dict().items()
    }
    save_file(old, ROOT / "bert-v4-old-names/model.safetensors")

    shutil.copytree(ROOT / "distilbert", ROOT / "distilbert-shards")
    (ROOT / "distilbert-shards/model.safetensors").unlink()
    AutoModelForSequenceClassification.from_pretrained(ROOT / "distilbert").save_pretrained(
        ROOT / "distilbert-shards", max_shard_size="60KB"
    )
    for source, name, dtype in (("roberta-multi-label", "roberta-f16", torch.float16), ("bert", "bert-bf16", torch.bfloat16)):
        shutil.copytree(ROOT / source, ROOT / name)
        model = AutoModelForSequenceClassification.from_pretrained(ROOT / source).to(dtype)
        model.save_pretrained(ROOT / name)
        # The reference computes in f32 on the rounded weights, as we do.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(ROOT / name)
        dump(ROOT / name / "expected.json", answers(model.float().eval(), tokenizer, TEXTS, PAIRS))


def left():
    """A tokenizer that cuts the beginning off, and texts without a token."""
    folder = ROOT / "bert-left"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "bert-bf16", folder)
    path = folder / "tokenizer_config.json"
    dump(path, json.loads(path.read_text()) | {"truncation_side": "left"})
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    assert tokenizer.truncation_side == "left"
    model = AutoModelForSequenceClassification.from_pretrained(folder).float().eval()
    dump(folder / "expected.json", answers(model, tokenizer, ["", " \n\t ", "\u0000", MAILS[1], LONG, LONG * 12], PAIRS))


def fnv1a(name):
    digest = 0xCBF29CE484222325
    for byte in name.encode():
        digest = (digest ^ byte) * 0x100000001B3 % (1 << 64)
    return digest


def hashed(name, shape):
    """Values that any language can make: splitmix64 of name and index, 24 bits of it."""
    with np.errstate(over="ignore"):
        z = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(fnv1a(name))
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    norm = "norm" in name.lower()
    values = unit * np.float32(0.0625)
    return (values + np.float32(1) if norm and name.endswith("weight") else values).reshape(shape)


def large(name, kind, settings):
    folder = ROOT / name
    folder.mkdir(parents=True)
    raw, special = word_piece() if kind != "roberta" else byte_pairs()
    raw.save(str(folder / "tokenizer.json"), pretty=False)
    config = AutoConfig.for_model(kind, **settings)
    model = AutoModelForSequenceClassification.from_config(config).eval().float()
    shapes = {}
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.dtype == torch.float32:
                value.copy_(torch.from_numpy(hashed(key, tuple(value.shape))))
                shapes[key] = list(value.shape)
    config.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=512, **special)
    dump(folder / "tokenizer_config.json", {"model_max_length": 512})
    dump(folder / "shapes.json", shapes)
    dump(folder / "expected.json", answers(model, tokenizer, [MAILS[0], MAILS[1], MAILS[4], LONG * 12], []))


def main():
    # Trained tokenizers differ from run to run, so a new folder should not change the others.
    if sys.argv[1:] == ["left"]:
        return left()
    shutil.rmtree(ROOT, ignore_errors=True)
    for name, (kind, tokenizer_kind, settings) in VARIANTS.items():
        small(name, kind, tokenizer_kind, settings)
    derived()
    left()
    for name, (kind, settings) in LARGE.items():
        large(name, kind, settings)
    dump(ROOT / "versions.json", {"transformers": transformers.__version__, "torch": torch.__version__})


if __name__ == "__main__":
    main()
