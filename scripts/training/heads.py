"""Teaches the encoder of the spam model two more tasks, sentiment and topic, without its forgetting
the first: one encoder, three heads. The spam head learns from what all spam models together say."""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

import augment
import encoders
import long_text
import sentiment
import splits
import topics

MAIL_BATCH, SENTENCE_BATCH = 32, 48
MAIL_EPOCHS, SENTENCE_EPOCHS = 3, 3
SENTENCE_TOKENS_MAX = 64
LEARNING_RATE, HEAD_LEARNING_RATE = 7e-5, 5e-4
WARM_UP = 0.1
WEIGHT_DECAY = 0.01
LABEL_SMOOTHING = 0.02
MEAN_DECAY = 0.99
# Below this layer the encoder stays as the spam model has it: words mean the same to all tasks.
LAYERS_KEPT = 1
# In so many steps the products are those of 8-bit numbers, as the server computes them: so that
# answers in 8 bits and in f32 agree.
CODED_SHARE = 0.5
OUTLIERS = 8
TASKS = {
    "spam": ("ham", "spam"),
    "topic": topics.TOPICS,
    "sentiment": sentiment.SENTIMENTS,
}


class CodedLinear(torch.nn.Linear):
    """A dense layer whose product may be that of 8-bit numbers, gradients passing as if it were not
    (Jacob et al. 2018): weights with a scale a column, rows with a scale and a least value each, and
    the few inputs that stand out as they are. Results that are queries or keys are coded in turn, each
    head's part by itself."""

    coded = False
    # Of queries and keys.
    head_size = None

    def forward(self, x):
        if not CodedLinear.coded:
            return super().forward(x)
        with torch.no_grad():
            size = x.abs().flatten(0, -2).amax(0)
            kept = torch.zeros_like(size, dtype=torch.bool)
            kept[size.topk(OUTLIERS).indices] = True
            rest = x.float().masked_fill(kept, 0.0)
            low, high = rest.amin(-1, keepdim=True), rest.amax(-1, keepdim=True)
            scale = (high - low).clamp(min=1e-8) / 255
            rounded = torch.where(kept, x.float(), ((rest - low) / scale).round() * scale + low)
            scale = self.weight.abs().amax(1, keepdim=True) / 127
            weight = (self.weight / scale).round() * scale
            of_x, of_weight = rounded - x, weight - self.weight
        result = functional.linear(x + of_x, self.weight + of_weight, self.bias)
        if self.head_size is None:
            return result
        with torch.no_grad():
            parts = result.float().unflatten(-1, (-1, self.head_size))
            scale = parts.abs().amax(-1, keepdim=True).clamp(min=1e-8) / 127
            of_result = ((parts / scale).round() * scale).flatten(-2) - result
        return result + of_result


def may_be_coded(bert):
    """Lets the products of an encoder's layers be those of 8-bit numbers."""
    for name, module in bert.encoder.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.__class__ = CodedLinear
            if name.endswith((".query", ".key")):
                module.head_size = bert.config.hidden_size // bert.config.num_attention_heads


class Heads(torch.nn.Module):
    """An encoder and a pooler with a classifier for each task."""

    def __init__(self, spam):
        super().__init__()
        self.bert = spam.bert
        self.configs, self.poolers, self.classifiers = {}, torch.nn.ModuleDict(), torch.nn.ModuleDict()
        for task, labels in TASKS.items():
            config = type(spam.config).from_dict(spam.config.to_dict())
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: at for at, label in config.id2label.items()}
            fresh = BertForSequenceClassification(config)
            fresh.bert.pooler.load_state_dict(spam.bert.pooler.state_dict())
            if task == "spam":
                fresh.classifier.load_state_dict(spam.classifier.state_dict())
            self.configs[task] = config
            self.poolers[task], self.classifiers[task] = fresh.bert.pooler, fresh.classifier
        self.bert.pooler = None
        may_be_coded(self.bert)

    def states(self, ids):
        """States of all tokens, [sequences, tokens, hidden]."""
        return self.bert(**ids).last_hidden_state

    def logits(self, task, states):
        pooled = functional.dropout(self.poolers[task](states), 0.1, self.training)
        return self.classifiers[task](pooled)

    def save(self, tokenizer, out):
        """A folder for each task, as `transformers` reads it: the encoder in a file that is the
        same in all of them, the head in another."""
        half = lambda state: {name: tensor.half().contiguous() for name, tensor in state.items()}
        trunk = half({f"bert.{name}": tensor for name, tensor in self.bert.state_dict().items()
                      if "position_ids" not in name})
        for task in TASKS:
            folder = out / task
            folder.mkdir(parents=True, exist_ok=True)
            head = half({
                **{f"bert.pooler.{name}": t for name, t in self.poolers[task].state_dict().items()},
                **{f"classifier.{name}": t for name, t in self.classifiers[task].state_dict().items()},
            })
            files = {"model-00001-of-00002.safetensors": trunk, "model-00002-of-00002.safetensors": head}
            for name, tensors in files.items():
                save_file(tensors, folder / name, metadata={"format": "pt"})
            index = {
                "metadata": {"total_size": sum(t.numel() * 2 for ts in files.values() for t in ts.values())},
                "weight_map": {tensor: name for name, tensors in files.items() for tensor in sorted(tensors)},
            }
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
            config = self.configs[task]
            config.dtype = "float16"
            config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)


