"""Files and directories that a user names by URI: `file://` where they are, `s3://` fetched into the work directory."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote

from ippo_trainer.contract.errors import BadDataError, BadSpecError
from ippo_trainer.contract.layout import check_key
from ippo_trainer.contract.spec import S3Location, StoreLocation
from ippo_trainer.store import open_store
from ippo_trainer.store.base import ObjectNotFoundError, Store

_LONGEST = 512
"""Characters, as in artifacts.s3.prefix."""


def fetch_file(uri: str, directory: Path, location: StoreLocation, field: str) -> Path:
    """The local path of a file; one in S3 is streamed into `directory` in constant memory.

    Args:
        uri: `file:///path` or `s3://bucket/key`.
        directory: receives what must be downloaded; made if need be.
        location: the run's own store; where that is S3, its endpoint and region count for `uri` too.
        field: the field of the manifest, for errors.

    Raises:
        BadSpecError: a scheme that is not supported here.
        BadDataError: there is no such file.
    """
    scheme, path = _split(uri, field)
    if scheme == "file":
        local = Path(path)
        if not local.is_file():
            raise BadDataError(f"{field}: there is no file {local}", "Give a path that exists where the stage runs.")
        return local
    parent, _, name = path.rpartition("/")
    try:
        check_key(name)
    except BadSpecError as error:
        raise BadSpecError(
            f"{field} {uri!r}: objects of the name {name!r} are not read",
            "Rename it: letters, digits, '.', '_', '=' and '-' only, the first a letter or digit.",
        ) from error
    store = _bucket(uri, parent, location, field)
    target = directory / name
    directory.mkdir(parents=True, exist_ok=True)
    try:
        store.download(name, target)
    except ObjectNotFoundError as error:
        raise BadDataError(f"{field}: there is no object {uri}", "Check bucket and key.") from error
    return target


def is_directory(uri: str, field: str) -> bool:
    """Whether a place is a folder: in S3, where none is until something is in it, one with a slash at its end.

    Raises:
        BadSpecError: as `fetch_file`.
    """
    scheme, path = _split(uri, field)
    return Path(path).is_dir() if scheme == "file" else uri.endswith("/")


def fetch_directory(
    uri: str,
    directory: Path,
    location: StoreLocation,
    field: str,
    check: Callable[[Mapping[str, int]], None] = lambda _: None,
    selection: Callable[[Iterable[str]], Iterable[str]] = lambda names: names,
) -> Path:
    """The local path of a directory; one in S3 is streamed into `directory`, file by file.

    Arguments and errors as `fetch_file`.

    Args:
        check: gets the sizes in bytes of what is in S3, by path, before any of it is downloaded; may raise.
        selection: chooses from the paths in S3 those that are downloaded.
    """
    scheme, path = _split(uri, field)
    if scheme == "file":
        local = Path(path)
        if not local.is_dir():
            raise BadDataError(
                f"{field}: there is no directory {local}", "Give a path that exists where the stage runs."
            )
        return local
    store = _bucket(uri, path, location, field)
    sizes = {info.key: info.size for info in store.list("")}
    if not sizes:
        raise BadDataError(f"{field}: there is nothing at {uri}", "Check bucket and prefix.")
    check(sizes)
    for key in selection(sizes):
        target = directory / key
        target.parent.mkdir(parents=True, exist_ok=True)
        store.download(key, target)
    return directory


def _split(uri: str, field: str, remedy: str = "Download it and give file:// or s3://.") -> tuple[str, str]:
    scheme, _, rest = uri.partition("://")
    path = unquote(rest) if scheme == "file" else rest.rstrip("/")
    if scheme not in ("file", "s3") or not path.strip("/"):
        raise BadSpecError(f"{field} {uri!r} is no file:// or s3:// address", remedy)
    return scheme, path


def location_of(uri: str, field: str, own: S3Location | None = None) -> StoreLocation:
    """A folder as a store: one of S3 at the endpoint of `own`, where that is given.

    Raises:
        BadSpecError: as `fetch_file`.
    """
    folder = "" if "://" in uri else f"file://{Path(uri).absolute()} or "
    scheme, path = _split(uri, field, f"Write {folder}s3://bucket/prefix.")
    if scheme == "file":
        return StoreLocation(directory=path)
    return _in_bucket(uri, path, own, field)


def _in_bucket(uri: str, path: str, own: S3Location | None, field: str) -> StoreLocation:
    bucket, _, prefix = path.partition("/")
    if len(bucket) < 3 or len(bucket) > 63:
        raise BadSpecError(f"{field} {uri!r} names no bucket and key", "Write s3://bucket/key.")
    if len(prefix) > _LONGEST:
        raise BadSpecError(f"{field} lies in a folder of {len(prefix)} characters", f"At most {_LONGEST} are allowed.")
    s3 = S3Location(
        bucket=bucket,
        prefix=prefix,
        endpoint_url=own.endpoint_url if own else None,
        region=own.region if own else None,
    )
    return StoreLocation(s3=s3)


def _bucket(uri: str, path: str, location: StoreLocation, field: str) -> Store:
    return open_store(_in_bucket(uri, path, location.s3, field))
