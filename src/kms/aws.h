/*-------------------------------------------------------------------------
 *
 * kms/aws.h
 *	  What the files of provider cmek_aws share.
 *
 *	 aws.c			   options, the five operations
 *	 aws_call.c		   one operation: credentials, request, answer, second
 *					   thoughts (clock, expiry, "who am I")
 *	 aws_identity.c	   where credentials come from
 *	 aws_metadata.c	   ... out of metadata services
 *	 aws_sts.c		   roles and GetCallerIdentity
 *	 aws_key.c		   pure: names of keys, regions, endpoints
 *	 aws_request.c	   pure: requests
 *	 aws_answer.c	   pure: answers in JSON and XML, credentials
 *	 aws_error.c	   pure: errors and their classes
 *	 aws_profile.c	   pure: shared credentials and config files
 *	 aws_advise.c	   pure: what to grant
 *	 sigv4.c		   pure: signatures
 *
 * "Pure" is: bytes in, bytes out; no memory of PostgreSQL's, no ERROR, no clock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_KMS_AWS_H
#define CMEK_KMS_AWS_H

#include "kms/http.h"

#define CMEK_AWS_MAX_REGION 64
#define CMEK_AWS_MAX_HOST 256
#define CMEK_AWS_MAX_TOKEN 6144 /* AWS names no limit; a few kB are usual */
#define CMEK_AWS_MAX_REQUEST 16384
#define CMEK_AWS_MAX_WEB_TOKEN 10240	/* AWS: 20,000 characters at most */

/* ----------
 * aws_key.c: pure
 * ----------
 */

/* Where requests go */
typedef struct CmekAwsEndpoint
{
	char		url[CMEK_AWS_MAX_HOST + 16];	/* with "/" at its end */
	char		host[CMEK_AWS_MAX_HOST];	/* as the Host header has it */
	char		region[CMEK_AWS_MAX_REGION];	/* signed for */
} CmekAwsEndpoint;

/* A key as an option names it, brought to the region where it is asked for */
typedef struct CmekAwsKey
{
	char		id[CMEK_KMS_MAX_KEY_ID];	/* to send */
	char		region[CMEK_AWS_MAX_REGION];
	bool		alias;
	bool		multi_region;
} CmekAwsKey;

/*
 * Read option key_id: a key's id or ARN, or an alias's name or ARN.  The
 * region is, in this order: for a multi-Region key cmek.region; the ARN's; the
 * option's; cmek.region; the environment's.  "" stands for one that is not
 * given.  False, with a sentence in *problem, when that names no key.
 */
extern bool cmek_aws_key(const char *key_id, const char *option_region,
						 const char *own_region, const char *env_region,
						 CmekAwsKey *key, const char **problem);

/*
 * Is the ARN that an answer names the key that was asked for?  An alias may
 * stand for any key of its account and region.
 */
extern bool cmek_aws_key_matches(const CmekAwsKey *key, const char *arn);

/*
 * The name under which key rows remember a key: its ARN, which has no region
 * when the key has replicas, so that it is the same in all regions.
 */
extern bool cmek_aws_key_version(const char *arn, char *out, Size size);

/*
 * The name to send with a wrapped key: that of the key which wrapped it, for
 * an alias may have been given another one since; brought to a region.
 */
extern bool cmek_aws_key_for_blob(const CmekAwsKey *key, const char *version,
								  CmekAwsKey *out);

/* "url" (scheme://host[:port]) or, when it is NULL, the service's own address */
extern bool cmek_aws_endpoint(const char *url, const char *service,
							  const char *region, CmekAwsEndpoint *endpoint);

/* ----------
 * aws_profile.c and aws_answer.c: credentials
 * ----------
 */
typedef struct CmekAwsCredentials
{
	char		access_key_id[129];
	char		secret_access_key[257];
	char		session_token[CMEK_AWS_MAX_TOKEN];	/* "": none */
	int64		expires_at;		/* seconds since 1970; 0: never */
} CmekAwsCredentials;

/* What the files say about one profile; "" for what they do not */
typedef struct CmekAwsProfile
{
	CmekAwsCredentials credentials;
	char		region[CMEK_AWS_MAX_REGION];
	char		role_arn[2049];
	char		role_session_name[65];
	char		external_id[1225];
	char		source_profile[129];
	char		web_identity_token_file[1024];
} CmekAwsProfile;

/*
 * Read a profile out of the text of a credentials file ("[name]") or a config
 * file ("[profile name]"), adding to what is there already.  False when there
 * is no such profile.
 */
