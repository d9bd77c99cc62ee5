"""Successive halving against random search of equal cost and the best family member, repeated: nextify search with
other seeds, so that designs, trainings that decide and order of the images differ.

The winners' mean accuracies on the test images are paired by repetition: the difference of the search's winner to each
rival is one sample, the interval Student's over the repetitions, p that of the sign-flip test with Holm's correction
over both rivals.

    python benchmarks/search.py --data digits --budget "latency<5ms" --minutes 60 --repeats 6

Interrupted, the same command goes on. Results: docs/search.md.
"""

import argparse
import json
import statistics
from pathlib import Path

import nextify
from nextify.study.statistics import confidence_interval, holm, sign_flip_p


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--budget", default="latency<5ms")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="of each search; a repetition takes about 3 times that"
    )
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3, help="final trainings of each winner")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--precision", default="fp32", help="of the trainings; latency is always that of fp32")
    parser.add_argument("--latency-threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/search-repeated"))
    given = parser.parse_args()
    records, found = [], None
    for seed in range(given.repeats):
        found = nextify.search(
            *(given.data, given.budget),
            out=given.out / f"seed{seed}",
            minutes=given.minutes,
            epochs=given.epochs,
            seeds=given.seeds,
            seed=seed,
            scale=given.scale,
            precision=given.precision,
            latency_threads=given.latency_threads,
        )
        records.append(
            {
                final.arm: {
                    "design": final.candidate.name,
                    "top1": final.statistics.summary.mean,
                    "latency_ms": statistics.median(final.latency_ms),
                    "share_of_budget": final.candidate.used,
                    "seconds": final.seconds,
                }
                for final in found.finals
            }
        )
        print(f"seed {seed}: {json.dumps(records[-1])}", flush=True)
    differences = {
        rival: [record["search"]["top1"] - record[rival]["top1"] for record in records if rival in record]
        for rival in ("random", "family")
    }
    p = holm({rival: sign_flip_p(values) for rival, values in differences.items()})
    for rival, values in differences.items():
        print(
            f"search over {rival}: {statistics.fmean(values):+.2f} points {confidence_interval(values)}, n = "
            f"{len(values)}, p (sign flip, Holm) = {p[rival]:.3g}"
        )
    environment = dict(found.environment) if found is not None else {}
    content = {"settings": {k: str(v) for k, v in vars(given).items()}, "repeats": records, "differences": differences}
    text = json.dumps({**content, "p_holm": p, "environment": environment}, indent=1)
    (given.out / "repeats.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
