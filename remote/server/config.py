"""Config: what whoever runs a server may set in a file (TOML) beside the options of `satchel-server run`."""

import ipaddress
import tomllib
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec


class ConfigTrouble(Exception):
    """The file cannot be used; `str()` says why and what to do."""


class Smtp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where mail is handed in, and as whom. `trust`: a file of certificates instead of the system's."""

    host: str
    sender: str
    port: int = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: str = ""
    trust: str = ""


class Oidc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who signs users in by OpenID Connect; `creates_accounts`: also those whom nobody knows here yet."""

    issuer: str
    client_id: str
    client_secret: str = ""
    creates_accounts: bool = False


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set; `url`: the server's address as its users type it."""

    url: str = ""
    proxies: tuple[str, ...] = ()
    """Addresses or networks of the proxies in front of it, whose X-Forwarded-For is believed."""
    smtp: Smtp | None = None
    oidc: Oidc | None = None

    @property
    def networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The proxies; raises ConfigTrouble for what is no network."""
        try:
            return tuple(ipaddress.ip_network(text) for text in self.proxies)
        except ValueError as error:
            raise ConfigTrouble(f"proxies: {error}.") from None


def read_config(path: Path) -> Config:
    """What the file says; raises ConfigTrouble when others can read its secrets, or it says what nobody understands."""
    try:
        text = path.read_text()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigTrouble(f"{path} cannot be read: {error}.") from error
    try:
        config = msgspec.convert(tomllib.loads(text), Config)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigTrouble(f"{path} is no configuration: {error}.") from error
    has_secrets = (config.smtp is not None and config.smtp.password) or (config.oidc and config.oidc.client_secret)
    if has_secrets and mode & 0o077:
        raise ConfigTrouble(f"{path} holds passwords and can be read by others: run chmod 600 {path}")
    _check(config, path)
    return config


def _check(config: Config, path: Path) -> None:
    _ = config.networks
    if config.smtp is not None and (not 0 < config.smtp.port < 65_536 or "@" not in config.smtp.sender):
        raise ConfigTrouble(f"{path}: smtp.port is a port, and smtp.sender an address such as drive@example.org.")
    smtp = config.smtp
    if smtp is not None and smtp.user and smtp.security == "none" and not _is_loopback(smtp.host):
        raise ConfigTrouble(f"{path}: a password for {smtp.host} would go there in the clear: use starttls.")
    if config.oidc is None:
        return
    if not is_safe(config.url):
        raise ConfigTrouble(f"{path}: for oidc, url must be the server's own https address, to which browsers return.")
    if not is_safe(config.oidc.issuer):
        raise ConfigTrouble(f"{path}: oidc.issuer must be an https address.")


def is_safe(address: str) -> bool:
    """Whether what goes to this address can be read by nobody else: https, or http on this machine."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
