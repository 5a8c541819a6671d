/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a path to opened databases. A trace may come from anybody: the header is read by ourselves
 * first, so that a foreign or cut-off file never reaches SQLite, and SQLite is then told to trust
 * nothing in it. Never writes: the file is opened immutable, since a published trace is only ever
 * replaced by rename, and file systems without working locks hold traces too.
 */
#include "trace_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "layout.h"

#define HEADER_BYTES 100 /* of an SQLite database file, www.sqlite.org/fileformat2.html */

void skew_error_set(struct skew_error *error, const char *format, ...)
{
    va_list arguments;

    if (!error)
        return;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
}

/* ---- the list of traces -------------------------------------------------------------------- */

static int is_trace_name(const struct dirent *entry)
{
    const char *name = entry->d_name;
    size_t length = strlen(name);

    if (strcmp(name, SKEW_TRACE_FILE) == 0)
        return 1;
    return length > strlen("trace-.db") && strncmp(name, "trace-", 6) == 0 &&
           strcmp(name + length - 3, ".db") == 0;
}

static int list_directory(struct skew_trace_list *list, const char *path, struct skew_error *error)
{
    struct dirent **entries = NULL;
    int found = scandir(path, &entries, is_trace_name, alphasort);
    int result = 0, length = (int)strlen(path);

    if (found < 0) {
        result = -errno;
        skew_error_set(error, "%s: cannot read the directory: %s", path, strerror(errno));
        return result;
    }
    list->files = calloc((size_t)found + 1, sizeof *list->files);
    while (length > 0 && path[length - 1] == '/')
        length--;
    for (int i = 0; i < found; i++) {
        if (list->files && !result &&
            asprintf(&list->files[list->count], "%.*s/%s", length, path, entries[i]->d_name) < 0)
            result = -ENOMEM;
        else if (list->files && !result)
            list->count++;
        free(entries[i]);
    }
    free(entries);
    if (!list->files || result) {
        skew_error_set(error, "%s: out of memory", path);
        skew_trace_list_free(list);
        return -ENOMEM;
    }
    if (list->count == 0) {
        skew_error_set(error,
                       "%s: holds no trace (no trace.db or trace-*.db); give the directory that "
                       "`skewscope run -o` or SKEWSCOPE_OUT named",
                       path);
        skew_trace_list_free(list);
        return -ENOENT;
    }
    return 0;
}

int skew_trace_list(struct skew_trace_list *list, const char *path, struct skew_error *error)
{
    struct stat info;

    *list = (struct skew_trace_list){0};
    if (stat(path, &info) != 0) {
        int result = -errno;
        skew_error_set(error, "%s: %s", path, strerror(errno));
        return result;
    }
    if (S_ISDIR(info.st_mode))
        return list_directory(list, path, error);
    list->files = calloc(1, sizeof *list->files);
    if (list->files && (list->files[0] = strdup(path))) {
        list->count = 1;
        return 0;
    }
    skew_trace_list_free(list);
    skew_error_set(error, "%s: out of memory", path);
    return -ENOMEM;
}

void skew_trace_list_free(struct skew_trace_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->files[i]);
    free(list->files);
    *list = (struct skew_trace_list){0};
}

/* ---- the file before SQLite sees it -------------------------------------------------------- */

static int check_version(const char *file, uint32_t version, struct skew_error *error)
{
    if (version >= 1 && version <= SKEW_TRACE_VERSION)
        return 0;
    if (version == 0)
        skew_error_set(error, "%s: is a trace without a schema version: it was never finished",
                       file);
    else
        return 1; /* newer: whether it can be read is said inside, by min_reader_version */
    return -EBADMSG;
}

