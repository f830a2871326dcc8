#!/usr/bin/python3
"""PyKMIP's server (its sessions, its engine, its codec), on a free port of
127.0.0.1, that misbehaves on demand.

    kmip_stub.py --port-file FILE --dir DIRECTORY

The directory has ca.pem, server.pem, server.key.  Written to FILE: the port of
KMIP, and one of plain HTTP where POST /_control takes {"do": NAME, ...}:

    key                    make an AES key, active unless {"active": false}: its unique identifier
    state   uid, state     1 pre-active, 2 active, 3 deactivated, 4 compromised, ...
    owner   uid, owner     whose it is: others may not see it
    fault   operation, kind, times    the next times (default 1; 0: for ever) answers
        kinds: close, truncate, huge, drip, hang, garbage, type, wrongkey,
               reason (with "reason": number)
    clear                  no faults
    count                  {"connections": n, "operations": [names]}
"""

import argparse
import json
import logging
import os
import socket
import sqlite3
import ssl
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kmip.core import attributes, enums, exceptions, objects, policy
from kmip.core.factories import attributes as attribute_factory
from kmip.core.messages import contents, messages, payloads
from kmip.services.server import engine as kmip_engine
from kmip.services.server import session as kmip_session

lock = threading.Lock()
faults = []
connections = 0
operations = []
last_operation = threading.local()


def take_fault(operation):
    with lock:
        for fault in faults:
            if fault["operation"] in ("", operation):
                if fault.get("times", 1) == 1:
                    faults.remove(fault)
                elif fault.get("times"):
                    fault["times"] -= 1
                return fault
    return None


class Engine(kmip_engine.KmipEngine):
    def _process_batch(self, *args):
        # PyKMIP leaves it to the collector: SQLAlchemy 2 has no more than 15
        try:
            return super()._process_batch(*args)
        finally:
            self._data_session.close()

    def _process_operation(self, operation, payload):
        last_operation.name = operation.name
        with lock:
            operations.append(operation.name)
        return super()._process_operation(operation, payload)


def failed(reason):
    """A whole answer that an operation failed for a reason of any number."""
    def item(tag, kind, value):
        return struct.pack("!IIII", tag << 8 | kind, 4, value, 0)

    def structure(tag, body):
        return struct.pack("!II", tag << 8 | 1, len(body)) + body
    version = structure(0x420069, item(0x42006A, 2, 1) + item(0x42006B, 2, 4))
    header = structure(0x42007A, version + item(0x42000D, 2, 1))
    batch = structure(0x42000F, item(0x42007F, 5, 1) + item(0x42007E, 5, reason))
    return structure(0x42007B, header + batch)


class Session(kmip_session.KmipSession):
    def _handle_message_loop(self):
        # what is no line any more ends the session; PyKMIP would try again for ever
        try:
            super()._handle_message_loop()
        except OSError as e:
            raise exceptions.ConnectionClosed() from e

    def _send_response(self, data):
        fault = take_fault(getattr(last_operation, "name", ""))
        kind = fault["kind"] if fault else ""
        c = self._connection
        if kind == "close":
            c.close()
            raise ConnectionError("fault")
        if kind == "truncate":
            c.sendall(data[:len(data) - 8])
            c.close()
            raise ConnectionError("fault")
        if kind == "huge":
            data = data[:4] + struct.pack("!I", 0x7ffffff8) + data[8:]
        if kind == "garbage":
            data = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        if kind == "type":
            # every byte string becomes a text, every enumeration an integer
            data = data.replace(b"\xc2\x08", b"\xc2\x07").replace(b"\x0b\x05", b"\x0b\x02").replace(b"\x8d\x05", b"\x8d\x02")
        if kind == "wrongkey":
            data = data.replace(b"\x42\x00\x94\x07\0\0\0\x01", b"\x42\x00\x94\x07\0\0\0\x02")
        if kind == "reason":
            data = failed(fault["reason"])
        if kind == "hang":
            time.sleep(60)
        if kind == "drip":
            for i in range(len(data)):
                c.sendall(data[i:i + 1])
                time.sleep(0.2)
            return
        c.sendall(data)


def make_key(engine, active):
    f = attribute_factory.AttributeFactory()
    request = payloads.CreateRequestPayload(
        enums.ObjectType.SYMMETRIC_KEY,
        objects.TemplateAttribute(attributes=[
            f.create_attribute(enums.AttributeType.CRYPTOGRAPHIC_ALGORITHM, enums.CryptographicAlgorithm.AES),
            f.create_attribute(enums.AttributeType.CRYPTOGRAPHIC_LENGTH, 256),
            f.create_attribute(enums.AttributeType.CRYPTOGRAPHIC_USAGE_MASK,
                               [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT])]))
    uid = run(engine, enums.Operation.CREATE, request).unique_identifier
    if active:
        run(engine, enums.Operation.ACTIVATE, payloads.ActivateRequestPayload(
            unique_identifier=attributes.UniqueIdentifier(uid)))
    return uid


def run(engine, operation, payload):
    request = messages.RequestMessage(
        request_header=messages.RequestHeader(protocol_version=contents.ProtocolVersion(1, 4),
                                              batch_count=contents.BatchCount(1)),
        batch_items=[messages.RequestBatchItem(operation=contents.Operation(operation), request_payload=payload)])
    response, _, _ = engine.process_request(request, ("db", None))
    item = response.batch_items[0]
    if item.result_status.value != enums.ResultStatus.SUCCESS:
        raise RuntimeError(item.result_message.value)
    return item.response_payload


def control(engine, database, order):
    global faults
    what = order["do"]
    if what == "key":
        return make_key(engine, order.get("active", True))
    if what == "fault":
        with lock:
            faults.append({"operation": "", **order})
    elif what == "clear":
        with lock:
            faults.clear()
    elif what == "count":
        with lock:
            return {"connections": connections, "operations": list(operations)}
    else:
        table, column = {"state": ("crypto_objects", "state"), "owner": ("managed_objects", "owner")}[what]
        with sqlite3.connect(database, timeout=30) as c:
            c.execute("UPDATE %s SET %s = ? WHERE uid = ?" % (table, column), (order[column], int(order["uid"])))
    return True


def main():
    global connections
    p = argparse.ArgumentParser()
    p.add_argument("--port-file", required=True)
    p.add_argument("--dir", required=True)
    a = p.parse_args()
    logging.disable(logging.CRITICAL)
    database = os.path.join(a.dir, "kmip.db")
    engine = Engine(policies=policy.policies, database_path=database)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(a.dir, "server.pem"), os.path.join(a.dir, "server.key"))
    context.load_verify_locations(os.path.join(a.dir, "ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            try:
                order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, body = 200, control(engine, database, order)
            except Exception as e:  # pylint: disable=broad-except
                status, body = 400, repr(e)
            body = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    with open(a.port_file + ".new", "w") as f:
        f.write("%d %d" % (listener.getsockname()[1], http.server_address[1]))
    os.rename(a.port_file + ".new", a.port_file)

    def serve(raw):
        global connections
        try:
            raw.settimeout(30)
            connection = context.wrap_socket(raw, server_side=True)
        except OSError:
            raw.close()
            return
        with lock:
            connections += 1
        Session(engine, connection, "127.0.0.1", name="s", enable_tls_client_auth=True).run()

    while True:
        raw, _ = listener.accept()
        threading.Thread(target=serve, args=(raw,), daemon=True).start()


main()
