"""An S3 store of its own with a user who may read and not write."""

import json
import os
import secrets
import socket
import subprocess
from pathlib import Path
from typing import Self

from . import artifacts
from .kube import until
from .place import Store

BUCKET = "guarded"
_READ = ("s3:GetObject", "s3:ListBucket")


class GuardedStore:
    """Use as a context manager.

    Args:
        programs: the folder that holds versitygw.
        folder: for its files.
        host: this machine's address as pods see it.
    """

    def __init__(self, programs: Path, folder: Path, host: str) -> None:
        self._program, self._folder = str(programs / "versitygw"), folder
        with socket.socket() as probe:
            probe.bind(("", 0))
            self._port = probe.getsockname()[1]
        self._owner = Store(f"http://{host}:{self._port}", f"http://127.0.0.1:{self._port}", "owner", _key())
        self.reader = Store(self._owner.endpoint, self._owner.local, "reader", _key())

    def __enter__(self) -> Self:
        for name in ("data", "users"):
            (self._folder / name).mkdir()
        keys = {"ROOT_ACCESS_KEY": self._owner.access_key, "ROOT_SECRET_KEY": self._owner.secret_key}
        where = ("--iam-dir", str(self._folder / "users"), "posix", str(self._folder / "data"))
        command = [self._program, "--port", f"0.0.0.0:{self._port}", "--quiet", *where]
        self._process = subprocess.Popen(command, env={**os.environ, **keys}, stdout=subprocess.DEVNULL)
        try:
            until(self._answers, "the store answers", 30, every=0.1)
            self._admit_reader()
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _admit_reader(self) -> None:
        place = ("--access", "owner", "--secret", self._owner.secret_key, "--endpoint-url", self._owner.local)
        user = ("--access", "reader", "--secret", self.reader.secret_key, "--role", "user")
        subprocess.run([self._program, "admin", *place, "create-user", *user], check=True, capture_output=True)
        s3 = artifacts.client(self._owner)
        s3.create_bucket(Bucket=BUCKET)
        arn = f"arn:aws:s3:::{BUCKET}"
        may = {"Effect": "Allow", "Principal": {"AWS": ["reader"]}, "Action": _READ, "Resource": [arn, f"{arn}/*"]}
        s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [may]}))


def _key() -> str:
    return secrets.token_hex(16)
