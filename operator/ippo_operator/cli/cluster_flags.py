"""kubectl's flags that say where and who, before the verb (`kubectl ippo -n team status`) or after it."""

import argparse
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple


class Flag(NamedTuple):
    """One of them. Its `dest` is a field of `access.kubeconfig.Flags`."""

    names: tuple[str, ...]
    dest: str
    metavar: str | None
    about: str
    usual: bool = False
    """Whether the help of every verb shows it."""


FLAGS = (
    Flag(("-n", "--namespace"), "namespace", "NS", "by default, the context's", usual=True),
    Flag(("--context",), "context", "C", "of the kubeconfig; by default, its current one", usual=True),
    Flag(("--kubeconfig",), "kubeconfig", "FILE", "by default $KUBECONFIG, ~/.kube/config, or the pod's account", True),
    Flag(("--as",), "as_user", "USER", "act as another user", usual=True),
    Flag(("--as-group",), "as_group", "GROUP", "act as a member of that group; repeatable", usual=True),
    Flag(("--as-uid",), "as_uid", "UID", "act as the user of that UID"),
    Flag(("--cluster",), "cluster", "NAME", "of the kubeconfig, instead of the context's"),
    Flag(("--user",), "user", "NAME", "of the kubeconfig, instead of the context's"),
    Flag(("-s", "--server"), "server", "URL", "of the API server"),
    Flag(("--token",), "token", "TOKEN", "instead of the user's credentials"),
    Flag(("--certificate-authority",), "certificate_authority", "FILE", "that vouches for the server"),
    Flag(("--insecure-skip-tls-verify",), "insecure_skip_tls_verify", None, "believe any server"),
    Flag(("--tls-server-name",), "tls_server_name", "NAME", "in the server's certificate"),
    Flag(("--client-certificate",), "client_certificate", "FILE", "of the user"),
    Flag(("--client-key",), "client_key", "FILE", "of the user"),
)
_SUPPRESS = argparse.SUPPRESS


def add_flags(parser: argparse.ArgumentParser, before_the_verb: bool = False) -> None:
    """Adds them. After the verb they have no default, so that one before the verb stays."""
    about = None if before_the_verb else "more flags of kubectl: ippo --help"
    group = parser.add_argument_group("cluster", about)
    for flag in FLAGS:
        text = flag.about if before_the_verb or flag.usual else _SUPPRESS
        common: dict[str, Any] = {"dest": flag.dest, "help": text, "default": None if before_the_verb else _SUPPRESS}
        if flag.metavar is None:
            group.add_argument(*flag.names, action="store_true", **common)
        elif flag.dest == "as_group":
            group.add_argument(*flag.names, action="append", metavar=flag.metavar, **common)
        else:
            group.add_argument(*flag.names, metavar=flag.metavar, **common)


def written_flags(arguments: Namespace) -> list[str]:
    """The flags that the command line has, as a user writes them."""
    return [flag.names[0] for flag in FLAGS if getattr(arguments, flag.dest, None)]


def names_folder(arguments: Namespace) -> bool:
    """Whether the run is one in a folder: a path, or the name of a folder, without flags for clusters."""
    place = arguments.run
    if not place or written_flags(arguments):
        return False
    return "/" in place or Path(place).is_dir()
