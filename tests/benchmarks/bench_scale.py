"""What the operator costs with hundreds of runs at once, and how soon it acts, on a real control plane with kwok."""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.integration.scale.cluster import HINT, find_kubeconfig
from tests.integration.scale.scene import Figures, measure, share


def main() -> None:
    """Prints one figure per line, goals beside them."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=HINT)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--mean", type=float, default=60.0, help="seconds that a stage takes on average")
    parser.add_argument("--log", type=Path, help="folder for the operator's log")
    options = parser.parse_args()
    kubeconfig = find_kubeconfig()
    if kubeconfig is None:
        print(f"left out: {HINT}")
        return
    folder = options.log or Path(tempfile.mkdtemp())
    show(asyncio.run(measure(kubeconfig, folder, options.runs, options.mean)))


def show(figures: Figures) -> None:
    """Prints the figures."""
    times = {
        "API server: a small write": figures.write,
        "API server: write until a watch tells": figures.told,
        "run created -> first Job, all at once": figures.first,
        "Job over -> next Job (goal p95 1 s)": figures.after_job,
        "pod over -> next Job (must p95 2 s)": figures.after_pod,
    }
    loads = f"load average {min(figures.load):.1f} to {max(figures.load):.1f} on {os.cpu_count()} cores"
    print(f"{figures.runs} runs, {figures.jobs} stages in {figures.took:.0f} s, wrong: {len(figures.wrong)}; {loads}")
    for line in figures.wrong[:10]:
        print(f"  {line}")
    for what, values in times.items():
        quantiles = ", ".join(f"p{100 * part:g} {share(values, part):.3f}" for part in (0.5, 0.95, 0.99))
        print(f"{what}: {quantiles} s of {len(values)}")
    steps, server = share(figures.after_job, 0.95), share(figures.told, 0.95)
    print(f"Job over -> next Job is {steps / server:.1f} times what the API server needs to tell of a write (p95)")
    cpu = f"CPU {figures.cpu:.1f} s, {1e3 * figures.cpu / figures.jobs:.0f} ms a stage"
    print(
        f"operator's memory: start {figures.memory_start:.0f}, peak {figures.memory_peak:.0f} (must 180, goal 150), "
        f"at rest {figures.memory_rest:.0f} MB; {cpu}"
    )
    print(f"API requests a stage: {figures.writes_per_stage:.2f} writes (must 6), {figures.reads_per_stage:.2f} reads")
    print("  " + ", ".join(f"{what} {count / figures.jobs:.2f}" for what, count in sorted(figures.requests.items())))
    print(f"API requests of a minute at rest: {figures.idle or 'none'}")


if __name__ == "__main__":
    main()
