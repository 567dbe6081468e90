"""Connections to servers: which environment variables apply, which certificates are trusted, and which redirects.

A key goes only to the address that it was given for. The same holds for values that OpenAI's client reads from the
environment unasked.
"""

from __future__ import annotations

import json
import logging
import os
import re
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from qilin_rag.config.destinations import is_loopback
from qilin_rag.core.errors import UsageError
from qilin_rag.llms.base import FatalLLMError

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
MOST_BYTES = 16 * 2**20  # limit for a list of models
SILENT_S = 5.0  # seconds of waiting before the log says for what
# Variables that OpenAI's client sends unasked; they are meant for OpenAI's own addresses.
OPENAI_VARIABLES = (
    "OPENAI_ORG_ID",
    "OPENAI_ORGANIZATION",
    "OPENAI_PROJECT_ID",
    "OPENAI_CUSTOM_HEADERS",
    "OPENAI_ADMIN_KEY",
    "OPENAI_WEBHOOK_SECRET",
)
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
_OPENAI_HOST = "api.openai.com"
# Azure's other model hosts (models.ai.azure.com, inference.ml.azure.com) take keys as OpenAI does.
_AZURE_HOST = re.compile(r"\.(openai|cognitiveservices|services\.ai)\.azure\.(com|us|cn)$|\.azure-api\.net$")
_AZURE_PATH = "/openai/deployments/"
_OPENAI_HEADERS = {"OPENAI_ORG_ID": "OpenAI-Organization", "OPENAI_PROJECT_ID": "OpenAI-Project"}

_one_at_a_time = threading.Lock()


def is_local(address: str) -> bool:
    """Return whether an address is on this machine: reached without a proxy, and without a key unless one is set.

    >>> [is_local(f"http://{host}/v1") for host in ("localhost:8000", "127.0.0.2", "[::1]", "0.0.0.0", "10.0.0.1")]
    [True, True, True, True, False]
    """
    host = urlsplit(address).hostname or ""
    return is_loopback(address) or host in ("0.0.0.0", "::") or host.endswith(".localhost")


def is_openai(address: str) -> bool:
    """Return whether an address is one of OpenAI's own, in any region."""
    host = urlsplit(address).hostname or ""
    return urlsplit(address).scheme == "https" and (host == _OPENAI_HOST or host.endswith(f".{_OPENAI_HOST}"))


def is_azure(address: str) -> bool:
    """Return whether an address takes its key as Azure does: in the header `api-key`."""
    parts = urlsplit(address)
    return bool(_AZURE_HOST.search(parts.hostname or "")) or _AZURE_PATH in f"{parts.path}/"


@contextmanager
def environment_for(address: str) -> Iterator[None]:
    """Hide environment variables that do not concern an address while its client is created and reads them."""
    foreign = () if is_openai(address) else OPENAI_VARIABLES
    hidden = [*foreign, *(PROXY_VARIABLES if is_local(address) else ())]
    with _one_at_a_time:
        hidden_values = {name: os.environ.pop(name) for name in hidden if name in os.environ}
        try:
            yield
        finally:
            os.environ.update(hidden_values)


class Proxy(NamedTuple):
    """A proxy before a server, and the variable that names it."""

    variable: str
    url: str


def proxy_for(address: str) -> Proxy | None:
    """Return the proxy for an address; None for this machine, and for hosts in NO_PROXY.

    Raises:
        UsageError: if the proxy does not speak HTTP.
    """
    parts, proxies = urlsplit(address), getproxies()
    scheme = next((name for name in (parts.scheme, "all") if proxies.get(name)), None)
    if scheme is None or is_local(address) or proxy_bypass(parts.hostname or ""):
        return None
    variable = f"{scheme}_proxy" if os.environ.get(f"{scheme}_proxy") else f"{scheme}_proxy".upper()
    url = proxies[scheme] if "://" in proxies[scheme] else f"http://{proxies[scheme]}"
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(
            f"the environment variable {variable} names a proxy that does not speak HTTP "
            f"({urlsplit(url).scheme}); name one that does, or put {parts.hostname} into NO_PROXY"
        )
    return Proxy(variable, url)


def certificates() -> ssl.SSLContext:
    """Return the trusted certificates: SSL_CERT_FILE and SSL_CERT_DIR if they are set, else the system's.

    Raises:
        UsageError: if a variable names a file that can't be read.
    """
    import httpx2

    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if folders and not any(Path(folder).is_dir() for folder in folders.split(os.pathsep)):
        if not file:
            raise _unreadable("SSL_CERT_DIR", folders, "no such folder")
        folders = None
    if not file and not folders:
        return httpx2.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=file or None, capath=folders or None)
    except ssl.SSLError as error:
        raise _unreadable("SSL_CERT_FILE", file, "it holds no certificate") from error
    except OSError as error:
        raise _unreadable("SSL_CERT_FILE", file, error.strerror or str(error)) from error


