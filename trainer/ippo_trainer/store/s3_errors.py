"""What an error of S3 means for a stage: its exit code, what went wrong in words, and the remedy."""

import os
from pathlib import Path

import urllib3
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
    TokenRetrievalError,
)

from ippo_trainer.contract.errors import BadSpecError, StageError, TryAgainError
from ippo_trainer.contract.variables import CREDENTIALS_FILE
from ippo_trainer.store.base import ObjectExistsError, ObjectNotFoundError


class DeadlineError(Exception):
    """An operation took longer than it may."""


_NO_ANSWER = (ConnectionError, HTTPClientError, IncompleteReadError, DeadlineError, urllib3.exceptions.HTTPError)
_CREDENTIALS = "Check the credentials (spec.artifacts.s3.credentialsSecretName, or AWS_* in the environment)"
# Keys that are rotated are unknown for a while: to the store, or to pods whose Secret is not the new one yet.
_ROTATED = {"ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
_PASSING = _ROTATED | {"RequestTimeTooSkewed"}
# They pass by themselves, whatever their status: many are 400, and some come from STS, which gives out the keys.
_BUSY = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestLimitExceeded",
    "TooManyRequestsException",
    "BandwidthLimitExceeded",
    "PriorRequestNotComplete",
    "RequestTimeout",
    "RequestTimeoutException",
    "IncompleteBody",
    "BadDigest",
    "IDPCommunicationError",
}
_REGION = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_BUSY_REMEDY = "The service is busy or broken, or full; the stage can be started again."
_KEY_RIGHTS = "kms:GenerateDataKey and kms:Decrypt"
_HINTS = {
    "read": f" (without s3:ListBucket, S3 says 403 for a missing object, too), and {_KEY_RIGHTS} where a key encrypts",
    "write": f"; a bucket that demands encryption needs artifacts.s3.encryption, a key of KMS {_KEY_RIGHTS}",
}
_ACTIONS = {"read": "s3:GetObject", "write": "s3:PutObject", "list": "s3:ListBucket", "delete": "s3:DeleteObject"}


def explain(error: BaseException, where: str, verb: str = "use") -> StageError:
    """The StageError for what boto3 raised while it wanted to `verb` the object at `where`.

    The text is made of the error's code and our own words: what a server or boto3 says may quote credentials.
    """
    if isinstance(error, ClientError):
        return _answer(error, where, verb)
    if isinstance(error, NoCredentialsError) and (unreadable := _unreadable_credentials()):
        return BadSpecError(
            f"cannot {verb} {where}: user {os.getuid()} may not read {unreadable}",
            "Have pods run with a group that may: the chart's stageUser sets it; without it the platform has to.",
        )
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return BadSpecError(f"cannot {verb} {where}: no complete S3 credentials", f"{_CREDENTIALS}.")
    if isinstance(error, (CredentialRetrievalError, TokenRetrievalError)):
        return TryAgainError(f"cannot {verb} {where}: {type(error).__name__}", f"{_CREDENTIALS}.")
    if isinstance(error, SSLError):
        return TryAgainError(
            f"cannot {verb} {where}: the TLS connection failed",
            "Check endpointUrl and the certificate authority (AWS_CA_BUNDLE).",
        )
    if isinstance(error, _NO_ANSWER):
        return TryAgainError(
            f"cannot {verb} {where}: S3 did not answer or hung up ({type(error).__name__})",
            "Check endpointUrl, the network and the S3 service; the stage can be started again.",
        )
    if isinstance(error, RecursionError):  # botocore's answer to redirects that name no region
        return BadSpecError(
            f"cannot {verb} {where}: S3 redirects in circles", "Check endpointUrl (https instead of http?) and region."
        )
    if isinstance(error, (ParamValidationError, ValueError)):
        return BadSpecError(f"cannot {verb} {where}: bucket or endpointUrl is malformed", "Correct artifacts.s3.")
    if isinstance(error, BotoCoreError):
        return BadSpecError(f"cannot {verb} {where}: {type(error).__name__}", "Check artifacts.s3 and AWS_* settings.")
    return TryAgainError(f"cannot {verb} {where}: {type(error).__name__}", "The stage can be started again.")


def _unreadable_credentials() -> str:
    """The credentials file that boto3 was pointed to and passed over; empty if that is not what is wrong."""
    path = os.environ.get(CREDENTIALS_FILE, "")
    return path if path and Path(path).exists() and not os.access(path, os.R_OK) else ""


def _answer(error: ClientError, where: str, verb: str) -> StageError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = f"cannot {verb} {where}: S3 answered {status}" + (f" {code}" if code not in ("", str(status)) else "")
    if code == "NoSuchBucket":
        return BadSpecError(text, "Create the bucket, or start a new run with another one.")
    if code == "NoSuchUpload":
        return TryAgainError(text, "Somebody ended the upload meanwhile; start the stage again.")
    if status == 404 and verb in {"write", "list"}:  # what is missing there is no object
        return BadSpecError(text, "Check artifacts.s3.endpointUrl: S3 itself would have said which bucket is missing.")
    if status == 404:
        return ObjectNotFoundError(f"{where} does not exist", "Check that the stage that makes it has ended.")
    if status == 412 and verb == "write":
        return ObjectExistsError(f"{where} exists already")
    if status in (409, 412):
        return TryAgainError(text, "Another writer changed it meanwhile; start the stage again.")
    if code in _BUSY:
        return TryAgainError(text, _BUSY_REMEDY)
    if code in _PASSING:
        return TryAgainError(text, f"{_CREDENTIALS}, and the clock of this machine.")
    if code in _REGION or status == 301:
        return BadSpecError(text, "Set artifacts.s3.region to the region of the bucket.")
    if code.startswith("KMS."):
        return BadSpecError(text, f"Check artifacts.s3.kmsKeyId, the key itself, and {_KEY_RIGHTS} on it.")
    if status in (401, 403):
        hint = _HINTS.get(verb, "")
        return BadSpecError(text, f"{_CREDENTIALS} and that they allow {_ACTIONS.get(verb, 's3:*')} there{hint}.")
    if status in (405, 501):
        return BadSpecError(text, "This S3 service lacks an operation that is needed (conditional put: If-None-Match).")
    if status == 429 or status >= 500:
        return TryAgainError(text, _BUSY_REMEDY)
    return BadSpecError(text, "Check artifacts.s3 and what the S3 service says about this code.")
