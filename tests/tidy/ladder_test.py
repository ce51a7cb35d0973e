"""check_ladder.py must notice what it is there for."""
import pathlib
import subprocess
import sys
import tempfile

script = pathlib.Path(sys.argv[1]) / "scripts" / "check_ladder.py"


def check(files):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = pathlib.Path(folder, "bitdial", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True)
        return done.returncode, done.stdout


good = {"core/a.h": "#pragma once\n", "kernels/b.cpp": '#include "bitdial/core/a.h"\n'}
assert check(good)[0] == 0, check(good)

for name, text, complaint in [
    ("core/c.cpp", '#include "bitdial/kernels/conv2d.h"\n', "core must not include bitdial/kernels/conv2d.h"),
    ("policies/c.cpp", '#include "bitdial/kernels/conv2d.h"\n', "policies must not include"),
    ("data/c.cpp", "#include <torch/torch.h>\n", "data builds without LibTorch"),
    ("nn/c.h", '#include "bitdial/core/a.h"\n', "no #pragma once"),
    ("fancy/c.h", "#pragma once\n", "not a rung"),
]:
    code, output = check({**good, name: text})
    assert code == 1 and complaint in output, (name, code, output)
assert check({})[0] != 0, "an empty tree is not a success"
