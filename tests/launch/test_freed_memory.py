import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from launch.freed_memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
np.ones(8 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(8 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep what was freed")
def test_a_block_that_was_freed_is_given_again_without_page_faults():
    command = [sys.executable, "-c", FAULTS]
    faults = {how: int(subprocess.check_output([*command, how], text=True)) for how in ("usual", "kept")}
    assert faults["kept"] * 10 < faults["usual"]
