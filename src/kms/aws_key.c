/*-------------------------------------------------------------------------
 *
 * aws_key.c
 *	  Names of AWS KMS keys, regions and endpoints.
 *
 *	 1234abcd-12ab-34cd-56ef-1234567890ab		a key's id
 *	 mrk-1234abcd12ab34cd56ef1234567890ab		that of a multi-Region key
 *	 alias/payments								an alias
 *	 arn:aws:kms:REGION:ACCOUNT:key/ID			either with its region
 *	 arn:aws:kms:REGION:ACCOUNT:alias/NAME
 *
 * A replica of a multi-Region key has the same id in another region, so its
 * ARN is the same but for the region.
 *
 * Pure functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kms/aws.h"
#include "kms/text.h"

/* An ARN taken apart; everything points into "area" */
typedef struct Arn
{
	char		area[CMEK_KMS_MAX_KEY_ID];
	const char *partition;
	const char *region;
	const char *account;
	const char *resource;		/* "key/..." or "alias/..." */
} Arn;

/* Partitions with a domain of their own; all others are amazonaws.com */
static const struct
{
	const char *prefix;			/* of region names */
	const char *domain;
}			domains[] =
{
	{"cn-", "amazonaws.com.cn"},
	{"us-iso-", "c2s.ic.gov"},
	{"us-isob-", "sc2s.sgov.gov"},
	{"us-isof-", "csp.hci.ic.gov"},
	{"eu-isoe-", "cloud.adc-e.uk"},
	{"eusc-", "amazonaws.eu"},
};

/* Does a text consist of these characters only, at least one of them? */
static bool
consists_of(const char *text, const char *characters)
{
	return *text != '\0' && strspn(text, characters) == strlen(text);
}

/* Is it the name of a region?  It becomes part of a host name. */
static bool
is_region(const char *region)
{
	return strlen(region) < CMEK_AWS_MAX_REGION &&
		consists_of(region, "abcdefghijklmnopqrstuvwxyz0123456789-");
}

