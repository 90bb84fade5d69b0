"""Environment variables that the operator sets and the stages and servers read."""

from typing import Final

PREFIX: Final = "IPPO_"
"""Of all that are this project's own."""
TERMINATION_LOG: Final = "IPPO_TERMINATION_LOG"
"""A file: where a stage writes its result or its error, besides standard output."""
POLICY_DIGEST: Final = "IPPO_POLICY_DIGEST"
"""The digest of the policy that a server loads."""
VLLM_ARGUMENTS: Final = "IPPO_VLLM_ARGS"
"""More arguments of vLLM."""
BASE_CACHE: Final = "IPPO_BASE_CACHE"
"""A folder that outlives a pod, where the bases of policies with adapters are kept."""
SETTABLE: Final = (VLLM_ARGUMENTS, BASE_CACHE)
"""Variables of ours that a manifest may set."""
COMPLETION_INDEX: Final = "JOB_COMPLETION_INDEX"
"""Which pod of an Indexed Job this is; Kubernetes sets it."""
SERVICE_HOST: Final = "KUBERNETES_SERVICE_HOST"
"""Where the API server is; Kubernetes sets it in every pod."""
LOCAL_RANK: Final = "LOCAL_RANK"
"""torchrun's: which of the processes of a pod this is."""
WEB_IDENTITY_FILE: Final = "AWS_WEB_IDENTITY_TOKEN_FILE"
"""boto3's: the token of the pod's role."""
CREDENTIALS_FILE: Final = "AWS_SHARED_CREDENTIALS_FILE"
"""boto3's: access keys."""
HOME: Final = "HOME"
TEMPORARY: Final = "TMPDIR"
BLAS_THREADS: Final = "OMP_NUM_THREADS"
THREADS: Final = {
    BLAS_THREADS: "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""One thread for numpy's BLAS, because sums must not depend on the machine; torch's threads are the stage's to set.
Threads that wait must not spin: on a machine that is busy otherwise, small models were 5 times slower with spinning."""