/* 0, 1 when only min_reader_version can tell, or a negative errno. */
static int check_header(const char *file, const uint8_t *header, ssize_t got, off_t size,
                        struct skew_error *error)
{
    if (size == 0) {
        skew_error_set(error, "%s: is empty, not a trace", file);
        return -EINVAL;
    }
    if (got < 16 || memcmp(header, "SQLite format 3", 16) != 0) {
        skew_error_set(error, "%s: is not a skewscope trace (not an SQLite database)", file);
        return -EINVAL;
    }
    if (got < HEADER_BYTES) {
        skew_error_set(error, "%s: is truncated: only %lld bytes are here; copy it again", file,
                       (long long)size);
        return -EBADMSG;
    }
    if (skew_big_endian(header + 68, 4) != SKEW_TRACE_APPLICATION_ID) {
        skew_error_set(error, "%s: is an SQLite database, but not a skewscope trace", file);
        return -EINVAL;
    }
    uint64_t page = skew_big_endian(header + 16, 2);
    uint64_t whole = (page == 1 ? 65536 : page) * skew_big_endian(header + 28, 4);
    if ((uint64_t)size < whole) {
        skew_error_set(error, "%s: is truncated: %lld of %llu bytes are here; copy it again", file,
                       (long long)size, (unsigned long long)whole);
        return -EBADMSG;
    }
    return check_version(file, (uint32_t)skew_big_endian(header + 60, 4), error);
}

/* A journal or WAL beside the file holds part of its content; reading without it would be wrong. */
static int check_beside(const char *file, struct skew_error *error)
{
    static const char *const suffixes[] = {"-wal", "-journal"};

    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        struct stat info;
        char *name = NULL;
        if (asprintf(&name, "%s%s", file, suffixes[i]) < 0)
            return -ENOMEM;
        bool there = stat(name, &info) == 0 && info.st_size > 0;
        free(name);
        if (there) {
            skew_error_set(error,
                           "%s: somebody is changing it, or was cut off (%s%s is beside it); close "
                           "that program, or run: sqlite3 %s 'PRAGMA journal_mode=DELETE'",
                           file, file, suffixes[i], file);
            return -EBUSY;
        }
    }
    return 0;
}

static int check_file(const char *file, struct skew_error *error)
{
    uint8_t header[HEADER_BYTES];
    struct stat info;
    int result;
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || fstat(fd, &info) != 0) {
        result = -errno;
        skew_error_set(error, "%s: %s", file, strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        result = -EINVAL;
        skew_error_set(error, "%s: is not a file", file);
    } else {
        ssize_t got = pread(fd, header, sizeof header, 0);
        if (got < 0) {
            result = -errno;
            skew_error_set(error, "%s: cannot be read: %s", file, strerror(errno));
        } else {
            result = check_header(file, header, got, info.st_size, error);
        }
    }
    if (fd >= 0)
        close(fd);
    if (result < 0)
        return result;
    int beside = check_beside(file, error);
    return beside ? beside : result;
}

/* ---- SQLite -------------------------------------------------------------------------------- */

/* file:PATH?mode=ro&immutable=1 with what URIs reserve escaped. Caller frees. */
static char *make_uri(const char *file)
{
    static const char hex[] = "0123456789ABCDEF";
    char *uri = malloc(strlen(file) * 3 + sizeof "file:?mode=ro&immutable=1");
    char *at = uri;

    if (!uri)
        return NULL;
    at = stpcpy(at, "file:");
    for (const unsigned char *c = (const unsigned char *)file; *c; c++) {
        if (*c <= ' ' || *c >= 127 || strchr("%?#&;=+", *c)) {
            *at++ = '%';
            *at++ = hex[*c >> 4];
            *at++ = hex[*c & 15];
        } else {
            *at++ = (char)*c;
        }
    }
    strcpy(at, "?mode=ro&immutable=1");
    return uri;
}

static void distrust(sqlite3 *db)
{
    sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0, NULL);
    sqlite3_limit(db, SQLITE_LIMIT_LENGTH, 256 << 20);
    sqlite3_exec(db, "PRAGMA query_only=1; PRAGMA cell_size_check=1; PRAGMA temp_store=MEMORY",
                 NULL, NULL, NULL);
}

static int errno_of(int code)
{
    switch (code & 0xff) {
    case SQLITE_OK:
        return 0;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return -EACCES;
    case SQLITE_IOERR:
        return -EIO;
    case SQLITE_CANTOPEN:
        return -ENOENT;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    default:
        return -EBADMSG;
    }
}

