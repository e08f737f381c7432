"""A C project: make builds it, rebuilds exactly what changed, and the program runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.posix.calls import let_clock_tick
from tests.programs.running import needs, run

pytestmark = [pytest.mark.programs, needs("make", "gcc", "ar")]

MODULES = 24
MAKEFILE = """
OBJECTS := $(patsubst %.c,build/%.o,$(wildcard *.c))
program: build/lib.a ; gcc -o $@ -Wl,--whole-archive $< -Wl,--no-whole-archive
build/lib.a: $(OBJECTS) ; rm -f $@ && ar rc $@ $^
build/%.o: %.c | build ; @gcc -O1 -MMD -c -o $@ $< && echo compiled $<
build: ; mkdir build
-include $(wildcard build/*.d)
"""


def write_project(place: Path) -> None:
    (place / "Makefile").write_text(MAKEFILE)
    calls, declarations = [], []
    for index in range(MODULES):
        header = place / f"part{index}.h"
        header.write_text(f"#define NUMBER{index} {index}\nint part{index}(int);\n")
        (place / f"part{index}.c").write_text(
            f'#include "part{index}.h"\nint part{index}(int x) {{ return x + NUMBER{index}; }}\n'
        )
        declarations.append(f'#include "part{index}.h"\n')
        calls.append(f"total = part{index}(total);")
    (place / "main.c").write_text(
        "#include <stdio.h>\n"
        + "".join(declarations)
        + "int main(void) { int total = 0; "
        + " ".join(calls)
        + ' printf("%d\\n", total); return 0; }\n'
    )


def test_make_builds_once_and_then_only_what_changed(place: Path) -> None:
    write_project(place)
    output = run("make", "-j2", cwd=place, limit_s=90)
    assert output.count("compiled") == MODULES + 1
    assert run(place / "program", cwd=place) == f"{sum(range(MODULES))}\n"
    assert "compiled" not in run("make", cwd=place)
    let_clock_tick(place / "program")
    (place / "part3.h").write_text("#define NUMBER3 1000\nint part3(int);\n")
    output = run("make", "-j2", cwd=place)
    assert sorted(line for line in output.splitlines() if line.startswith("compiled")) == [
        "compiled main.c",
        "compiled part3.c",
    ]
    assert run(place / "program", cwd=place) == f"{sum(range(MODULES)) - 3 + 1000}\n"
    assert os.access(place / "program", os.X_OK)
