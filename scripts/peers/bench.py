"""Measures Postsort's engine and its peers in turn, on the same ids, with as many threads.

Each engine waits in a process of its own until it is asked. For a shape, all are warmed up; of the
variants of an engine (say, ONNX Runtime with the exported and with the optimised graph) the faster
one stays; then all compute in turn, round by round, so that what else the machine does hits all."""

import argparse
import importlib.metadata
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from transformers import AutoConfig

from prepare import SHAPES

HERE = Path(__file__).parent
WARM_UP_ROUNDS = 3
# An engine waits when, this long, it uses less than this share of a CPU.
PAUSE_SECONDS = 0.015
IDLE_MAX = 0.05
IDLE_TRIES = 100
# Of an engine in f32; less where all sequences get nearly the same logits, as from random weights.
LOGIT_DIFFERENCE_MAX = 1e-3
REFERENCE = "PyTorch f32"
# The shape whose sequences peers get one after another; Postsort gets the batch.
SINGLY = "mixed32 singly"


class Worker:
    """An engine in a process, idle until asked."""

    def __init__(self, family, variant, command):
        self.family, self.variant = family, variant
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @property
    def name(self):
        return f"{self.family} ({self.variant})" if self.variant else self.family

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} has failed: see above")
        return json.loads(line)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.read()
        self.wait_until_idle()
        return answer

    def cpu_seconds(self):
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def wait_until_idle(self):
        """Threads of some engines spin on after an answer, which would slow down the next engine."""
        for _ in range(IDLE_TRIES):
            before, start = self.cpu_seconds(), time.perf_counter()
            time.sleep(PAUSE_SECONDS)
            if self.cpu_seconds() - before < IDLE_MAX * (time.perf_counter() - start):
                return
        raise SystemExit(f"{self.name} goes on computing while it waits")

    def stop(self):
        self.process.kill()
        self.process.wait()


def start_workers(peer, folder, threads, pad, bf16):
    """Ours and candle, then the peers with as many threads as ours take."""
    workers = []

    def start(family, variant, *command):
        workers.append(Worker(family, variant, list(map(str, command))))
        return workers[-1].read()

    try:
        model = folder / "model"
        ours = [peer, "--calibration-dir", folder, "--model-dir", model, "--precision"]
        ready = {}
        for precision in ("int8", "bf16", "f32") if bf16 else ("int8", "f32"):
            ready = start(f"Postsort {precision}", "", *ours, precision)
        start("candle f32", "", *ours, "f32", "--engine", "candle")
        if threads is not None and ready["threads"] != threads:
            raise SystemExit(f"only {ready['threads']} CPUs are there")

        def start_peer(family, variant, kind, file, mode):
            start(family, variant, sys.executable, HERE / "worker.py", kind, file, mode, ready["threads"], pad)

        for precision, suffix in (("int8", "-int8.onnx"), ("f32", ".onnx")):
            for graph in ("plain", "fused"):
                for waiting in ("spinning", "blocking"):
                    file = folder / f"{graph}{suffix}"
                    start_peer(f"ONNX Runtime {precision}", f"{graph}, {waiting}", "onnxruntime", file, waiting)
        for precision in ("f32", "bf16") if bf16 else ("f32",):
            for variant, file in (("ONNX", "plain.onnx"), ("IR", "openvino.xml")):
                start_peer(f"OpenVINO {precision}", variant, "openvino", folder / file, precision)
        start_peer("PyTorch f32", "", "torch", model, "f32")
        if bf16:
            for variant in ("weights", "autocast"):
                start_peer("PyTorch bf16", variant, "torch", model, f"bf16-{variant}")
    except BaseException:
        stop_workers(workers)
        raise
    return workers, ready


def stop_workers(workers):
    for worker in workers:
        worker.stop()


def mails(tokenizer, rng):
    """Ids of short mails in a row, without end."""
    texts = [line for name in ("personal_ham", "probes_ham", "short_spam")
             for line in (HERE.parent / f"training/{name}.txt").read_text().splitlines() if line]
    while True:
        yield from tokenizer.encode(rng.choice(texts), add_special_tokens=False).ids


def sequence(tokenizer, length, rng):
    """Exactly `length` ids: mails between the tokenizer's special tokens."""
    special = tokenizer.encode("").ids
    first, last = special[:1], special[-1:]
    source = mails(tokenizer, rng)
    return first + [next(source) for _ in range(length - 2)] + last


def shapes(tokenizer, single):
    """Name to sequences: those of the lengths given alone, or all."""
    rng = random.Random(20021015)
    lengths = {f"{tokens}": [tokens] for tokens in single or (16, 32, 64, 128, 256, 512)}
    if not single:
        lengths["8×128"] = [128] * 8
        # The SpamAssassin corpus: the logarithm of a mail's tokens has mean 5.58, deviation 0.98.
        lengths["mixed32"] = [min(512, max(16, round(rng.lognormvariate(5.58, 0.98)))) for _ in range(32)]
    result = {name: [sequence(tokenizer, n, rng) for n in row] for name, row in lengths.items()}
    if not single:
        # The same, for peers that are not made to pad.
        result[SINGLY] = result["mixed32"]
    return result