extern bool cmek_aws_profile(const char *text, const char *name, bool config,
							 CmekAwsProfile *profile);

/* JSON of IMDS, containers; false when it is not that */
extern bool cmek_aws_read_metadata_credentials(const char *body, Size len,
											   CmekAwsCredentials *credentials);
/* XML of AssumeRole and AssumeRoleWithWebIdentity */
extern bool cmek_aws_read_role_credentials(const char *body, Size len,
										   CmekAwsCredentials *credentials);

/* ----------
 * aws_answer.c: what KMS and STS say when they do it
 * ----------
 */
typedef struct CmekAwsAnswer
{
	char		key_id[CMEK_KMS_MAX_KEY_ID];	/* an ARN */
	uint32		blob_len;
	uint8		blob[CMEK_KMS_MAX_BLOB];
	uint8		key[CMEK_KEY_LEN];
	char		state[64];		/* of DescribeKey */
	char		usage[64];
	char		spec[64];
} CmekAwsAnswer;

typedef enum CmekAwsOperation
{
	CMEK_AWS_GENERATE_DATA_KEY,
	CMEK_AWS_ENCRYPT,
	CMEK_AWS_DECRYPT,
	CMEK_AWS_DESCRIBE_KEY
} CmekAwsOperation;

/* False when a member is missing, of a wrong type or of a wrong length */
extern bool cmek_aws_read_answer(CmekAwsOperation op, const char *body,
								 Size len, CmekAwsAnswer *answer);
/* The ARN out of GetCallerIdentity's answer */
extern bool cmek_aws_read_identity(const char *body, Size len, char *arn,
								   Size size);
/*
 * The text of the first element of a name, entities resolved; false when there
 * is none, when it has elements inside, or when it does not fit.
 */
extern bool cmek_aws_read_xml(const char *body, Size len, const char *name,
							  char *out, Size size);

/* ----------
 * aws_error.c: pure
 * ----------
 */
typedef struct CmekAwsError
{
	char		code[CMEK_KMS_MAX_CODE];	/* "" when it is no error of AWS's */
	char		message[CMEK_KMS_MAX_MESSAGE];
} CmekAwsError;

/* What to do about an error, beyond its class */
typedef enum CmekAwsRemedy
{
	CMEK_AWS_NO_REMEDY,
	CMEK_AWS_PROVE_IDENTITY,	/* denied, if it is us who were denied */
	CMEK_AWS_RENEW,				/* temporary credentials have ended */
	CMEK_AWS_SET_CLOCK			/* if the clocks differ */
} CmekAwsRemedy;

/* Read an error in JSON or XML */
extern void cmek_aws_read_error(const char *type_header, const char *body,
								Size len, CmekAwsError *error);
extern CmekKmsClass cmek_aws_classify(int status, const CmekAwsError *error,
									  CmekAwsRemedy *remedy);

/* ----------
 * aws_request.c: pure
 * ----------
 */

/* A request, signed, in an area of secret memory */
typedef struct CmekAwsRequest
{
	char		date[64];
	char		authorization[1024];
	char		token[CMEK_AWS_MAX_TOKEN + 32];
	char		target[64];
	char		content_type[80];
	char		body[CMEK_AWS_MAX_REQUEST];
	Size		body_len;
	char		scratch[CMEK_AWS_MAX_TOKEN + 1024];
} CmekAwsRequest;

/* The body of a KMS operation; "plain" for Encrypt, "blob" for Decrypt */
extern bool cmek_aws_kms_body(CmekAwsOperation op, const char *key_id,
							  const uint8 *uuid, const uint8 *bytes,
							  Size len, CmekAwsRequest *request);
extern bool cmek_aws_assume_role_body(const char *role_arn,
									  const char *session_name,
									  const char *external_id,
									  CmekAwsRequest *request);
extern bool cmek_aws_web_identity_body(const char *role_arn,
									   const char *session_name,
									   const char *token,
									   CmekAwsRequest *request);
extern bool cmek_aws_caller_identity_body(CmekAwsRequest *request);

/*
 * Fill in the headers and sign them.  "target" is the KMS operation's, NULL
 * for STS.
 */
extern bool cmek_aws_sign(CmekAwsRequest *request,
						  const CmekAwsEndpoint *endpoint, const char *service,
						  const char *target,
						  const CmekAwsCredentials *credentials, int64 now);
/* "TrentService.Decrypt" */
extern const char *cmek_aws_target(CmekAwsOperation op);

/* ----------
 * One call: everything that an operation needs on its way
 * ----------
 */
