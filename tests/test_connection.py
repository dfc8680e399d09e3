"""The way to a cluster, and what stands in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import connection
from pipeline.connection import ClusterOptions, connected
from pipeline.errors import ClusterError
from tests.clusters import scheduler


def connect(options: ClusterOptions) -> int:
    """Connect; return how many tasks can run."""
    with connected(options) as cluster:
        return cluster.slots()


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match=r"need Dask: run `pip install '\.\[cluster\]'`"):
        connect(ClusterOptions("tcp://127.0.0.1:8786"))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nothing://x"])
def test_no_scheduler_there(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_ANSWER", 0.5)
    with pytest.raises(
        ClusterError, match=rf"^--scheduler {address}: no connection .*`dask scheduler` starts"
    ):
        connect(ClusterOptions(address))


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        ("tcp://10.1.2.3:8786", True),
        ("tcp://127.0.0.1:8786", False),
        ("tcp://[::1]:8786", False),
        ("tls://10.1.2.3:8786", False),
    ],
)
def test_what_others_can_reach_without_tls_is_said(
    address: str, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    connection._warn_if_open(address)
    assert ("whoever reaches that scheduler can run code" in capsys.readouterr().err) == warned


@pytest.mark.parametrize("given", [0, 1])
def test_tls_takes_three_files(tmp_path: Path, given: int) -> None:
    with pytest.raises(ClusterError, match="all three of --tls-ca, --tls-cert and --tls-key"):
        connect(ClusterOptions("tls://127.0.0.1:8786", tls_ca=tmp_path / "ca.pem" if given else None))


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate that vouches for itself, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=test -keyout {key} -out {cert}"
    try:
        subprocess.run(command.split(), check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl here to make certificates")
    return cert, key


def test_tls(
    certificate: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cert, key = certificate
    of_dask = ("--tls-ca-file", str(cert), "--tls-cert", str(cert), "--tls-key", str(key))
    with scheduler(tmp_path, "--protocol", "tls", *of_dask) as started:
        started.worker()
        assert started.address.startswith("tls://127.0.0.1:")
        assert connect(ClusterOptions(started.address, tls_ca=cert, tls_cert=cert, tls_key=key)) == 1
        assert f"1 worker at {started.address}, dashboard http" in capsys.readouterr().err
        monkeypatch.setattr(connection, "_ANSWER", 2.0)
        plain = started.address.replace("tls", "tcp")
        with pytest.raises(ClusterError, match="no connection"):
            connect(ClusterOptions(plain))
