#!/usr/bin/python3
"""PyKMIP's codec as the judge of ours: hexadecimal in, hexadecimal or text out.

    kmip_codec.py request 1.4|2.0 HEX         what PyKMIP understands
    kmip_codec.py answer 1.4|2.0 WHAT         an answer as PyKMIP writes it
        WHAT: encrypt, decrypt, query, state=N, reason=NAME
"""

import sys

from kmip.core import enums, utils
from kmip.core.factories import attributes as attribute_factory
from kmip.core.messages import contents, messages, payloads

VERSIONS = {"1.4": (enums.KMIPVersion.KMIP_1_4, 1, 4), "2.0": (enums.KMIPVersion.KMIP_2_0, 2, 0)}


def show_request(version, data):
    request = messages.RequestMessage()
    request.read(utils.BytearrayStream(data), kmip_version=version)
    header, item = request.request_header, request.batch_items[0]
    payload = item.request_payload
    out = [str(header.protocol_version), item.operation.value.name]
    if header.authentication:
        value = header.authentication.credentials[0].credential_value
        out.append("%s/%s" % (value.username, value.password))
    if hasattr(payload, "unique_identifier"):
        out.append(payload.unique_identifier)
    if hasattr(payload, "attribute_names"):
        out += payload.attribute_names
    if hasattr(payload, "query_functions"):
        out += [f.name for f in payload.query_functions]
    if hasattr(payload, "data"):
        p = payload.cryptographic_parameters
        out += [p.block_cipher_mode.name, p.cryptographic_algorithm.name, str(p.tag_length), payload.data.hex(),
                payload.iv_counter_nonce.hex(), payload.auth_additional_data.decode()]
    if hasattr(payload, "auth_tag"):
        out.append(payload.auth_tag.hex())
    print(" ".join(out))


def make_answer(version, major, minor, what):
    kind, _, value = what.partition("=")
    status, reason, payload = enums.ResultStatus.SUCCESS, None, None
    f = attribute_factory.AttributeFactory()
    operation = {"encrypt": enums.Operation.ENCRYPT, "decrypt": enums.Operation.DECRYPT,
                 "query": enums.Operation.QUERY}.get(kind, enums.Operation.GET_ATTRIBUTES)
    if kind == "encrypt":
        payload = payloads.EncryptResponsePayload("1", b"c" * 32, None, auth_tag=b"t" * 16)
    elif kind == "decrypt":
        payload = payloads.DecryptResponsePayload("1", b"p" * 32)
    elif kind == "query":
        payload = payloads.QueryResponsePayload(operations=[enums.Operation.ENCRYPT], vendor_identification="some maker")
    elif kind == "state":
        payload = payloads.GetAttributesResponsePayload("1", [
            f.create_attribute(enums.AttributeType.CRYPTOGRAPHIC_ALGORITHM, enums.CryptographicAlgorithm.AES),
            f.create_attribute(enums.AttributeType.CRYPTOGRAPHIC_LENGTH, 256),
            f.create_attribute(enums.AttributeType.STATE, enums.State(int(value)))])
    else:
        status, reason = enums.ResultStatus.OPERATION_FAILED, enums.ResultReason[value]
    item = messages.ResponseBatchItem(
        operation=contents.Operation(operation), result_status=contents.ResultStatus(status),
        result_reason=contents.ResultReason(reason) if reason else None,
        result_message=contents.ResultMessage("because") if reason else None, response_payload=payload)
    header = messages.ResponseHeader(protocol_version=contents.ProtocolVersion(major, minor),
                                     time_stamp=contents.TimeStamp(1700000000), batch_count=contents.BatchCount(1))
    out = utils.BytearrayStream()
    messages.ResponseMessage(response_header=header, batch_items=[item]).write(out, kmip_version=version)
    print(out.buffer.hex())


def main():
    what, version, *rest = sys.argv[1:]
    if what == "request":
        show_request(VERSIONS[version][0], bytes.fromhex(rest[0]))
    else:
        for one in rest:
            make_answer(*VERSIONS[version], one)


main()
