"""What is known of the pages that memory lies on."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.base import memory


@pytest.mark.parametrize(
    ("content", "asked"),
    [("always [madvise] never", True), ("[always] madvise never", False), ("", False)],
)
def test_huge_pages_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, asked: bool
) -> None:
    policy = tmp_path / "enabled"
    policy.write_text(content)
    monkeypatch.setattr(memory, "_POLICY", policy)
    assert memory.only_on_request() is asked


def test_a_system_without_huge_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_POLICY", tmp_path / "none")
    assert memory.only_on_request() is False
