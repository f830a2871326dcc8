#!/usr/bin/python3
"""A token as its owner sees it, and as another client of it: by PyKCS11.

    p11_client.py MODULE TOKEN PIN make LABEL [extractable]
    p11_client.py MODULE TOKEN PIN destroy LABEL
    p11_client.py MODULE TOKEN PIN rename LABEL LABEL
    p11_client.py MODULE TOKEN PIN set LABEL encrypt|decrypt 0|1
    p11_client.py MODULE TOKEN PIN open LABEL BLOB AAD      hexadecimal out
    p11_client.py MODULE TOKEN PIN seal LABEL VALUE AAD     hexadecimal in and out

BLOB is IV (12 bytes) | ciphertext | tag (16), in hexadecimal.  Prints "refused"
and the module's word for it when the tag does not fit.
"""

import os
import sys

from PyKCS11 import (AES_GCM_Mechanism, CKA_CLASS, CKA_DECRYPT, CKA_ENCRYPT, CKA_EXTRACTABLE, CKA_KEY_TYPE,
                     CKA_LABEL, CKA_PRIVATE, CKA_SENSITIVE, CKA_TOKEN, CKA_VALUE_LEN, CKF_RW_SESSION,
                     CKF_SERIAL_SESSION, CKK_AES, CKM_AES_KEY_GEN, CKO_SECRET_KEY, Mechanism, PyKCS11Error,
                     PyKCS11Lib)


def main():
    module, token, pin, what, label, *rest = sys.argv[1:]
    lib = PyKCS11Lib()
    lib.load(module)
    slot = [s for s in lib.getSlotList(tokenPresent=True) if lib.getTokenInfo(s).label.strip() == token][0]
    session = lib.openSession(slot, CKF_RW_SESSION | CKF_SERIAL_SESSION)
    session.login(pin)
    if what == "make":
        leaves = bool(rest)
        session.generateKey([
            (CKA_CLASS, CKO_SECRET_KEY), (CKA_KEY_TYPE, CKK_AES), (CKA_VALUE_LEN, 32), (CKA_LABEL, label),
            (CKA_TOKEN, True), (CKA_PRIVATE, True), (CKA_SENSITIVE, not leaves), (CKA_EXTRACTABLE, leaves),
            (CKA_ENCRYPT, True), (CKA_DECRYPT, True)], Mechanism(CKM_AES_KEY_GEN, None))
        return
    key = session.findObjects([(CKA_CLASS, CKO_SECRET_KEY), (CKA_LABEL, label)])[0]
    if what == "destroy":
        session.destroyObject(key)
    elif what == "rename":
        session.setAttributeValue(key, [(CKA_LABEL, rest[0])])
    elif what == "set":
        session.setAttributeValue(key, [({"encrypt": CKA_ENCRYPT, "decrypt": CKA_DECRYPT}[rest[0]], rest[1] == "1")])
    elif what == "open":
        blob = bytes.fromhex(rest[0])
        try:
            print(bytes(session.decrypt(key, blob[12:], AES_GCM_Mechanism(blob[:12], rest[1].encode(), 128))).hex())
        except PyKCS11Error as e:
            print("refused", e)
    elif what == "seal":
        iv = os.urandom(12)
        print((iv + bytes(session.encrypt(key, bytes.fromhex(rest[0]),
                                          AES_GCM_Mechanism(iv, rest[1].encode(), 128)))).hex())


main()
