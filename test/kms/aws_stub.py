#!/usr/bin/python3
"""AWS KMS, STS, IAM and the metadata services for tests: moto, which was not
written here, behind the faults and counters of stublib.

moto checks every signature with botocore's signer and every action against
IAM policies. What it does not do, and AWS does, is added here: key states are
enforced, a blob is opened by its own key only, keys with replicas have blobs,
roles ask for their external id, web identities need no signature, sessions
end, clocks matter.

moto is found in PYTHONPATH (test/kms/moto.sh unpacks it where the system has
no package).
"""

import json
import re
import time
from email.utils import formatdate
from datetime import datetime, timezone
from urllib.parse import parse_qs

import moto.kms.models as kms_models
import moto.kms.responses as kms_responses
import moto.kms.utils as kms_utils
from moto import settings
from moto.backends import get_backend
from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionAuthenticatorMixin
from moto.moto_server.werkzeug_app import (DomainDispatcherApplication,
                                           create_backend_app)
from werkzeug.test import EnvironBuilder, run_wsgi_app

from stublib import Refused, Stub, serve

ACCOUNT = "123456789012"
CLOCK_TOLERANCE = 300


class KmsError(JsonRESTError):
    code = 400


def need_state(key):
    """Refuse a key that AWS would not use."""
    if key.key_state == "Disabled":
        raise KmsError("DisabledException", f"{key.arn} is disabled.")
    if key.key_state != "Enabled":
        word = {"PendingDeletion": "pending deletion", "PendingImport": "pending import"}
        raise KmsError("KMSInvalidStateException",
                       f"{key.arn} is {word.get(key.key_state, key.key_state)}.")


def serialize(ciphertext):
    """A blob: key ids of different length fit, unlike moto's own."""
    key = ciphertext.key_id.encode()
    return bytes([len(key)]) + key + ciphertext.iv + ciphertext.tag + ciphertext.ciphertext


def deserialize(ciphertext_blob):
    n = ciphertext_blob[0]
    rest = ciphertext_blob[1 + n:]
    if n not in (36, 40) or len(rest) < 28:
        raise ValueError
    return kms_utils.Ciphertext(key_id=ciphertext_blob[1:1 + n].decode("ascii"), iv=rest[:12],
                                tag=rest[12:28], ciphertext=rest[28:])


def mend_moto():
    """Teach moto what AWS does."""
    kms_utils._serialize_ciphertext_blob = serialize
    kms_utils._deserialize_ciphertext_blob = deserialize
    backend = kms_models.KmsBackend
    encrypt, decrypt = backend.encrypt, backend.decrypt
    response_decrypt = kms_responses.KmsResponse.decrypt
    authorize = ActionAuthenticatorMixin._authenticate_and_authorize_action

    def strict_encrypt(self, key_id, **kwargs):
        real = self.any_id_to_key_id(key_id)
        if real in self.keys:
            need_state(self.keys[real])
        return encrypt(self, key_id=key_id, **kwargs)

    def strict_decrypt(self, ciphertext_blob, **kwargs):
        try:
            key_id = deserialize(ciphertext_blob).key_id
        except Exception:
            raise kms_utils.InvalidCiphertextException()
        if key_id in self.keys:
            need_state(self.keys[key_id])
        return decrypt(self, ciphertext_blob=ciphertext_blob, **kwargs)

    def own_key_only(self):
        """IncorrectKeyException, when KeyId names another key than the blob's."""
        named = self._get_param("KeyId")
        if named:
            self._validate_key_id(named)
            try:
                real = deserialize(self._get_param("CiphertextBlob")).key_id
            except Exception:
                raise kms_utils.InvalidCiphertextException()
            if self.kms_backend.any_id_to_key_id(named) != real:
                raise KmsError("IncorrectKeyException", "The key ID in the request does not identify"
                               " a CMK that can perform this operation.")
        return response_decrypt(self)

    def unsigned_web_identity(self, cls, resource="*"):
        if self._get_action() != "AssumeRoleWithWebIdentity":
            authorize(self, cls, resource)

    backend.encrypt, backend.decrypt = strict_encrypt, strict_decrypt
    kms_responses.KmsResponse.decrypt = own_key_only
    ActionAuthenticatorMixin._authenticate_and_authorize_action = unsigned_web_identity


