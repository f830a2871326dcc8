#!/usr/bin/python3
"""A stub of Google Cloud KMS (REST v1), of the OAuth server, of the metadata
server and of IAM Credentials.

Written from the public API documentation; what it says to a real client is
checked by one (@google-cloud/kms, test/t/087_gcp_client.pl).  The signature of
an assertion is verified by openssl, not by code of ours.
"""

import base64
import json
import os
import subprocess
import tempfile
import time
import urllib.parse

from stublib import Refused, Stub, seal, serve, unseal


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82f63b78 if crc & 1 else 0)
    return str(crc ^ 0xffffffff)


def error(code, status, message, reason=None):
    body = {"error": {"code": code, "status": status, "message": message}}
    if reason:
        body["error"]["details"] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason,
                                     "domain": "googleapis.com"}]
    return Refused(code, body)


def unbase64url(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Gcp(Stub):
    def __init__(self):
        super().__init__()
        self.keys = {}
        self.accounts = {}              # email -> public key file
        self.tokens = {}                # token -> (email, ends)
        self.rights = {}                # (email, key) -> permissions
        self.may_be = {}                # email -> who may take a token of it
        self.host = None                # the account of the metadata server
        self.seconds = 3600
        self.given = 0
        self.denial = {}                # key -> (status, reason): refusals of another kind

    # ---- control ----
    def do_key(self, name, purpose="ENCRYPT_DECRYPT", state="ENABLED"):
        self.keys[name] = {"purpose": purpose, "versions": {1: [os.urandom(32), state]}, "primary": 1}

    def do_state(self, name, state, version=None):
        key = self.keys[name]
        for v in [version] if version else key["versions"]:
            key["versions"][v][1] = state

    def do_rotate(self, name):
        key = self.keys[name]
        key["primary"] = max(key["versions"]) + 1
        key["versions"][key["primary"]] = [os.urandom(32), "ENABLED"]

    def do_drop_key(self, name):
        self.dropped = self.keys.pop(name)

    def do_restore_key(self, name):
        self.keys[name] = self.dropped

    def do_account(self, email, public_key=None):
        self.accounts[email] = public_key

    def do_host(self, email):
        self.host = email

    def do_grant(self, email, key, permissions=("get", "encrypt", "decrypt")):
        self.rights[email, key] = list(permissions)

    def do_may_be(self, email, who):
        self.may_be.setdefault(email, []).append(who)

    def do_may_not_be(self, email):
        self.may_be.pop(email, None)

    def do_seconds(self, seconds):
        self.seconds = seconds

    def do_revoke_tokens(self):
        self.tokens = {}

    def do_token(self, email, token):
        self.tokens[token] = (email, time.time() + 3600)

    def do_denial(self, key, code=None, status=None, reason=None):
        self.denial[key] = (code, status, reason)

    def do_given(self):
        return self.given

    # ---- tokens ----
    def give(self, email):
        self.given += 1
        token = "ya29." + base64.urlsafe_b64encode(os.urandom(24)).decode()
        self.tokens[token] = (email, time.time() + self.seconds)
        return token

    def who(self, headers):
        value = headers.get("Authorization") or ""
        email, ends = self.tokens.get(value.removeprefix("Bearer "), (None, 0))
        if email is None or ends < time.time():
            raise error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.",
                        "ACCESS_TOKEN_EXPIRED")
        return email

    def oauth(self, headers, body):
        form = urllib.parse.parse_qs(body.decode())
        assertion = form.get("assertion", [""])[0]

        def refuse(why):
            return Refused(400, {"error": "invalid_grant", "error_description": why})
        if form.get("grant_type") != ["urn:ietf:params:oauth:grant-type:jwt-bearer"] or assertion.count(".") != 2:
            raise refuse("not an assertion")
        signed, _, signature = assertion.rpartition(".")
        header, claims = (json.loads(unbase64url(p)) for p in signed.split("."))
        public = self.accounts.get(claims["iss"])
        if header != dict(header, alg="RS256", typ="JWT") or public is None:
            raise refuse("account not found")
        with tempfile.NamedTemporaryFile() as f:
            f.write(unbase64url(signature))
            f.flush()
            verified = subprocess.run(["openssl", "dgst", "-sha256", "-verify", public, "-signature", f.name],
                                      input=signed.encode(), capture_output=True)
        if verified.returncode != 0:
            raise refuse("Invalid JWT Signature.")
        now = time.time()
        if not claims["aud"].endswith("/token") or claims["exp"] - claims["iat"] > 3600 or \
                not claims["iat"] - 60 <= now <= claims["exp"]:
            raise refuse("Invalid JWT: Token must be a short-lived token")
        if not claims["scope"].startswith("https://www.googleapis.com/auth/"):
            raise refuse("no scope")
        return {"access_token": self.give(claims["iss"]), "expires_in": self.seconds, "token_type": "Bearer"}

    def metadata(self, headers):
        if headers.get("Metadata-Flavor") != "Google":
            raise Refused(403, {})
        if self.host is None:
            raise Refused(404, {}, {"Metadata-Flavor": "Google"})
        return ({"access_token": self.give(self.host), "expires_in": self.seconds, "token_type": "Bearer"},
                {"Metadata-Flavor": "Google"})

    def impersonate(self, path, headers, body):
        who = self.who(headers)
        body = json.loads(body)
        target = urllib.parse.unquote(path.split("/serviceAccounts/")[1].split(":")[0])
        chain = [d.removeprefix("projects/-/serviceAccounts/") for d in body.get("delegates", [])] + [target]
        for account in chain:
            if who not in self.may_be.get(account, ()):
                raise error(403, "PERMISSION_DENIED",
                            "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).",
                            "IAM_PERMISSION_DENIED")
            who = account
        if not body.get("scope"):
            raise error(400, "INVALID_ARGUMENT", "scope is required")
        return {"accessToken": self.give(target),
                "expireTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.seconds))}

    # ---- keys ----
    def version(self, name, version):
        return f"{name}/cryptoKeyVersions/{version}"

    def require_enabled(self, name, version):
        state = self.keys[name]["versions"][version][1]
        if state != "ENABLED":
            raise error(400, "FAILED_PRECONDITION",
                        f"{self.version(name, version)} is not enabled, current state is: {state}.", "KEY_DISABLED"
                        if state == "DISABLED" else None)

    def checked(self, body, name):
        data = base64.b64decode(body.get(name) or "")
        crc = body.get(name + "Crc32c")
        if crc is not None and str(crc) != crc32c(data):
            raise error(400, "INVALID_ARGUMENT", f"The checksum in field {name}_crc32c did not match the data in field {name}.")
        return data, crc is not None

    def encrypt(self, name, body):
        key = self.keys[name]
        version = key["primary"]
        self.require_enabled(name, version)
        plaintext, told = self.checked(body, "plaintext")
        context, told_context = self.checked(body, "additionalAuthenticatedData")
        blob = bytes([version]) + seal(key["versions"][version][0], plaintext, context)
        return {"name": self.version(name, version), "ciphertext": base64.b64encode(blob).decode(),
                "ciphertextCrc32c": crc32c(blob), "verifiedPlaintextCrc32c": told,
                "verifiedAdditionalAuthenticatedDataCrc32c": told_context, "protectionLevel": "SOFTWARE"}

    def decrypt(self, name, body):
        key = self.keys[name]
        blob, _ = self.checked(body, "ciphertext")
        context, _ = self.checked(body, "additionalAuthenticatedData")
        failed = error(400, "INVALID_ARGUMENT",
                       "Decryption failed: verify that 'name' refers to the correct CryptoKey.")
        if not blob or blob[0] not in key["versions"]:
            raise failed
        self.require_enabled(name, blob[0])
        plaintext = unseal(key["versions"][blob[0]][0], blob[1:], context)
        if plaintext is None:
            raise failed
        return {"plaintext": base64.b64encode(plaintext).decode(), "plaintextCrc32c": crc32c(plaintext),
                "usedPrimary": blob[0] == key["primary"], "protectionLevel": "SOFTWARE"}

    def get(self, name, body):
        key = self.keys[name]
        state = key["versions"][key["primary"]][1]
        answer = {"name": name, "purpose": key["purpose"], "createTime": "2026-01-01T00:00:00Z",
                  "versionTemplate": {"protectionLevel": "SOFTWARE", "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION"}}
        if key["purpose"] == "ENCRYPT_DECRYPT":
            answer["primary"] = {"name": self.version(name, key["primary"]), "state": state,
                                 "protectionLevel": "SOFTWARE", "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION"}
        return answer

    def answer(self, method, path, headers, body):
        path = path.split("?")[0]
        if path == "/token":
            return self.oauth(headers, body)
        if path.startswith("/computeMetadata/"):
            return self.metadata(headers)
        if path.endswith(":generateAccessToken"):
            return self.impersonate(path, headers, body)
        who = self.who(headers)
        name, _, action = path.removeprefix("/v1/").partition(":")
        action = action or "get"
        code, status, reason = self.denial.get(name, (None, None, None))
        if code:
            raise error(code, status, "refused by the test", reason)
        permission = {"get": "cloudkms.cryptoKeys.get", "encrypt": "cloudkms.cryptoKeyVersions.useToEncrypt",
                      "decrypt": "cloudkms.cryptoKeyVersions.useToDecrypt"}.get(action)
        if permission is None:
            raise error(404, "NOT_FOUND", "no such method")
        if action not in self.rights.get((who, name), ()):
            raise error(403, "PERMISSION_DENIED", f"Permission '{permission}' denied on resource '{name}' (or it may not exist).",
                        "IAM_PERMISSION_DENIED")
        if name not in self.keys:
            raise error(404, "NOT_FOUND", f"CryptoKey {name} not found.")
        if action != "get" and self.keys[name]["purpose"] != "ENCRYPT_DECRYPT":
            raise error(400, "FAILED_PRECONDITION", f"{name} is not a symmetric encryption key.")
        return getattr(self, action)(name, json.loads(body) if body else {})


if __name__ == "__main__":
    serve(Gcp())