def mail_batches(tokenizer, rng, mails):
    """Batches of varied mails of like length: ids and topics, -100 where nothing tells it."""
    drawn = []
    for mail in mails:
        for _ in range(augment.HARD_HAM_COPIES if mail["group"] == "hard-ham-1" else 1):
            drawn.append((*augment.varied(rng, mail), -100 if mail["topic"] is None else mail["topic"]))
    for name, known in (("personal_ham.txt", -100), ("short_spam.txt", 0)):
        lines = (augment.HERE / name).read_text().splitlines()
        drawn += [("", line, known) for line in lines]
    rng.shuffle(drawn)
    subjects = long_text.token_ids(tokenizer, [subject for subject, _, _ in drawn])
    bodies = long_text.token_ids(tokenizer, [body for _, body, _ in drawn])
    rows = [(augment.cut(rng, subject, body), known)
            for subject, body, (_, _, known) in zip(subjects, bodies, drawn)]
    return grouped(tokenizer, rng, rows, MAIL_BATCH)


def sentence_batches(tokenizer, rng, sentences):
    ids = long_text.token_ids(tokenizer, [sentence["text"] for sentence in sentences])
    rows = [(ids[:SENTENCE_TOKENS_MAX], sentence["label"]) for ids, sentence in zip(ids, sentences)]
    return grouped(tokenizer, rng, rows, SENTENCE_BATCH)


def grouped(tokenizer, rng, rows, size):
    rows.sort(key=lambda row: len(row[0]) + rng.random() * 24)
    groups = [rows[at : at + size] for at in range(0, len(rows), size)]
    return [(long_text.padded(tokenizer, [ids for ids, _ in group]),
             torch.tensor([label for _, label in group])) for group in groups]


def topic_weights(mails):
    """Rare topics count more, by the root of how rare they are."""
    counts = torch.zeros(len(topics.TOPICS))
    for mail in mails:
        if mail["topic"] is not None:
            counts[mail["topic"]] += 1
    weights = counts.clamp(min=1).rsqrt()
    return weights / weights.mean()


def trained_groups(model):
    """Parameters with their learning rates and decay."""
    model.bert.embeddings.requires_grad_(False)
    for layer in model.bert.encoder.layer[:LAYERS_KEPT]:
        layer.requires_grad_(False)
    groups = []
    for part, rate in ((model.bert, LEARNING_RATE), (model.poolers, HEAD_LEARNING_RATE),
                       (model.classifiers, HEAD_LEARNING_RATE)):
        trained = [p for p in part.parameters() if p.requires_grad]
        groups.append({"params": [p for p in trained if p.ndim > 1], "lr": rate, "weight_decay": WEIGHT_DECAY})
        groups.append({"params": [p for p in trained if p.ndim <= 1], "lr": rate, "weight_decay": 0.0})
    return groups


