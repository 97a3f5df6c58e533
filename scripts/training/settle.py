"""Fits the heads a little more, the encoder as it is: on its states in f32 and on those with 8-bit
products, so that what both say of a text is the same. The spam head goes on saying what it says."""

import argparse
import random
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import heads
import long_text
import sentiment
import splits
import topics

HEAD = "model-00002-of-00002.safetensors"
SENTENCES = 9000
EPOCHS = 40
BATCH = 256
LEARNING_RATE = 5e-4
# How much agreement counts beside being right. Much of it makes a head say less clearly what it says:
# topics, of which there are many, then change places more easily.
AGREEMENT = {"spam": 25.0, "topic": 12.0, "sentiment": 8.0}


def states_of(bert, tokenizer, rows):
    """First tokens' states of sequences in f32 and with 8-bit products, [2, sequences, hidden]."""
    found = torch.zeros(2, len(rows), bert.config.hidden_size)
    order = sorted(range(len(rows)), key=lambda at: len(rows[at]))
    with torch.inference_mode():
        for at in range(0, len(order), 32):
            group = order[at : at + 32]
            ids = long_text.padded(tokenizer, [rows[row] for row in group])
            for way, coded in enumerate((False, True)):
                heads.CodedLinear.coded = coded
                found[way, group] = bert(**ids).last_hidden_state[:, 0]
    heads.CodedLinear.coded = False
    return found


class Head(torch.nn.Module):
    """What `transformers` has between a state and the logits."""

    def __init__(self, model):
        super().__init__()
        self.dense, self.classifier = model.bert.pooler.dense, model.classifier

    def forward(self, states):
        return self.classifier(torch.tanh(self.dense(states)))


def divergence(said, meant):
    return functional.kl_div(said.log_softmax(1), meant.log_softmax(1), log_target=True, reduction="batchmean")


def fitted(head, states, labels, agreement, rng):
    """Labels are -100 where nobody knows them: there only agreement counts. Without any, what the head
    said in f32 before is what is meant."""
    taught = bool((labels >= 0).any())
    with torch.inference_mode():
        before = head(states[0])
    before = before.clone()
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    steps = EPOCHS * (states.shape[1] // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (steps + 1))
    of_labels = torch.nn.CrossEntropyLoss(label_smoothing=heads.LABEL_SMOOTHING)
    for _ in range(EPOCHS):
        order = torch.tensor(rng.sample(range(states.shape[1]), states.shape[1]))
        for at in range(0, len(order) - BATCH + 1, BATCH):
            group = order[at : at + BATCH]
            exact, coded = (head(functional.dropout(states[way, group], 0.05)) for way in range(2))
            loss = agreement * (divergence(coded, exact) + divergence(exact, coded))
            if not taught:
                loss = loss + divergence(exact, before[group]) + divergence(coded, before[group])
            elif (labels[group] >= 0).any():
                loss = loss + (of_labels(exact, labels[group]) + of_labels(coded, labels[group])) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mails", required=True, help="JSON lines that `postsort extract` wrote")
    parser.add_argument("--ratings", required=True, help="folder of the rated sentences")
    parser.add_argument("--models", required=True, help="folder that heads.py wrote")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(splits.SEED)
    rng = random.Random(splits.SEED)
    parts, _ = splits.load(arguments.mails)
    topic_parts = topics.splits_of(parts)
    sentence_parts = sentiment.splits_of(sentiment.sentences(arguments.ratings))
    folder = Path(arguments.models)
    tokenizer = AutoTokenizer.from_pretrained(folder / "topic")
    load = lambda task: AutoModelForSequenceClassification.from_pretrained(folder / task, dtype=torch.float32).eval()
    models = {task: load(task) for task in heads.TASKS}
    bert = models["topic"].bert
    heads.may_be_coded(bert)

    def rows(texts, lengths):
        return [ids[: rng.choice(lengths)] for ids in long_text.token_ids(tokenizer, texts)]

    # Mails whole, and what may stand for one: a subject, a beginning.
    mails = parts["train"]
    sequences = rows([mail["text"] for mail in mails], (254, 96))
    sequences += rows([mail["text"] for mail in mails], (12, 24, 48))
    topic_labels = [-100 if mail["topic"] is None else mail["topic"] for mail in mails]
    topic_labels += [-100] * len(mails)
    sentences = rng.sample(sentence_parts["train"], SENTENCES)
    sequences += rows([sentence["text"] for sentence in sentences], (heads.SENTENCE_TOKENS_MAX,))
    topic_labels += [-100] * SENTENCES
    sentiment_labels = [-100] * (2 * len(mails)) + [sentence["label"] for sentence in sentences]
    states = states_of(bert, tokenizer, sequences)
    checks = {
        "spam": (rows([m["text"] for m in parts["validation"]], (254,)), [m["label"] for m in parts["validation"]]),
        "topic": (rows([m["text"] for m in topic_parts["validation"]], (254,)),
                  [m["topic"] for m in topic_parts["validation"]]),
        "sentiment": (rows([s["text"] for s in sentence_parts["validation"]], (254,)),
                      [s["label"] for s in sentence_parts["validation"]]),
    }
    unknown = [-100] * len(sequences)
    for task, labels in (("spam", unknown), ("topic", topic_labels), ("sentiment", sentiment_labels)):
        head = Head(models[task])
        check = states_of(bert, tokenizer, checks[task][0])
        known = torch.tensor(checks[task][1])

        def told(when):
            with torch.inference_mode():
                exact, coded = (head(check[way]).argmax(1) for way in range(2))
            print(f"{task} {when}: right {(exact == known).float().mean():.4f}, "
                  f"in 8 bits the same {(exact == coded).float().mean():.4f}", flush=True)

        told("before")
        fitted(head, states, torch.tensor(labels), AGREEMENT[task], random.Random(splits.SEED))
        told("after")
        tensors = {f"bert.pooler.dense.{name}": tensor for name, tensor in head.dense.state_dict().items()}
        tensors |= {f"classifier.{name}": tensor for name, tensor in head.classifier.state_dict().items()}
        save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()},
                  folder / task / HEAD, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
