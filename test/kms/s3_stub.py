#!/usr/bin/python3
"""S3 for tests: moto, which was not written here, behind the faults and
counters of stublib, with the users, sessions and metadata of aws_stub.

moto checks every signature with botocore's signer, every action against IAM
policies, the least size of a part and the ETags of what is completed. What it
does not do, and S3 does, is added here: a body that is not the one that was
signed is refused, a bucket answers in its own region only, clocks matter.

Requests are counted as "PART bucket/key" and the like.
"""

import base64
import hashlib
import re
import time
from datetime import datetime, timezone
from email.utils import formatdate
from urllib.parse import parse_qs, urlsplit

from moto.backends import get_backend
from werkzeug.test import EnvironBuilder, run_wsgi_app

from aws_stub import ACCOUNT, CLOCK_TOLERANCE, Aws
from stublib import Refused, serve


def s3_error(status, code, message, more="", headers=None):
    return Refused(status, (f"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>"
                            f"<Message>{message}</Message>{more}<RequestId>1</RequestId></Error>").encode(), headers)


class S3(Aws):
    def __init__(self):
        super().__init__()
        self.longest = 0                # body that was sent to us
        self.encryption = None          # header of the last object or upload
        self.replace = None             # object to replace after a request
        self.lose = None                # operation whose next answer gets lost

    # ---- control ----
    def backend(self):
        return get_backend("s3")[ACCOUNT]["aws"]

    def do_bucket(self, name, region="us-east-1"):
        self.backend().create_bucket(name, region)

    def do_objects(self, bucket):
        """Names and lengths of all objects."""
        return {key.name: key.size for key in self.backend().buckets[bucket].keys.values()}

    def do_uploads(self, bucket):
        """How many uploads are neither completed nor aborted."""
        return len(self.backend().buckets[bucket].multiparts)

    def do_sent(self):
        return {"longest": self.longest, "encryption": self.encryption}

    def do_lose(self, operation):
        """Do the next operation of that name, but do not answer."""
        self.lose = operation

    def do_damage(self, bucket, name, at):
        """Change one byte of an object."""
        key = self.backend().buckets[bucket].keys[name]
        data = bytearray(key.value)
        data[at] ^= 1
        key.value = bytes(data)

    def do_drop_uploads(self, bucket):
        """Forget uploads that were begun, but nobody was told their ids."""
        self.backend().buckets[bucket].multiparts.clear()

    def do_replace_after(self, bucket, name):
        """After the next request for it, the object is another one."""
        self.replace = (bucket, name)

    # ---- requests ----
    def answer(self, method, path, headers, body):
        if path.startswith("/latest/") or path.startswith("/container"):
            return self.answer_metadata(method, path, headers)
        operation = self.name_s3_request(method, path)
        self.longest = max(self.longest, len(body))
        self.check_s3_clock(headers)
        self.check_s3_session(headers)
        self.check_region(path, headers)
        self.check_body(operation, headers, body)
        if operation in ("PUT", "CREATE"):
            self.encryption = headers.get("x-amz-server-side-encryption")
        try:
            answer = self.ask_s3(method, path, headers, body)
        finally:
            if self.replace:
                bucket, name = self.replace
                self.replace = None
                value = self.backend().buckets[bucket].keys[name].value
                self.backend().put_object(bucket, name, value[::-1])
        if operation == self.lose:
            self.lose = None
            raise s3_error(503, "SlowDown", "Please reduce your request rate.")
        return answer

    def name_s3_request(self, method, path):
        query = parse_qs(urlsplit(path).query, keep_blank_values=True)
        operation = method
        if "uploads" in query:
            operation = "CREATE"
        elif "uploadId" in query:
            operation = {"PUT": "PART", "POST": "COMPLETE", "DELETE": "ABORT"}[method]
        self.requests[-1] = operation + " " + urlsplit(path).path
        return operation

    def check_s3_clock(self, headers):
        signed = datetime.strptime(headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()
        if abs(signed - time.time() - self.ahead) > CLOCK_TOLERANCE:
            raise s3_error(403, "RequestTimeTooSkewed",
                           "The difference between the request time and the current time is too large.",
                           headers={"Date": formatdate(time.time() + self.ahead, usegmt=True)})

    def check_s3_session(self, headers):
        key = re.search(r"Credential=([^/]+)/", headers.get("Authorization", ""))
        if key and key.group(1) in self.expired:
            raise s3_error(400, "ExpiredToken", "The provided token has expired.")

    def check_region(self, path, headers):
        bucket = self.backend().buckets.get(path.split("/")[1].split("?")[0])
        signed = re.search(r"Credential=[^/]+/\d+/([^/]+)/s3/", headers.get("Authorization", ""))
        if bucket and signed and signed.group(1) != bucket.region_name:
            raise s3_error(400, "AuthorizationHeaderMalformed",
                           f"The authorization header is malformed; the region '{signed.group(1)}' is wrong;"
                           f" expecting '{bucket.region_name}'", f"<Region>{bucket.region_name}</Region>")

    def check_body(self, operation, headers, body):
        digest = hashlib.sha256(body).digest()
        if headers.get("x-amz-content-sha256") != digest.hex():
            raise s3_error(400, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not"
                           " match what was computed.")
        if (operation in ("PUT", "PART")
                and headers.get("x-amz-checksum-sha256") != base64.b64encode(digest).decode()):
            raise s3_error(400, "BadDigest", "The SHA256 you specified did not match the calculated checksum.")
        if operation == "CREATE" and headers.get("x-amz-checksum-algorithm") != "SHA256":
            raise s3_error(400, "InvalidRequest", "An upload of ours names its checksums.")

    def ask_s3(self, method, path, headers, body):
        builder = EnvironBuilder(method=method, path=path, data=body, headers=list(headers.items()),
                                 base_url=f"http://{headers['Host']}")
        data, status, answer_headers = run_wsgi_app(self.app, builder.get_environ())
        data = b"".join(data)
        code = int(status.split()[0])
        kept = {name: value for name, value in answer_headers
                if name.lower() not in ("content-length", "content-type", "connection", "date", "server")}
        if code != 200:
            raise Refused(code, data, kept)
        return data, kept


if __name__ == "__main__":
    serve(S3())
