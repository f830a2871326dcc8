/*-------------------------------------------------------------------------
 *
 * lifecycle/manifest.h
 *	  What the files that write and read manifests share.
 *
 *	   manifest.c       the table as JSON, out of the catalogs
 *	   manifestcheck.c  is a document a manifest at all?  and its members
 *	   rowdesc.c        what stored rows look like; do their types fit here?
 *	   recreate.c       a new table
 *	   recreaterest.c   what a table has besides columns and rows, in order
 *	   recreatecol.c    of that: columns and sequences
 *	   recreateobj.c    constraints, indexes, triggers and the like
 *	   recreategrant.c  permissions
 *	   recreaterun.c    one step of it: parsed, run, failed alone
 *
 * A manifest is data.  No text in it is ever run as SQL: a definition is
 * parsed, has to be one statement of the kind that belongs there, and what it
 * is about is set by us in the tree.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_MANIFEST_H
#define CMEK_MANIFEST_H

#include "access/tupdesc.h"
#include "nodes/parsenodes.h"

#include "lifecycle/snapshot.h"

#define CMEK_MANIFEST_VERSION	1

/*
 * Later releases keep the version of an attribute among its options.  It is
 * the server's own, as pg_dump sees it.
 */
#define CMEK_RESERVED_OPTION	"pg_attver="

/* ----------
 * manifest.c
 * ----------
 */
/*
 * Settings under which definitions are printed and read: names qualified,
 * constants the same everywhere.  Returns the level for AtEOXact_GUC.
 */
extern int	cmek_manifest_settings(void);
/* What there is to know of types and all they are made of; see rowdesc.c */
extern json_t *cmek_manifest_types(const Oid *types, int n);

/* ----------
 * manifestcheck.c
 * ----------
 */
/* ERROR data_corrupted unless every member is there and of its type */
extern void cmek_manifest_check(const json_t *manifest);

/*
 * Members of what was checked.  Texts are in the server's encoding, NULL for
 * null; a character is '\0' for an empty text.
 */
extern char *cmek_manifest_string(const json_t *value);
extern char *cmek_manifest_text(const json_t *object, const char *name);
extern char cmek_manifest_char(const json_t *object, const char *name);
extern int64 cmek_manifest_int(const json_t *object, const char *name);
extern bool cmek_manifest_bool(const json_t *object, const char *name);

/* ----------
 * rowdesc.c
 * ----------
 */
/*
 * The types that live columns have in this database, InvalidOid for dropped
 * ones.  ERROR when values stored in the old table would mean something else.
 */
extern void cmek_manifest_resolve_types(const json_t *manifest, Oid *types,
										int32 *typmods);

/* ----------
 * recreaterun.c
 * ----------
 */
typedef struct CmekRecreate
{
	const json_t *manifest;
	Oid			relid;
	char	   *schema;
	char	   *name;			/* the new name */
	MemoryContext context;		/* of the list */
	List	   *failures;		/* texts */
	const void *subject;		/* of the steps of the moment; see their file */
} CmekRecreate;

typedef void (*CmekRecreateStep) (CmekRecreate *r, const json_t *object);

/*
 * Do a step in a subtransaction.  When it fails, that is a failure of "what",
 * and all before it stays; but a lost key, a cancellation and a full disk fail
 * everything.
 */
extern bool cmek_recreate_try(CmekRecreate *r, const char *what,
							  CmekRecreateStep step, const json_t *object);
extern void cmek_recreate_fail(CmekRecreate *r, const char *format,...)
			pg_attribute_printf(2, 3);

/* One statement of this kind, and nothing else */
extern Node *cmek_recreate_parse(const char *text, NodeTag kind);
/* One value expression, and nothing else */
extern Node *cmek_recreate_parse_expr(const char *text);
/* Have the names of the old table in an expression be those of the new one */
extern void cmek_recreate_rename(const CmekRecreate *r, Node *expr);
/* Run it like a statement of a client; "text" is for error positions */
extern void cmek_recreate_run(Node *stmt, const char *text);
extern void cmek_recreate_alter(const CmekRecreate *r, List *cmds,
								const char *text);
extern AlterTableCmd *cmek_recreate_cmd(AlterTableType subtype,
										const char *name, Node *def);
extern RangeVar *cmek_recreate_table_name(const CmekRecreate *r);

/* Is the name of a relation free in the table's schema? */
extern bool cmek_recreate_is_free(const CmekRecreate *r, const char *name);

/* ----------
 * recreatecol.c, recreateobj.c, recreategrant.c: parts of what is left
 * ----------
 */
extern void cmek_recreate_columns(CmekRecreate *r);
extern void cmek_recreate_objects(CmekRecreate *r);
/* Row security; false when something that it hides would not be hidden */
extern bool cmek_recreate_row_security(CmekRecreate *r);
/* "open": may people other than the owner be let in? */
extern void cmek_recreate_grants(CmekRecreate *r, bool open);
/* The sequence of a column, owned or of its identity */
extern Oid	cmek_recreate_sequence_of(const CmekRecreate *r,
									  const char *column, bool identity);

#endif							/* CMEK_MANIFEST_H */
