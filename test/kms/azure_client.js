// @azure/keyvault-keys, Microsoft's own client: what test/t/104_azure.pl asks it
// to do at a stub.  Everything comes by arguments; one JSON line goes out.
//
//   node azure_client.js URL TOKEN KEY VERSION ACTION ALGORITHM BASE64URL

const { KeyClient, CryptographyClient } = require('@azure/keyvault-keys');

async function main() {
	const [url, token, name, version, action, algorithm, data] = process.argv.slice(2);
	const credential = { getToken: async () => ({ token, expiresOnTimestamp: Date.now() + 3600000 }) };
	const options = { allowInsecureConnection: true, serviceVersion: '7.4', disableChallengeResourceVerification: true,
		retryOptions: { maxRetries: 0 } };
	const bytes = Buffer.from(data || '', 'base64url');
	let out;
	if (action === 'get') {
		const key = await new KeyClient(url, credential, options).getKey(name);
		out = { type: key.keyType, version: key.properties.version, enabled: key.properties.enabled,
			operations: key.keyOperations };
	} else {
		const client = new CryptographyClient(`${url}/keys/${name}/${version}`, credential, options);
		const r = action === 'wrap' ? await client.wrapKey(algorithm, bytes) : await client.unwrapKey(algorithm, bytes);
		out = { value: Buffer.from(r.result).toString('base64url') };
	}
	console.log(JSON.stringify(out));
}

main().catch((e) => {
	console.log(JSON.stringify({ error: e.statusCode || e.code || String(e.message).slice(0, 200), code: e.code }));
});
