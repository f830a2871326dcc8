#!/usr/bin/python3
"""A stub of Vault's and OpenBao's Transit engine and of the ways to log in.

Written from the public API documentation; what it says to a real client is
checked by one (hvac, test/t/086_vault.pl).  Keys are made by do_key or over the
API; tokens carry their rights as {"path": ["read", "update", ...]}.
"""

import base64
import binascii
import json
import os
import time

from stublib import Refused, Stub, seal, serve, unseal

AEAD = ("aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305")


def errors(status, *texts):
    return Refused(status, {"errors": list(texts)})


def forbidden():
    return errors(403, "1 error occurred:\n\t* permission denied\n\n")


def unbase64(text, what):
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise errors(400, f"failed to base64-decode {what}")


class Vault(Stub):
    def __init__(self):
        super().__init__()
        self.mounts = {("", "transit")}
        self.keys = {}
        self.tokens = {"root": {"rights": None, "ttl": 0, "ends": 0, "renewable": False, "name": "root"}}
        self.approles = {}
        self.roles = {}
        self.ignores_context = False    # as Vault did before 1.13
        self.logins = self.renewals = 0

    # ---- control ----
    def do_key(self, name, type="aes256-gcm96", ns="", mount="transit", **more):
        self.mounts.add((ns, mount))
        self.keys[ns, mount, name] = dict({"type": type, "versions": {1: os.urandom(32)}, "min": 1,
                                           "derived": False, "deleted": False}, **more)

    def do_set_key(self, name, ns="", mount="transit", **more):
        self.keys[ns, mount, name].update(more)

    def do_drop_key(self, name, ns="", mount="transit"):
        self.dropped = self.keys.pop((ns, mount, name))

    def do_restore_key(self, name, ns="", mount="transit"):
        self.keys[ns, mount, name] = self.dropped

    def do_token(self, id, rights, ttl=3600, renewable=True, name="token"):
        self.tokens[id] = {"rights": rights, "ttl": ttl, "ends": time.time() + ttl if ttl else 0,
                           "renewable": renewable, "name": name}

    def do_revoke(self, id):
        self.tokens.pop(id, None)

    def do_revoke_logins(self):
        self.tokens = {k: v for k, v in self.tokens.items() if not k.startswith("login.")}

    def do_rights(self, rights, role=None, id=None):
        """The policy of a role (for its next logins) or of a token changes"""
        if id:
            self.tokens[id]["rights"] = rights
        for r in self.approles.values():
            if r["role"] == role:
                r["rights"] = rights
        if role in self.roles:
            self.roles[role]["rights"] = rights

    def do_approle(self, role, role_id, secret_id, rights, ttl=3600, renewable=True):
        self.approles[role_id] = {"role": role, "secret_id": secret_id, "rights": rights, "ttl": ttl,
                                  "renewable": renewable}

    def do_kubernetes(self, role, jwt, rights, ttl=3600):
        self.roles[role] = {"jwt": jwt, "rights": rights, "ttl": ttl}

    def do_old(self, ignores_context):
        self.ignores_context = ignores_context

    def do_tokens(self):
        return {"logins": self.logins, "renewals": self.renewals,
                "ttl": {k: v["ends"] - time.time() for k, v in self.tokens.items()}}

    # ---- tokens ----
    def token(self, headers):
        token = self.tokens.get(headers.get("X-Vault-Token") or "")
        if token is None or (token["ends"] and token["ends"] < time.time()):
            raise errors(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
        return token

    def require(self, token, path, capability):
        rights = token["rights"]
        if rights is not None and capability not in rights.get(path, ()):
            raise forbidden()

    def logged_in(self, role):
        self.logins += 1
        id = "login." + base64.b32encode(os.urandom(20)).decode()
        self.do_token(id, role["rights"], role["ttl"], role.get("renewable", True), "role")
        return {"auth": {"client_token": id, "accessor": "a", "policies": ["default"], "token_policies": ["default"],
                         "lease_duration": role["ttl"], "renewable": role.get("renewable", True),
                         "token_type": "service", "metadata": {}}}

    def auth(self, path, headers, body):
        if path == "auth/approle/login":
            role = self.approles.get(body.get("role_id"))
            if role is None or role["secret_id"] != body.get("secret_id"):
                raise errors(400, "invalid role or secret ID")
            return self.logged_in(role)
        if path == "auth/kubernetes/login":
            role = self.roles.get(body.get("role"))
            if role is None:
                raise errors(400, 'invalid role name "%s"' % body.get("role"))
            if role["jwt"] != body.get("jwt"):
                raise forbidden()
            return self.logged_in(role)
        if path in ("auth/token/lookup-self", "auth/token/renew-self"):
            token = self.token(headers)
            if path.endswith("renew-self"):
                if not token["renewable"]:
                    raise errors(400, "lease is not renewable")
                self.renewals += 1
                token["ends"] = time.time() + token["ttl"]
                return {"auth": {"client_token": headers["X-Vault-Token"], "lease_duration": token["ttl"],
                                 "renewable": True, "policies": ["default"]}}
            ttl = max(0, int(token["ends"] - time.time())) if token["ends"] else 0
            return {"data": {"display_name": token["name"], "ttl": ttl, "renewable": token["renewable"],
                             "policies": ["default"], "id": headers["X-Vault-Token"]}}
        raise errors(404, f'no handler for route "{path}". route entry not found.')

    # ---- transit ----
    def encrypt(self, key, body):
        plaintext = unbase64(body.get("plaintext"), "plaintext")
        context = unbase64(body.get("associated_data", ""), "associated_data")
        if context and key["type"] not in AEAD:
            raise errors(400, f"'associated_data' provided for non-AEAD cipher suite {key['type']}")
        version = max(key["versions"])
        blob = seal(key["versions"][version], plaintext, b"" if self.ignores_context else context)
        return {"data": {"ciphertext": f"vault:v{version}:" + base64.b64encode(blob).decode(), "key_version": version}}

    def decrypt(self, key, body):
        parts = str(body.get("ciphertext")).split(":")
        if len(parts) != 3 or parts[0] != "vault" or not parts[1][1:].isdigit():
            raise errors(400, "invalid ciphertext: no prefix")
        version = int(parts[1][1:])
        if version < key["min"]:
            raise errors(400, "ciphertext or signature version is disallowed by policy (too old)")
        if version not in key["versions"]:
            raise errors(400, "invalid ciphertext: version is too new")
        context = unbase64(body.get("associated_data", ""), "associated_data")
        plaintext = unseal(key["versions"][version], unbase64(parts[2], "ciphertext"),
                           b"" if self.ignores_context else context)
        if plaintext is None:
            raise errors(500, "1 error occurred:\n\t* cipher: message authentication failed\n\n")
        return {"data": {"plaintext": base64.b64encode(plaintext).decode()}}

    def transit(self, method, ns, mount, rest, token, body):
        what, _, name = rest.partition("/")
        path = f"{mount}/{rest}"
        key = self.keys.get((ns, mount, name))
        if what == "keys":
            name, _, action = name.partition("/")
            key = self.keys.get((ns, mount, name))
            if method == "GET":
                self.require(token, path, "read")
                if key is None:
                    raise Refused(404, {"errors": []})
                return {"data": {"name": name, "type": key["type"], "derived": key["derived"],
                                 "latest_version": max(key["versions"]), "min_decryption_version": key["min"],
                                 "min_encryption_version": 0, "supports_encryption": True, "supports_decryption": True,
                                 "soft_deleted": key["deleted"], "deletion_allowed": False,
                                 "keys": {str(v): 0 for v in key["versions"]}}}
            self.require(token, path, "update")
            if not action:
                self.do_key(name, body.get("type", "aes256-gcm96"), ns, mount)
            elif action == "rotate":
                key["versions"][max(key["versions"]) + 1] = os.urandom(32)
            elif action == "config":
                key["min"] = body.get("min_decryption_version", key["min"])
            return {"data": {}}
        if what not in ("encrypt", "decrypt"):
            raise errors(404, "no handler for route \"%s\". route entry not found." % path)
        self.require(token, path, "update")
        if key is None or key["deleted"]:
            raise errors(400, "encryption key not found")
        return getattr(self, what)(key, body)

    def answer(self, method, path, headers, body):
        if headers.get("X-Vault-Request") != "true":
            raise errors(412, "missing 'X-Vault-Request' header")
        ns = (headers.get("X-Vault-Namespace") or "").strip("/")
        path = path.split("?")[0].removeprefix("/v1/")
        body = json.loads(body) if body else {}
        if path.startswith("auth/"):
            return self.auth(path, headers, body)
        token = self.token(headers)
        for have, mount in sorted(self.mounts, key=lambda m: -len(m[1])):
            if have == ns and path.startswith(mount + "/"):
                return self.transit(method, ns, mount, path[len(mount) + 1:], token, body)
        raise errors(404, f'no handler for route "{path}". route entry not found.')


if __name__ == "__main__":
    serve(Vault())
