"""A small spam model out of the large one: its embeddings and first two layers, taught by what the
large one says (Hinton et al. 2015). The first model of a cascade; it is not shipped."""

import argparse
import random
import time
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

import heads
import splits
import topics

LAYERS = 2
EPOCHS = 2
LEARNING_RATE = 2e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mails", required=True, help="JSON lines that `postsort extract` wrote")
    parser.add_argument("--spam", required=True, help="folder of the large model")
    parser.add_argument("--out", required=True, help="folder for the small one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="for CPUs that multiply in bfloat16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(splits.SEED)
    rng = random.Random(splits.SEED)
    parts, _ = splits.load(arguments.mails)
    topics.labelled(parts["train"])
    tokenizer = AutoTokenizer.from_pretrained(arguments.spam)
    tokenizer.model_max_length = 512
    teacher = AutoModelForSequenceClassification.from_pretrained(arguments.spam, dtype=torch.float32).eval()
    config = type(teacher.config).from_dict(teacher.config.to_dict() | {"num_hidden_layers": LAYERS})
    model = BertForSequenceClassification(config)
    state = {name: tensor for name, tensor in teacher.state_dict().items() if name in model.state_dict()}
    model.load_state_dict(state)
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    steps = [batch for _ in range(EPOCHS) for batch in heads.mail_batches(tokenizer, rng, parts["train"])]
    rng.shuffle(steps)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 30, (len(steps) - step) / len(steps)))
    started = time.monotonic()
    for step, (ids, _) in enumerate(steps, 1):
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            with torch.inference_mode():
                said = teacher(**ids).logits.float().softmax(1)
            found = model(**ids).logits
        loss = functional.kl_div(found.float().log_softmax(1), said.clone(), reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step}/{len(steps)} loss {loss.item():.4f} {time.monotonic() - started:.0f} s", flush=True)
    out = Path(arguments.out)
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
