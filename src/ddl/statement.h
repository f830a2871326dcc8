/*-------------------------------------------------------------------------
 *
 * statement.h
 *	  What the files of ddl/ know of each other; nothing outside includes it.
 *
 * Every utility statement has a CmekStatement on the C stack of the utility
 * hook, linked to the one around it.  It carries what was asked in that very
 * statement (a key, say) to the object access hook and to the work that
 * follows core's own.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CMEK_DDL_STATEMENT_H
#define CMEK_DDL_STATEMENT_H

#include "nodes/parsenodes.h"
#include "storage/lockdefs.h"
#include "utils/palloc.h"
#include "utils/relcache.h"
#include "utils/resowner.h"

#include "ddl/ddl.h"

#define CMEK_PROVIDER	"cmek"	/* security labels, namespace of options */
#define CMEK_HEAP_NAME	"cmek_heap"
#define CMEK_BTREE_NAME "cmek_btree"
#define CMEK_HIDE_TIDS	"hide_tids" /* the option that cmek_btree has alone */
#define CMEK_KEY_NONE	"none"	/* leave the table unbound */

/* Sealed indexes that say they are btree, see pose.c */
typedef struct CmekPose
{
	struct CmekPose *outer;
	List	   *indexes;		/* of Relation, pinned */
	Oid			method;			/* what they really are */
	bool		stale;			/* a reload was put off */
	MemoryContext context;
	ResourceOwner owner;
} CmekPose;

/* What a statement asks for with cmek.key and cmek.replica_keys */
typedef struct CmekAsked
{
	bool		has_key;
	char	   *key;			/* NULL: the default */
	bool		has_replicas;
	List	   *replicas;		/* names */
} CmekAsked;

/* The KMS keys of a table, as its label has them */
typedef struct CmekKeys
{
	const char *key;			/* the first one */
	List	   *replicas;		/* names of others, each once */
} CmekKeys;

typedef struct CmekStatement
{
	struct CmekStatement *outer;
	Node	   *node;			/* as core sees it: our copy when we made one */
	MemoryContext context;		/* lives as long as the statement */

	/* CREATE TABLE and its kin: the one table the statement makes */
	RangeVar   *table;			/* NULL when none, or once it was made */
	CmekAsked	asked;			/* for it, in WITH */
	Oid			parent;			/* the partitioned table it is made for */
	bool		seal_parent;	/* a partitioned table sealed by its label */

	/* REFRESH MATERIALIZED VIEW */
	Oid			refreshed;

	/* ALTER TABLE ... SET ACCESS METHOD */
	Oid			sealing;		/* table being rewritten into cmek_heap */
	Oid			unsealing;		/* and away from it */

	/* CREATE INDEX, ALTER TABLE: options of cmek_btree alone */
	List	   *index_options;	/* of DefElem */

	/* ALTER TABLE ... USING INDEX: core asks whether these are btree */
	List	   *used_indexes;	/* of String: names */

	CmekPose	pose;
	struct ObjectAddresses *twins;	/* operator classes for its time only */
	List	   *saved_options;	/* of CmekIndexOptions, taken out of catalogs */

	/* ALTER SERVER ... RENAME TO of a KMS key */
	Oid			renamed;
	char	   *old_name;

	/* what fell in a DROP or DROP OWNED */
	List	   *dropped;		/* of CmekDropped */
	List	   *dropped_owners; /* roles of DROP OWNED, by OID */
} CmekStatement;

/* The innermost utility statement, NULL outside of any */
extern CmekStatement *cmek_statement;

/* The columns of pg_class that matter here */
typedef struct CmekClass
{
	Oid			relid;
	Oid			relnamespace;
	Oid			relam;
	Oid			relowner;
	Oid			relrewrite;
	char		relkind;
	char		relpersistence;
	bool		relispartition;
	NameData	relname;
} CmekClass;

/* ---- catalog.c ---- */
extern bool cmek_class_get(Oid relid, CmekClass *cls);
extern bool cmek_class_get_new(Oid relid, CmekClass *cls);
extern bool cmek_class_is_sealed(const CmekClass *cls);
extern bool cmek_class_has_rows(const CmekClass *cls);
extern bool cmek_class_find_sealed(CmekClass *cls);
extern Oid	cmek_sealed_index_method(void);

/* ---- hook.c ---- */
extern void cmek_hook_init(void);

/* ---- access.c ---- */
extern void cmek_access_init(void);

/* ---- options.c ---- */
extern bool cmek_options_present(List *options);
extern List *cmek_options_strip(List *options, CmekAsked *asked);
extern List *cmek_options_strip_reset(List *options, CmekAsked *asked);

/* ---- create.c ---- */
extern Node *cmek_create_before(CmekStatement *s, CreateStmt *stmt);
extern Node *cmek_create_as_before(CmekStatement *s, CreateTableAsStmt *stmt);
extern Node *cmek_explain_before(CmekStatement *s, ExplainStmt *stmt);
extern void cmek_refresh_before(CmekStatement *s, RefreshMatViewStmt *stmt);
extern void cmek_create_table_made(Oid relid);

