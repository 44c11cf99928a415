"""PTX, the code that Triton's compiler writes for an NVIDIA GPU, read: the text of one kernel as a
list of instructions. ptx_machine.py runs them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field


class PTXError(Exception):
    """What a kernel may not do, or these files do not know."""


@dataclass(frozen=True)
class Address:
    base: str  # a register, a parameter or a symbol
    offset: int  # bytes


Operand = str | Address | tuple[str, ...]  # a name or a constant, [an address], {some names}


@dataclass(frozen=True)
class Instruction:
    text: str
    guard: str  # a register with a bool a thread, "" for none
    unless: bool  # the threads that do something are those whose guard is False
    parts: tuple[str, ...]  # of the name, between its dots
    operands: tuple[Operand, ...]


@dataclass
class Code:
    name: str
    threads: int  # of a program
    kinds: dict[str, str] = field(default_factory=dict)  # of registers, by a name without number
    labels: dict[str, int] = field(default_factory=dict)  # the instruction to which each leads
    instructions: list[Instruction] = field(default_factory=list)


def parse(ptx: str) -> Code:
    ptx = re.sub(r"//.*", "", ptx)
    entry, threads = re.search(r"\.entry (\w+)\(", ptx), re.search(r"\.reqntid (\d+)", ptx)
    if entry is None or threads is None:
        raise PTXError("no kernel whose number of threads is known")
    code = Code(entry[1], int(threads[1]))
    body = ptx[ptx.index("{", threads.end()) + 1 :]
    for line in body[: body.index("\n}")].split("\n"):
        line = line.strip()
        if label := re.fullmatch(r"(\$\w+):", line):
            code.labels[label[1]] = len(code.instructions)
        elif registers := re.fullmatch(r"\.reg \.(\w+)\s+(%[a-z]+)<\d+>;", line):
            code.kinds[registers[2]] = registers[1]
        elif not line.startswith((".loc", ".pragma")):
            for text in filter(None, map(str.strip, line.split(";"))):
                code.instructions.append(_instruction(text))
    return code


def _instruction(text: str) -> Instruction:
    found = re.fullmatch(r"(?:@(!?)(%p\d+)\s+)?([\w.:]+)(?:\s+(.*))?", text)
    if found is None:
        raise PTXError(f"not an instruction: {text}")
    unless, guard, name, operands = found.groups(default="")
    parts = tuple(name.replace("::cta", "").split("."))
    each = re.findall(r"\{[^}]*\}|\[[^]]*\]|[^,\s]+", operands)
    return Instruction(text, guard, bool(unless), parts, tuple(map(_operand, each)))


def _operand(text: str) -> Operand:
    if text[0] == "{":
        return tuple(each.strip() for each in text[1:-1].split(","))
    if text[0] == "[":
        found = re.fullmatch(r"\[\s*([%$\w.]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
        if found is None:
            raise PTXError(f"not an address: {text}")
        return Address(found[1], int(found[2] or 0))
    return text
