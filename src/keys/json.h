/*-------------------------------------------------------------------------
 *
 * keys/json.h
 *	  jansson beside PostgreSQL's own headers, which have a json_object, too.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_JSON_H
#define CMEK_JSON_H

#define json_object cmek_jansson_json_object
#include <jansson.h>
#undef json_object

/* An empty object */
static inline json_t *
cmek_json_new(void)
{
	return json_pack("{}");
}

#endif							/* CMEK_JSON_H */