/* ---- alter.c ---- */
extern Node *cmek_alter_before(CmekStatement *s, AlterTableStmt *stmt);
extern void cmek_alter_rewriting(Oid relid);
extern void cmek_alter_after(CmekStatement *s);

/* ---- partition.c ---- */
extern bool cmek_partition_parent_is_sealed(Oid parent);
extern void cmek_partition_check_child(Oid child, Oid parent);
extern void cmek_partition_check_leaves(const CmekClass *parent);

/* ---- index.c ---- */
extern Node *cmek_index_before(CmekStatement *s, IndexStmt *stmt);
extern bool cmek_index_table_is_sealed(Oid relid);
extern bool cmek_index_has_options(List *options);
extern List *cmek_index_strip_options(List **options);
extern void cmek_index_save_options(CmekStatement *s, Oid indexid);
extern void cmek_index_put_back_options(CmekStatement *s);
extern void cmek_index_made(Oid indexid, bool internal);
extern void cmek_index_convert(Oid relid, bool seal);

/* ---- alterindex.c ---- */
extern bool cmek_alter_attaches(const CmekStatement *s);
extern AlterTableStmt *cmek_alter_index_before(CmekStatement *s,
											   AlterTableStmt *stmt);

/* ---- routine.c ---- */
extern void cmek_routine_change(Relation index, Oid method);
extern void cmek_routine_init(void);

/* ---- pose.c ---- */
extern void cmek_pose_begin(CmekPose *pose);
extern void cmek_pose_interrupt(CmekPose *pose);
extern void cmek_pose_leave(Oid indexid);
extern void cmek_pose_end(CmekPose *pose, bool failed);
extern void cmek_pose_index(Oid indexid, LOCKMODE lockmode);
extern void cmek_pose_partitions(Oid relid, LOCKMODE lockmode);
extern void cmek_pose_tree(Oid relid, LOCKMODE lockmode);
extern void cmek_pose_init(void);

/* ---- poseplan.c ---- */
extern void cmek_pose_plan_init(void);

/* ---- opclass.c ---- */
extern Oid	cmek_opclass_original(Oid opclass);
extern void cmek_opclass_need_twins(CmekStatement *s);
extern void cmek_opclass_drop_twins(CmekStatement *s);

/* ---- label.c ---- */
extern char *cmek_label_format(const CmekKeys *keys);
extern bool cmek_label_parse_keys(const char *label, CmekKeys *keys);
extern char *cmek_label_parse(const char *label);
/* False, and nothing in it, when the table is unbound */
extern bool cmek_label_get(Oid relid, CmekKeys *keys);
extern void cmek_label_set(Oid relid, const CmekKeys *keys);
extern List *cmek_label_relations(const char *key);
extern void cmek_label_init(void);

/* ---- bind.c ---- */
extern const char *cmek_bind_choose(const char *asked, Oid parent);
extern bool cmek_bind_resolve(const CmekAsked *asked, Oid parent,
							  CmekKeys *keys);
extern bool cmek_bind_has(List *names, const char *name);
extern List *cmek_bind_replace(List *names, const char *from, const char *to);
extern Oid	cmek_bind_server(const char *key);
extern void cmek_bind_forget_stale(const CmekClass *cls);
extern void cmek_bind_new(const CmekClass *cls, const CmekKeys *keys);
extern void cmek_bind_move(const CmekClass *cls, const CmekKeys *keys);
extern void cmek_bind_move_tree(const CmekClass *cls, const CmekAsked *asked,
								bool recurse);
extern void cmek_bind_record(Oid relid, Oid serverid, List *replicas);
extern void cmek_bind_remove_keys(Oid relid);
extern void cmek_bind_remove(Oid relid);

/* ---- server.c ---- */
extern bool cmek_server_is_key(Oid serverid);
extern Oid	cmek_server_lock(const char *name, LOCKMODE lockmode);
extern void cmek_server_create_before(CreateForeignServerStmt *stmt);
extern void cmek_server_alter_before(AlterForeignServerStmt *stmt);
extern void cmek_server_rename_before(CmekStatement *s, RenameStmt *stmt);
extern void cmek_server_rename_after(CmekStatement *s);
extern const struct CmekKmsProvider *cmek_server_provider(Oid serverid);

/* ---- mapping.c ---- */
extern Node *cmek_mapping_create_before(CreateUserMappingStmt *stmt);
extern Node *cmek_mapping_alter_before(AlterUserMappingStmt *stmt);

/* ---- drop.c ---- */
extern void cmek_drop_before(CmekStatement *s, DropStmt *stmt);
extern void cmek_drop_owned_before(CmekStatement *s, DropOwnedStmt *stmt);
extern void cmek_drop_table(Oid relid);
extern void cmek_drop_server(Oid serverid);

/* ---- policy.c ---- */
extern void cmek_policy_index_made(const CmekClass *index,
								   const CmekClass *table, bool internal);
extern void cmek_policy_check_indexes(Oid relid);
extern void cmek_policy_check_plain(const CmekClass *cls);
extern void cmek_policy_check_statistics(CreateStatsStmt *stmt);
extern void cmek_policy_check_logical(const CmekClass *cls);

/* ---- settings.c ---- */
extern void cmek_ddl_settings_init(void);

#endif							/* CMEK_DDL_STATEMENT_H */
