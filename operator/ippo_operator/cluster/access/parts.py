"""The parts of a kubeconfig, typed as kubectl types them; https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

EXEC_GROUP = "client.authentication.k8s.io"
_PLUGIN_VERSIONS = (f"{EXEC_GROUP}/v1", f"{EXEC_GROUP}/v1beta1")


def _kebab(name: str) -> str:
    return name.strip("_").replace("_", "-")


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, alias_generator=_kebab)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        """A field that is null is a field that is not there."""
        if isinstance(value, dict):
            return {key: item for key, item in value.items() if item is not None}
        return value


class ContextPart(_Part):
    """Which cluster, as whom."""

    cluster: str = ""
    user: str = ""
    namespace: str = ""


class Extension(_Part):
    """Data for others under a name."""

    name: str = ""
    extension: Any = None


class ClusterPart(_Part):
    """Where an API server is, and how to know it."""

    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""
    disable_compression: bool = False
    extensions: list[Extension] = []

    @model_validator(mode="after")
    def _one_way_to_trust(self) -> "ClusterPart":
        if self.certificate_authority and self.certificate_authority_data:
            raise ValueError("certificate-authority and certificate-authority-data are both given; keep one")
        if self.insecure_skip_tls_verify and (self.certificate_authority or self.certificate_authority_data):
            raise ValueError("insecure-skip-tls-verify beside a certificate-authority is not allowed; keep one")
        return self

    @property
    def plugin_data(self) -> Any:
        """What the cluster has for credential plugins; None for nothing."""
        name = f"{EXEC_GROUP}/exec"
        return next((one.extension for one in self.extensions if one.name == name), None)


class Variable(_Part):
    """Of a plugin's environment."""

    name: str = Field(min_length=1)
    value: str = ""


class Plugin(_Part):
    """A program that prints credentials."""

    model_config = ConfigDict(alias_generator=None)

    command: str = Field(min_length=1)
    args: list[str] = []
    env: list[Variable] = []
    api_version: str = Field(alias="apiVersion")
    install_hint: str = Field("", alias="installHint")
    provide_cluster_info: bool = Field(False, alias="provideClusterInfo")
    interactive_mode: Literal["", "Never", "IfAvailable", "Always"] = Field("", alias="interactiveMode")

    @model_validator(mode="after")
    def _known_version(self) -> "Plugin":
        if self.api_version not in _PLUGIN_VERSIONS:
            raise ValueError(f"apiVersion is not supported; it has to be {' or '.join(_PLUGIN_VERSIONS)}")
        if not self.interactive_mode and self.api_version == _PLUGIN_VERSIONS[0]:
            raise ValueError("interactiveMode is missing; it has to be Never, IfAvailable or Always")
        return self


class ProviderPart(_Part):
    """A login that is built into clients; kubectl itself has `oidc` only."""

    name: str = ""
    config: dict[str, str] = {}


class UserPart(_Part):
    """Who asks."""

    token: str = ""
    token_file: str = Field("", alias="tokenFile")
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    username: str = ""
    password: str = ""
    as_: str = ""
    as_uid: str = ""
    as_groups: list[str] = []
    as_user_extra: dict[str, list[str]] = {}
    exec_: Plugin | None = None
    auth_provider: ProviderPart | None = None

    @model_validator(mode="after")
    def _one_way_to_log_in(self) -> "UserPart":
        for name in ("client_certificate", "client_key"):
            if getattr(self, name) and getattr(self, f"{name}_data"):
                raise ValueError(f"{_kebab(name)} and {_kebab(name)}-data are both given; keep one")
        has_certificate = bool(self.client_certificate or self.client_certificate_data)
        if has_certificate and not (self.client_key or self.client_key_data):
            raise ValueError("client-key is missing beside the client-certificate")
        if self.token and (self.username or self.password):
            raise ValueError("token and username are both given; keep one")
        if self.exec_ and self.auth_provider:
            raise ValueError("exec and auth-provider are both given; keep one")
        if (self.as_uid or self.as_groups or self.as_user_extra) and not self.as_:
            raise ValueError("as is missing beside as-uid, as-groups or as-user-extra")
        return self
