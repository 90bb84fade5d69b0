"""Flags of commands that read, and some write, the bucket of a run in a cluster."""

from argparse import ArgumentParser, Namespace

from ippo_operator.cli.errors import CommandError


def add_bucket_flags(parser: ArgumentParser) -> None:
    """`--endpoint-url` and `--credentials-from-secret`."""
    parser.add_argument("--endpoint-url", metavar="URL", help="of the S3 store, where it differs from the pods'")
    parser.add_argument(
        "--credentials-from-secret", action="store_true", help="use those of spec.artifacts.s3.credentialsSecretName"
    )


def check_no_bucket_flags(arguments: Namespace) -> None:
    """Raises CommandError if they are given for a run in a folder."""
    if arguments.endpoint_url or arguments.credentials_from_secret:
        raise CommandError("--endpoint-url and --credentials-from-secret are for runs in a cluster, not for folders")
