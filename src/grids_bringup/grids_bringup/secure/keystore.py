"""A keystore in sros2's layout: one authority, and per node a key, a certificate and signed permissions.

`ros2 security list_enclaves` and rcl read it like one that `ros2 security` made.
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7

from grids_bringup.secure.enforce import made_for_domain
from grids_bringup.secure.permissions import enclave, governance, permissions, policy
from grids_bringup.secure.rights import NODES
from grids_common.params import ParameterError

DAYS = 3650
AUTHORITY = "gridsCA"


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


def _write(path: Path, data: bytes, *, secret: bool = False) -> None:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


class Keystore:
    """The keystore in `folder`; `create` makes or completes it. Keys that are there stay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.enclaves, self._public, self._private = (folder / name for name in ("enclaves", "public", "private"))

    def create(self, domain: int, robot: str = "") -> list[str]:
        """Keys for every node of the table; returns the enclaves.

        Raises ParameterError if the keystore is for another domain or without its authority's key, OSError if the
        folder cannot be written.
        """
        self._check(domain)
        for path in (self.folder, self.enclaves, self._public, self._private):
            path.mkdir(parents=True, exist_ok=True)
        self._private.chmod(0o700)
        self._authority()
        self._sign(self.enclaves / "governance", governance(domain))
        for node in NODES:
            self._enclave(node, robot, domain)
        suffix = f"-{robot.replace('/', '-')}" if robot else ""
        _write(self.folder / f"policy{suffix}.xml", policy(list(NODES), robot))
        return [enclave(node, robot) for node in NODES]

    def _check(self, domain: int) -> None:
        """Refuse what would make the keys that are there useless: another authority, or another domain for all."""
        rules = self.enclaves / "governance.xml"
        if not rules.exists():
            return
        for path in (self._private / "ca.key.pem", self._public / "ca.cert.pem"):
            if not path.exists():
                raise ParameterError(
                    f"{self.folder}: expected {path.parent.name}/{path.name}, found none: run init where private/ is, "
                    "and copy the rest here again"
                )
        made_for = made_for_domain(rules)
        if made_for != str(domain):
            raise ParameterError(
                f"{self.folder}: expected --domain {made_for}, for which the keys of every robot in it were made, got "
                f"{domain}: give another --keystore for that domain"
            )

    def _certificate(self, common: str, *, authority: bool) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())  # DDS Security 9.3.1
        signer, issuer = (key, _name(common)) if authority else (self._key(), self._read().subject)
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(common))
            .issuer_name(issuer)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))  # the clocks of two hosts differ
            .not_valid_after(now + timedelta(days=DAYS))
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(authority, 1 if authority else None), critical=authority)
        )
        return builder.sign(signer, hashes.SHA256()), key

    def _store(self, certificate: Path, key: Path, pair: tuple) -> None:
        plain = serialization.NoEncryption()
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        _write(key, pair[1].private_bytes(pem, form, plain), secret=True)
        _write(certificate, pair[0].public_bytes(pem))

    def _authority(self) -> None:
        certificate, key = self._public / "ca.cert.pem", self._private / "ca.key.pem"
        if not (certificate.exists() and key.exists()):
            self._store(certificate, key, self._certificate(AUTHORITY, authority=True))
        for role in ("identity", "permissions"):
            _link(self._public / f"{role}_ca.cert.pem", certificate)
            _link(self._private / f"{role}_ca.key.pem", key)

    def _read(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self._public / "ca.cert.pem").read_bytes())

    def _key(self) -> ec.EllipticCurvePrivateKey:
        return serialization.load_pem_private_key((self._private / "ca.key.pem").read_bytes(), None)

    def _sign(self, place: Path, text: bytes) -> None:
        """Write place.xml and, signed by the authority, place.p7s."""
        builder = pkcs7.PKCS7SignatureBuilder().set_data(text).add_signer(self._read(), self._key(), hashes.SHA256())
        options = [pkcs7.PKCS7Options.Text, pkcs7.PKCS7Options.DetachedSignature]
        _write(place.with_suffix(".xml"), text)
        _write(place.with_suffix(".p7s"), builder.sign(serialization.Encoding.SMIME, options))

    def _enclave(self, node: str, robot: str, domain: int) -> None:
        name = enclave(node, robot)
        folder = self.enclaves / name.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = folder / "cert.pem", folder / "key.pem"
        if not (certificate.exists() and key.exists()):
            self._store(certificate, key, self._certificate(name, authority=False))
        for role in ("identity", "permissions"):
            _link(folder / f"{role}_ca.cert.pem", self._public / f"{role}_ca.cert.pem")
        _link(folder / "governance.p7s", self.enclaves / "governance.p7s")
        valid = x509.load_pem_x509_certificate(certificate.read_bytes())
        begin, end = valid.not_valid_before_utc, valid.not_valid_after_utc
        self._sign(folder / "permissions", permissions(node, robot, domain, begin, end))