def sts_error(status, code, message):
    return Refused(status, ("<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>"
                            f"<Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
                            "<RequestId>1</RequestId></ErrorResponse>").encode(),
                   {"Content-Type": "text/xml"})


def iso(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Aws(Stub):
    def __init__(self):
        super().__init__()
        mend_moto()
        settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        self.app = DomainDispatcherApplication(create_backend_app)
        self.external_ids = {}          # of roles, by ARN
        self.expired = set()            # access keys whose session has ended
        self.session_seconds = None     # how long sessions say they last
        self.ahead = 0                  # our clock, seconds
        self.metadata = None            # credentials of the host or container
        self.imds_token = "imds-token-1"
        self.contexts = []              # encryption contexts seen

    # ---- control ----
    def kms(self, region="us-east-1"):
        return get_backend("kms")[ACCOUNT][region]

    def iam(self):
        return get_backend("iam")[ACCOUNT]["aws"]

    def do_key(self, region="us-east-1", usage="ENCRYPT_DECRYPT", spec="SYMMETRIC_DEFAULT", multi_region=False):
        return self.kms(region).create_key(None, usage, spec, "", [], multi_region).arn

    def do_replicate(self, arn, region):
        return self.kms(arn.split(":")[3]).replicate_key(arn.split("/")[-1], region).arn

    def do_alias(self, name, arn, region="us-east-1"):
        self.kms(region).delete_alias(name)
        self.kms(region).create_alias(arn.split("/")[-1], name)

    def do_state(self, arn, state):
        """Enabled, Disabled, PendingDeletion, Unavailable, ..."""
        key = self.kms(arn.split(":")[3]).keys[arn.split("/")[-1]]
        key.key_state, key.enabled = state, state == "Enabled"
        if state == "PendingDeletion":
            key.deletion_date = datetime.now(timezone.utc)

    def do_forget_key(self, arn):
        backend = self.kms(arn.split(":")[3])
        self.gone = (backend, backend.keys.pop(arn.split("/")[-1]))

    def do_restore_key(self):
        backend, key = self.gone
        backend.keys[key.id] = key

    def do_user(self, name, actions=None):
        self.iam().create_user("us-east-1", name)
        self.do_allow_user(name, actions or ["kms:*", "sts:*"])
        key = self.iam().create_access_key(name)
        return {"id": key.access_key_id, "secret": key.secret_access_key}

    def do_forget_user(self, name):
        """Its access keys are deleted."""
        user = self.iam().users[name]
        user.cmek_kept, user.access_keys = user.access_keys, []

    def do_restore_user(self, name):
        user = self.iam().users[name]
        user.access_keys = user.cmek_kept

    def policy(self, actions):
        return json.dumps({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": actions or ["ec2:Nothing"], "Resource": "*"}]})

    def do_allow_user(self, name, actions):
        self.iam().put_user_policy(name, "p", self.policy(actions))

    def do_role(self, name, external_id=None, actions=None):
        trust = {"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]}
        role = self.iam().create_role(name, json.dumps(trust), "/", None, "", [], None)
        self.external_ids[role.arn] = external_id
        self.do_allow_role(name, actions or ["kms:*"])
        return role.arn

    def do_allow_role(self, name, actions):
        self.iam().put_role_policy(name, "p", self.policy(actions))

    def do_external_id(self, arn, external_id):
        """What a role's trust policy asks for; "-" trusts nobody."""
        self.external_ids[arn] = external_id

    def do_expire_sessions(self):
        for backend in get_backend("sts")[ACCOUNT].values():
            self.expired |= {role.access_key_id for role in backend.assumed_roles}

    def do_session_seconds(self, seconds):
        self.session_seconds = seconds

    def do_clock(self, ahead):
        self.ahead = ahead

    def do_metadata(self, role, seconds=3600, imds_token="imds-token-1"):
        """Credentials of a role for who asks the metadata service."""
        sts = get_backend("sts")[ACCOUNT]["aws"]
        session = sts.assume_role("us-east-1", "metadata", role, "", 3600, "")
        self.imds_token = imds_token
        self.metadata = {"Code": "Success", "LastUpdated": iso(time.time()), "Type": "AWS-HMAC",
                         "AccessKeyId": session.access_key_id, "SecretAccessKey": session.secret_access_key,
                         "Token": session.session_token, "Expiration": iso(time.time() + seconds)}

    def do_contexts(self):
        return self.contexts

    # ---- requests ----
    def answer(self, method, path, headers, body):
        if path.startswith("/latest/") or path.startswith("/container"):
            return self.answer_metadata(method, path, headers)
        self.name_request(headers, body)
        self.check_clock(headers)
        self.check_session(headers)
        self.check_trust(body)
        return self.ask_moto(method, path, headers, body)

    def name_request(self, headers, body):
        """Count operations by their names."""
        operation = headers.get("X-Amz-Target", "").split(".")[-1]
        if not operation:
            operation = parse_qs(body.decode("latin-1")).get("Action", ["?"])[0]
        self.requests[-1] = operation
        if headers.get("X-Amz-Target"):
            self.contexts.append(json.loads(body).get("EncryptionContext"))

    def check_clock(self, headers):
        date = headers.get("X-Amz-Date")
        if not date:
            return
        signed = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()
        if abs(signed - time.time() - self.ahead) > CLOCK_TOLERANCE:
            self.requests[-1] += " refused for its time"
            raise Refused(400, {"__type": "InvalidSignatureException",
                                "message": f"Signature expired: {date} is now earlier than it may be."},
                          {"Date": formatdate(time.time() + self.ahead, usegmt=True)})

    def check_session(self, headers):
        key = re.search(r"Credential=([^/]+)/", headers.get("Authorization", ""))
        if key and key.group(1) in self.expired:
            if headers.get("X-Amz-Target"):
                raise Refused(400, {"__type": "ExpiredTokenException",
                                    "message": "The security token included in the request is expired"})
            raise sts_error(403, "ExpiredToken", "The security token included in the request is expired")

    def check_trust(self, body):
        if not body.startswith(b"Action=AssumeRole&"):
            return
        form = parse_qs(body.decode())
        role = form["RoleArn"][0]
        wanted = self.external_ids.get(role, "-")
        if wanted and form.get("ExternalId") != [wanted]:
            raise sts_error(403, "AccessDenied",
                            f"User is not authorized to perform: sts:AssumeRole on resource: {role}")

    def ask_moto(self, method, path, headers, body):
        builder = EnvironBuilder(method=method, path=path, data=body, headers=list(headers.items()),
                                 base_url=f"http://{headers['Host']}")
        data, status, answer_headers = run_wsgi_app(self.app, builder.get_environ())
        data = b"".join(data)
        if self.session_seconds is not None:
            data = re.sub(rb"<Expiration>[^<]*<", b"<Expiration>%s<" % iso(time.time() + self.session_seconds).encode(),
                          data)
        code = int(status.split()[0])
        if code == 403 and b"<Code>" in data:
            raise self.access_error(headers, data.decode())
        if code != 200:
            raise Refused(code, data)
        return data

    def access_error(self, headers, text):
        """moto's IAM errors in the words and the shape of the service that was asked."""
        code = re.search(r"<Code>(\w+)<", text).group(1)
        message = re.search(r"<Message>(?:<!\[CDATA\[)?(.*?)(?:\]\]>)?</Message>", text, re.S).group(1)
        if not headers.get("X-Amz-Target"):
            return sts_error(403, code, message)
        code = {"AccessDenied": "AccessDeniedException", "SignatureDoesNotMatch": "InvalidSignatureException",
                "InvalidClientTokenId": "UnrecognizedClientException"}.get(code, code)
        # a namespace, and the other spelling of "message", as some of AWS's services have them
        return Refused(400, {"__type": "com.amazon.coral.service#" + code, "Message": message})

    def answer_metadata(self, method, path, headers):
        self.requests[-1] = "metadata " + method + " " + path
        if not self.metadata:
            raise Refused(404, b"")
        if path == "/latest/api/token":
            if method != "PUT" or not headers.get("X-aws-ec2-metadata-token-ttl-seconds"):
                raise Refused(400, b"")
            return self.imds_token.encode()
        if path.startswith("/container"):
            if headers.get("Authorization") != "container-token":
                raise Refused(401, b"")
            return self.metadata
        if headers.get("X-aws-ec2-metadata-token") != self.imds_token:
            raise Refused(401, b"")
        if path.endswith("/security-credentials/"):
            return b"host-role"
        return self.metadata


if __name__ == "__main__":
    serve(Aws())
