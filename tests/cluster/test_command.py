"""`pipelines/serve.py` as it is started: what it says, how it is reached, and what of its keys is left behind."""

from __future__ import annotations

import datetime
import ipaddress
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

pytestmark = pytest.mark.thorough

SERVE = Path(__file__).parents[2] / "pipelines" / "serve.py"
PAIR = {"prompt": "Which?", "response_a": "this", "response_b": "that", "order": "ab"}
IN_FILE, IN_ENVIRONMENT = "in-the-file-e1f0a9d3c5", "in-the-environment-77b2c4"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that 127.0.0.1 signed for itself, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "public.pem", folder / "private.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    private.write_bytes(key.private_bytes(*form))
    return public, private


@pytest.fixture(scope="module")
def secured(
    served: Callable[..., tuple[Any, str]],
    certificate: tuple[Path, Path],
    first_is_better: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, str]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(IN_FILE + "\n")
    flags = ["--serve.ssl-certfile", certificate[0], "--serve.ssl-keyfile", certificate[1], "--api-keys", keys]
    return served("--model", first_is_better, *flags, GAVEL_API_KEYS=IN_ENVIRONMENT)


def test_https_is_answered_with_the_certificate_and_plain_http_is_not(
    secured: tuple[Any, str], certificate: tuple[Path, Path]
) -> None:
    _, url = secured
    assert url.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    for key in (IN_FILE, IN_ENVIRONMENT):
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.post(f"{url}/judge", json=PAIR, headers=headers, verify=trusting, timeout=120)
        assert (answer.status_code, answer.json()["verdict"]) == (200, "a")
    refused = httpx.post(f"{url}/judge", json=PAIR, verify=trusting, timeout=120)
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{url}/health")
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url.replace('https', 'http')}/health")


def test_what_is_printed_works_as_it_stands(secured: tuple[Any, str]) -> None:
    command, url = secured
    welcome = command.said
    assert f"documentation: {url}/docs" in welcome
    (curl,) = [line for line in welcome.splitlines() if line.startswith("curl ")]
    if shutil.which("curl") is None:
        pytest.skip("curl is not on this machine")
    done = subprocess.run(curl.replace("KEY", IN_FILE), shell=True, capture_output=True, text=True, check=True)
    assert '"verdict"' in done.stdout


def test_keys_are_nowhere_but_where_they_were_given(secured: tuple[Any, str]) -> None:
    command, _ = secured
    assert not [key for key in (IN_FILE, IN_ENVIRONMENT) if key in command.said]
    (gcs,) = command.processes("gcs_server")
    (logs,) = {Path(found[1]) for word in gcs.cmdline() if (found := re.search(r"log_dir=(\S+)", word))}
    files = [file for file in logs.rglob("*") if file.is_file()]
    assert any("serve" in file.parts for file in files), "these are the logs of the endpoint"
    for file in files:
        content = file.read_bytes()
        assert not [key for key in (IN_FILE, IN_ENVIRONMENT) if key.encode() in content], file
    replicas = command.replicas()
    assert replicas
    for process in command.processes():
        try:
            environment, line = process.environ(), process.cmdline()
        except psutil.NoSuchProcess:
            continue
        assert IN_ENVIRONMENT not in [*environment.values(), *line], process
        assert environment.get("GAVEL_API_KEYS") is None, process


def test_a_second_server_is_told_that_the_port_is_taken(secured: tuple[Any, str], first_is_better: Path) -> None:
    port = secured[1].rsplit(":", 1)[1]
    command = [sys.executable, SERVE, "--model", first_is_better, "--port", port]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_interrupted_it_leaves_nothing_behind(secured: tuple[Any, str]) -> None:
    """Last of those that use this server."""
    command, _ = secured
    below = command.processes()
    command.stop()
    assert command.process.returncode == 0
    assert command.said.rstrip().endswith("stopped")
    assert not [process for process in psutil.wait_procs(below, timeout=30)[1] if process.status() != "zombie"]


def test_one_pair_is_tried_without_keys_whatever_is_configured(first_is_better: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(IN_FILE)
    command = [sys.executable, SERVE, "--model", first_is_better, "--try", "--api-keys", tmp_path / "keys"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert "order ab: verdict a" in done.stdout
    assert "order ba: verdict b" in done.stdout


@pytest.mark.skipif(not (shutil.which("haproxy") and shutil.which("socat")), reason="haproxy or socat is not here")
def test_haproxy_serves_survives_and_keeps_its_files_to_itself(
    served: Callable[..., tuple[Any, str]], first_is_better: Path, load: Any
) -> None:
    command, url = served("--model", first_is_better, "--serve.proxy", "haproxy")
    (proxy, *_) = command.processes("haproxy -db")
    folder = Path(proxy.cmdline()[proxy.cmdline().index("-f") + 1]).parent
    assert folder.name.startswith("gavel-serve-")
    with load(url) as under:
        under.wait(100)
        for engine in command.engines():
            engine.kill()
        under.wait(100, since=under.answers[-1].ended + 5)
    assert not under.given_up
    assert {answer.body["verdict"] for answer in under.good()} == {"a"}
    assert {answer.status for answer in under.bad()} <= {0, 503}
    command.stop()
    assert not folder.exists()
