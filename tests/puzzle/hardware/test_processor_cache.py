"""How much of the processor's last cache there is, as the system describes it."""

import math

from puzzle.hardware import processor_cache
from puzzle.hardware.processor_cache import last_cache_bytes


def describe(place, number, *caches):
    """Writes what Linux says of the caches of one core: level, type, size and who shares it."""
    for index, cache in enumerate(caches):
        folder = place / f"cpu{number}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, value in zip(("level", "type", "size", "shared_cpu_list"), cache, strict=True):
            (folder / name).write_text(f"{value}\n")


def test_caches_that_cores_share_count_once_and_those_of_other_cores_not(tmp_path, monkeypatch):
    for number in range(6):
        pair = f"{number // 2 * 2}-{number // 2 * 2 + 1}"
        own = (2, "Unified", "512K", number), (3, "Unified", "32768K", pair)
        describe(tmp_path, number, (1, "Data", "32K", number), *own)
    monkeypatch.setattr(processor_cache, "_own_cpus", lambda: {0, 1, 2})
    assert last_cache_bytes(tmp_path) == 64 * 2**20


def test_caches_of_instructions_hold_no_weights(tmp_path, monkeypatch):
    describe(tmp_path, 0, (1, "Data", "48K", 0), (1, "Instruction", "64K", 0))
    monkeypatch.setattr(processor_cache, "_own_cpus", lambda: {0})
    assert last_cache_bytes(tmp_path) == 48 * 2**10


def test_a_cache_that_is_not_described_may_be_of_any_size(tmp_path, monkeypatch):
    monkeypatch.setattr(processor_cache, "_own_cpus", lambda: {0})
    assert last_cache_bytes(tmp_path) == math.inf
    describe(tmp_path, 0, (3, "Unified", "large", 0))
    assert last_cache_bytes(tmp_path) == math.inf
