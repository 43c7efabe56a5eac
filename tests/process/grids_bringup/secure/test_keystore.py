"""`./grids secure init` as a user runs it: OpenSSL accepts the keystore; a DDS without security is refused."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from commands import made

pytest.importorskip("cryptography", reason="bash requirements/setup.sh secure")

from grids_bringup.secure.rights import NODES

openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture(scope="module")
def keystore(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("secure") / "keystore"
    assert f"{folder}: keys of /twin" in made("secure", "init", "--keystore", folder, "--domain", 7)
    return folder


def init(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "grids_bringup.cli", "secure", "init", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def ssl(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(["openssl", *map(str, words)], capture_output=True, check=False)


def signed(keystore: Path, file: Path) -> subprocess.CompletedProcess:
    authority = keystore / "public" / "permissions_ca.cert.pem"
    return ssl("smime", "-verify", "-text", "-in", file, "-CAfile", authority)


@openssl
def test_the_authority_vouches_for_every_node_and_for_what_it_may_do(keystore):
    for node in NODES:
        folder = keystore / "enclaves" / node
        assert ssl("verify", "-CAfile", folder / "identity_ca.cert.pem", folder / "cert.pem").returncode == 0
        subject = ssl("x509", "-in", folder / "cert.pem", "-noout", "-subject").stdout.decode()
        assert subject.strip().replace(" ", "") == f"subject=CN=/{node}"
        for name in ("permissions", "governance"):
            result = signed(keystore, folder / f"{name}.p7s")
            assert result.returncode == 0, result.stderr
        text = signed(keystore, folder / "permissions.p7s").stdout.replace(b"\r\n", b"\n")
        assert text == (folder / "permissions.xml").read_bytes()
        assert b"<topic>rt/rosout</topic>" in text


@openssl
def test_a_changed_right_is_noticed(keystore, tmp_path):
    changed = tmp_path / "permissions.p7s"
    text = (keystore / "enclaves" / "overlay" / "permissions.p7s").read_bytes()
    changed.write_bytes(text.replace(b"rt/grids/front/overlay<", b"rt/policy/action_chunk<"))
    assert changed.read_bytes() != text
    assert signed(keystore, changed).returncode != 0


def test_private_keys_are_their_owners_alone(keystore):
    keys = [*keystore.rglob("key.pem"), keystore / "private" / "ca.key.pem"]
    assert len(keys) == len(NODES) + 1
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert stat.S_IMODE((keystore / "private").stat().st_mode) == 0o700


def test_a_second_robot_is_added_and_keys_that_are_there_stay(keystore):
    before = {path: path.read_bytes() for path in keystore.rglob("*.pem") if not path.is_symlink()}
    made("secure", "init", "--keystore", keystore, "--domain", 7, "--robot", "left")
    assert {path: path.read_bytes() for path in before} == before
    assert (keystore / "enclaves" / "left" / "driver" / "key.pem").exists()
    assert (keystore / "policy-left.xml").exists()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_without_private_gets_no_other_authority(keystore, tmp_path):
    copy = Path(shutil.copytree(keystore, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns("private")))
    before = contents(copy)
    done = init("--keystore", copy, "--domain", 7, "--robot", "right")
    assert (done.returncode, done.stdout) == (1, "")
    assert "expected private/ca.key.pem, found none: run init where private/ is" in done.stderr
    assert contents(copy) == before
    assert not (copy / "private").exists()


def test_another_domain_is_refused_and_changes_nothing(keystore):
    before = contents(keystore)
    done = init("--keystore", keystore, "--domain", 8, "--robot", "right")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{keystore}: expected --domain 7" in done.stderr
    assert contents(keystore) == before


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    done = init("--keystore", tmp_path / "file" / "keystore", "--domain", 7)
    assert done.returncode == 1
    assert done.stderr.startswith("grids secure: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_keystore_survives_a_move(keystore, tmp_path):
    moved = Path(shutil.copytree(keystore, tmp_path / "moved", symlinks=True))
    for node in NODES:
        for name in ("identity_ca.cert.pem", "permissions_ca.cert.pem", "governance.p7s"):
            assert moved in (moved / "enclaves" / node / name).resolve(strict=True).parents


def test_a_run_whose_dds_has_no_security_is_refused_before_anything_starts(keystore, tmp_path):
    pytest.importorskip("rclpy")
    if os.environ.get("ROS_DISTRO"):
        pytest.skip("ROS from apt has a Fast DDS with security")
    output = tmp_path / "run"
    words = ["deploy", "security:=enforce", f"output:={output}"]
    settings = os.environ | {"ROS_SECURITY_KEYSTORE": str(keystore), "ROS_DOMAIN_ID": "7"}
    command = [sys.executable, "-m", "grids_bringup.cli", *words]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("grids deploy: security: expected a Fast DDS with security")
    assert len(done.stderr.splitlines()) == 1
    assert not output.exists()
