/*-------------------------------------------------------------------------
 *
 * aws_metadata.c
 *	  Credentials that AWS gives to a host (IMDSv2) or to a container (ECS
 *	  tasks, EKS pod identities), by HTTP on a link-local address.
 *
 * Version 1 of IMDS, without a session token, is not used.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "crypto/crypto.h"
#include "kms/aws.h"
#include "kms/internal.h"
#include "kms/text.h"

#define IMDS_URL "http://169.254.169.254"
#define IMDS_ROLES "/latest/meta-data/iam/security-credentials/"
#define CONTAINER_URL "http://169.254.170.2"
#define TIMEOUT_MS 2000			/* they are one hop away */
#define MAX_ADDRESS 1024
#define MAX_HEADER 4096

/* Send a request to a metadata service; true when its status is 200. */
static bool
ask(CmekAwsCall *call, const char *method, const char *url,
	const char *header, CmekHttpAnswer *http, CmekKmsAnswer *answer)
{
	CmekHttpRequest request = {0};

	request.method = method;
	request.url = url;
	request.plain = CMEK_HTTP_PLAIN_METADATA;
	request.deadline = call->deadline;
	request.timeout_ms = TIMEOUT_MS;
	if (header != NULL)
		cmek_http_header(&request, header);
	if (!cmek_http_run(&request, http, answer))
		return false;
	if (http->status == 200)
		return true;
	cmek_kms_answer(answer, http->status >= 500 || http->status == 429 ?
					CMEK_KMS_UNREACHABLE : CMEK_KMS_MISCONFIGURED,
					"MetadataStatus",
					"the metadata service answered with HTTP status %d",
					http->status);
	return false;
}

/* Read credentials out of what a metadata service answered. */
static bool
read_answer(const CmekHttpAnswer *http, CmekAwsCredentials *out,
			CmekKmsAnswer *answer)
{
	if (cmek_aws_read_metadata_credentials(http->body, http->body_len, out))
		return true;
	cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "MetadataFormat",
					"the metadata service did not answer with credentials");
	return false;
}

/* ----------
 * Instances
 * ----------
 */

/* Get a session token of IMDSv2, as the header that shows it. */
static char *
imds_token(CmekAwsCall *call, const char *base, CmekKmsAnswer *answer)
{
	CmekHttpAnswer http;
	char		url[MAX_ADDRESS];
	char	   *header = cmek_kms_new_secret(MAX_HEADER);
	CmekText	text;

	snprintf(url, sizeof(url), "%s/latest/api/token", base);
	if (!ask(call, "PUT", url, "X-aws-ec2-metadata-token-ttl-seconds: 300",
			 &http, answer))
		return NULL;
	cmek_text_init(&text, header, MAX_HEADER);
	cmek_text_add(&text, "X-aws-ec2-metadata-token: ");
	cmek_text_add(&text, http.body);
	if (!text.overflow)
		return header;
	cmek_kms_answer(answer, CMEK_KMS_UNREACHABLE, "MetadataFormat",
					"the metadata service answered with too long a token");
	return NULL;
}

/* Credentials of the role of this instance. */
bool
cmek_aws_instance_credentials(CmekAwsCall *call, CmekAwsCredentials *out,
							  CmekKmsAnswer *answer)
{
	const char *base = getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT");
	const char *disabled = getenv("AWS_EC2_METADATA_DISABLED");
	CmekHttpAnswer http;
	char		url[MAX_ADDRESS];
	char		role[256];
	char	   *token;

	if (disabled != NULL && pg_strcasecmp(disabled, "true") == 0)
	{
		cmek_kms_answer(answer, CMEK_KMS_MISCONFIGURED, "NoCredentials",
						"there are no AWS credentials in the environment, in files or of the container, and instance metadata are disabled");
		return false;
	}
	if (base == NULL || *base == '\0')
		base = IMDS_URL;
	token = imds_token(call, base, answer);
	if (token == NULL)
		return false;
	snprintf(url, sizeof(url), "%s%s", base, IMDS_ROLES);
	if (!ask(call, "GET", url, token, &http, answer))
		return false;
	/* a list, of which only the first one is ever there */
	cmek_text_printable(role, sizeof(role), http.body);
	role[strcspn(role, "? /")] = '\0';
	snprintf(url, sizeof(url), "%s%s%s", base, IMDS_ROLES, role);
	return ask(call, "GET", url, token, &http, answer) &&
		read_answer(&http, out, answer);
}

/* ----------
 * Containers
 * ----------
 */

/* The address of the container's credentials; false when it has none. */
static bool
container_url(char *url, Size size)
{
	const char *relative = getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
	const char *full = getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI");

	if (relative != NULL && *relative != '\0')
		snprintf(url, size, "%s%s", CONTAINER_URL, relative);
	else if (full != NULL && *full != '\0')
		strlcpy(url, full, size);
	else
		return false;
	return true;
}

/* The header that authorizes us; NULL with *ok when none is wanted. */
static char *
container_header(bool *ok, CmekKmsAnswer *answer)
{
	const char *file = getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
	const char *token = getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN");
	char	   *header = cmek_kms_new_secret(MAX_HEADER);
	CmekText	text;

	*ok = true;
	if (file != NULL && *file != '\0')
	{
		char	   *content = cmek_kms_read_file(file, MAX_HEADER / 2, NULL,
												 answer);

		if (content != NULL)
			content[strcspn(content, "\r\n")] = '\0';
		*ok = content != NULL;
		token = content;
	}
	if (token == NULL || *token == '\0')
		return NULL;
	cmek_text_init(&text, header, MAX_HEADER);
	cmek_text_add(&text, "Authorization: ");
	cmek_text_add(&text, token);
	return header;
}

/* Credentials of this container; not *found when it is none. */
bool
cmek_aws_container_credentials(CmekAwsCall *call, CmekAwsCredentials *out,
							   bool *found, CmekKmsAnswer *answer)
{
	CmekHttpAnswer http;
	char		url[MAX_ADDRESS];
	char	   *header;
	bool		ok;

	*found = container_url(url, sizeof(url));
	if (!*found)
		return false;
	header = container_header(&ok, answer);
	return ok && ask(call, "GET", url, header, &http, answer) &&
		read_answer(&http, out, answer);
}