int skew_trace_sql_error(struct skew_trace *trace, struct skew_error *error)
{
    int code = trace->db ? sqlite3_extended_errcode(trace->db) : SQLITE_NOMEM;
    int result = errno_of(code);
    const char *message = trace->db ? sqlite3_errmsg(trace->db) : "out of memory";

    if (result == -EBADMSG)
        skew_error_set(error, "%s: is damaged (%s); copy it again from where it was written",
                       trace->path, message);
    else
        skew_error_set(error, "%s: cannot be read: %s", trace->path, message);
    return result ? result : -EBADMSG;
}

int skew_sql_prepare(struct skew_trace *trace, sqlite3_stmt **out, const char *sql,
                     struct skew_error *error)
{
    if (sqlite3_prepare_v2(trace->db, sql, -1, out, NULL) == SQLITE_OK)
        return 0;
    return skew_trace_sql_error(trace, error);
}

/* Called for a schema that is newer than this code: is it one that adds only? */
static int check_min_reader(struct skew_trace *trace, struct skew_error *error)
{
    sqlite3_stmt *statement;
    int result =
        skew_sql_prepare(trace, &statement,
                         "SELECT (SELECT value FROM meta WHERE key = 'min_reader_version'),"
                         "       (SELECT value FROM meta WHERE key = 'version')",
                         error);

    if (result < 0)
        return result;
    if (sqlite3_step(statement) != SQLITE_ROW) {
        result = skew_trace_sql_error(trace, error);
    } else if (sqlite3_column_type(statement, 0) == SQLITE_NULL ||
               sqlite3_column_int64(statement, 0) > SKEW_TRACE_VERSION) {
        const unsigned char *writer = sqlite3_column_text(statement, 1);
        skew_error_set(error,
                       "%s: was written by a newer skewscope (%s), whose schema this one does not "
                       "know: read it with that one",
                       trace->path, writer ? (const char *)writer : "unknown version");
        result = -ENOTSUP;
    }
    sqlite3_finalize(statement);
    return result;
}

int skew_trace_open(struct skew_trace **out, const char *file, struct skew_error *error)
{
    struct skew_trace *trace = NULL;
    char *uri = NULL;
    int newer = check_file(file, error);
    int result = newer;

    *out = NULL;
    if (newer < 0)
        return newer;
    trace = calloc(1, sizeof *trace);
    uri = make_uri(file);
    if (!trace || !uri || !(trace->path = strdup(file))) {
        skew_error_set(error, "%s: out of memory", file);
        result = -ENOMEM;
        goto out;
    }
    if (sqlite3_open_v2(uri, &trace->db,
                        SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK) {
        result = skew_trace_sql_error(trace, error);
        goto out;
    }
    distrust(trace->db);
    result = newer ? check_min_reader(trace, error) : 0;
    if (result == 0) { /* the first real page read: corruption of the schema shows here */
        sqlite3_stmt *probe = NULL;
        result = skew_sql_prepare(trace, &probe, "SELECT 1 FROM exchange, member, vector LIMIT 1",
                                  error);
        sqlite3_finalize(probe);
    }
out:
    free(uri);
    if (result < 0)
        skew_trace_close(&trace);
    *out = trace;
    return result < 0 ? result : 0;
}

void skew_trace_close(struct skew_trace **trace)
{
    struct skew_trace *t = *trace;

    *trace = NULL;
    if (!t)
        return;
    skew_vector_cache_free(&t->vectors);
    sqlite3_close_v2(t->db);
    for (size_t i = 0; i < t->comm_count; i++) {
        free((char *)t->comms[i].key);
        free((char *)t->comms[i].kind);
    }
    free(t->comms);
    free(t->members);
    free(t->path);
    free(t);
}

struct sqlite3 *skew_trace_db(struct skew_trace *trace)
{
    return trace->db;
}

bool skew_trace_has(struct skew_trace *trace, const char *table, const char *column)
{
    return sqlite3_table_column_metadata(trace->db, "main", table, column, NULL, NULL, NULL, NULL,
                                         NULL) == SQLITE_OK;
}

const char *skew_trace_path(const struct skew_trace *trace)
{
    return trace->path;
}
