"""What the operator was installed with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Platform:
    """Defaults for all runs, from the operator's own settings."""

    image: str
    """Of the stages, and of the step that fetches a policy before it is served; spec.pods.….image comes first."""
    serve_image: str = ""
    """Of servers whose engine is VLLM, and of stages whose sampler is; spec.pods.….image comes first."""
    serve_command: tuple[str, ...] = ("ippo-serve",)
    """Starts a server. It gets `--policy DIR --port N --engine E --name RUN`, answers GET /healthz when it lives and
    GET /readyz when it takes requests, and ends on SIGTERM once its requests are answered."""
    image_pull_policy: str | None = None
    """For every container, where a run says nothing; None leaves it to Kubernetes."""
    user: int | None = 65532
    """User and group of all containers. None leaves it to the image, or to OpenShift."""