def accuracies(model, tokenizer, sets):
    """Share of validation texts that each task gets right from their first 256 tokens."""
    model.eval()
    found = {}
    with torch.inference_mode():
        for task, (texts, labels) in sets.items():
            rows = [(ids[:254], label) for ids, label in zip(long_text.token_ids(tokenizer, texts), labels)]
            right = 0
            for ids, known in grouped(tokenizer, random.Random(0), rows, 32):
                logits = model.logits(task, model.states(ids.to(model.bert.device)))
                right += int((logits.argmax(1).cpu() == known).sum())
            found[task] = round(right / len(rows), 4)
    model.train()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mails", required=True, help="JSON lines that `postsort extract` wrote")
    parser.add_argument("--ratings", required=True, help="folder of the rated sentences")
    parser.add_argument("--spam", required=True, help="folder that train.py wrote")
    parser.add_argument("--teachers", required=True, help="teachers.safetensors that it wrote")
    parser.add_argument("--out", required=True, help="folder for the three models")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="for devices that multiply in bfloat16")
    parser.add_argument("--steps-max", type=int, default=0, help="stop early, to try the pipeline")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(splits.SEED)
    rng = random.Random(splits.SEED)
    parts, _ = splits.load(arguments.mails)
    topic_parts = topics.splits_of(parts)
    sentence_parts = sentiment.splits_of(sentiment.sentences(arguments.ratings))
    validation = {
        "spam": ([m["text"] for m in parts["validation"]], [m["label"] for m in parts["validation"]]),
        "topic": ([m["text"] for m in topic_parts["validation"]], [m["topic"] for m in topic_parts["validation"]]),
        "sentiment": ([s["text"] for s in sentence_parts["validation"]],
                      [s["label"] for s in sentence_parts["validation"]]),
    }

    tokenizer = AutoTokenizer.from_pretrained(arguments.spam)
    tokenizer.model_max_length = 512
    device = torch.device(arguments.device)
    products = torch.bfloat16 if arguments.bf16 else torch.float32
    teachers = encoders.Encoders.load(arguments.spam, arguments.teachers, products, device)
    model = Heads(AutoModelForSequenceClassification.from_pretrained(arguments.spam, dtype=torch.float32)).to(device)
    optimizer = torch.optim.AdamW(trained_groups(model))
    mean = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(MEAN_DECAY))

    steps = [("mail", batch) for _ in range(MAIL_EPOCHS)
             for batch in mail_batches(tokenizer, rng, parts["train"])]
    steps += [("sentence", batch) for _ in range(SENTENCE_EPOCHS)
              for batch in sentence_batches(tokenizer, rng, sentence_parts["train"])]
    rng.shuffle(steps)
    count, warm_up = len(steps), max(1, int(len(steps) * WARM_UP))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (count - step) / (count - warm_up)))
    of_topic = torch.nn.CrossEntropyLoss(topic_weights(parts["train"]).to(device), label_smoothing=LABEL_SMOOTHING)
    of_sentiment = torch.nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
    started, losses = time.monotonic(), {}
    for step, (kind, (ids, known)) in enumerate(steps[: arguments.steps_max or count], 1):
        ids, known = ids.to(device), known.to(device)
        CodedLinear.coded = rng.random() < CODED_SHARE
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
            states = model.states(ids)
        CodedLinear.coded = False
        states = states.float()
        if kind == "mail":
            said = teachers.said(ids["input_ids"], ids["attention_mask"])
            loss = functional.kl_div(model.logits("spam", states).log_softmax(1), said, reduction="batchmean")
            if (known >= 0).any():
                loss = loss + of_topic(model.logits("topic", states), known)
        else:
            loss = of_sentiment(model.logits("sentiment", states), known)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step > warm_up:
            mean.update_parameters(model)
        losses[kind] = 0.9 * losses.get(kind, loss.item()) + 0.1 * loss.item()
        if step % 50 == 0:
            said = " ".join(f"{kind} {loss:.4f}" for kind, loss in sorted(losses.items()))
            print(f"step {step}/{count} {said} {time.monotonic() - started:.0f} s", flush=True)
        if step % 400 == 0 or step == (arguments.steps_max or count):
            print(f"validation {accuracies(mean.module, tokenizer, validation)}", flush=True)
            mean.module.save(tokenizer, Path(arguments.out))
    facts = {"steps": step, "minutes": round((time.monotonic() - started) / 60, 1), "bf16": arguments.bf16,
             "device": device.type, "sentences": sentiment.counts(sentence_parts)}
    (Path(arguments.out) / "training.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
