"""Where the course's files lie, and how they are written: whole or not at all, several together where they belong
together, into folders that were tried before any work began."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def home() -> Path:
    """The folder that holds `records/` and `checkpoints/`.

    `$LDM_HOME` if set; else the repository, when the package runs from a checkout; else what the installed
    package carries. Refused with ValueError: an `$LDM_HOME` that is no folder.
    """
    return named_folder("LDM_HOME", "records/") or checkout() or Path(__file__).parent / "_stored"


def named_folder(variable: str, holds: str) -> Path | None:
    """The folder that an environment variable names, None where it is not set. ValueError: it names none."""
    chosen = os.environ.get(variable)
    if chosen and not expanded(chosen).is_dir():
        raise ValueError(f"{variable}={chosen!r} is not a folder; point it to one that has {holds} in it")
    return expanded(chosen) if chosen else None


# of machine and patience that a stage is recorded on, the largest first: what ends the names of its files
MACHINES = ("reference", "gpu", "hours", "cpu")
PLACES = {
    "record": ("records", ".json"),
    "picture": ("records", ".png"),
    "film": ("records", ".webp"),
    "weights": ("checkpoints", ".safetensors"),
}


def place_of(kind: str, name: str, root: str | os.PathLike | None = None) -> Path:
    """Where the record, the picture, the film or the weights (`kind`) of that name lie, there or not: below the folder
    `root`, by default the course's own (`home`)."""
    folder, suffix = PLACES[kind]
    return Path(home() if root is None else root) / folder / f"{name}{suffix}"


def expanded(path: str | os.PathLike) -> Path:
    """The path with its ~ replaced. ValueError: nobody knows of whom it is, since HOME is not set, or no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0][1:]
        why = (
            f"user {user!r} here; name the folder in full"
            if user
            else "home folder here; set HOME, or LDM_CACHE to one"
        )
        raise ValueError(f"{path}: there is no {why}") from None


def shown(path: str | os.PathLike) -> str:
    """A path as text that can be written anywhere: bytes of it that are no text as codes, and so line breaks."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason(error: Exception) -> str:
    """What another library's error says, in one line that is not too long."""
    said = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return said if len(said) < 200 else f"{said[:200]} …"  # some quote the file


def is_text(path: str | os.PathLike) -> bool:
    """Whether all bytes of a path are UTF-8."""
    return not any("\udc80" <= c <= "\udcff" for c in os.fsdecode(path))


def checkout() -> Path | None:
    """The repository that the package runs from, or None where it was installed."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "records").is_dir() else None


_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
_ARRIVING = ".arriving"  # a set of files that is complete, and about to be moved to its place
_DAY = 24 * 3600


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary place for the file `path`, in a folder beside it, and moves it there if the block ends well.

    A reader of `path` sees the old file or the new one, never half of one; folders are made as needed. Others may read
    it as far as the process's umask lets them. What writers that were killed have left in the folder goes.
    OSError, which names `path`: it cannot be written.
    """
    path = Path(path)
    with _telling(path), _new_folder(path.parent) as folder:
        temporary = folder / path.name
        yield temporary
        _open_to_others(temporary)
        os.replace(temporary, path)


@contextmanager
def written_together(folder: str | os.PathLike) -> Iterator[Path]:
    """Gives an empty folder within `folder`; if the block ends well, all that was put there moves to `folder`, over
    what has its name, else none of it.

    A process killed in between has changed nothing, or left a complete set that `settled` moves: all that opens a
    folder here asks it first, so that a reader of this package never meets one half of a set.
    OSError: the set cannot be written.
    """
    folder = Path(folder)
    with _telling(folder), _new_folder(folder) as new:
        yield new
        for file, _ in _moves(new, folder):
            _open_to_others(file)
        while True:
            settled(folder)
            try:
                os.rename(new, folder / _ARRIVING)  # from here on the set is there
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise  # else another process had a set to move as well
        settled(folder)


def settled(folder: str | os.PathLike) -> Path:
    """The folder, after moving to its place what a process that was killed had completed, for it or for the folder
    above; several may do so at once."""
    folder = Path(folder)
    for place in (folder.parent, folder):
        arriving = place / _ARRIVING
        try:
            if arriving.is_dir():
                for file, to in _moves(arriving, place):
                    _moved(file, to)
                shutil.rmtree(arriving, ignore_errors=True)
        except PermissionError:
            pass  # a reader who may not enter, or write: what belongs together is told by fingerprints
    return folder


def _moves(new: Path, folder: Path) -> list[tuple[Path, Path]]:
    """Each file of a set, and where it goes; Unwritten, before the first is moved, if one of them cannot."""
    files = sorted(Path(at, name) for at, _, names in os.walk(new) for name in names)
    places = [folder / file.relative_to(new) for file in files]
    check_free(*places)
    return list(zip(files, places))


