"""What the stubs of KMSs share: an HTTP server on a free port of 127.0.0.1
that counts what reaches it and misbehaves on demand.

    STUB --port-file FILE [--cert FILE --key FILE] [--init FILE]

The port is written to FILE, with TLS a second one without it; a list of orders in the file of --init comes first.  The world of the stub is changed, and looked at,
by POST /_control with a JSON object {"do": NAME, ...}; requests to it are not
counted.  Faults are done to the next "times" requests (default 1; 0: for ever)
whose path, or operation at AWS, contains "path":

    {"do": "fault", "kind": "status", "status": 503, "body": "{}", "headers": {}}
    kinds: status, close, truncate, huge, drip, hang, redirect, body
"""

import argparse
import json
import os
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Refused(Exception):
    """An answer that is not 200."""

    def __init__(self, status, body, headers=None):
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers or {}


def encode(answer):
    """Bytes as they are, anything else as JSON."""
    return answer if isinstance(answer, bytes) else json.dumps(answer).encode()


class Stub:
    """The state of a stub; subclasses have answer() and do_NAME()."""

    def __init__(self):
        self.lock = threading.RLock()
        self.connections = 0
        self.requests = []
        self.faults = []

    def do_fault(self, kind, path="", times=1, **how):
        self.faults.append(dict(how, kind=kind, path=path, times=times))

    def do_clear(self):
        self.faults = []

    def do_faults_left(self):
        return self.faults

    def do_count(self):
        return {"connections": self.connections, "requests": self.requests}

    def do_forget(self):
        self.connections, self.requests = 0, []

    def control(self, order):
        order = dict(order)
        return getattr(self, "do_" + order.pop("do"))(**order)

    def fault_for(self, path):
        for fault in self.faults:
            if fault["path"] in path:
                if fault["times"]:
                    fault["times"] -= 1
                    if not fault["times"]:
                        self.faults.remove(fault)
                return fault
        return None

    def answer(self, method, path, headers, body):
        raise NotImplementedError


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *args):
        pass

    def reply(self, status, data, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def misbehave(self, fault, data):
        """Do the fault; True when there is nothing left to say."""
        kind = fault["kind"]
        if kind == "status":
            self.reply(fault["status"], fault.get("body", "{}").encode(),
                       fault.get("headers"))
        elif kind == "body":
            self.reply(200, fault["body"].encode())
        elif kind == "redirect":
            self.reply(302, b"", {"Location": fault["to"]})
        elif kind == "hang":
            time.sleep(fault.get("seconds", 30))
            self.close_connection = True
        elif kind == "huge":
            self.reply(200, b'{"x":"' + b"a" * 20_000_000 + b'"}')
        elif kind == "truncate":
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:len(data) // 2])
            self.close_connection = True
        elif kind == "drip":
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(fault.get("pause", 0.5))
        else:                           # close
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def handle_one(self):
        stub = self.server.stub
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.path == "/_control":
            with stub.lock:
                result = stub.control(json.loads(body))
            self.reply(200, json.dumps(result).encode())
            return
        with stub.lock:
            stub.requests.append(self.command + " " + self.path)
            fault = stub.fault_for(self.path + " " + self.headers.get("X-Amz-Target", ""))
        status, headers = 200, {}
        try:
            if fault and fault["kind"] not in ("truncate", "drip"):
                data = b""
            else:
                with stub.lock:
                    answer = stub.answer(self.command, self.path,
                                         self.headers, body)
                if isinstance(answer, tuple):
                    answer, headers = answer
                data = encode(answer)
        except Refused as e:
            status, headers = e.status, e.headers
            data = encode(e.body)
        try:
            if fault:
                self.misbehave(fault, data)
            else:
                self.reply(status, data, headers)
        except OSError:
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_LIST = do_DELETE = handle_one


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def get_request(self):
        connection = super().get_request()
        with self.stub.lock:
            self.stub.connections += 1
        return connection

    def handle_error(self, request, client_address):
        pass


def serve(stub):
    args = argparse.ArgumentParser()
    args.add_argument("--port-file", required=True)
    args.add_argument("--cert")
    args.add_argument("--key")
    args.add_argument("--init")
    args = args.parse_args()
    if args.init:
        with open(args.init) as f:
            for order in json.load(f):
                stub.control(order)
    server = Server(("127.0.0.1", 0), Handler)
    server.stub = stub
    ports = [server.server_address[1]]
    if args.cert:
        # and the same without TLS, which is easier to give orders by
        plain = Server(("127.0.0.1", 0), Handler)
        plain.stub = stub
        ports.append(plain.server_address[1])
        threading.Thread(target=plain.serve_forever, daemon=True).start()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(args.cert, args.key)
        # the handshake is the thread's business, not the acceptor's
        server.socket = context.wrap_socket(server.socket, server_side=True,
                                            do_handshake_on_connect=False)
    with open(args.port_file + ".new", "w") as f:
        f.write(" ".join(map(str, ports)))
    os.rename(args.port_file + ".new", args.port_file)
    server.serve_forever()


def seal(key, plaintext, context):
    """Authenticated encryption of the standard library: not AES, good for a test."""
    import hashlib
    import hmac
    nonce = os.urandom(16)
    stream = hashlib.shake_256(key + nonce).digest(len(plaintext))
    sealed = bytes(a ^ b for a, b in zip(plaintext, stream))
    tag = hmac.digest(key, nonce + len(context).to_bytes(8, "big") + context + sealed, "sha256")
    return nonce + tag + sealed


def unseal(key, blob, context):
    """The plaintext; None when it does not authenticate."""
    import hashlib
    import hmac
    nonce, tag, sealed = blob[:16], blob[16:48], blob[48:]
    right = hmac.digest(key, nonce + len(context).to_bytes(8, "big") + context + sealed, "sha256")
    if not hmac.compare_digest(tag, right):
        return None
    stream = hashlib.shake_256(key + nonce).digest(len(sealed))
    return bytes(a ^ b for a, b in zip(sealed, stream))
