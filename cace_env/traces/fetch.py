"""Downloads public traces: `python -m cace_env.traces.fetch --list`, or `NAME [--to DIR]`.

Nothing else in this package downloads anything. A downloaded file is compared with a SHA-256 and kept only if it
matches. The checksums below were not computed from our own download: `checksum_from` gives the source of each. To fetch
a file that is not in the list use `--url`, with `--sha256 HEX` if you know its checksum, or with `--trust-first`, which
keeps the file and records its checksum beside it for the next fetch.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from cace_env.config import did_you_mean

CONNECT_TIMEOUT_S: Final = 30.0


class FetchError(RuntimeError):
    """A download was refused or failed; nothing was kept. The message names the address or file and the remedy."""


@dataclass(frozen=True)
class Download:
    """A public file that does not change: address, checksum and terms."""

    url: str
    sha256: str
    size_bytes: int | None  # as published; None if not stated
    format: str  # for cace_env.traces.load_trace
    licence: str
    attribution: str
    checksum_from: str


_AZURE_2023: Final = (
    "https://raw.githubusercontent.com/Azure/AzurePublicDataset/790921015d50dd6aae7f7e47f39ba0e235ad6b08/data/"
)
_AZURE_2024: Final = "https://github.com/Azure/AzurePublicDataset/releases/download/dataset-llm-2024/"
_BURSTGPT: Final = "https://github.com/HPMLL/BurstGPT/releases/download/v2.0/"
_MOONCAKE: Final = "https://raw.githubusercontent.com/kvcache-ai/Mooncake/3cca71daccf2a7afb8fe3f0295358f70e3a69fdb/FAST25-release/traces/"
_BAILIAN: Final = (
    "https://media.githubusercontent.com/media/alibaba-edu/qwen-bailian-usagetraces-anon/"
    "0b4273a1d8a83935b9d9356e78f95c31f2ac64cf/"
)
_SPLITWISE: Final = "Azure LLM inference trace 2023, Microsoft; Patel et al., Splitwise, ISCA 2024"
_DYNAMOLLM: Final = "Azure LLM inference trace 2024, Microsoft; Stojkovic et al., DynamoLLM, HPCA 2025"
_BURSTGPT_AUTHORS: Final = "BurstGPT, HPMLL; Wang et al., arXiv 2401.17644"
_MOONCAKE_AUTHORS: Final = "Mooncake traces, Moonshot AI; Qin et al., FAST 2025"
_BAILIAN_AUTHORS: Final = "Qwen-Bailian anonymous traces, Alibaba; Wang et al., KVCache in the Wild, USENIX ATC 2025"
_PINNED: Final = "agrees in several public repositories that pin this file"
_LFS: Final = "Git LFS pointer in the publisher's repository"

DOWNLOADS: Final[dict[str, Download]] = {
    "azure2023-code": Download(
        _AZURE_2023 + "AzureLLMInferenceTrace_code.csv",
        "54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
        None,
        "azure",
        "CC BY 4.0",
        _SPLITWISE,
        _PINNED,
    ),
    "azure2023-conv": Download(
        _AZURE_2023 + "AzureLLMInferenceTrace_conv.csv",
        "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
        719_188,
        "azure",
        "CC BY 4.0",
        _SPLITWISE,
        _PINNED + "; recomputed from its rows",
    ),
    "azure2024-code": Download(
        _AZURE_2024 + "AzureLLMInferenceTrace_code_1week.csv",
        "71de5c55cbc35f8f1ed0b6b7806b4cd1e9764b0058469725a6aac98023a1448f",
        691_989_454,
        "azure",
        "CC BY 4.0",
        _DYNAMOLLM,
        _PINNED,
    ),
    "azure2024-conv": Download(
        _AZURE_2024 + "AzureLLMInferenceTrace_conv_1week.csv",
        "a0cc9b969a9bbf0fd811802cbf4323edd3a209ace791e3799ad4f9207f213941",
        None,
        "azure",
        "CC BY 4.0",
        _DYNAMOLLM,
        _PINNED,
    ),
    "burstgpt-1": Download(
        _BURSTGPT + "BurstGPT_1.csv",
        "4bb3783693d0a435686fbfc885615d2349bd067239079fa4b749f2e679e12122",
        52_283_111,
        "burstgpt",
        "CC BY 4.0",
        _BURSTGPT_AUTHORS,
        _LFS,
    ),
    "burstgpt-2": Download(
        _BURSTGPT + "BurstGPT_2.csv",
        "44bf5942b03fca42c01a226a545ad3a750ec62688faecd67b6831c56a8928bf7",
        144_819_209,
        "burstgpt",
        "CC BY 4.0",
        _BURSTGPT_AUTHORS,
        _LFS,
    ),
    "mooncake-conversation": Download(
        _MOONCAKE + "conversation_trace.jsonl",
        "b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df",
        None,
        "mooncake",
        "Apache-2.0",
        _MOONCAKE_AUTHORS,
        _PINNED,
    ),
    "mooncake-toolagent": Download(
        _MOONCAKE + "toolagent_trace.jsonl",
        "48a2db1a13d3bc05e6330140c64f604ba366df20d3c9e128b5c35a01c1fa5f71",
        None,
        "mooncake",
        "Apache-2.0",
        _MOONCAKE_AUTHORS,
        _PINNED,
    ),
    "bailian-coder": Download(
        _BAILIAN + "qwen_coder_blksz_16.jsonl",
        "3d74974cebb7bccb69b1ca6ea210a44d9a3033443c0271ed015327284dea1aff",
        132_054_902,
        "bailian",
        "Apache-2.0",
        _BAILIAN_AUTHORS,
        _LFS,
    ),
}


def fetch(name: str, to: str | Path = ".") -> Path:
    """Download a trace of `DOWNLOADS`, unless the same file is already there.

    Args:
        name: a key of `DOWNLOADS`.
        to: target folder, created if needed.

    Raises:
        FetchError: unknown name, no connection, wrong checksum, incomplete download, or another file has that name.
    """
    if name not in DOWNLOADS:
        guess = did_you_mean(name, DOWNLOADS)
        known = f"the traces are {', '.join(DOWNLOADS)}; others: --url ADDRESS"
        raise FetchError(f"unknown trace {name!r}{guess or ';'} {known}")
    return fetch_url(DOWNLOADS[name].url, to, sha256=DOWNLOADS[name].sha256)


def fetch_url(url: str, to: str | Path = ".", *, sha256: str | None = None, trust_first: bool = False) -> Path:
    """Download one file and keep it only if its checksum is the expected one.

    Args:
        url: http or https.
        to: target folder, created if needed.
        sha256: the expected checksum, 64 hexadecimal digits; None: the one recorded by an earlier `trust_first`.
        trust_first: if no checksum is known, keep the file and record its checksum in `FILE.sha256`, in the format of
            sha256sum. This protects against later changes, not against a wrong first file.

    Raises:
        FetchError: no checksum and no `trust_first`, no connection, wrong checksum, cut short, or the file exists.
    """
    folder = Path(to)
    name = Path(unquote(urlsplit(url).path)).name
    if urlsplit(url).scheme not in ("http", "https") or not name:
        raise FetchError(f"{url!r} is not the http(s) address of a file; copy the whole address")
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise FetchError(f"{sha256!r} is not a SHA-256; it needs 64 hexadecimal digits")
    target, record = folder / name, folder / f"{name}.sha256"
    expected = sha256.lower() if sha256 is not None else _recorded(record)
    if expected is None and not trust_first:
        raise FetchError(
            f"{url}: no checksum is known; pass --sha256 HEX, or --trust-first to record that of the downloaded file"
        )
    if target.exists():
        if target.is_file() and expected is not None and sha256_of(target) == expected:
            return target
        reason = "has another checksum" if expected is not None else "cannot be checked"
        raise FetchError(f"{target}: exists and {reason}; move it away, or choose another folder with --to")
    if folder.exists() and not folder.is_dir():
        raise FetchError(f"{folder}: is a file; name a folder")
    _download(url, folder, name, expected)
    if expected is None:
        record.write_text(f"{sha256_of(target)}  {name}\n", encoding="utf-8")
    return target


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cace_env.traces.fetch", description="Download a public trace and check it."
    )
    parser.add_argument("name", nargs="?", help="a name of --list")
    parser.add_argument("--list", action="store_true", help="names, sizes, licences and the source of each checksum")
    parser.add_argument("--to", default=".", metavar="DIR", help="folder (default: the current one)")
    parser.add_argument("--url", help="an address that is not in the list")
    parser.add_argument("--sha256", metavar="HEX", help="expected checksum of --url")
    parser.add_argument(
        "--trust-first", action="store_true", help="--url without a checksum: record that of the downloaded file"
    )
    options = parser.parse_args(arguments)
    if options.list:
        sys.stdout.write(_listing())
        return 0
    if (options.name is None) == (options.url is None):
        parser.error("give one name of --list, or one --url")
    if options.name is not None and (options.sha256 or options.trust_first):
        parser.error("--sha256 and --trust-first are for --url; the checksum of a listed trace is known")
    try:
        if options.name is None:
            sys.stdout.write(f"{options.url}: licence unknown here; read its terms before you use it\n")
            path = fetch_url(options.url, options.to, sha256=options.sha256, trust_first=options.trust_first)
        else:
            if options.name in DOWNLOADS:
                sys.stdout.write(_terms(options.name))
            path = fetch(options.name, options.to)
    except FetchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{path}  sha256 {sha256_of(path)}\n")
    return 0


def _download(url: str, folder: Path, name: str, expected: str | None) -> None:
    """Download once; pooch writes to a temporary file and moves it only when it is whole and its checksum agrees."""
    try:
        import pooch
        import requests
    except ImportError:
        raise FetchError("downloading needs pooch; run: pip install 'cace-env[traces]'") from None
    pooch.get_logger().setLevel("WARNING")  # it logs every download and every missing checksum
    known = None if expected is None else f"sha256:{expected}"
    downloader = pooch.HTTPDownloader(timeout=CONNECT_TIMEOUT_S)
    try:
        pooch.retrieve(url, known_hash=known, fname=name, path=folder, downloader=downloader)
    except requests.exceptions.HTTPError as error:
        raise FetchError(f"{url}: the server refuses ({error}); has the file moved?") from error
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError) as error:
        raise FetchError(f"{url}: the download was cut short ({error}); nothing was kept, try again") from error
    except requests.exceptions.RequestException as error:
        raise FetchError(f"{url}: no connection ({error}); are you offline, or behind a proxy?") from error
    except ValueError as error:  # pooch's only one: the checksum
        problem = f"the downloaded file does not have the SHA-256 {expected}"
        raise FetchError(f"{url}: {problem}; nothing was kept. Cut short, or changed by its publisher?") from error
    except OSError as error:
        raise FetchError(f"{folder / name}: cannot be written ({error}); choose another folder with --to") from error


def _recorded(record: Path) -> str | None:
    """The checksum that an earlier `trust_first` recorded."""
    if not record.is_file():
        return None
    found = re.match("[0-9a-f]{64}", record.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        raise FetchError(f"{record}: does not hold a SHA-256; remove it")
    return found[0]


def _terms(name: str) -> str:
    entry = DOWNLOADS[name]
    size = "size not stated" if entry.size_bytes is None else f"{entry.size_bytes / 1e6:.1f} MB"
    return f"{name}: {entry.licence}. Name: {entry.attribution}\n  {entry.url} ({size})\n"


def _listing() -> str:
    lines = []
    for name, entry in DOWNLOADS.items():
        lines.append(
            f"{_terms(name)}  load with format {entry.format!r}; sha256 {entry.sha256} ({entry.checksum_from})\n"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
