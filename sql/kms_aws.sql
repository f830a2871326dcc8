-- Wrapper cmek_aws: what may stand in its options, and who may say so.  No KMS
-- is asked here; test/t/081_aws.pl does that.
\set VERBOSITY terse
\set good 'arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab'

-- names of keys
CREATE SERVER aws_bad FOREIGN DATA WRAPPER cmek_aws;
CREATE SERVER aws_bad FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id 'my key');
CREATE SERVER aws_bad FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id 'arn:aws:s3:::bucket');
CREATE SERVER aws_bad FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id '');
CREATE SERVER aws_bad FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good', region 'us-east-1');

-- unknown, misplaced, contradictory
\set VERBOSITY default
\set SHOW_CONTEXT never
CREATE SERVER aws_bad FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good', kms_key 'x');
CREATE SERVER aws_bad FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good', secret_access_key 'not-shown');
\set VERBOSITY terse
CREATE SERVER aws_bad FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good', external_id 'x');
CREATE SERVER aws_bad FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good', session_name 'x');
CREATE SERVER aws_bad FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good', role_arn 'admin');
CREATE SERVER aws_bad FOREIGN DATA WRAPPER cmek_aws
	OPTIONS (key_id :'good', role_arn 'arn:aws:iam::1:role/r', session_name 'a b');
CREATE SERVER aws_bad FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good', endpoint 'http://kms.example');
CREATE SERVER aws_bad FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good', endpoint 'https://user:pw@kms.example');
CREATE SERVER aws_bad FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good', sts_endpoint 'http://127.0.0.1.example');
CREATE SERVER aws_bad FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good', ca_file 'relative.pem');

-- good ones
CREATE SERVER aws_1 FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good', endpoint 'http://[::1]:8080');
CREATE SERVER aws_2 FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id 'alias/app', region 'us-gov-west-1',
	role_arn 'arn:aws-us-gov:iam::111122223333:role/path/r', external_id 'org-42', session_name 'pg.main');
CREATE SERVER aws_3 FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id 'mrk-1234abcd12ab34cd56ef1234567890ab');

-- credentials
CREATE USER MAPPING FOR PUBLIC SERVER aws_1 OPTIONS (access_key_id 'A');
CREATE USER MAPPING FOR PUBLIC SERVER aws_1 OPTIONS (session_token 'not-shown');
CREATE USER MAPPING FOR PUBLIC SERVER aws_1 OPTIONS (credential_file '~/.aws/credentials');
CREATE USER MAPPING FOR PUBLIC SERVER aws_1
	OPTIONS (access_key_id 'A', secret_access_key 'not-shown', credential_file '/etc/aws');
CREATE USER MAPPING FOR PUBLIC SERVER aws_1 OPTIONS (credential_file '/etc/aws/credentials', profile 'db');

-- what makes the server read a file or call an address is not for everybody
CREATE ROLE aws_tenant;
CREATE ROLE aws_files IN ROLE pg_write_server_files;
GRANT USAGE ON FOREIGN DATA WRAPPER cmek_aws TO aws_tenant, aws_files;
SET ROLE aws_tenant;
CREATE SERVER aws_t FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good', endpoint 'https://kms.example');
CREATE SERVER aws_t FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good', sts_endpoint 'https://sts.example');
CREATE SERVER aws_t FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good', ca_file '/etc/ca.pem');
CREATE SERVER aws_t FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good');
CREATE USER MAPPING FOR PUBLIC SERVER aws_t OPTIONS (credential_file '/etc/aws/credentials');
CREATE USER MAPPING FOR PUBLIC SERVER aws_t OPTIONS (profile 'admin');
SET cmek.aws_external_id = 'x';
SET cmek.region = 'x';
RESET ROLE;
SET ROLE aws_files;
CREATE SERVER aws_f FOREIGN DATA WRAPPER cmek_aws OPTIONS (key_id :'good', endpoint 'https://kms.example');
RESET ROLE;

DROP SERVER aws_1 CASCADE;
DROP SERVER aws_2, aws_3, aws_t, aws_f CASCADE;
DROP OWNED BY aws_tenant, aws_files;
DROP ROLE aws_tenant, aws_files;