def check_free(*files: Path) -> None:
    """Asked before any work, as `writable_folder` is. Unwritten: something that is no file lies where one of these is
    to go, or no folder where it is to lie."""
    for file in files:
        for place, fits in ((file, Path.is_file), (file.parent, Path.is_dir)):
            if place.exists() and not fits(place):
                raise Unwritten(errno.EEXIST, "something else is there; move it away, or name another", str(place))


def _moved(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(file, to)
    except FileNotFoundError:
        pass  # another process was faster
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with written_whole(to) as temporary:  # a folder that lies on another disk
            shutil.copyfile(file, temporary)


@contextmanager
def _new_folder(parent: Path) -> Iterator[Path]:
    """An empty folder in `parent`, which goes at the end, as do those that dead processes left there."""
    prefix = f".new-{_MACHINE}-{os.getpid()}-"  # whose it is, so that what a dead process left can be told
    for last in (False, False, True):
        parent.mkdir(parents=True, exist_ok=True)
        swept(parent)
        try:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            break
        except FileNotFoundError:  # another process that tried the parent as well has just removed it
            if last:
                raise
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def swept(folder: str | os.PathLike) -> None:
    """Removes what writers that were killed have left in a folder: those of this machine that are no longer there, and
    others' of a day ago."""
    for left in Path(folder).glob(".new-*-*-*"):
        machine, process = left.name.split("-")[1:3]
        if not process.isdigit():
            continue
        try:
            if _is_dead(int(process)) if machine == _MACHINE else time.time() - left.stat().st_mtime > _DAY:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            pass  # gone meanwhile


def _is_dead(process: int) -> bool:
    try:
        os.kill(process, 0)  # asks, and sends nothing
    except ProcessLookupError:
        return True
    except OSError:
        pass  # somebody else's
    return False


def _open_to_others(file: Path) -> None:
    """Some writers leave files that their owner alone can read."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Errors of a disk as an OSError that names the file, in place of what writers make of them."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, Unwritten):
            raise
        number = getattr(error, "errno", None)
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if number is None and found else number
        reason = os.strerror(number) if number else " ".join(str(error).split())
        raise Unwritten(number or errno.EIO, reason, str(path)) from error


class Unwritten(OSError):
    """A file that could not be written; `errno`, `strerror` and `filename` say why and which."""

    def __str__(self) -> str:
        return f"{self.filename} cannot be written: {self.strerror}"


def writable_folder(folder: str | os.PathLike, room: int = 0) -> Path:
    """The folder, tried by writing, and left as it was found: a set of files that had been completed there is moved to
    its place, and a folder that was not there is made only when something is written.

    Asked before any work, and not after. ValueError: it cannot be made, takes no files, or has less than `room` bytes.
    """
    folder, missing = Path(folder), []
    try:
        if os.path.lexists(settled(folder) / _ARRIVING):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder / _ARRIVING))
        missing = [at for at in (folder, *folder.parents) if not at.exists()]
        with _new_folder(folder) as new:
            (new / "tried").write_bytes(b"tried")
        free = shutil.disk_usage(folder).free
    except (FileExistsError, NotADirectoryError) as error:
        places = (folder, *folder.parents)
        way = next((at for at in places if os.path.lexists(at) and not at.is_dir()), folder / _ARRIVING)
        raise ValueError(f"{folder} takes no files, since {way} is no folder; name another folder") from error
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise
        raise ValueError(
            f"{folder} takes no files ({error.strerror or error}); name another folder, or make room there"
        ) from error
    finally:
        for made in missing:
            try:
                made.rmdir()
            except OSError:
                break
    if free < room:
        needs, has = (f"{size / 2**20:,.0f} MiB" for size in (room, free))
        raise ValueError(f"{folder} has {has} left, and {needs} are needed; name another folder, or make room there")
    return folder


def writable_picture(path: str | os.PathLike, *sources: str | os.PathLike | None) -> Path:
    """The name of a picture to be written, its folder tried. ValueError: the folder takes no files; a name that is
    none, that is a folder's, or that does not end in .png; a file there that is no PNG, or one of the `sources`, which
    the picture is made from."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder; expected the name of a picture, such as {path / 'pictures.png'}")
    if path.suffix.lower() != ".png":
        raise ValueError(
            f"--out {path}; pictures are written as PNG: expected a name such as {path.stem.strip('.') or 'it'}.png"
        )
    if path.exists():
        if any(source is not None and Path(source).exists() and path.samefile(source) for source in sources):
            raise ValueError(f"--out {path} is what the picture is made from; choose another name")
        if not os.access(path, os.W_OK):
            raise ValueError(f"--out {path} is there and write-protected; choose another name")
        if path.is_file():
            with path.open("rb") as file:
                begins = file.read(4)
            if begins not in (b"\x89PNG", b""):
                raise ValueError(f"--out {path} is there and is no PNG; choose another name, or delete it")
    writable_folder(path.parent)
    return path


