"""One peer behind a pipe: `worker.py KIND FILE MODE THREADS PAD_ID`. MODE is a precision, or for
ONNX Runtime, whose files have theirs, how threads wait: `spinning` or `blocking`.

A line of JSON for each line of JSON: {"op": "run", "ids": [[...], ...], "reps": n, "singly": bool}
gives {"ms": [...], "logits": [[...], ...]}; a first line says that the engine is ready. `singly` is
without padding, one sequence after another."""

import json
import os
import sys
import time
from functools import partial

import numpy as np


def padded(ids, pad):
    """What every peer takes: one rectangle of ids and which of them count."""
    width = max(map(len, ids))
    return {
        "input_ids": np.array([row + [pad] * (width - len(row)) for row in ids], np.int64),
        "attention_mask": np.array([[1] * len(row) + [0] * (width - len(row)) for row in ids], np.int64),
        "token_type_ids": np.zeros((len(ids), width), np.int64),
    }


def onnxruntime(file, waiting, threads):
    """ONNX Runtime with its own defaults. Spinning is one: faster, but not beside other work."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(waiting == "spinning")))
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}

    def ready(inputs):
        feeds = {name: value for name, value in inputs.items() if name in names}
        return lambda: session.run(None, feeds)[0]

    return ready


def openvino(file, precision, threads):
    """OpenVINO as its guide to latency says."""
    import openvino as ov

    compiled = ov.Core().compile_model(file, "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads,
    })
    names = {value.get_any_name() for value in compiled.inputs}
    request = compiled.create_infer_request()

    def ready(inputs):
        feeds = {name: value for name, value in inputs.items() if name in names}
        return lambda: request.infer(feeds, share_inputs=True)[0]

    return ready


def torch(folder, precision, threads):
    """PyTorch; bf16 either by converted weights or by autocast."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    dtype = torch.bfloat16 if precision == "bf16-weights" else torch.float32
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
    takes_types = getattr(model.config, "type_vocab_size", 0) > 1

    def run(tensors):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-autocast"):
            return model(**tensors).logits.float().numpy()

    def ready(inputs):
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        if not takes_types:
            del tensors["token_type_ids"]
        return partial(run, tensors)

    return ready


def main():
    kind, file, mode, threads, pad = sys.argv[1:]
    # Libraries print; answers must not mix with that.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engines = {"onnxruntime": onnxruntime, "openvino": openvino, "torch": torch}
    ready = engines[kind](file, mode, int(threads))
    print("{}", file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        batches = [[row] for row in request["ids"]] if request["singly"] else [request["ids"]]
        runs = [ready(padded(batch, int(pad))) for batch in batches]
        ms = []
        for _ in range(request["reps"]):
            start = time.perf_counter()
            logits = np.concatenate([run() for run in runs])
            ms.append((time.perf_counter() - start) * 1e3)
        print(json.dumps({"ms": ms, "logits": logits.tolist()}), file=answers)


if __name__ == "__main__":
    main()