def products(config, ids):
    """Multiply-adds that an answer needs: of the last layer, keys, values and the first token's row."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    wide = getattr(config, "intermediate_size", None) or config.hidden_dim
    total = 0
    for tokens in map(len, ids):
        total += (layers - 1) * tokens * (4 * hidden * hidden + 2 * hidden * wide + 2 * tokens * hidden)
        total += tokens * 2 * hidden * hidden + 2 * hidden * hidden + 2 * hidden * wide + 2 * tokens * hidden
    return total


def probabilities(logits, config):
    if config.problem_type == "multi_label_classification" or logits.shape[1] == 1:
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


class Contention:
    """The share of the machine's CPU time that work which is not ours takes."""

    def __init__(self, workers):
        self.workers = workers
        self.start = self.counts()

    def counts(self):
        fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
        busy = sum(fields) - fields[3] - fields[4]
        ours = time.process_time() + sum(worker.cpu_seconds() for worker in self.workers)
        return np.array([busy / os.sysconf("SC_CLK_TCK") - ours, sum(fields) / os.sysconf("SC_CLK_TCK")])

    def share(self):
        others, total = self.counts() - self.start
        return max(0.0, others / total)


def measure(workers, ids, singly, rounds):
    """Times of each engine's faster variant, peaks of the machine, and logits of all."""
    # Runs that are over at once are repeated, the first of them uncounted: what was measured before
    # has emptied the caches, which weighs on short runs only.
    reps = min(20, max(1, 1024 // sum(map(len, ids))))
    uncounted = int(reps > 1)

    def run(worker):
        answer = worker.ask(op="run", ids=ids, reps=reps + uncounted, singly=singly)
        return answer["ms"][uncounted:], answer["logits"]

    warm, logits = {worker.name: [] for worker in workers}, {}
    for _ in range(WARM_UP_ROUNDS):
        for worker in workers:
            ms, answers = run(worker)
            warm[worker.name] += ms
            logits[worker.name] = np.array(answers, np.float64)
    faster = {}
    for worker in sorted(workers, key=lambda worker: min(warm[worker.name])):
        faster.setdefault(worker.family, worker)
    chosen = [worker for worker in workers if faster[worker.family] is worker]
    ms = {worker.family: [] for worker in chosen}
    peaks = {"int8": [], "bf16": [], "f32": []}
    for _ in range(rounds):
        for precision, rate in workers[0].ask(op="peak").items():
            if rate is not None:
                peaks[precision].append(rate)
        for worker in chosen:
            ms[worker.family] += run(worker)[0]
    engines = {
        worker.family: {
            "variant": worker.variant, "median_ms": statistics.median(ms[worker.family]),
            "min_ms": min(ms[worker.family]), "runs": len(ms[worker.family]),
        } for worker in chosen
    }
    return engines, {name: max(rates) for name, rates in peaks.items() if rates}, logits


def agreement(logits, config):
    """Of each engine: the largest differences from PyTorch in f32, how often the label is the same,
    and whether that will do."""
    reference = logits[REFERENCE]
    allowed = LOGIT_DIFFERENCE_MAX * min(1.0, float(np.ptp(reference, axis=0).max()))
    wanted = probabilities(reference, config)
    result = {}
    for name, values in logits.items():
        found = probabilities(values, config)
        difference = float(np.abs(values - reference).max())
        is_exact = name.split(" (")[0].endswith(" f32")
        result[name] = {
            "logit_difference": difference,
            "probability_difference": float(np.abs(found - wanted).max()),
            "same_label": int((values.argmax(axis=1) == reference.argmax(axis=1)).sum()),
            "sequences": len(values),
            # Also false for what is not a number.
            "agrees": difference <= (allowed if is_exact else math.inf),
        }
    return result, allowed


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def report(run):
    """The run in Markdown."""
    names = list(run["shapes"])
    results = [run["shapes"][name] for name in names]
    median = lambda result, engine: result["engines"][engine]["median_ms"] if engine in result["engines"] else math.nan
    times = [
        [engine] + [f"{r['engines'][engine]['median_ms']:.2f} ({r['engines'][engine]['min_ms']:.2f})" for r in results]
        for engine in results[0]["engines"]
    ]
    against = [
        ("int8", ["ONNX Runtime int8"], "ONNX Runtime int8"),
        ("f32", ["ONNX Runtime f32", "OpenVINO f32"], "the faster of ONNX Runtime and OpenVINO f32"),
        ("bf16", ["OpenVINO bf16"], "OpenVINO bf16"),
    ]
    peaks = {p: max(r["peak_gops"][p] for r in results) for p in results[0]["peak_gops"]}
    ratios, shares = [], []
    for precision, peers, said in against:
        ours = f"Postsort {precision}"
        if ours not in results[0]["engines"]:
            continue
        ratios.append([f"{precision} against {said}"] + [
            f"{min(median(r, peer) for peer in peers) / median(r, ours):.2f}" for r in results])
        shares.append([precision] + [
            f"{2e-6 * r['products'] / median(r, ours) / peaks[precision]:.0%}"
            if precision in peaks else "n/a" for r in results])
    variants = []
    for engine in results[0]["engines"]:
        chosen = [r["engines"][engine]["variant"] for r in results]
        if chosen[0]:
            variants.append(f"{engine}: {', '.join(f'{n} ({v})' for n, v in zip(names, chosen))}")
    peak = ", ".join(f"{p} {peaks[p]:.0f}" if p in peaks else f"{p} n/a" for p in ("int8", "bf16", "f32"))
    rows = [
        [name, f"{row['logit_difference']:.1e}", f"{row['probability_difference']:.1e}",
         f"{row['same_label']}/{row['sequences']}", "yes" if row["agrees"] else "**no**"]
        for name, row in run["agreement"].items()
    ]
    return "\n".join([
        f"{run['model']}, {run['threads']} threads, {run['cpu']}, kernels {run['kernels']}, {run['rounds']} rounds; "
        + ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        + f". Other work took {run['other_work']:.0%} of the machine's CPU time meanwhile.\n",
        "Median (minimum) in ms. Columns: tokens of one sequence; 8 of 128; 32 of mixed lengths, "
        f"{run['mixed_tokens']} tokens in all, which peers get padded, or singly without padding.\n" if run["mixed_tokens"]
        else "Median (minimum) in ms. Columns: tokens of one sequence.\n",
        table(["engine"] + names, times),
        "How many times faster, by medians:\n", table(["Postsort"] + names, ratios),
        f"Share of what the vector units do at most (10^9 operations/s, measured between the engines: {peak}), "
        "of the operations that an answer needs, all counted as of that precision:\n", table(["Postsort"] + names, shares),
        "Variants, the fastest in warm-up for each shape: " + "; ".join(variants) + ".\n",
        f"Against {REFERENCE}; f32 engines must be within {run['logit_difference_max']:.1g}:\n",
        table(["engine", "max abs Δlogit", "max abs Δp", "same label", "agrees"], rows),
    ])


def cpu_model():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench-peers", description=__doc__.split("\n")[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", type=Path, default=Path("bundled/spam"), help="model folder (default: bundled/spam)")
    source.add_argument("--shape", choices=SHAPES, help="random weights of this shape")
    parser.add_argument("--threads", type=int, help="default: all CPUs given to the process")
    parser.add_argument("--rounds", type=int, help="default: 15, with --quick 3")
    parser.add_argument("--lengths", type=lambda text: [int(n) for n in text.split(",")],
                        help="these lengths alone, in tokens: 256,512")
    parser.add_argument("--quick", action="store_true", help="--lengths 16,128 --rounds 3")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--peer", type=Path, required=True, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = arguments()
    single = args.lengths or ([16, 128] if args.quick else None)
    rounds = args.rounds or (3 if args.quick else 15)
    if args.threads:
        # The one way to set the number that every engine obeys; workers inherit it.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:args.threads])
    say = lambda text: print(text, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        say("exporting")
        source = ["--shape", args.shape] if args.shape else ["--model", args.model]
        prepared = subprocess.run(
            [sys.executable, HERE / "prepare.py", folder, *source], stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        if prepared.returncode:
            raise SystemExit(prepared.stdout)
        say(prepared.stdout.splitlines()[-1])
        config = AutoConfig.from_pretrained(folder / "model")
        tokenizer = Tokenizer.from_file(str(folder / "model/tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        bf16 = "bf16" in Path("/proc/cpuinfo").read_text()
        say("loading")
        workers, ready = start_workers(args.peer, folder, args.threads, config.pad_token_id, bf16)
        try:
            run = {
                "model": args.shape or str(args.model), "threads": ready["threads"], "cpu": cpu_model(),
                "kernels": ready["kernels"], "rounds": rounds, "mixed_tokens": 0,
                "versions": {name: importlib.metadata.version(name) for name in ("onnxruntime", "openvino", "torch")},
                "shapes": {}, "agreement": {},
            }
            logits, contention = {}, Contention(workers)
            for name, ids in shapes(tokenizer, single).items():
                say(name)
                engines, peaks, answers = measure(workers, ids, name == SINGLY, rounds)
                run["shapes"][name] = {
                    "lengths": list(map(len, ids)), "products": products(config, ids), "engines": engines,
                    "peak_gops": peaks,
                }
                if name == "mixed32":
                    run["mixed_tokens"] = sum(map(len, ids))
                for engine, values in answers.items():
                    logits.setdefault(engine, []).append(values)
            run["other_work"] = contention.share()
        finally:
            stop_workers(workers)
    together = {name: np.concatenate(values) for name, values in logits.items()}
    run["agreement"], run["logit_difference_max"] = agreement(together, config)
    print(report(run))
    if args.json:
        args.json.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n")
    if not all(row["agrees"] for row in run["agreement"].values()):
        raise SystemExit("answers disagree")


if __name__ == "__main__":
    main()
