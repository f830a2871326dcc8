#!/usr/bin/python3
"""A stub of Azure Key Vault and Managed HSM (REST 7.4), of Microsoft's identity
platform, and of the metadata services of virtual machines and App Service.

Written from the public API documentation; what it says to a real client is
checked by one (@azure/keyvault-keys, test/t/104_azure.pl).  Wrapping and the
signatures of assertions are openssl's business, not code of ours.

As in Azure: a disabled key still wraps and can be described; it does not unwrap.
"""

import base64
import hashlib
import json
import os
import ssl
import subprocess
import tempfile
import time
import urllib.parse

from stublib import Refused, Stub, serve

BASE = "https://acme.vault.azure.net"
OAEP = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256"]


def to64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def from64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def openssl(args, data=b""):
    """What openssl prints; None when it fails."""
    done = subprocess.run(["openssl"] + args, input=data, capture_output=True)
    return done.stdout if done.returncode == 0 else None


def error(status, code, message, inner=None):
    body = {"error": {"code": code, "message": message}}
    if inner:
        body["error"]["innererror"] = {"code": inner}
    return Refused(status, body)


class Version:
    """One version of a key."""

    def __init__(self, kty, directory):
        self.name = os.urandom(16).hex()
        self.kty, self.enabled, self.expired = kty, True, False
        if kty == "oct-HSM":
            self.key = os.urandom(32)
            return
        self.file = os.path.join(directory, self.name)
        openssl(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", self.file])
        modulus = openssl(["rsa", "-in", self.file, "-noout", "-modulus"]).decode().strip().partition("=")[2]
        self.modulus = bytes.fromhex(modulus)

    def key_wrap(self, direction, data):
        # since 3.5 openssl takes it from a file only
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            return openssl(["enc", "-id-aes256-wrap", "-K", self.key.hex(), "-iv", "A6" * 8, "-in", file.name] + direction)

    def wrap(self, algorithm, data):
        if self.kty == "oct-HSM":
            return self.key_wrap([], data) if algorithm == "A256KW" else None
        return openssl(["pkeyutl", "-encrypt", "-inkey", self.file] + OAEP, data) \
            if algorithm == "RSA-OAEP-256" else None

    def unwrap(self, algorithm, data):
        if self.kty == "oct-HSM":
            return self.key_wrap(["-d"], data) if algorithm == "A256KW" else None
        return openssl(["pkeyutl", "-decrypt", "-inkey", self.file] + OAEP, data) \
            if algorithm == "RSA-OAEP-256" else None


class Azure(Stub):
    def __init__(self):
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.keys = {}                  # name -> [kty, operations, versions]
        self.apps = {}                  # (tenant, client) -> {"secret", "certificate", "federated"}
        self.tokens = {}                # token -> (who, ends, resource)
        self.rights = {}                # (who, key) -> permissions
        self.identities = {}            # client id of a managed identity ("": the machine's own) -> who
        self.app_header = None
        self.seconds = 3600
        self.given = 0
        self.denial = {}
        self.tenant, self.resource = "tenant-1", "https://vault.azure.net"

    # ---- control ----
    def do_key(self, name, kty="RSA", operations=("wrapKey", "unwrapKey")):
        self.keys[name] = [kty, list(operations), [Version(kty, self.directory)]]

    def do_state(self, name, enabled):
        for version in self.keys[name][2]:
            version.enabled = enabled

    def do_expire(self, name, expired=True):
        for version in self.keys[name][2]:
            version.expired = expired

    def do_rotate(self, name):
        self.keys[name][2].append(Version(self.keys[name][0], self.directory))

    def do_versions(self, name):
        return [v.name for v in self.keys[name][2]]

    def do_drop_key(self, name):
        self.dropped = self.keys.pop(name)

    def do_restore_key(self, name):
        self.keys[name] = self.dropped

    def do_app(self, tenant, client, secret=None, certificate=None, federated=None):
        self.apps[tenant, client] = {"secret": secret, "certificate": certificate, "federated": federated}

    def do_identity(self, who, client=""):
        self.identities[client] = who

    def do_app_service(self, header):
        self.app_header = header

    def do_grant(self, who, key, permissions=("get", "wrapkey", "unwrapkey")):
        self.rights[who, key] = list(permissions)

    def do_seconds(self, seconds):
        self.seconds = seconds

    def do_revoke_tokens(self):
        self.tokens = {}

    def do_token(self, who, token):
        self.tokens[token] = (who, time.time() + 3600, self.resource)

    def do_denial(self, key, status=None, code=None, inner=None):
        self.denial[key] = (status, code, inner)

    def do_given(self):
        return self.given

    def do_challenge(self, tenant=None, resource=None):
        self.tenant = tenant or "tenant-1"
        self.resource = resource or "https://vault.azure.net"

    # ---- tokens ----
    def give(self, who, resource, as_text=False):
        self.given += 1
        token = "eyJ0." + to64(os.urandom(24)) + ".x"
        self.tokens[token] = (who, time.time() + self.seconds, resource)
        seconds = str(self.seconds) if as_text else self.seconds
        return {"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": token}

    def assertion_fits(self, app, tenant, client, assertion):
        if app["federated"]:
            return assertion == app["federated"]
        if not app["certificate"] or assertion.count(".") != 2:
            return False
        signed, _, signature = assertion.rpartition(".")
        header, claims = (json.loads(from64(p)) for p in signed.split("."))
        with open(app["certificate"]) as f:
            pem = f.read()
        der = ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERT"):pem.index("-----END CERT")]
                                       + "-----END CERTIFICATE-----\n")
        now = time.time()
        if header != {"alg": "RS256", "typ": "JWT", "x5t": to64(hashlib.sha1(der).digest()),
                      "x5t#S256": to64(hashlib.sha256(der).digest())}:
            return False
        if claims["iss"] != client or claims["sub"] != client or len(claims["jti"]) != 32 or \
                not claims["aud"].endswith(f"/{tenant}/oauth2/v2.0/token") or \
                not claims["nbf"] - 60 <= now <= claims["exp"] <= now + 3600:
            return False
        with tempfile.TemporaryDirectory() as d:
            for name, data in (("cert", pem.encode()), ("sig", from64(signature))):
                with open(f"{d}/{name}", "wb") as f:
                    f.write(data)
            with open(f"{d}/pub", "wb") as f:
                f.write(openssl(["x509", "-in", f"{d}/cert", "-noout", "-pubkey"]))
            return openssl(["dgst", "-sha256", "-verify", f"{d}/pub", "-signature", f"{d}/sig"],
                           signed.encode()) is not None

    def oauth(self, tenant, body):
        form = {k: v[0] for k, v in urllib.parse.parse_qs(body.decode(), strict_parsing=True).items()}

        def refuse(number, code, why):
            return Refused(401 if code == "invalid_client" else 400,
                           {"error": code, "error_description": f"AADSTS{number}: {why}", "error_codes": [number]})
        client = form.get("client_id", "")
        app = self.apps.get((tenant, client))
        if form.get("grant_type") != "client_credentials" or not form.get("scope", "").endswith("/.default"):
            raise refuse(900144, "invalid_request", "The request body must contain the following parameter.")
        if app is None:
            raise refuse(700016, "unauthorized_client", "Application was not found in the directory.")
        assertion = form.get("client_assertion")
        if assertion is not None:
            if form.get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" or \
                    not self.assertion_fits(app, tenant, client, assertion):
                raise refuse(700027, "invalid_client", "The certificate with identifier used to sign is not registered.")
        elif not app["secret"] or form.get("client_secret") != app["secret"]:
            raise refuse(7000215, "invalid_client", "Invalid client secret provided.")
        return self.give(client, form["scope"].removesuffix("/.default"))

    def metadata(self, query, headers, app_service):
        if app_service:
            if headers.get("X-IDENTITY-HEADER") != self.app_header:
                raise Refused(400, {"statusCode": 400, "message": "header"})
        elif headers.get("Metadata") != "true":
            raise Refused(400, {"error": "invalid_request", "error_description": "Required metadata header not specified"})
        who = self.identities.get(query.get("client_id", ""))
        if who is None:
            raise Refused(400, {"error": "invalid_request", "error_description": "Identity not found"})
        given = self.give(who, query["resource"], as_text=True)
        if app_service:
            del given["expires_in"]
            given["expires_on"] = str(int(time.time()) + self.seconds)
        return given

    def who(self, headers):
        value = headers.get("Authorization") or ""
        who, ends, resource = self.tokens.get(value.removeprefix("Bearer "), (None, 0, None))
        if who is None or ends < time.time() or resource != self.resource:
            raise Refused(401, {"error": {"code": "Unauthorized", "message": "AKV10000: Request is missing a Bearer or PoP token."}},
                          {"WWW-Authenticate": f'Bearer authorization="https://login.microsoftonline.com/{self.tenant}", '
                                               f'resource="{self.resource}"'})
        return who

    # ---- keys ----
    def kid(self, headers, name, version):
        # the client that is not ours goes where a kid sends it
        host = headers.get("Host", "")
        base = f"http://{host}" if "azsdk" in headers.get("User-Agent", "") else BASE
        return f"{base}/keys/{name}/{version.name}"

    def describe(self, headers, name, version):
        kty, operations, _ = self.keys[name]
        key = {"kid": self.kid(headers, name, version), "kty": kty, "key_ops": operations}
        if kty != "oct-HSM":
            key.update(n=to64(version.modulus), e="AQAB")
        return {"key": key, "attributes": {"enabled": version.enabled, "created": 1767225600, "updated": 1767225600,
                                           "recoveryLevel": "Recoverable+Purgeable"}}

    def key_request(self, method, path, headers, body):
        who = self.who(headers)
        parts = path.removeprefix("/keys/").split("/")
        name, action = parts[0], parts[2].lower() if len(parts) > 2 else "get"
        status, code, inner = self.denial.get(name, (None, None, None))
        if status:
            raise error(status, code, "refused by the test", inner)
        if action not in self.rights.get((who, name), ()):
            raise error(403, "Forbidden", "Caller is not authorized to perform action on resource.", "ForbiddenByRbac")
        versions = self.keys.get(name, [None, None, []])[2]
        wanted = parts[1] if len(parts) > 1 else ""
        found = [v for v in versions if not wanted or v.name == wanted]
        if not found:
            raise error(404, "KeyNotFound", f"A key with (name/id) {name}/{wanted} was not found in this key vault.")
        version = found[-1]
        if action == "get" and method == "GET":
            return self.describe(headers, name, version)
        if method != "POST" or action not in ("wrapkey", "unwrapkey"):
            raise error(405, "MethodNotAllowed", "no such method")
        if action == "unwrapkey" and not version.enabled:
            raise error(403, "Forbidden", "Operation unwrapKey is not allowed on a disabled key.", "KeyDisabled")
        if action == "wrapkey" and version.expired:
            raise error(403, "Forbidden", "Operation wrapKey is not allowed on an expired key.", "KeyExpired")
        body = json.loads(body)
        value = getattr(version, action[:-3])(body.get("alg"), from64(body["value"]))
        if value is None:
            raise error(400, "BadParameter", "The parameter is incorrect.")
        return {"kid": self.kid(headers, name, version), "value": to64(value)}

    def answer(self, method, path, headers, body):
        path, _, query = path.partition("?")
        query = {k: v[0] for k, v in urllib.parse.parse_qs(query).items()}
        if path.endswith("/oauth2/v2.0/token") and method == "POST":
            return self.oauth(path.split("/")[1], body)
        if path == "/metadata/identity/oauth2/token" and query.get("api-version") == "2018-02-01":
            return self.metadata(query, headers, False)
        if path == "/msi/token" and query.get("api-version") == "2019-08-01":
            return self.metadata(query, headers, True)
        if path.startswith("/keys/") and query.get("api-version", "").startswith("7."):
            return self.key_request(method, path, headers, body)
        raise error(400, "BadParameter", "no such resource or api-version")


if __name__ == "__main__":
    serve(Azure())
