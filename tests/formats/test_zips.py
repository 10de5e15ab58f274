"""Zips: members are read where they are, bounded and checked, and never leave the zip."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from unet_batch.errors import UnreadableScanError
from unet_batch.formats import zips
from unet_batch.formats.zips import list_zip

TEXT = b"slice " * 1000


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/1.dcm", TEXT, zipfile.ZIP_DEFLATED)
        archive.writestr("x/2.dcm", TEXT, zipfile.ZIP_STORED)
        archive.mkdir("x/empty")
    return tmp_path / "a.zip"


def test_members_read_as_files_do(packed: Path) -> None:
    members, notes = list_zip(packed)
    assert [(m.name, m.parent, m.open("rb").read()) for m in members] == [
        (f"{k}.dcm", packed / "x", TEXT) for k in (1, 2)
    ]
    assert str(members[0]) == f"{packed}!x/1.dcm"
    assert notes == ()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../out.dcm", "leads out"),
        ("/etc/out.dcm", "leads out"),
        ("x/..\\..\\out.dcm", "leads out"),
        ("C:\\out.dcm", "leads out"),
        ("inner.zip", "a zip in a zip"),
    ],
)
def test_names_that_lead_out_and_nested_zips_are_noted(
    name: str, reason: str, packed: Path
) -> None:
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(name, TEXT)
    members, notes = list_zip(packed)
    assert len(members) == 2
    assert reason in notes[0]
    assert sorted(path.name for path in packed.parent.rglob("*")) == ["a.zip"]


def test_links_and_other_packings_are_noted(packed: Path) -> None:
    with zipfile.ZipFile(packed, "a") as archive:
        link = zipfile.ZipInfo("link.dcm")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("b.dcm", TEXT, zipfile.ZIP_BZIP2)
    members, notes = list_zip(packed)
    assert len(members) == 2
    assert ["a link" in notes[0], "method 12" in notes[1]] == [True, True]


def test_a_bomb_is_noted_and_a_lying_size_is_refused(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zips, "MAX_MEMBER_BYTES", 100)
    members, notes = list_zip(packed)
    assert members == ()
    assert "claims 6000 bytes" in notes[0]
    monkeypatch.undo()
    member = list_zip(packed)[0][0]
    liar = zips.ZipMember(packed, "x", member.header_offset, member.packed_bytes, 10, 0, True)
    with pytest.raises(UnreadableScanError, match="length or checksum"):
        liar.open()


def test_damage_is_said(packed: Path) -> None:
    members, _ = list_zip(packed)
    content = bytearray(packed.read_bytes())
    content[members[1].header_offset + 50] ^= 1
    packed.write_bytes(content)
    with pytest.raises(UnreadableScanError, match=r"2\.dcm: length or checksum"):
        members[1].open()
    packed.write_bytes(content[:-30])
    with pytest.raises(UnreadableScanError, match="not a readable zip"):
        list_zip(packed)