_kept_here: set[Path] = set()  # by this process, which may ask again


@contextmanager
def at_work_in(folder: str | os.PathLike) -> Iterator[Path]:
    """The folder (see `writable_folder`), kept for one run at a time; the end of a process gives it back.

    Of the processes of one training the first keeps it for all. ValueError: another run is at work there.
    """
    try:
        import fcntl
    except ImportError:
        fcntl = None  # Windows, where a folder cannot be locked
    folder = writable_folder(folder)
    if fcntl is None or os.environ.get("RANK", "0") != "0" or folder.resolve() in _kept_here:
        yield folder
        return
    missing = [at for at in (folder, *folder.parents) if not at.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise ValueError(f"another run is at work in {folder}; wait for it, or name another folder") from None
    except OSError:
        pass  # a file system without locks
    _kept_here.add(place := folder.resolve())
    try:
        yield folder
    finally:
        _kept_here.discard(place)
        os.close(held)
        for made in missing:  # a run that left nothing leaves no folder
            try:
                made.rmdir()
            except OSError:
                break


def save_tensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = {}) -> None:
    """Writes a safetensors file, whole or not at all, with a checksum in its metadata; the same tensors and metadata
    give the same bytes. OSError: it cannot be written."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = {**metadata, "checksum": _checksum(tensors, metadata)}
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata=text)
        _put_in_order(temporary)


def readable(path: str | os.PathLike) -> Path:
    """The path, of a file that can be opened; some readers wait for ever at a pipe, or call broken what is locked.
    ValueError, which says what to do: there is none, it is no file, or it may not be read."""
    path = Path(path)
    try:
        if path.is_file():
            path.open("rb").close()
        elif path.exists():
            raise ValueError(f"{path} is no file, but a folder or a pipe; move it away, or name another")
        else:
            raise ValueError(f"there is no file {path}")
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{path} cannot be opened ({reason}); change its permissions, or name another") from error
    return path


def load_tensors(
    path: str | os.PathLike, mend: str = "copy or download it again"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and its metadata. ValueError, in one line: what `readable` refuses, a file that
    is broken, whose name is no text, or that is not what was written, and how to `mend` it."""
    path = Path(path)
    settled(path.parent)
    readable(path)
    if not is_text(path):
        raise ValueError(f"{path} has bytes in its name that are no text, which safetensors cannot open; rename it")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # safetensors raises its own class for broken files
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: broken or no safetensors file ({reason}); {mend}") from error
    known = metadata.pop("checksum", None)  # files of the first edition have none
    if known is not None and known != _checksum(tensors, metadata):
        raise ValueError(f"{path}: not what was written (its checksum differs); {mend}")
    return tensors, metadata


def cached_tensors(
    path: str | os.PathLike,
    shapes: Mapping[str, tuple[int, ...]],
    make: Callable[[], tuple[dict[str, Tensor], dict[str, str]]],
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `load_tensors` finds at `path`, if that has tensors of these names and shapes, all finite; else what `make`
    gives, float32 of these shapes, and metadata, kept there."""
    try:
        tensors, metadata = load_tensors(path)
        kept = {name: tuple(value.shape) for name, value in tensors.items() if value.dtype == torch.float32}
        if kept == dict(shapes) and all_finite(tensors):
            return tensors, metadata
    except ValueError:
        pass  # absent, broken, or not ours: made again
    tensors, metadata = make()
    save_tensors(path, tensors, metadata)
    return tensors, metadata


def fingerprint(*parts: Tensor | str) -> str:
    """Tells tensors, one after another, from all others: 16 hexadecimal digits of SHA-256 of their bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else _bytes_of(part))
    return digest.hexdigest()[:16]


def _bytes_of(value: Tensor) -> np.ndarray:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes_of(value))
    return digest.hexdigest()[:32]


def _put_in_order(file: Path) -> None:
    """Sorts a safetensors file's metadata, which is written in an order that changes from process to process. Sorted,
    the header is as long as before; it may end with spaces."""
    with open(file, "r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size, "a header that is written in another way"
        stream.seek(8)
        stream.write(text.ljust(size))


def all_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether there is no NaN and no infinity in any of them."""
    return all(bool(v.isfinite().all()) for v in tensors.values() if v.is_floating_point())