def _unreadable(variable: str, place: str | None, reason: str) -> UsageError:
    return UsageError(
        f"the environment variable {variable} names {place}, which can't be read ({reason}); "
        "correct it, or unset it to trust the certificates of the system"
    )


def no_answer(address: str, cause: str, model: str, has_engine: bool, section: str = "llm") -> FatalLLMError:
    """Return the error for a server that can't be reached, with advice: start one, or reach it otherwise."""
    if advice := _tls_advice(address, cause):
        return FatalLLMError(advice)
    if not is_local(address):
        proxy = proxy_for(address)
        through = f" through the proxy of the environment variable {proxy.variable}" if proxy else ""
        return FatalLLMError(f"no answer from {address}{through} ({cause}); check the address and the network")
    if has_engine:
        return FatalLLMError(
            f"no server answers at {address} ({cause}); start the engine of this preset with serve "
            "(--serve), or for several runs with the command serve; or set another base_url (--base-url)"
        )
    port = urlsplit(address).port or 80
    if section != "llm":
        return FatalLLMError(
            f"no server answers at {address} ({cause}); start one: qilin-rag serve embed:{model} --port {port}, or set "
            f"another {section}.base_url"
        )
    return FatalLLMError(
        f"no server answers at {address} ({cause}); start one in an environment that has vLLM: "
        f"vllm serve {model} --port {port}, or set another base_url (--base-url)"
    )


