"""Whether the CPU has AMX units, which multiply bf16 matrices."""

from functools import cache


@cache
def has_amx() -> bool:
    """Whether the CPU has matrix units for bf16, by Linux's word."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return "amx_bf16" in file.read()
    except OSError:
        return False