typedef struct CmekAwsCall
{
	const CmekKmsRequest *req;
	const CmekKmsConfig *config;
	CmekAwsKey	key;
	CmekAwsEndpoint kms;
	CmekAwsEndpoint sts;
	const char *ca_file;		/* NULL: the system's */
	const char *role_arn;		/* NULL: none */
	const char *session_name;
	const char *external_id;	/* "": none */
	CmekInstant deadline;		/* of the attempt under way */
	CmekAwsCredentials *credentials;	/* to sign with; secret memory */
	bool		remembered;		/* they may be out of date */
	CmekAwsRequest *request;	/* secret memory */
	CmekHttpAnswer http;
	CmekAwsRemedy remedy;		/* after a failure */
} CmekAwsCall;

/* ----------
 * aws_call.c
 * ----------
 */

/*
 * Sign what is in call->request and send it; "credentials" NULL: unsigned.
 * False, with the answer and call->remedy filled in, unless the status is 200.
 */
extern bool cmek_aws_post(CmekAwsCall *call, const CmekAwsEndpoint *endpoint,
						  const char *service, const char *target,
						  const CmekAwsCredentials *credentials,
						  CmekKmsAnswer *answer);
/* The time, in seconds since 1970, by the clock of who answers there */
extern int64 cmek_aws_now(const CmekAwsEndpoint *endpoint);
/* Set that clock by an answer to a request signed as of "used"; false when it
 * was right */
extern bool cmek_aws_set_clock(const CmekAwsEndpoint *endpoint,
							   const CmekHttpAnswer *http, int64 used);
/* The region that the environment names; "" when it names none */
extern const char *cmek_aws_environment_region(void);
/* Prepare a call; false, with the answer filled in, when an option is wrong */
extern bool cmek_aws_begin(CmekAwsCall *call, const CmekKmsRequest *req,
						   CmekKmsAnswer *answer);
/* Have KMS do something, with retries; true when it did */
extern bool cmek_aws_run(CmekAwsCall *call, CmekAwsOperation op,
						 CmekAwsAnswer *result, CmekKmsAnswer *answer);
/* Who are we? */
extern bool cmek_aws_who(CmekAwsCall *call, CmekKmsAnswer *answer);

/* ----------
 * aws_sts.c
 * ----------
 */
extern bool cmek_aws_assume_role(CmekAwsCall *call,
								 const CmekAwsCredentials *base,
								 const char *role_arn,
								 const char *session_name,
								 const char *external_id,
								 CmekAwsCredentials *out,
								 CmekKmsAnswer *answer);
extern bool cmek_aws_web_identity(CmekAwsCall *call, const char *role_arn,
								  const char *session_name,
								  const char *token_file,
								  CmekAwsCredentials *out,
								  CmekKmsAnswer *answer);
/* Ask STS who holds the credentials; the ARN as the answer's key_id */
extern bool cmek_aws_caller_identity(CmekAwsCall *call,
									 const CmekAwsCredentials *credentials,
									 CmekKmsAnswer *answer);
/* An answer of "access denied" stands only if the identity is proved */
extern void cmek_aws_judge_denial(CmekAwsCall *call,
								  const CmekAwsCredentials *credentials,
								  CmekKmsAnswer *answer);

/* ----------
 * aws_identity.c
 * ----------
 */

/* Is the identity of the host what signs? */
extern bool cmek_aws_uses_ambient(const CmekKmsConfig *config);
/* Fill in call->credentials */
extern bool cmek_aws_get_credentials(CmekAwsCall *call, CmekKmsAnswer *answer);
/* They were refused: get others the next time */
extern void cmek_aws_forget_credentials(CmekAwsCall *call);

/* ----------
 * aws_metadata.c: credentials of a host or a container
 * ----------
 */
extern bool cmek_aws_container_credentials(CmekAwsCall *call,
										   CmekAwsCredentials *out,
										   bool *found,
										   CmekKmsAnswer *answer);
extern bool cmek_aws_instance_credentials(CmekAwsCall *call,
										  CmekAwsCredentials *out,
										  CmekKmsAnswer *answer);

/* aws_advise.c: pure; see kms.h */
extern void cmek_aws_advise(const CmekKmsConfig *config, CmekKmsStep step,
							const CmekKmsAnswer *answer, char *out, Size size);

/* Settings */
extern char *cmek_region;
extern char *cmek_aws_external_id;
#define CMEK_AWS_CONFIG_EXTERNAL_ID "cmek.aws_external_id"

#endif							/* CMEK_KMS_AWS_H */
