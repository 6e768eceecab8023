"""Runs the numeric tests as other CPUs would: ``make test-cpus``.

Which instructions the libraries use is imitated by what they read from the environment; a CPU that this one cannot
imitate is skipped and named. Exit code 1 if any test fails.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from torch.backends.cpu import get_cpu_capability

SETTINGS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "OMP_NUM_THREADS")
CPUS = (
    ("default", "SSE41", "COMPATIBLE", "1"),
    ("avx2", "AVX2", "AVX2", "2"),
    ("avx512", "AVX512_CORE", "AVX512", "1"),
)
ORDER = ("default", "avx2", "avx512")


def main() -> int:
    """Runs every imitated CPU, also after one has failed; 0 if all are well."""
    able = get_cpu_capability().lower()  # of a CPU that is not x86, another word: it can imitate none
    failed = False
    for cpu in (dict(zip(SETTINGS, values, strict=True)) for values in CPUS):
        words = " ".join(f"{name}={value}" for name, value in cpu.items())
        if able not in ORDER or ORDER.index(cpu["ATEN_CPU_CAPABILITY"]) > ORDER.index(able):
            print(f"skipped, this CPU is {able}: {words}", flush=True)
            continue
        begun = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-m", "numeric and not slow", *sys.argv[1:]]
        code = subprocess.run(command, env=os.environ | cpu, cwd=Path(__file__).parents[1]).returncode
        failed = failed or code != 0
        print(f"{'failed' if code else 'passed'} in {time.monotonic() - begun:.0f} s: {words}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