def _tls_advice(address: str, reason: str) -> str | None:
    """Return advice on a connection that failed because of encryption; None for another failure."""
    if "CERTIFICATE_VERIFY_FAILED" in reason or "certificate verify failed" in reason.lower():
        return (
            f"the certificate of {address} is not trusted ({reason}); "
            "name the file of the authority that signed it in the environment variable SSL_CERT_FILE"
        )
    if any(words in reason for words in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE")):
        return f"{address} does not speak https ({reason}); give its address as http://"
    return None


def headers_for(address: str, key: str) -> dict[str, str]:
    """Return the header that carries the key."""
    is_token = key.startswith("eyJ") and key.count(".") == 2  # an Entra ID token, which Azure takes in the usual header
    return {"api-key": key} if is_azure(address) and not is_token else {"Authorization": f"Bearer {key}"}


def request_headers(address: str, key: str) -> dict[str, str]:
    """Return the headers of each request to an address, with the key unless it is empty.

    OpenAI's own addresses also get what the variables of OpenAI's client say.
    """
    import httpx2

    from qilin_rag import __version__

    headers = httpx2.Headers({"Accept": "application/json", "User-Agent": f"qilin-rag/{__version__}"})
    headers["Content-Type"] = "application/json"
    if key:
        headers.update(headers_for(address, key))
    if is_openai(address):
        headers.update({header: said for name, header in _OPENAI_HEADERS.items() if (said := os.environ.get(name))})
        lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines()
        headers.update({name.strip(): said.strip() for name, colon, said in (x.partition(":") for x in lines) if colon})
    return dict(headers)


def full_address(address: str, path: str, query: Mapping[str, str]) -> str:
    """Return the address of a request: a path below an address, or a whole address of its own, with its query."""
    import httpx2

    whole = path if path.startswith(("http://", "https://")) else f"{address.rstrip('/')}{path}"
    return str(httpx2.URL(whole).copy_merge_params(query) if query else httpx2.URL(whole))


class Questioner:
    """A client for a few requests about a server; it stops connecting after `CONNECT_TIMEOUT_S`."""

    def __init__(self, address: str, key: str, query: Mapping[str, str], timeout_s: float, section: str) -> None:
        """Open the client; the first request connects."""
        import httpx2

        route = route_to(address)
        self.address, self.query = address, query
        self.headers = httpx2.Headers(request_headers(address, key))
        self.http = httpx2.Client(
            headers=self.headers,
            trust_env=False,  # reading the environment, httpx would open all proxies
            proxy=route.proxy,
            verify=route.certificates,
            follow_redirects=True,
            event_hooks={"response": [partial(_refuse_redirect, address, section)]},
            timeout=httpx2.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
        )

    @property
    def organization(self) -> str | None:
        """Return the organisation that OpenAI's own addresses are told."""
        return self.headers.get("OpenAI-Organization")

    def close(self) -> None:
        """Close the connections."""
        self.http.close()


def open_client(address: str, key: str, query: Mapping[str, str], timeout_s: float, section: str = "llm") -> Questioner:
    """Open a client for a few requests about a server."""
    return Questioner(address, key, query, timeout_s, section)


def open_async_http(address: str, section: str = "llm") -> httpx2.AsyncClient:
    """Open the connections of a client with aiohttp, since httpx searches all its connections for each call."""
    import httpx2
    import openai

    async def hook(response: httpx2.Response) -> None:
        _refuse_redirect(address, section, response)

    route = route_to(address)
    limits = httpx2.Limits(max_connections=0)  # 0 is no limit for aiohttp: concurrency is the limit
    return openai.DefaultAioHttpClient(
        trust_env=False, proxy=route.proxy, verify=route.certificates, limits=limits, event_hooks={"response": [hook]}
    )


class Route(NamedTuple):
    """The proxy to a server (None for this machine), and the certificates to trust (True for the usual ones)."""

    proxy: str | None
    certificates: ssl.SSLContext | Literal[True]


def route_to(address: str) -> Route:
    """Return the proxy of the environment (for other machines) and the certificates (for all)."""
    proxy = proxy_for(address)
    needs_certificates = not is_local(address) or urlsplit(address).scheme == "https"
    return Route(proxy.url if proxy else None, certificates() if needs_certificates else True)


def list_models(client: Questioner, timeout_s: float, section: str = "llm") -> dict[str, dict[str, Any]]:
    """Ask a server for its models, by name.

    Raises:
        FatalLLMError: if the reply takes longer than `timeout_s`.
        TypeError or ValueError: if the reply is not a list of models.
        httpx2.RequestError or httpx2.HTTPStatusError: if there is no reply, or a refusal.
    """
    import httpx2

    address = client.address
    words = "waiting for the list of models of %s, for up to %g s (%s.timeout_s)"
    timer = threading.Timer(SILENT_S, logger.warning, (words, address, timeout_s, section))
    timer.daemon = True
    timer.start()
    content, deadline = b"", time.monotonic() + timeout_s
    try:
        with client.http.stream("GET", full_address(address, "/models", client.query)) as response:
            if not response.is_success:
                response.read()
                response.raise_for_status()
            for chunk in response.iter_bytes():
                content += chunk
                if time.monotonic() > deadline:
                    raise httpx2.ReadTimeout("too slow")
                if len(content) > MOST_BYTES:
                    raise ValueError("a list of models is never that long")
    except httpx2.ConnectTimeout:
        raise
    except httpx2.TimeoutException as error:
        raise FatalLLMError(
            f"{address} has not listed its models within {timeout_s:g} s; to wait longer, raise {section}.timeout_s"
        ) from error
    finally:
        timer.cancel()
    return _models(content)


def _models(content: bytes) -> dict[str, dict[str, Any]]:
    listed = json.loads(content)
    models = listed.get("data") if isinstance(listed, dict) else listed
    if not isinstance(models, list):
        raise TypeError("not a list of models")
    return {model["id"]: model for model in models if isinstance(model, dict) and isinstance(model.get("id"), str)}


class MovedError(FatalLLMError):
    """A redirect that is not followed."""

    def __init__(self, reason: str, has_same_ending: bool) -> None:
        """Set the text, and whether the whole address has moved, not only this path of it."""
        super().__init__(reason)
        self.has_same_ending = has_same_ending


def _refuse_redirect(address: str, section: str, response: httpx2.Response) -> None:
    """Follow a redirect only if nothing is lost: to the same host, with the same request."""
    redirect_of(response, address, section)


def redirect_of(response: httpx2.Response, address: str, section: str) -> httpx2.URL | None:
    """Return the address to which a response redirects its request; None if it names none that can be read.

    Raises:
        MovedError: if it is another host, or the request would be lost.
    """
    import httpx2

    if not response.has_redirect_location:
        return None
    request = response.request
    try:
        to = request.url.join(response.headers["location"])
    except (httpx2.InvalidURL, ValueError):
        return None  # the client reports it
    is_same_host = to.origin == request.url.origin
    if is_same_host and (request.method == "GET" or response.status_code in (307, 308)):
        return to
    ending = request.url.path.removeprefix(urlsplit(address).path)
    target = (
        f"{to.scheme}://{to.netloc.decode('ascii', 'replace')}{to.path}"  # without a ?query, which may hold secrets
    )
    why = "which drops the question" if is_same_host else "where no key is sent unasked"
    raise MovedError(
        f"{address} redirects to {target.removesuffix('/').removesuffix(ending)} ({response.status_code}), {why}; "
        f"if that is right, set {section}.base_url{' (--base-url)' if section == 'llm' else ''} to it",
        target.removesuffix("/").endswith(ending),
    )
