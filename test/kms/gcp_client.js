// @google-cloud/kms, Google's own client, over REST: what test/t/087_gcp.pl asks
// it to do at a stub.  Everything comes by arguments; one JSON line goes out.
//
//   node gcp_client.js PORT TOKEN KEY ACTION BASE64 CONTEXT

const { KeyManagementServiceClient } = require('@google-cloud/kms');
const { OAuth2Client } = require('google-auth-library');

function crc32c(data) {
	let crc = 0xffffffff;
	for (const byte of data) {
		crc ^= byte;
		for (let i = 0; i < 8; i++)
			crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return (crc ^ 0xffffffff) >>> 0;
}

async function main() {
	const [port, token, name, action, data, context] = process.argv.slice(2);
	const authClient = new OAuth2Client();
	authClient.setCredentials({ access_token: token, expiry_date: Date.now() + 3600000 });
	const client = new KeyManagementServiceClient({
		fallback: true, protocol: 'http', apiEndpoint: '127.0.0.1', port: Number(port), authClient,
	});
	const aad = Buffer.from(context || '');
	const bytes = Buffer.from(data || '', 'base64');
	const value = (field) => ({ value: crc32c(field) });
	let out;
	if (action === 'encrypt') {
		const [r] = await client.encrypt({ name, plaintext: bytes, plaintextCrc32c: value(bytes),
			additionalAuthenticatedData: aad, additionalAuthenticatedDataCrc32c: value(aad) });
		out = { name: r.name, ciphertext: Buffer.from(r.ciphertext).toString('base64'),
			verified: r.verifiedPlaintextCrc32c && r.verifiedAdditionalAuthenticatedDataCrc32c,
			crc: Number(r.ciphertextCrc32c.value) === crc32c(r.ciphertext) };
	} else if (action === 'decrypt') {
		const [r] = await client.decrypt({ name, ciphertext: bytes, ciphertextCrc32c: value(bytes),
			additionalAuthenticatedData: aad, additionalAuthenticatedDataCrc32c: value(aad) });
		out = { plaintext: Buffer.from(r.plaintext).toString('base64'),
			crc: Number(r.plaintextCrc32c.value) === crc32c(r.plaintext) };
	} else {
		const [r] = await client.getCryptoKey({ name });
		out = { purpose: r.purpose, state: r.primary.state, primary: r.primary.name };
	}
	console.log(JSON.stringify(out));
}

main().catch((e) => {
	console.log(JSON.stringify({ error: e.code, message: String(e.message).slice(0, 200) }));
	process.exitCode = 0;
});
