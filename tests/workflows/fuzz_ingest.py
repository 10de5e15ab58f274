"""Makes mutants of every format and ingests them without Ray; run by test_fuzz_ingest.py."""

from __future__ import annotations

import gzip
import json
import os
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
import SimpleITK
import tifffile
import zarr

from unet_batch.formats.deidentify import Pseudonyms
from unet_batch.formats.dicom import write_dicom_series
from unet_batch.formats.discovery import discover
from unet_batch.formats.nifti import write_nifti
from unet_batch.formats.phantom import phantom
from unet_batch.storage.archive import open_archive
from unet_batch.workflows.ingest_scan import IngestRules, ingest_scan

PER_FORMAT = 48
MEMORY_LIMIT = 12 * 2**30  # of addresses: a request beyond it fails instead of being served
Mutation = Callable[[bytes, np.random.Generator], bytes]


def main(source: Path, archive_url: str) -> None:
    """Write the mutants, ingest them, print what became of them as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    num_files = sum(1 for _ in make_mutants(source)) + make_hostile(source)
    num_files += sum(1 for _ in make_zarr_mutants(source))
    before = {path: os.lstat(path).st_mtime_ns for path in source.rglob("*")}
    archive = open_archive(archive_url, create=True)
    rules = IngestRules(archive.url, {}, Pseudonyms(b"k" * 32), keeps_identifiers=True)
    memory = peak_bytes()
    found = discover([source])
    reasons, num_done, slowest = {}, 0, (0.0, "")
    for scan in found.scans:
        started = time.monotonic()
        outcome = ingest_scan(scan, rules)
        slowest = max(slowest, (time.monotonic() - started, scan.name))
        if outcome.info is None:
            reasons[outcome.name] = outcome.reason.replace(str(scan.paths[0]), outcome.name)
        else:
            num_done += 1
    after = {path: os.lstat(path).st_mtime_ns for path in source.rglob("*")}
    told = {
        "num_files": num_files,
        "num_scans": len(found.scans),
        "num_done": num_done,
        "reasons": reasons,
        "notes": list(found.notes),
        "growth_bytes": peak_bytes() - memory,
        "slowest_s": slowest[0],
        "slowest": slowest[1],
        "changed_inputs": sorted(str(k) for k in before.keys() ^ after.keys()),
    }
    sys.stdout.write(json.dumps(told))


def peak_bytes() -> int:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_mutants(source: Path) -> Iterator[Path]:
    """`PER_FORMAT` mutants of one file of each format, each in a folder of its own."""
    seeds = source.parent / "in" / ".seeds"  # hidden: no scan of its own
    for suffix, content in whole_files(seeds).items():
        specific = MUTATIONS.get(suffix, ())
        for k in range(PER_FORMAT):
            random = np.random.default_rng(k)
            ways = (*GENERAL, *specific)
            mutant = ways[k % len(ways)](content, random)
            path = source / f"{suffix.replace('.', '')}{k:02d}x" / f"a{suffix}"
            path.parent.mkdir(parents=True)
            path.write_bytes(gzip.compress(mutant, 1) if suffix == ".nii.gz" else mutant)
            yield path


def make_zarr_mutants(source: Path) -> Iterator[Path]:
    """OME-Zarr images of 0.4 and 0.5, one file of each mutated; ingest takes them in place."""
    for zarr_format in (2, 3):
        for k in range(PER_FORMAT):
            random = np.random.default_rng(k)
            image = write_ome_zarr(source / f"zarr{zarr_format}{k:02d}x" / "a.zarr", zarr_format)
            files = sorted(path for path in image.rglob("*") if path.is_file())
            chosen = files[int(random.integers(len(files)))]
            ways = (*GENERAL, absurd_json)
            chosen.write_bytes(ways[k % len(ways)](chosen.read_bytes(), random))
            yield image


def write_ome_zarr(path: Path, zarr_format: int) -> Path:
    """A good image of two channels in four chunks."""
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    voxels = np.arange(2 * 6 * 8 * 8, dtype=np.int16).reshape(2, 6, 8, 8)
    group.create_array("0", data=voxels, chunks=(1, 3, 8, 8))
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": n, "type": "space", "unit": "millimeter"} for n in "zyx"]
    datasets = [
        {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 3, 2, 2]}]}
    ]
    found = {"multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets}]}
    group.attrs.update({"ome": {"version": "0.5", **found}} if zarr_format == 3 else found)
    return path


def absurd_json(content: bytes, random: np.random.Generator) -> bytes:
    """Sizes beyond any memory, negative, or no numbers; paths that lead out."""
    number = random.choice(["4611686018427387904", "-3", "1e400", '"six"', "null", "0"])
    old = random.choice(["6", "8", "3", "2"])
    content = content.replace(f" {old},".encode(), f" {number},".encode(), 1)
    return (
        content.replace(b'"path": "0"', b'"path": "../../../etc"')
        if random.integers(2)
        else content
    )


def whole_files(folder: Path) -> dict[str, bytes]:
    """One good file of each format, by suffix; gzip is left to the mutants."""
    scan, mask = phantom(0, shape_zyx=(6, 16, 18))
    first, *_ = write_dicom_series(folder, scan)
    write_nifti(folder / "a.nii", scan.voxels_czyx, scan.affine)
    image = SimpleITK.GetImageFromArray(mask.voxels_zyx)
    for suffix in (".nrrd", ".mha"):
        SimpleITK.WriteImage(image, str(folder / f"a{suffix}"))
    tifffile.imwrite(folder / "a.tif", mask.voxels_zyx, compression="zlib")
    picture = PIL.Image.fromarray(mask.voxels_zyx[3])
    picture.save(folder / "a.png")
    picture.save(folder / "a.bmp")
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(first, "1.dcm")
    plain = [".nii", ".nrrd", ".mha", ".tif", ".png", ".bmp", ".zip"]
    files = {suffix: (folder / f"a{suffix}").read_bytes() for suffix in plain}
    compressed = {
        f"_{name}.dcm": Path(
            str(pydicom.data.get_testdata_file(f"MR_small_{name}.dcm", download=False))
        )
        for name in ("RLE", "jp2klossless", "jpeg_ls_lossless")
    }
    files |= {suffix: path.read_bytes() for suffix, path in compressed.items()}
    return {**files, ".dcm": first.read_bytes(), ".nii.gz": files[".nii"]}


def truncated(content: bytes, random: np.random.Generator) -> bytes:
    """Ends early."""
    return content[: int(random.integers(len(content)))]


def flipped_anywhere(content: bytes, random: np.random.Generator) -> bytes:
    """Eight bits flipped."""
    broken = bytearray(content)
    for place in random.integers(len(content), size=8):
        broken[place] ^= 1 << int(random.integers(8))
    return bytes(broken)


def flipped_header(content: bytes, random: np.random.Generator) -> bytes:
    """Four bytes near the start set to 0, 255 or anything."""
    broken = bytearray(content)
    for place in random.integers(min(len(content), 1200), size=4):
        broken[place] = int(random.choice([0, 255, int(random.integers(256))]))
    return bytes(broken)


def doubled_middle(content: bytes, random: np.random.Generator) -> bytes:
    """A piece of it twice, so that all that follows lies elsewhere."""
    a, b = sorted(random.integers(len(content), size=2).tolist())
    return content[:b] + content[a:]


def wrong_vr(content: bytes, random: np.random.Generator) -> bytes:
    """DICOM value representations exchanged for others."""
    old = [b"US\x02\x00", b"DS", b"UI", b"CS", b"IS"]
    new = [b"UN\x02\x00", b"SQ", b"OB", b"AT", b"FD"]
    chosen = random.permutation(len(old))[:2]
    for k in chosen:
        content = content[:300] + content[300:].replace(
            old[k], new[int(random.integers(5))][: len(old[k])]
        )
    return content


def absurd_dicom(content: bytes, random: np.random.Generator) -> bytes:
    """Rows and Columns of 65535, or a length of 4 GB."""
    if random.integers(2):
        for tag in (b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x11\x00US\x02\x00"):
            at = content.find(tag) + len(tag)
            content = content[:at] + b"\xff\xff" + content[at + 2 :]
        return content
    at = content.find(b"\xe0\x7f\x10\x00") + 8
    return content[:at] + b"\xfe\xff\xff\xff" + content[at + 4 :]


def absurd_nifti(content: bytes, random: np.random.Generator) -> bytes:
    """Dimensions of 32767, or negative, or a data offset far away."""
    broken = bytearray(content)
    side = int(random.choice([32767, -1, 0]))
    struct.pack_into("<8h", broken, 40, int(random.choice([3, 7, -3, 1000])), *[side] * 7)
    struct.pack_into("<f", broken, 108, float(random.choice([352, 1e30, -5, np.nan])))
    return bytes(broken)


def absurd_text(content: bytes, random: np.random.Generator) -> bytes:
    """NRRD and MetaImage sizes beyond any memory, and data files elsewhere."""
    number = str(int(random.choice([2**31, 2**62, -4, 0]))).encode()
    for name in (b"sizes: ", b"DimSize = "):
        content = content.replace(name, name + number + b" ", 1)
    if random.integers(2):
        content = content.replace(b"encoding: gzip", b"data file: ../../../etc/passwd", 1)
        content = content.replace(b"ElementDataFile = LOCAL", b"ElementDataFile = /etc/passwd", 1)
    return content


def absurd_png(content: bytes, random: np.random.Generator) -> bytes:
    """A picture of two thousand million pixels a side."""
    del random
    return content[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + content[24:]


GENERAL: tuple[Mutation, ...] = (truncated, flipped_anywhere, flipped_header, doubled_middle)
MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    ".dcm": (wrong_vr, absurd_dicom),
    "_RLE.dcm": (wrong_vr, absurd_dicom),
    ".nii": (absurd_nifti,),
    ".nii.gz": (absurd_nifti,),
    ".nrrd": (absurd_text,),
    ".mha": (absurd_text,),
    ".png": (absurd_png,),
}


def make_hostile(source: Path) -> int:
    """Zips in zips, bombs, names and links that lead elsewhere; returns how many."""
    good = (source / ".seeds" / "000000.dcm").read_bytes()
    names = (
        "../../escape.dcm",
        "/tmp/escape.dcm",
        "a/../../escape.dcm",
        "C:\\escape.dcm",
        "a" * 240,
    )
    for k, name in enumerate(names):
        with zipfile.ZipFile(folder_for(source, f"zipname{k}") / "a.zip", "w") as packed:
            packed.writestr(name, good)
    with zipfile.ZipFile(folder_for(source, "ziplink") / "a.zip", "w") as packed:
        link = zipfile.ZipInfo("link.dcm")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
    nested = good
    for depth in range(5):
        inner = source / ".seeds" / f"nested{depth}.zip"
        with zipfile.ZipFile(inner, "w") as packed:
            packed.writestr(f"{depth}.zip" if depth else "0.dcm", nested)
        nested = inner.read_bytes()
    (folder_for(source, "zipnested") / "a.zip").write_bytes(nested)
    with zipfile.ZipFile(
        folder_for(source, "zipbomb") / "a.zip", "w", zipfile.ZIP_DEFLATED
    ) as bomb:
        bomb.writestr("a.dcm", good[:400] + bytes(2**26))
    outside = source.parent / "outside"
    (folder_for(source, "linkfile") / "a.nii").symlink_to(outside / "secret.nii")
    (folder_for(source, "linkfolder") / "b").symlink_to(outside)
    (folder_for(source, "linkloop") / "b").symlink_to(source)
    (folder_for(source, "linkdangling") / "a.nii").symlink_to(source / "nothing.nii")
    for k, name in enumerate(
        ("-rf.nii", "a b\nc.nii", "ä\u202e.nii", "x" * 200 + ".nii", "%2e.nii")
    ):
        (folder_for(source, f"name{k}") / name).write_bytes(b"no scan at all")
    return len(names) + 12


def folder_for(source: Path, name: str) -> Path:
    """A new folder of `source`."""
    folder = source / f"{name}x"
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
