"""Checks a wheel that was just built: what `make wheel` runs, as `python scripts/check_wheel.py WHEEL BUILD`.

BUILD is the folder that CMake built it in. The wheel must carry the engine; the objects beside the kernels
must use no instruction of AVX, and the kernels' objects must share no symbol. Then the wheel is installed
into a new environment, which borrows this one's other packages, and an LSTM is run there with the kernels of
each ISA. Prints sizes and what each ISA gave; exits with 1 and one sentence at the first thing that is wrong.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

TOLERANCE = 2e-6  # of the largest value, against torch's own layer in float64
SCRIPT = """
import json, torch, recurra
from recurra.engine import native, scan
from recurra.nn import LSTM
assert native.available(), native.why_not()
torch.manual_seed(7)
layer, x = LSTM(33, 63, num_layers=2, bidirectional=True), torch.randn(7, 33, 33, requires_grad=True)
truth = torch.nn.LSTM(33, 63, num_layers=2, bidirectional=True)
truth.load_state_dict(layer.state_dict())
assert scan.runs_natively(x, *layer.parameters())
def gradients(layer, x):
    output = layer(x)[0]
    return [output, *torch.autograd.grad(output.square().sum(), [x, *layer.parameters()])]
ours = gradients(layer, x)
theirs = gradients(truth.double(), x.detach().double().requires_grad_())
error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))
print(json.dumps([recurra.__file__, native.cpu().isa, native.isas(), native.cpu().flags, error]))
"""


class Wrong(Exception):
    """What is wrong with the wheel, in one sentence."""


def check_contents(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        engines = [
            item for item in archive.infolist() if re.search(r"engine/_native\..*\.(so|pyd)$", item.filename)
        ]
    if len(engines) != 1:
        raise Wrong(
            f"{wheel.name}: expected one native engine inside, got {len(engines)}; see what the build said"
        )
    sizes = [size / 1e6 for size in (wheel.stat().st_size, engines[0].file_size)]
    print(f"{wheel.name}: {sizes[0]:.2f} MB, the engine in it {sizes[1]:.2f} MB")


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check_objects(build: Path) -> None:
    """No AVX outside the kernels, no weak symbol in them: either could stop a CPU that has no AVX."""
    if not (shutil.which("objdump") and shutil.which("nm")) or platform.machine() != "x86_64":
        print("objects not looked at: this needs objdump and nm, and x86-64")
        return
    objects = sorted(build.rglob("*.o"))
    kernels = [path for path in objects if "kernels_" in path.as_posix()]
    others = [path for path in objects if path not in kernels]
    if not kernels or not others:
        raise Wrong(
            f"{build}: expected the objects of the build there, got {len(objects)}; give CMake's folder"
        )
    # A VEX or EVEX instruction's name begins with v, and so do verr and verw, which are older.
    avx = re.compile(r"^\s+[0-9a-f]+:\s+(v(?!err|erw)\w+.*|.*%[yz]mm.*)$", re.MULTILINE)
    for path in others:
        if found := avx.search(output_of("objdump", "-d", "--no-show-raw-insn", str(path))):
            raise Wrong(f"{path}: uses AVX ({found.group(1).strip()}); compile it without ISA flags")
    for path in kernels:
        listed = output_of("nm", "-C", str(path))
        if weak := re.search(r"^\S* +[WVuv] (.*)$", listed, re.MULTILINE):
            raise Wrong(f"{path}: may share {weak.group(1)}; put it into the ISA's unnamed namespace")
    print(f"{len(others)} objects without AVX; {len(kernels)} kernels without a shared symbol")


def check_running(wheel: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=False, symlinks=True)
        python = str(Path(folder) / "bin" / "python")
        install = [
            sys.executable,
            "-m",
            "pip",
            "--quiet",
            "--python",
            python,
            "install",
            "--no-index",
            "--no-deps",
        ]
        subprocess.run([*install, str(wheel)], check=True)
        # Behind the new environment's own packages, so that this one's recurra is not found.
        own = Path(sysconfig.get_path("purelib", vars={"base": folder, "platbase": folder}))
        borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (own / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
        isas: list[str] = ["generic"]
        done: list[str] = []
        while left := [isa for isa in isas if isa not in done]:
            environment = os.environ | {"RECURRA_ISA": left[0], "OMP_NUM_THREADS": "2"}
            run = subprocess.run(
                [python, "-c", SCRIPT], env=environment, capture_output=True, text=True, cwd=folder
            )
            if run.returncode:
                raise Wrong(f"RECURRA_ISA={left[0]}: {run.stderr.strip().splitlines()[-1]}")
            source, isa, isas, flags, error = json.loads(run.stdout)
            if not Path(source).resolve().is_relative_to(Path(folder).resolve()):
                raise Wrong(f"recurra was loaded from {source}, not from the wheel")
            if isa != left[0] or not error <= TOLERANCE:
                raise Wrong(f"RECURRA_ISA={left[0]}: ran {isa}, off from torch's float64 by {error:.1e}")
            print(
                f"RECURRA_ISA={isa}: output and gradients within {error:.1e} of float64; built with {flags}"
            )
            done.append(isa)


def main() -> int:
    wheel, build = (Path(word).resolve() for word in sys.argv[1:3])
    try:
        check_contents(wheel)
        check_objects(build)
        check_running(wheel)
    except Wrong as wrong:
        print(f"check_wheel: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