/* Does a text begin with another? */
static bool
begins(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

/* Take an ARN of KMS apart; false when it is none. */
static bool
split_arn(const char *text, Arn *arn)
{
	char	   *fields[6];
	char	   *at = arn->area;

	if (strlen(text) >= sizeof(arn->area))
		return false;
	strlcpy(arn->area, text, sizeof(arn->area));
	for (int i = 0; i < 5; i++)
	{
		fields[i] = at;
		at = strchr(at, ':');
		if (at == NULL)
			return false;
		*at++ = '\0';
	}
	fields[5] = at;
	arn->partition = fields[1];
	arn->region = fields[3];
	arn->account = fields[4];
	arn->resource = fields[5];
	return strcmp(fields[0], "arn") == 0 && begins(arn->partition, "aws") &&
		strcmp(fields[2], "kms") == 0 && *arn->account != '\0';
}

/* Is it "key/ID"? */
static bool
is_key_resource(const char *resource)
{
	return begins(resource, "key/") &&
		consists_of(resource + 4, "abcdefghijklmnopqrstuvwxyz0123456789-"
					"ABCDEFGHIJKLMNOPQRSTUVWXYZ");
}

/* Is it "alias/NAME"? */
static bool
is_alias_resource(const char *resource)
{
	return begins(resource, "alias/") &&
		consists_of(resource + 6, "abcdefghijklmnopqrstuvwxyz0123456789-_/"
					"ABCDEFGHIJKLMNOPQRSTUVWXYZ");
}

/* The first region that is given. */
static const char *
first_region(const char *a, const char *b, const char *c)
{
	return *a != '\0' ? a : *b != '\0' ? b : c;
}

/* Write an ARN with another region. */
static bool
write_arn(const Arn *arn, const char *region, char *out, Size size)
{
	CmekText	text;

	cmek_text_init(&text, out, size);
	cmek_text_printf(&text, "arn:%s:kms:%s:%s:%s", arn->partition, region,
					 arn->account, arn->resource);
	return !text.overflow;
}

/* A key named by its ARN, or by an alias's. */
static bool
key_by_arn(const char *text, const char *option_region,
		   const char *own_region, CmekAwsKey *key, const char **problem)
{
	Arn			arn;
	const char *region;

	*problem = "It is not the ARN of a KMS key or of an alias.";
	if (!split_arn(text, &arn) || !is_region(arn.region))
		return false;
	if (is_alias_resource(arn.resource))
		key->alias = true;
	else if (!is_key_resource(arn.resource))
		return false;
	key->multi_region = begins(arn.resource, "key/mrk-");
	region = key->multi_region ?
		first_region(own_region, option_region, arn.region) : arn.region;
	*problem = "Its ARN names another region than option \"region\".";
	if (!key->multi_region && *option_region != '\0' &&
		strcmp(option_region, arn.region) != 0)
		return false;
	*problem = "The region is not a region's name.";
	if (!is_region(region))
		return false;
	strlcpy(key->region, region, sizeof(key->region));
	*problem = "It is too long.";
	return write_arn(&arn, region, key->id, sizeof(key->id));
}

/* A key named by its id, or by an alias's name. */
static bool
key_by_id(const char *text, const char *option_region, const char *own_region,
		  const char *env_region, CmekAwsKey *key, const char **problem)
{
	char		resource[CMEK_KMS_MAX_KEY_ID];
	const char *region;

	snprintf(resource, sizeof(resource), "key/%s", text);
	*problem = "It is not the id or ARN of a KMS key, nor the name or ARN of an alias.";
	key->alias = is_alias_resource(text);
	if (strlen(text) >= sizeof(key->id) ||
		(!key->alias && !is_key_resource(resource)))
		return false;
	key->multi_region = begins(text, "mrk-");
	region = key->multi_region ?
		first_region(own_region, option_region, env_region) :
		first_region(option_region, own_region, env_region);
	*problem = "It does not say in which region the key is: set option \"region\", or cmek.region.";
	if (*region == '\0')
		return false;
	*problem = "The region is not a region's name.";
	if (!is_region(region))
		return false;
	strlcpy(key->region, region, sizeof(key->region));
	strlcpy(key->id, text, sizeof(key->id));
	return true;
}

/* Read option key_id: see aws.h. */
bool
cmek_aws_key(const char *key_id, const char *option_region,
			 const char *own_region, const char *env_region,
			 CmekAwsKey *key, const char **problem)
{
	memset(key, 0, sizeof(CmekAwsKey));
	if (begins(key_id, "arn:"))
		return key_by_arn(key_id, option_region, own_region, key, problem);
	return key_by_id(key_id, option_region, own_region, env_region, key,
					 problem);
}

/* Does an ARN name the key that was asked for? */
bool
cmek_aws_key_matches(const CmekAwsKey *key, const char *arn)
{
	Arn			answered;
	Arn			asked;

	if (!split_arn(arn, &answered) || !is_key_resource(answered.resource) ||
		strcmp(answered.region, key->region) != 0)
		return false;
	if (split_arn(key->id, &asked))
		return strcmp(asked.account, answered.account) == 0 &&
			(key->alias || strcmp(asked.resource, answered.resource) == 0);
	return key->alias || strcmp(key->id, answered.resource + 4) == 0;
}

/* The name for key rows. */
bool
cmek_aws_key_version(const char *arn, char *out, Size size)
{
	Arn			parts;

	if (!split_arn(arn, &parts))
		return false;
	return write_arn(&parts, begins(parts.resource, "key/mrk-") ? "" :
					 parts.region, out, size);
}

/* The key that wrapped a blob. */
bool
cmek_aws_key_for_blob(const CmekAwsKey *key, const char *version,
					  CmekAwsKey *out)
{
	Arn			arn;

	*out = *key;
	if (!key->alias || !split_arn(version, &arn) ||
		!is_key_resource(arn.resource))
		return true;
	out->alias = false;
	out->multi_region = begins(arn.resource, "key/mrk-");
	/* an alias speaks for the keys of its account and region only */
	if (!write_arn(&arn, key->region, out->id, sizeof(out->id)))
		return false;
	return (out->multi_region || strcmp(arn.region, key->region) == 0) &&
		cmek_aws_key_matches(key, out->id);
}

/* The domain of a region's services. */
static const char *
domain_of(const char *region)
{
	for (Size i = 0; i < lengthof(domains); i++)
		if (begins(region, domains[i].prefix))
			return domains[i].domain;
	return "amazonaws.com";
}

/* Find the host, with its port, in "scheme://host[:port][/]". */
static bool
host_of(const char *url, char *host, Size size)
{
	const char *at = strstr(url, "://");
	Size		len;

	if (at == NULL)
		return false;
	at += 3;
	len = strcspn(at, "/?#");
	if (len == 0 || len >= size || (at[len] == '/' && at[len + 1] != '\0') ||
		at[len] == '?' || at[len] == '#' || memchr(at, '@', len) != NULL)
		return false;
	memcpy(host, at, len);
	host[len] = '\0';
	/* the scheme's own port is not part of the Host header */
	if (begins(url, "https://") && len > 4 && strcmp(host + len - 4, ":443") == 0)
		host[len - 4] = '\0';
	if (begins(url, "http://") && len > 3 && strcmp(host + len - 3, ":80") == 0)
		host[len - 3] = '\0';
	return true;
}

/* Where requests to a service go: see aws.h. */
bool
cmek_aws_endpoint(const char *url, const char *service, const char *region,
				  CmekAwsEndpoint *endpoint)
{
	CmekText	text;

	memset(endpoint, 0, sizeof(CmekAwsEndpoint));
	strlcpy(endpoint->region, region, sizeof(endpoint->region));
	cmek_text_init(&text, endpoint->url, sizeof(endpoint->url));
	if (url == NULL)
	{
		snprintf(endpoint->host, sizeof(endpoint->host), "%s.%s.%s", service,
				 region, domain_of(region));
		cmek_text_printf(&text, "https://%s/", endpoint->host);
		return !text.overflow;
	}
	if (!host_of(url, endpoint->host, sizeof(endpoint->host)))
		return false;
	cmek_text_add(&text, url);
	if (url[strlen(url) - 1] != '/')
		cmek_text_add(&text, "/");
	return !text.overflow;
}
